"""The checker that the test run puts on every function of `saeaudit`: beartype, forgiving names that are not imported.

transformers and peft are imported inside functions, so annotations such as "PreTrainedModel" name nothing at run time.
beartype would raise on the first call; here such an annotation is dropped and every other one is checked.
"""

import sys
from typing import Any, Self, get_args

from beartype import beartype


def check(function: Any) -> Any:
    annotations = getattr(function, "__annotations__", None)
    if isinstance(function, type) or not annotations:
        return beartype(function)
    namespace = vars(sys.modules.get(function.__module__, sys)) | getattr(function, "__globals__", {})
    for name, annotation in list(annotations.items()):
        if not _resolves(annotation, namespace):
            del annotations[name]
    return beartype(function)


def _resolves(annotation: Any, namespace: dict[str, Any]) -> bool:
    if annotation is Self:  # beartype accepts it only on a class that is itself decorated
        return False
    if isinstance(annotation, str):
        try:
            return _resolves(eval(annotation, namespace), namespace)
        except NameError:
            return False
    if getattr(annotation, "__metadata__", None) is not None or "Literal" in str(getattr(annotation, "__origin__", "")):
        return True
    forward = getattr(annotation, "__forward_arg__", None)
    if forward is not None:
        return _resolves(forward, namespace)
    arguments: list[Any] = []
    for argument in get_args(annotation):
        arguments.extend(argument if isinstance(argument, list) else [argument])
    return all(_resolves(argument, namespace) for argument in arguments)
