import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from planted_pair import random_dictionary
from saeaudit.dictionaries import Folded
from saeaudit.errors import ConfigError
from saeaudit.interventions import Clamp, LatentEdit, compose

# Three latents that read one coordinate each, with thresholds 0, 1 and 0, and write elsewhere.
LITERAL = Folded(
    W_enc=torch.tensor([[1.0, 0, 0, 0], [0, 2.0, 0, 0], [0, 0, 1.0, 0]]),
    b_enc=torch.tensor([0.0, 0.0, -1.0]),
    W_dec=torch.tensor([[0, 0, 0, 1.0], [0, 0, 10.0, 0], [100.0, 0, 0, 0]]),
    b_dec=torch.zeros(4),
    threshold=torch.tensor([0.0, 1.0, 0.0]),
)
X = torch.tensor([[2.0, 1.0, 4.0, 0.0], [-2.0, 0.4, 0.5, 0.0]])  # values 2, 2, 3 and 0 (negative), 0 (below 1), 0


def edit_of(operator, value=0.0, latents=(0, 1, 2)):
    return LatentEdit(LITERAL, Clamp("layers.1", latents, operator, value))


def test_values_follow_bias_relu_and_threshold():
    assert edit_of("zero").values(X).tolist() == [[2, 2, 3], [0, 0, 0]]
    assert edit_of("zero").preactivations(X).tolist() == [[2, 2, 3], [-2, pytest.approx(0.8), -0.5]]


@pytest.mark.parametrize(
    ("operator", "value", "expected"),
    [
        ("zero", 0.0, [[-300, 0, -20, -2], [0, 0, 0, 0]]),
        ("zero", 9.0, [[-300, 0, -20, -2], [0, 0, 0, 0]]),
        ("set", 5.0, [[200, 0, 30, 3], [500, 0, 50, 5]]),
        ("set", -1.0, [[-400, 0, -30, -3], [-100, 0, -10, -1]]),
        ("gain", 3.0, [[600, 0, 40, 4], [0, 0, 0, 0]]),
        ("gain", 0.0, [[-300, 0, -20, -2], [0, 0, 0, 0]]),
        ("gain", 1.0, [[0, 0, 0, 0], [0, 0, 0, 0]]),
    ],
)
def test_each_operator_on_three_latents(operator, value, expected):
    assert edit_of(operator, value).change(X).tolist() == expected


def test_only_the_held_latents_change_and_in_their_order():
    assert edit_of("zero", latents=(2,)).change(X).tolist() == [[-300, 0, 0, 0], [0, 0, 0, 0]]
    assert edit_of("zero", latents=(2, 0)).values(X).tolist() == [[3, 2], [0, 0]]


@settings(deadline=None)
@given(st.sampled_from(["zero", "set", "gain"]), st.floats(-4, 4), st.sets(st.integers(0, 11), min_size=1))
def test_the_change_is_that_of_the_values_times_the_decoder_for_any_shape(operator, value, latents):
    folded = random_dictionary()
    x = torch.randn(2, 3, 32, generator=torch.Generator().manual_seed(len(latents)))
    chosen = sorted(latents)
    before = folded.activations(x.flatten(0, 1))
    after = before.clone()
    wanted = {"zero": torch.zeros_like(before), "set": torch.full_like(before, value), "gain": value * before}[operator]
    after[:, chosen] = wanted[:, chosen]
    expected = ((after - before).double() @ folded.W_dec.double()).unflatten(0, (2, 3))
    found = LatentEdit(folded, Clamp("layers.1", tuple(chosen), operator, value)).change(x)
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("latents", [(), (0, 0), (3,), (-1,)])
def test_latents_that_are_none_are_refused(latents):
    with pytest.raises(ConfigError, match="distinct latents between 0 and 2") as caught:
        edit_of("zero", latents=latents)
    assert caught.value.code == "clamp-latents"


@pytest.mark.parametrize(
    "clamp",
    [
        Clamp("layers.1", (0,), "zero", skip_first=-1),
        Clamp("layers.1", (0,), "set", float("nan")),
        Clamp("layers.1", (0,), "set", float("inf")),
    ],
)
def test_clamps_that_mean_nothing_are_refused(clamp):
    with pytest.raises(ConfigError, match="zero, set, gain") as caught:
        LatentEdit(LITERAL, clamp)
    assert caught.value.code == "clamp-operator"


def test_an_unknown_operator_is_not_taken_for_a_gain():
    clamp = Clamp("layers.1", (0,), "zero")
    object.__setattr__(clamp, "operator", "floor")
    with pytest.raises(ConfigError, match="'floor'"):
        LatentEdit(LITERAL, clamp)


def test_a_dictionary_of_both_sides_is_refused():
    crosscoder = Folded(torch.ones(3, 2, 4), torch.zeros(3), torch.ones(3, 2, 4), torch.zeros(2, 4), torch.zeros(3))
    with pytest.raises(ConfigError, match=r"not \(3, 2, 4\)") as caught:
        LatentEdit(crosscoder, Clamp("layers.1", (0,)))
    assert caught.value.code == "clamp-crosscoder"


def test_composed_edits_see_what_the_one_before_left():
    h = torch.ones(1, 2, 4)
    seen = []

    def double(h, start):
        seen.append(start)
        return 2 * h

    def add(h, start):
        return h + 3

    assert torch.equal(compose([double, add])(h, 7), torch.full((1, 2, 4), 5.0)) and seen == [7]
    assert torch.equal(compose([add, double])(h, 7), torch.full((1, 2, 4), 8.0))
    assert compose([])(h, 0) is h
