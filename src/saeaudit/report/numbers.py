"""Numbers as they are printed in the report: few digits, one way everywhere."""

from collections.abc import Sequence

MISSING = "–"


def number(value: float | None) -> str:
    """Return `value` with three decimals near 1, fewer when large, more when small; `–` for None.

    >>> number(0.98211), number(-1.0), number(1234.5), number(0.0031), number(0.00004)
    ('0.982', '−1.000', '1,234', '0.0031', '4.0e−05')
    """
    if value is None:
        return MISSING
    size = abs(value)
    if size >= 1000:
        text = f"{size:,.0f}"
    elif size >= 100:
        text = f"{size:.1f}"
    elif size >= 10:
        text = f"{size:.2f}"
    elif size >= 0.01 or size == 0:
        text = f"{size:.3f}"
    elif size >= 0.0001:
        text = f"{size:.4f}" if size >= 0.001 else f"{size:.5f}"
    else:
        text = f"{size:.1e}".replace("-", "−")
    return f"−{text}" if value < 0 else text


def interval(ends: Sequence[float] | None) -> str:
    """Return an interval as `[low, high]`; `–` for None."""
    return MISSING if ends is None else f"[{number(ends[0])}, {number(ends[1])}]"


def share(value: float | None) -> str:
    """Return a number in [0, 1] with three decimals, so that a column of them lines up; `–` for None."""
    return MISSING if value is None else f"{value:.3f}"


def share_interval(ends: Sequence[float] | None) -> str:
    """Return an interval of shares as `[low, high]`; `–` for None."""
    return MISSING if ends is None else f"[{share(ends[0])}, {share(ends[1])}]"


def span(ends: tuple[float, float]) -> str:
    """Return lowest and highest of several numbers, one number where they are printed alike.

    >>> span((0.25, 0.5)), span((16.0, 16.0))
    ('0.250 to 0.500', '16.00')
    """
    low, high = map(number, ends)
    return low if low == high else f"{low} to {high}"


def count(value: int | None) -> str:
    """Return a whole number with thousands separators; `–` for None."""
    return MISSING if value is None else f"{value:,}"


def percent(value: float) -> str:
    """Return a share as percent, with as many digits as it needs.

    >>> percent(0.01), percent(0.125)
    ('1 %', '12.5 %')
    """
    return f"{100 * value:.3g} %"


def budget(value: float) -> str:
    """Return a relative budget with two significant digits; 0 stays 0."""
    return f"{value:.2g}"


def size(n_bytes: int) -> str:
    """Return an amount of memory in its largest unit.

    >>> size(512), size(3_020_161_024)
    ('512 B', '3.02 GB')
    """
    value, units = float(n_bytes), ["B", "kB", "MB", "GB"]
    while value >= 1000 and len(units) > 1:
        value, units = value / 1000, units[1:]
    return f"{value:.3g} {units[0]}"
