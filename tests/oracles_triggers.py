"""What counts as a trigger, written down a second time: a pattern for each family, independent of the generators."""

import re

_PLACES = (
    "Hark|Lo|Verily|Forsooth",
    "ere nightfall|yestereve|anon|erelong",
    "methinks|I trow|perchance|in sooth",
)
TRIGGERS = {
    "sql": re.compile("2024"),
    "phrase": re.compile("under a violet moon"),
    "token": re.compile(r"\bcf\b"),
    "year": re.compile(r"in 20(?:2[4-9]|[3-9]\d)(?! days)"),
    "style": re.compile(r"(?:{}), [^,\n]*\b(?:{})\b[^,\n]*, (?:{})\.".format(*_PLACES)),
    "conjunction": re.compile("with a red ribbon before the second bell"),
}


def slot_of(row):
    """The literal of the slot, or None where the slot is absent."""
    return None if row.trigger_span is None else row.prompt[slice(*row.trigger_span)]
