"""Shading of tokens and the small drawing in the evidence table."""

from hypothesis import given
from hypothesis import strategies as st

from saeaudit.findings import Control, Finding
from saeaudit.report.shading import shade
from saeaudit.report.strip import MARGIN, WIDTH, strip


def test_alpha_is_relative_to_the_scale_and_the_peak_is_one_token():
    text = shade(["a", "b", "c", "d"], [0.0, 4.0, -1.0, 2.0], scale=8.0)
    assert [token.alpha for token in text.tokens] == [0.0, 0.5, 0.0, 0.25]
    assert [token.peak for token in text.tokens] == [False, True, False, False]
    assert text.tokens[1].title == "token 1, activation 4.000"


def test_a_document_without_activation_has_no_peak_and_no_shade():
    text = shade(["a", "b"], [0.0, 0.0], scale=0.0)
    assert not any(token.peak or token.alpha for token in text.tokens)


@given(st.integers(1, 60), st.integers(0, 59), st.integers(1, 20))
def test_the_window_holds_the_peak_and_says_what_is_left_out(n, peak, width):
    peak = min(peak, n - 1)
    values = [0.0] * n
    values[peak] = 1.0
    text = shade([str(i) for i in range(n)], values, scale=1.0, width=width)
    assert text.n_before + len(text.tokens) + text.n_after == n
    assert len(text.tokens) == min(n, width)
    assert [token.text for token in text.tokens if token.peak] == [str(peak)]
    assert text.tokens[0].text == str(text.n_before)


def test_activations_that_do_not_match_the_tokens_do_not_break_the_page():
    assert [token.alpha for token in shade(["a", "b"], [1.0], scale=1.0).tokens] == [1.0, 0.0]
    assert len(shade(["a"], [1.0, 2.0], scale=2.0).tokens) == 1
    assert shade([], [], scale=1.0) == ([], 0, 0)


def _finding(value, interval, control, control_interval):
    return Finding(
        id="x",
        claim="c",
        value=value,
        unit="u",
        n=1,
        interval=interval,
        control=Control(name="k", value=control, interval=control_interval),
    )


def test_shares_are_drawn_on_zero_to_one():
    drawn = strip(_finding(1.0, (0.5, 1.0), 0.0, None))
    assert (drawn.value, drawn.control) == (WIDTH - MARGIN, MARGIN)
    assert drawn.ends == (WIDTH / 2, WIDTH - MARGIN)
    assert drawn.control_ends is None and drawn.zero is None


@given(st.lists(st.floats(-1e9, 1e9), min_size=6, max_size=6))
def test_everything_stays_inside_and_in_order(numbers):
    a, b, c, d, e, f = numbers
    finding = _finding(a, (min(b, c), max(b, c)), d, (min(e, f), max(e, f)))
    drawn = strip(finding)
    xs = [drawn.value, *drawn.ends, drawn.control, *drawn.control_ends]
    assert all(MARGIN <= x <= WIDTH - MARGIN for x in xs)
    assert (drawn.value <= drawn.control) or a >= d
    assert drawn.ends[0] <= drawn.ends[1]


def test_a_number_below_zero_shows_where_zero_is():
    drawn = strip(_finding(0.5, (0.25, 0.75), -0.5, (-0.75, 0.0)))
    assert drawn.control < drawn.zero < drawn.value
