"""Words of messages and pages that depend on a number."""


def counted(n: int, noun: str) -> str:
    """Return a number with its noun.

    >>> counted(1, "prompt"), counted(0, "prompt"), counted(12, "held-out row")
    ('1 prompt', '0 prompts', '12 held-out rows')
    """
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


def duration(seconds: float) -> str:
    """Return a span of time in its two largest units.

    >>> duration(0.42), duration(75.0), duration(7384.0)
    ('0.4 s', '1 min 15 s', '2 h 3 min')
    """
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"
