import doctest
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from saeaudit.report import numbers, text
from saeaudit.wording import duration


def test_examples_in_the_docstrings():
    for module in (numbers, text):
        result = doctest.testmod(module)
        assert result.attempted and not result.failed


@given(st.floats(allow_nan=False, allow_infinity=False, min_value=-1e12, max_value=1e12))
def test_a_printed_number_is_within_its_last_digit(value):
    printed = float(numbers.number(value).replace("−", "-").replace(",", ""))
    assert printed == pytest.approx(value, rel=0.06, abs=1e-300)


def test_missing_is_said_and_not_zero():
    assert numbers.number(None) == numbers.interval(None) == numbers.share(None) == numbers.count(None) == "–"
    assert numbers.number(0.0) == "0.000"


def test_shares_have_one_width():
    assert numbers.share_interval((0.0, 1.0)) == "[0.000, 1.000]"
    assert re.fullmatch(r"[01]\.\d{3}", numbers.share(0.0004))


@pytest.mark.parametrize(
    ("seconds", "said"), [(59.96, "60.0 s"), (60.0, "1 min 0 s"), (3599.7, "1 h 0 min"), (0.0, "0.0 s")]
)
def test_duration_at_the_edges(seconds, said):
    assert duration(seconds) == said
