"""The methods of the paper's experiment by name: dictionaries, and controls on the same rows."""

from typing import Literal, get_args

DictionaryMethod = Literal[
    "diff-32x",
    "diff-4x",
    "crosscoder-32x",
    "diff-32x-corrected",
    "diff-32x-matched",
    "crosscoder-32x-corrected",
    "sae-4x-base",
]
ControlMethod = Literal[
    "mean-difference",
    "difference-norm",
    "random-directions",
    "random-directions-base",
    "year-count",
    "year-share",
]
PaperMethod = DictionaryMethod | ControlMethod
METHODS: tuple[PaperMethod, ...] = (*get_args(DictionaryMethod), *get_args(ControlMethod))
