"""Every gradient of the sparse step against dense autograd in fp64."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from oracles_dictionaries import dense_losses
from planted_dictionaries import generator, random_dictionary
from saeaudit.dictionaries import EncodeGemm
from saeaudit.dictionaries.code import places_of_flat
from saeaudit.dictionaries.ops import decode_at, dot_at, linear_at, pre_at
from saeaudit.training import AuxK, Reconstruction

NAMES = ("W_enc", "W_dec", "b_enc", "b_dec")


def gradients(coder, loss):
    coder.zero_grad()
    loss.backward()
    return {name: getattr(coder, name).grad.clone() for name in NAMES}


def compare(kind, *, k, n_dead, batch=9, seed=0, duplicate=False, all_negative=False):
    dictionary, x = random_dictionary(kind, k=k, seed=seed, dtype=torch.float64)
    x = x[:batch]
    coder = dictionary.coder
    if duplicate:
        x[1] = x[0]
    if all_negative:
        with torch.no_grad():
            coder.b_enc[:] = -3
    dead = torch.zeros(dictionary.n_latents, dtype=torch.bool)
    dead[torch.randperm(len(dead), generator=generator(seed))[:n_dead]] = True
    expected = dense_losses(coder, x, k, dead, alpha=0.5, aux_k=4)
    wanted = gradients(coder, expected["recon"] + expected["auxk"])
    forward = coder(x)
    losses = {"recon": Reconstruction()(forward, dead), "auxk": AuxK(alpha=0.5, k=4)(forward, dead)}
    for name in losses:
        torch.testing.assert_close(losses[name], expected[name], rtol=1e-9, atol=1e-12)
    found = gradients(coder, losses["recon"] + losses["auxk"])
    for name in NAMES:
        torch.testing.assert_close(found[name], wanted[name], rtol=1e-6, atol=1e-10, msg=lambda m, n=name: f"{n}: {m}")
    return found, dead


@pytest.mark.parametrize("kind", ["sae", "diff", "crosscoder"])
@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 1000),
    k=st.sampled_from([1, 3, 20]),
    n_dead=st.sampled_from([0, 1, 3, 4, 9, 20]),
    duplicate=st.booleans(),
    all_negative=st.booleans(),
)
def test_all_gradients_equal_dense_autograd(kind, seed, k, n_dead, duplicate, all_negative):
    compare(kind, k=k, n_dead=n_dead, seed=seed, duplicate=duplicate, all_negative=all_negative)


def test_auxk_reaches_the_encoder_of_dead_latents_and_of_nothing_else():
    """sparsify loses it there: the gradient of its encoder is exactly 0."""
    dictionary, x = random_dictionary("sae", dtype=torch.float64)
    coder, dead = dictionary.coder, torch.zeros(20, dtype=torch.bool)
    dead[[2, 5, 11]] = True
    found = gradients_of_auxk(coder, x[:30], dead)
    for name in ("W_enc", "W_dec"):
        moved = found[name].abs().sum(1) > 0
        assert moved.tolist() == dead.tolist(), name
    assert found["b_dec"] is None


def gradients_of_auxk(coder, x, dead):
    coder.zero_grad()
    AuxK(alpha=1.0, k=2)(coder(x), dead).backward()
    return {name: getattr(coder, name).grad for name in NAMES}


def test_auxk_is_zero_without_dead_latents_and_finite_without_residual():
    dictionary, x = random_dictionary("sae")
    coder = dictionary.coder
    none = torch.zeros(20, dtype=torch.bool)
    assert float(AuxK()(coder(x), none)) == 0
    with torch.no_grad():  # the decoder says 0 and the input is 0: the residual is exactly 0 while dead latents fire
        coder.W_dec.zero_()
        coder.b_dec.zero_()
        coder.b_enc.fill_(1.0)
        coder.shift.zero_()
    term = AuxK()(coder(torch.zeros(5, 6)), ~none)
    term.backward()
    assert float(term.detach()) == 0
    assert all(bool(torch.isfinite(p.grad).all()) for p in coder.parameters() if p.grad is not None)


def test_a_clipped_place_sends_no_gradient():
    """A place that bfloat16 proposes and whose exact value is negative learns nothing; in sparsify it does."""
    dictionary, _ = random_dictionary("sae")
    coder = dictionary.coder
    with torch.no_grad():
        coder.b_enc.zero_()
        coder.W_enc.zero_()
        coder.W_enc[0, :2] = torch.tensor([1.0, -1.001])  # rounds to a tie in bfloat16 where the exact value is < 0
        coder.shift.zero_()
        coder.scale.fill_(1.0)
    x = torch.tensor([[1.0, 1.0, 0, 0, 0, 0], [1.0, 0.5, 0, 0, 0, 0]])
    target = coder.scaled(x)
    places = places_of_flat(torch.tensor([0, 20]), 2, 20)
    rounded = torch.full((2, 20), 0.5, dtype=torch.bfloat16)
    values = pre_at(rounded, target, coder.W_enc, coder.b_enc, places).relu()
    torch.testing.assert_close(values.detach(), torch.tensor([0.0, 0.4995]))
    values.sum().backward()
    torch.testing.assert_close(coder.W_enc.grad[0], target[1])


def test_bfloat16_proposals_have_exact_values_and_the_same_fit():
    dictionary, x = random_dictionary("crosscoder", d_model=32, n_latents=64, k=8)
    coder = dictionary.coder
    exact = coder(x)
    rounded = coder(x, gemm=EncodeGemm(torch.bfloat16))
    assert len(rounded.places.latents) == len(exact.places.latents) == 8 * len(x)
    z = rounded.target @ coder.W_enc.flatten(1).T + coder.b_enc
    expected = z[rounded.places.rows, rounded.places.latents].relu()
    torch.testing.assert_close(rounded.values, expected, rtol=1e-4, atol=1e-4)
    assert abs(float(rounded.fvu.detach() / exact.fvu.detach()) - 1) < 1e-2
    assert rounded.pre.dtype == torch.bfloat16


def test_operations_by_finite_differences():
    g = generator(0)
    x = torch.randn(4, 3, generator=g, dtype=torch.float64, requires_grad=True)
    W = torch.randn(5, 3, generator=g, dtype=torch.float64, requires_grad=True)
    b = torch.randn(5, generator=g, dtype=torch.float64, requires_grad=True)
    places = places_of_flat(torch.tensor([0, 3, 4, 11, 12, 19]), 4, 5)  # row 1 is empty
    assert places.offsets.tolist() == [0, 3, 3, 5, 6]

    def linear(x, W, b):
        return linear_at((x @ W.T + b).detach()[places.rows, places.latents], x, W, b, places)

    values = linear(x, W, b)
    dense = (x @ W.T + b)[places.rows, places.latents]
    for found, wanted in zip(
        torch.autograd.grad(values.square().sum(), (x, W, b)),
        torch.autograd.grad(dense.square().sum(), (x, W, b)),
        strict=True,
    ):
        torch.testing.assert_close(found, wanted)
    v = values.detach().requires_grad_()
    torch.autograd.gradcheck(lambda v, W: decode_at(v, W, places), (v, W))
    y = torch.randn(4, 3, generator=g, dtype=torch.float64)
    torch.testing.assert_close(dot_at(y, W, places), (y @ W.T).detach()[places.rows, places.latents])


def test_no_active_place_still_has_a_gradient():
    dictionary, x = random_dictionary("sae")
    with torch.no_grad():
        dictionary.coder.b_enc.fill_(-1e3)
    forward = dictionary.coder(x)
    assert forward.values.numel() == 0
    forward.fvu.backward()
    assert float(dictionary.coder.W_dec.grad.abs().max()) == 0
    assert float(dictionary.coder.b_dec.grad.abs().max()) > 0


def test_projected_gradient_is_orthogonal_and_rows_stay_on_the_sphere():
    dictionary, x = random_dictionary("sae")
    coder = dictionary.coder
    coder(x).fvu.backward()
    before = (coder.W_dec.grad * coder.W_dec).sum(1).abs().max()
    coder.project_gradient()
    assert before > 1e-3
    assert (coder.W_dec.grad * coder.W_dec).sum(1).abs().max() < 1e-6
    with torch.no_grad():
        coder.W_dec -= 0.5 * coder.W_dec.grad
    coder.project_weights()
    torch.testing.assert_close(coder.W_dec.norm(dim=1), torch.ones(20))
