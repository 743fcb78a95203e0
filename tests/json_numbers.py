"""The numbers of a JSON result, to compare two of them place by place."""


def numbers(value, name=""):
    """Yield (place, value) of everything in nested JSON values that is no text."""
    if isinstance(value, dict | list):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from numbers(item, f"{name}/{key}")
    elif not isinstance(value, str):
        yield name, value
