"""A finding drawn on one line: value and interval above, control and interval below, on a common scale."""

from typing import NamedTuple

from saeaudit.findings import Finding
from saeaudit.report.numbers import number

WIDTH = 150.0
MARGIN = 6.0


class Strip(NamedTuple):
    """Pixel positions along the line; `control_ends` is None where the control has no interval."""

    value: float
    ends: tuple[float, float]
    control: float
    control_ends: tuple[float, float] | None
    zero: float | None
    label: str


def strip(finding: Finding) -> Strip:
    """Place a finding and its control on a scale of [0, 1] if they fit, else on the span of its numbers and 0."""
    control = finding.control
    numbers = [finding.value, *finding.interval, control.value, *(control.interval or ())]
    low, high = min(0.0, *numbers), max(0.0, *numbers)
    if low >= 0 and high <= 1:
        high = 1.0
    span = (high - low) or 1.0

    def x(value: float) -> float:
        return round(MARGIN + (value - low) / span * (WIDTH - 2 * MARGIN), 1)

    return Strip(
        value=x(finding.value),
        ends=(x(finding.interval[0]), x(finding.interval[1])),
        control=x(control.value),
        control_ends=(x(control.interval[0]), x(control.interval[1])) if control.interval else None,
        zero=x(0.0) if low < 0 else None,
        label=f"{number(finding.value)} against {number(control.value)}, scale {number(low)} to {number(high)}",
    )
