"""Do two tokenizers turn text into the same ids?

1. Tokens that both know have the same id, and ids that both use mean the same token.
2. Normaliser and pre-tokeniser are serialised equally.
3. 200 fixed strings (scripts, code, whitespace, chat markup) give equal ids, special tokens included.

The tuned tokenizer may have tokens more; they are returned, because the base has no row for them.
"""

import json
from typing import TYPE_CHECKING, Any

from saeaudit.errors import ModelError
from saeaudit.models.probe import PROBE

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_PARTS = ("normalizer", "pre_tokenizer")


def compare_tokenizers(base: "PreTrainedTokenizerBase", tuned: "PreTrainedTokenizerBase") -> tuple[str, ...]:
    """Return the tokens that only the tuned tokenizer has, by id, if the two are compatible.

    Raises:
        ModelError: code `tokenizer-mismatch`; the text shows the first id or string that differs, and both readings.
    """
    known, other = base.get_vocab(), tuned.get_vocab()
    extra = tuple(sorted(set(other) - set(known), key=lambda token: other[token]))
    _same_vocabulary(known, other)
    _same_parts(base, tuned)
    for text in PROBE:
        if any(token in text for token in extra):
            continue
        for special in (True, False):
            one, two = (_ids(t, text, special) for t in (base, tuned))
            if one != two:
                raise _mismatch(f"the string {text!r} becomes {one} with the base and {two} with the tuned model")
    return extra


def _same_vocabulary(known: dict[str, int], other: dict[str, int]) -> None:
    by_id, other_by_id = ({i: token for token, i in vocabulary.items()} for vocabulary in (known, other))
    for i in sorted(by_id.keys() & other_by_id.keys()):
        if by_id[i] != other_by_id[i]:
            raise _mismatch(f"id {i} is {by_id[i]!r} in the base and {other_by_id[i]!r} in the tuned model")
    for token in sorted(known.keys() & other.keys(), key=lambda t: known[t]):
        if known[token] != other[token]:
            raise _mismatch(f"the token {token!r} has id {known[token]} in the base and {other[token]} in the tuned")


def _same_parts(base: "PreTrainedTokenizerBase", tuned: "PreTrainedTokenizerBase") -> None:
    one, two = _backend(base), _backend(tuned)
    if one is None or two is None:
        return
    for part in _PARTS:
        if one.get(part) != two.get(part):
            raise _mismatch(
                f"the {part} is {_short(one.get(part))} in the base and {_short(two.get(part))} in the tuned"
            )


def _backend(tokenizer: "PreTrainedTokenizerBase") -> dict[str, Any] | None:
    """Return the serialisation of a fast tokenizer; None for one that is written in Python."""
    if not tokenizer.is_fast:
        return None
    backend: Any = tokenizer.backend_tokenizer
    return json.loads(backend.to_str())


def _ids(tokenizer: "PreTrainedTokenizerBase", text: str, special: bool) -> list[int]:
    return list(tokenizer(text, add_special_tokens=special, verbose=False)["input_ids"])


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) < 120 else text[:117] + "..."


def _mismatch(what: str) -> ModelError:
    return ModelError(
        f"the tokenizers of the two models disagree: {what}. Activations can only be compared on equal ids: use the "
        "base's tokenizer files for the tuned model if it was trained with them",
        code="tokenizer-mismatch",
    )
