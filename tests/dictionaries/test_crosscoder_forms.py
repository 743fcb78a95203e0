"""Crosscoders beyond the plain one: layouts, the delta term, the bridge between sides and difference, scores."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from planted_dictionaries import dense_code, dictionary_for, generator, random_dictionary
from saeaudit.dictionaries import Code
from saeaudit.errors import EvidenceError
from saeaudit.training import Reconstruction, terms_for
from saeaudit.training.pair_errors import Bridge

NOBODY = torch.zeros(20, dtype=torch.bool)
LAYOUTS = [
    {"n_latents": 6, "layout": "shared", "k": 1},
    {"n_latents": 4, "layout": "base", "k": 1},
    {"n_latents": 3, "layout": "tuned", "k": 1},
    {"n_latents": 7, "layout": "free", "k": 2},
]


def laid_out(**settings):
    return random_dictionary("crosscoder", k=5, crosscoder={"ranges": LAYOUTS}, **settings)


def loss_of(dictionary, x):
    return sum(term(dictionary.coder(x), NOBODY) for term in terms_for(dictionary.config))


@given(seed=st.integers(0, 100), weight=st.floats(-1, 0))
def test_the_rotated_form_is_the_direct_form(seed, weight):
    dictionary, x = random_dictionary("crosscoder", seed=seed, dtype=torch.float64)
    forward = dictionary.coder(x)
    e0, e1 = forward.error.chunk(2, dim=1)
    direct = ((e1**2).sum() + (e0**2).sum() + 2 * weight * (e1 * e0).sum()) / forward.target.numel()
    torch.testing.assert_close(Bridge(weight)(forward, NOBODY), direct, rtol=1e-9, atol=1e-12)


def test_the_ends_of_the_bridge_are_the_crosscoder_and_the_difference():
    dictionary, x = random_dictionary("crosscoder", dtype=torch.float64)
    forward = dictionary.coder(x)
    e0, e1 = forward.error.chunk(2, dim=1)
    torch.testing.assert_close(Bridge(0.0)(forward, NOBODY), Reconstruction()(forward, NOBODY))
    torch.testing.assert_close(Bridge(-1.0)(forward, NOBODY), ((e1 - e0) ** 2).sum() / forward.target.numel())


def test_at_the_end_of_the_bridge_a_common_error_costs_nothing_and_only_the_difference_is_reported():
    settings = {"crosscoder": {"bridge": -1.0}}
    dictionary, x = random_dictionary("crosscoder", dtype=torch.float64, **settings)
    before = loss_of(dictionary, x).detach()
    with torch.no_grad():
        dictionary.coder.b_dec += torch.randn(6, generator=generator(0), dtype=torch.float64)
    torch.testing.assert_close(loss_of(dictionary, x).detach(), before)
    with pytest.raises(EvidenceError, match="bridge") as caught:
        dictionary.decoder_norms()
    assert caught.value.code == "undefined-metric"
    rows = dictionary.fold().W_dec
    torch.testing.assert_close(dictionary.direction(torch.tensor([3])).float(), rows[[3], 1] - rows[[3], 0])
    almost, _ = random_dictionary("crosscoder", crosscoder={"bridge": -0.99})
    assert almost.decoder_norms().shape == (20, 2)
    torch.testing.assert_close(almost.direction(torch.tensor([3])), almost.fold().W_dec[[3], 1])


def test_layouts_have_the_rows_they_name_and_store_no_others():
    dictionary, _ = laid_out()
    W_dec, W_enc = dictionary.W_dec, dictionary.W_enc
    assert torch.equal(W_dec[:6, 0], W_dec[:6, 1])
    for rows in (W_dec, W_enc):
        assert not bool(rows[6:10, 1].any()) and bool(rows[6:10, 0].any())
        assert not bool(rows[10:13, 0].any()) and bool(rows[10:13, 1].any())
    assert not torch.equal(W_enc[:6, 0], W_enc[:6, 1]), "shared latents read both sides"
    assert not torch.equal(W_dec[13:, 0], W_dec[13:, 1])
    stored = sum(p.numel() for p in dictionary.parameters())
    decoder, encoder = 6 * 6 + 4 * 6 + 3 * 6 + 7 * 12, 6 * 12 + 4 * 6 + 3 * 6 + 7 * 12
    assert stored == decoder + encoder + 20 + 12


def test_an_untrained_crosscoder_with_layouts_is_centred():
    x = torch.randn(500, 2, 6, generator=generator(0)) + torch.arange(12.0).view(2, 6)
    dictionary = dictionary_for(x, "crosscoder", n_latents=20, k=5, crosscoder={"ranges": LAYOUTS})
    at_the_mean = dictionary.coder(x.mean(0, keepdim=True)).pre
    torch.testing.assert_close(at_the_mean, torch.zeros(1, 20), rtol=0, atol=1e-4)


def test_a_shared_row_gets_the_gradient_of_both_sides():
    dictionary, x = laid_out(dtype=torch.float64)
    full, _ = random_dictionary(
        "crosscoder", k=5, crosscoder={"ranges": [{**part, "layout": "free"} for part in LAYOUTS]}
    )
    full = full.double()
    with torch.no_grad():
        for name in ("W_enc", "W_dec", "b_enc", "b_dec"):
            getattr(full.coder, name).copy_(getattr(dictionary.coder, name))
    loss_of(dictionary, x).backward()
    loss_of(full, x).backward()
    stored = dictionary.coder.parametrizations["W_dec"]
    torch.testing.assert_close(stored.original0.grad, full.coder.W_dec.grad[:6].sum(1))
    torch.testing.assert_close(stored.original1.grad, full.coder.W_dec.grad[6:10, 0])
    torch.testing.assert_close(stored.original2.grad, full.coder.W_dec.grad[10:13, 1])
    torch.testing.assert_close(stored.original3.grad, full.coder.W_dec.grad[13:])


def test_one_free_range_is_a_plain_crosscoder():
    plain, x = random_dictionary("crosscoder")
    ranged, _ = random_dictionary("crosscoder", crosscoder={"ranges": [{"n_latents": 20, "k": 3}]})
    assert plain.coder.state_dict().keys() == ranged.coder.state_dict().keys()
    assert torch.equal(loss_of(plain, x), loss_of(ranged, x))
    assert torch.equal(dense_code(plain.encode(x), 20), dense_code(ranged.encode(x), 20))


def test_free_ranges_with_equal_penalties_are_a_plain_l1_crosscoder():
    settings = {"sparsity": "relu", "k": None}
    plain, x = random_dictionary("crosscoder", **settings)
    ranges = {"ranges": [{"n_latents": 12}, {"n_latents": 8}]}
    ranged, _ = random_dictionary("crosscoder", crosscoder=ranges, **settings)
    torch.testing.assert_close(loss_of(plain, x), loss_of(ranged, x))


def test_latents_of_a_side_do_not_see_the_other():
    dictionary, x = laid_out()
    other = x.clone()
    other[:, 1] += 5
    before, after = (dense_code(dictionary.encode(y), 20) for y in (x, other))
    assert torch.equal(before[:, 6:10], after[:, 6:10])
    assert not torch.equal(before[:, 10:13], after[:, 10:13])
    code = dictionary.encode(x)
    only_base = code.values * ((code.indices >= 6) & (code.indices < 10))
    x_hat = dictionary.decode(Code(only_base, code.indices)).detach()
    nothing = dictionary.decode(Code(torch.zeros_like(only_base), code.indices)).detach()
    assert torch.equal(x_hat[:, 1], nothing[:, 1]) and not torch.equal(x_hat[:, 0], nothing[:, 0])


def test_latents_outside_the_difference_range_do_not_enter_the_delta_term():
    ranges = [{"n_latents": 12, "k": 2}, {"n_latents": 8, "k": 1, "explains_difference": True}]
    settings = {"crosscoder": {"ranges": ranges, "difference": 1.0}}
    dictionary, x = random_dictionary("crosscoder", dtype=torch.float64, **settings)
    term = terms_for(dictionary.config)[1]
    assert term.name == "difference"
    before = term(dictionary.coder(x), NOBODY).detach()
    with torch.no_grad():
        dictionary.coder.W_dec[:12, 1] *= 2  # each range has a budget of its own, so the second one selects as before
    torch.testing.assert_close(term(dictionary.coder(x), NOBODY).detach(), before)
    with torch.no_grad():
        dictionary.coder.W_dec[12:, 1] += 0.1
    assert abs(float(term(dictionary.coder(x), NOBODY).detach() - before)) > 1e-4


@pytest.mark.parametrize("score", ["sum", "concat", "mixed", "none"])
def test_scores_weigh_by_norms_or_not(score):
    dictionary, x = random_dictionary("crosscoder", crosscoder={"score": score})
    coder = dictionary.coder
    base, tuned = coder.W_dec.detach().norm(dim=2).unbind(1)
    together = (base**2 + tuned**2).sqrt()
    weights = {"sum": base + tuned, "concat": together, "mixed": together + (base + tuned) / 10, "none": torch.ones(20)}
    expected = weights[score]
    z = coder.scaled(x) @ coder.W_enc.flatten(1).T + coder.b_enc
    chosen = (z.detach().relu() * expected).flatten().topk(3 * len(x)).indices.sort().values
    assert torch.equal(coder(x).places.flat, chosen)
