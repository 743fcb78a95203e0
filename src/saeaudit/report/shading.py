"""Tokens of a document shaded by the activation of a latent."""

from collections.abc import Sequence
from typing import NamedTuple

from saeaudit.report.numbers import number


class ShadedToken(NamedTuple):
    """A token as the model saw it; `alpha` in [0, 1] is its activation on the scale; `peak`: the largest."""

    text: str
    alpha: float
    title: str
    peak: bool


class ShadedText(NamedTuple):
    """A window of a document, and how many tokens lie before and after it."""

    tokens: list[ShadedToken]
    n_before: int
    n_after: int


def shade(tokens: Sequence[str], activations: Sequence[float], *, scale: float, width: int = 160) -> ShadedText:
    """Return at most `width` tokens around the largest activation.

    `scale`: the activation drawn at full strength (> 0), usually the largest of all contexts that are compared with
    each other. Activations at or below 0 are not shaded. Missing activations count as 0.
    """
    values = [*activations[: len(tokens)], *[0.0] * (len(tokens) - len(activations))]
    top = max(range(len(values)), key=values.__getitem__, default=0)
    start = max(0, min(top - width // 2, len(tokens) - width))
    stop = min(start + width, len(tokens))
    window = [
        ShadedToken(
            text=tokens[i],
            alpha=round(min(max(values[i] / scale, 0.0), 1.0), 3) if scale > 0 else 0.0,
            title=f"token {i}, activation {number(values[i])}",
            peak=i == top and values[i] > 0,
        )
        for i in range(start, stop)
    ]
    return ShadedText(window, start, len(tokens) - stop)
