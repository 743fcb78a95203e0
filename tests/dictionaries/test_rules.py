"""Each sparsity rule from its definition."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from oracles_dictionaries import largest_places
from planted_dictionaries import generator, random_dictionary
from saeaudit.dictionaries import BatchTopK, DictionaryConfig, EncodeGemm, Gated, JumpRelu, Relu, TopK
from saeaudit.dictionaries.code import places_of_flat
from saeaudit.dictionaries.rules import sparsity_of
from saeaudit.dictionaries.sparsity import Budget
from saeaudit.dictionaries.topk import RangedBatchTopK, largest_of_rows
from saeaudit.training import terms_for


@settings(max_examples=150)
@given(
    seed=st.integers(0, 10**6),
    rows=st.integers(1, 6),
    latents=st.integers(1, 9),
    k=st.integers(1, 9),
    levels=st.sampled_from([1, 2, 5, 1000]),
    weighted=st.booleans(),
    rounded=st.booleans(),
)
def test_topk_is_a_full_sort_of_each_row_with_ties_and_negative_rows(seed, rows, latents, k, levels, weighted, rounded):
    g, k = generator(seed), min(k, latents)
    pre = (torch.rand(rows, latents, generator=g) * 2 - 1).mul(levels).round().div(levels)
    pre = pre.bfloat16() if rounded else pre
    weights = 2.0 ** torch.randint(-2, 3, (latents,), generator=g) if weighted else None
    score = pre.float() if weights is None else pre.float() * weights
    expected = [row * latents + j for row in range(rows) for j in largest_places(score[row], k)]
    assert TopK(k).select(pre, weights).flat.tolist() == expected
    active = TopK(k).active(pre.float(), weights, torch.tensor(1e9))
    assert active.flatten().nonzero().squeeze(1).tolist() == expected, "the threshold is not for TopK"


def test_topk_of_equal_rows_keeps_the_first_ones():
    assert largest_of_rows(torch.ones(3, 5), 2).tolist() == [0, 1, 5, 6, 10, 11]


def test_ranges_spend_their_own_budgets_and_have_their_own_thresholds():
    pre = torch.tensor([[9.0, 8.0, 7.0, 0.1, 0.2], [6.0, 5.0, 4.0, 0.4, -1.0]])
    rule = RangedBatchTopK([Budget(0, 3, 1), Budget(3, 5, 1)])
    chosen = rule.select(pre, None)
    assert chosen.flat.tolist() == [0, 1, 4, 8], "2 places of the first range, 2 of the second"
    assert chosen.smallest == pytest.approx((8.0, 0.2))
    cutoffs = rule.cutoffs(torch.tensor([8.0, 0.2]), torch.zeros(5))
    assert cutoffs.tolist() == pytest.approx([8.0, 8.0, 8.0, 0.2, 0.2])
    weighted = rule.select(pre, torch.tensor([0.1, 1.0, 1.0, 1.0, 1.0]))
    assert weighted.flat.tolist() == [1, 2, 4, 8]


@pytest.mark.parametrize("rule", [TopK, BatchTopK])
def test_k_falls_linearly_to_its_final_value(rule):
    config = DictionaryConfig(
        kind="sae", n_latents=50, k=10, sparsity=rule.__name__.lower(), anneal={"start": 30, "steps": 10}
    )
    falling, pre = sparsity_of(config), torch.rand(4, 50, generator=generator(0))
    found = []
    for step in (0, 5, 10, 400):
        falling.at_step(step)
        found.append(len(falling.select(pre, None).flat) // 4)
    assert found == [30, 20, 10, 10]
    assert int(TopK(10).active(pre, None, torch.tensor(0.0)).sum()) == 40, "inference has the final k"


def at(z, **settings):
    """A JumpReLU rule of one latent with theta 2 and its places for a column of pre-activations."""
    rule = JumpRelu(1, **{"threshold": 2.0, "bandwidth": 0.5, "straight_through": False, **settings})
    z = torch.tensor(z, requires_grad=True)
    return rule, z, places_of_flat(torch.arange(len(z)), len(z), 1)


def test_jumprelu_gradients_are_the_kernels():
    """arXiv 2407.14435, equations 11 and 12; theta = exp(t) adds a factor theta to each."""
    rule, z, places = at([1.74, 1.76, 1.99, 2.01, 2.24, 2.26, 5.0])
    values = rule.values(z, torch.zeros(1), places)
    assert values.tolist() == pytest.approx([0, 0, 0, 2.01, 2.24, 2.26, 5.0])
    values.sum().backward()
    assert z.grad.tolist() == [0, 0, 0, 1, 1, 1, 1]
    assert float(rule.log_threshold.grad) == pytest.approx(-4 * (2 / 0.5) * 2, rel=1e-5)
    rule, z, places = at([1.74, 1.76, 1.99, 2.01, 2.24, 2.26, 5.0])
    l0 = rule.mean_l0(z, places)
    assert float(l0.detach()) == pytest.approx(4 / 7)
    l0.backward()
    assert z.grad is None or float(z.grad.abs().max()) == 0
    assert float(rule.log_threshold.grad) == pytest.approx(-4 / 0.5 * 2 / 7, rel=1e-5)


def test_straight_through_sends_the_same_kernel_to_the_preactivation():
    rule, z, places = at([1.7, 1.9, 2.1, 5.0], straight_through=True)
    rule.values(z, torch.zeros(1), places).sum().backward()
    assert z.grad.tolist() == pytest.approx([0, 4, 5, 1])
    rule, z, places = at([1.7, 1.9, 2.1, 5.0], straight_through=True)
    (4 * rule.mean_l0(z, places)).backward()
    assert z.grad.tolist() == pytest.approx([0, 2, 2, 0])


def test_the_kernel_estimates_the_density_at_the_threshold_from_both_sides():
    """Defect of a peer (dictionary_learning passes f, which is 0 below the threshold): half of the density is lost."""
    z = (torch.rand(20_000, generator=generator(0)) * 4).tolist()
    rule, z, places = at(z)
    rule.mean_l0(z, places).backward()
    density = -float(rule.log_threshold.grad) / 2
    assert density == pytest.approx(0.25, rel=0.05)


def test_jumprelu_selects_from_the_lower_end_of_the_kernel():
    rule = JumpRelu(2, threshold=2.0, bandwidth=0.5, straight_through=False)
    with torch.no_grad():
        rule.log_threshold[1] = 0.1  # theta 1.105
    pre = torch.tensor([[1.74, 0.84], [1.76, 0.86], [2.5, -3.0]])
    assert rule.select(pre, None).flat.tolist() == [2, 3, 4]


def test_a_gate_opens_by_its_own_bias_and_the_magnitude_has_another():
    rule = Gated(2)
    b_gate = torch.tensor([0.5, -1.0])
    with torch.no_grad():
        rule.r_mag.copy_(torch.tensor([0.0, 1.0]))
        rule.b_mag.copy_(torch.tensor([-0.2, 0.3]))
    linear = torch.tensor([[-0.6, 1.5], [0.1, 0.9], [1.0, 2.0]])
    gate = linear + b_gate
    chosen = rule.select(gate, None)
    assert chosen.flat.tolist() == [1, 2, 4, 5]
    places = places_of_flat(chosen.flat, 3, 2)
    found = rule.values(gate.flatten()[chosen.flat], b_gate, places)
    e = torch.tensor(1.0).exp()
    torch.testing.assert_close(found, torch.stack([1.5 * e + 0.3, torch.tensor(0.0), torch.tensor(0.8), 2 * e + 0.3]))
    at_inference = linear * rule.gain() + rule.bias(b_gate)
    active = rule.active(at_inference, None, rule.cutoffs(torch.tensor(0.0), b_gate))
    assert active.tolist() == [[False, True], [False, False], [True, True]], "a gate without magnitude is not active"


def test_a_gate_starts_as_a_relu():
    dictionary, x = random_dictionary("diff", sparsity="gated", k=None)
    coder = dictionary.coder
    with torch.no_grad():
        coder.sparsity.r_mag.zero_()
    coder.centre()
    forward = coder(x)
    torch.testing.assert_close(forward.values, forward.z.relu())


def test_relu_selects_what_is_positive():
    assert Relu().select(torch.tensor([[1.0, 0.0], [-1.0, 2.0]]), None).flat.tolist() == [0, 3]


def test_rules_with_fixed_thresholds_take_exact_preactivations():
    gemm = EncodeGemm(torch.bfloat16)
    for rule in ("relu", "gated", "jumprelu"):
        dictionary, x = random_dictionary("sae", sparsity=rule, k=None)
        assert dictionary.coder(x, gemm=gemm).pre.dtype == torch.float32
    dictionary, x = random_dictionary("sae", sparsity="topk")
    assert dictionary.coder(x, gemm=gemm).pre.dtype == torch.bfloat16


def test_matryoshka_with_one_prefix_is_batchtopk():
    plain, x = random_dictionary("sae", dtype=torch.float64)
    nested, _ = random_dictionary("sae", dtype=torch.float64, sparsity="matryoshka", prefixes=(20,))
    found = []
    for dictionary in (plain, nested):
        loss = sum(
            term(dictionary.coder(x), torch.zeros(20, dtype=torch.bool)) for term in terms_for(dictionary.config)
        )
        loss.backward()
        found.append([loss.detach(), *(p.grad for p in dictionary.parameters())])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-14)


def test_a_group_is_trained_by_its_own_prefix_and_all_wider_ones():
    dictionary, x = random_dictionary("sae", sparsity="matryoshka", prefixes=(3, 9, 20))
    coder = dictionary.coder
    forward = coder(x)
    parts = forward.decode_groups((3, 9, 20))
    assert parts.shape == (len(x), 3, 6)
    torch.testing.assert_close(parts.sum(1) + coder.b_dec, forward.recon)
    code = type(dictionary.encode(x))(torch.tensor([[1.0, 2.0, 4.0]]), torch.tensor([[2, 8, 19]]))
    assert code.prefix(9).values.tolist() == [[1.0, 2.0, 0.0]]
    rows = dictionary.fold().W_dec
    torch.testing.assert_close(dictionary.decode(code.prefix(3))[0], rows[2] + dictionary.fold().b_dec)
