"""Words of messages that depend on a number."""


def counted(n: int, noun: str) -> str:
    """Return a number with its noun.

    >>> counted(1, "prompt"), counted(0, "prompt"), counted(12, "held-out row")
    ('1 prompt', '0 prompts', '12 held-out rows')
    """
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"
