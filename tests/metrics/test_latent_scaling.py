"""One-pass latent scaling against the least squares that defines it, target by target and latent by latent."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from planted_dictionaries import random_dictionary
from saeaudit.dictionaries import Code
from saeaudit.dictionaries.code import code_of_dense
from saeaudit.metrics import (
    ControlledScaling,
    DifferenceScaling,
    Exclusivity,
    LatentScaling,
    density_matched,
    resample_weights,
)

N, N_LATENTS = 200, 20
GROUP = torch.arange(N) // 12


def least_squares(y, f, direction):
    """The β that minimises Σ‖y_i - β f_i d‖², solved as one column of a linear system."""
    column = torch.outer(f, direction).flatten()[:, None].double()
    return float(torch.linalg.lstsq(column, y.flatten()[:, None].double()).solution)


def dense(code):
    return torch.zeros(N, N_LATENTS).double().scatter_add_(1, code.indices, code.values)


def at(code, rows):
    return Code(code.values[rows], code.indices[rows])


def crosscoder():
    dictionary, x = random_dictionary("crosscoder", n_latents=N_LATENTS, dtype=torch.float64)
    code = dictionary.encode(x)
    return dictionary, x, code, dictionary.decode(code).detach()


def exclusivity(dictionary, x, code, x_hat, parts=(slice(None),)):
    found = Exclusivity(dictionary, n_groups=17, seed=0)
    for part in parts:
        found.update(x[part, 0], x[part, 1] - x[part, 0], at(code, part), x_hat[part], GROUP[part])
    return found


def test_a_crosscoders_betas_are_least_squares_fits_for_every_target_and_side():
    dictionary, x, code, x_hat = crosscoder()
    found = exclusivity(dictionary, x, code, x_hat).result(n_resamples=100, seed=0)
    f, W, scale = dense(code), dictionary.W_dec.detach(), float(dictionary.coder.scale[0])
    bias = dictionary.coder.unscaled(dictionary.coder.b_dec.detach().flatten()[None])
    error, reconstruction, activation = (x - x_hat) / scale, (x_hat - bias) / scale, (x - bias) / scale
    for m, side in enumerate(("base", "tuned")):
        for j in range(N_LATENTS):
            own = torch.outer(f[:, j], W[j, m])
            targets = {"error": error[:, m] + own, "reconstruction": reconstruction[:, m]}
            for name, y in (targets | {"activation": activation[:, m]}).items():
                beta = float(found.estimates[f"beta_{name}_{side}"].value[j])
                assert beta == pytest.approx(least_squares(y, f[:, j], W[j, 1]), rel=1e-6, abs=1e-6), (name, side, j)
    torch.testing.assert_close(found.sum_squares, f.square().sum(0))
    torch.testing.assert_close(found.firings, (f > 0).double().sum(0))


def test_a_difference_saes_betas_are_least_squares_fits_and_obey_their_identity():
    dictionary, delta = random_dictionary("diff", n_latents=N_LATENTS, dtype=torch.float64)
    base = 5 + torch.randn(N, 6, generator=torch.Generator().manual_seed(1)).double() + delta / 3
    code = dictionary.encode(delta)
    delta_hat = dictionary.decode(code).detach()
    scaling = DifferenceScaling(dictionary, n_groups=17, seed=0)
    scaling.update(base, delta, code, delta_hat, GROUP)
    found = {k: e.value for k, e in scaling.result(n_resamples=100, seed=0).estimates.items()}
    f, W, scale = dense(code), dictionary.W_dec.detach(), float(dictionary.coder.scale)
    centred = {name: (y - y.mean(0)) / scale for name, y in {"base": base, "tuned": base + delta}.items()}
    centred["difference"] = (delta - delta.mean(0)) / scale
    for j in range(N_LATENTS):
        targets = centred | {"error": (delta - delta_hat) / scale + torch.outer(f[:, j], W[j])}
        for name, y in targets.items():
            assert float(found[f"beta_{name}"][j]) == pytest.approx(least_squares(y, f[:, j], W[j]), rel=1e-6, abs=1e-6)
        y = centred["difference"]
        left = y - found["beta_difference"][j] * torch.outer(f[:, j], W[j])
        explained = 1 - float(left.square().sum() / y.square().sum())
        assert float(found["explained"][j]) == pytest.approx(explained, abs=1e-6)
    torch.testing.assert_close(found["beta_tuned"] - found["beta_base"], found["beta_difference"])


def test_a_trained_latent_has_beta_one_on_the_error_target_and_a_doubled_one_a_half():
    """At the optimum the error is orthogonal to f d; a decoder row twice too long is halved."""
    f = code_of_dense(torch.rand(100, 1, generator=torch.Generator().manual_seed(0)) + 0.1)
    d = torch.tensor([[1.0, 2, 0]])
    for size in (1.0, 2.0):
        scaling = LatentScaling(size * d, ["error"], own={"error": size * d})
        x = f.values * d
        scaling.update(f, {"error": x - size * f.values * d}, torch.zeros(100, dtype=torch.int64))
        found = scaling.estimates(lambda s: {"beta": s.beta("error", error=True)}, n_resamples=0, seed=0)
        assert float(found["beta"].value) == pytest.approx(1 / size, rel=1e-6)


@settings(max_examples=25)
@given(st.permutations(range(N)), st.lists(st.integers(1, N - 1), max_size=4))
def test_batches_order_and_merging_do_not_matter(order, cuts):
    made = crosscoder()
    whole = exclusivity(*made).result(n_resamples=100, seed=0)
    parts = torch.tensor(order).tensor_split(sorted(set(cuts)))
    one, two = exclusivity(*made, parts=parts[::2]), exclusivity(*made, parts=parts[1::2])
    one.merge(two)
    for name, estimate in one.result(n_resamples=100, seed=0).estimates.items():
        for found, expected in zip(estimate, whole.estimates[name], strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9, equal_nan=True)


def test_latents_are_cut_into_chunks_without_a_trace(monkeypatch):
    made = crosscoder()
    whole = exclusivity(*made).result(n_resamples=100, seed=0).estimates["nu_error"]
    monkeypatch.setattr("saeaudit.metrics.latent_scaling._CHUNK_LATENTS", 7)
    cut = exclusivity(*made).result(n_resamples=100, seed=0).estimates["nu_error"]
    for a, b in zip(whole, cut, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=0, equal_nan=True)


def test_a_bootstrap_sample_is_a_fit_on_the_rows_of_the_drawn_groups():
    dictionary, x, code, _ = crosscoder()
    f, direction = dense(code), dictionary.W_dec.detach()[:, 1]
    scaling = LatentScaling(direction, ["y"], n_groups=17)
    scaling.update(code, {"y": x[:, 1]}, GROUP)
    drawn = []

    def kept(sums):
        drawn.append(sums.beta("y"))
        return {"beta": drawn[-1]}

    found = scaling.estimates(kept, n_resamples=100, seed=0)["beta"]
    betas = torch.cat(drawn, 1)
    assert torch.equal(betas[0], found.value)
    weights = resample_weights(torch.arange(17), n_resamples=100, seed=0)[:, GROUP].long()
    for i in (0, 57, 99):
        rows = torch.repeat_interleave(weights[i])
        for j in range(N_LATENTS):
            expected = least_squares(x[rows, 1], f[rows, j], direction[j])
            assert float(betas[1 + i, j]) == pytest.approx(expected, rel=1e-6, abs=1e-6), (i, j)


def test_a_latent_that_never_fired_or_has_no_direction_has_no_beta():
    direction = torch.tensor([[1.0, 0], [0.0, 0.0], [0.0, 1.0]])
    scaling = LatentScaling(direction, ["y"])
    code = code_of_dense(torch.tensor([[0.0, 1.0, 2.0]]).repeat(10, 1))
    scaling.update(code, {"y": torch.ones(10, 2)}, torch.arange(10))
    found = scaling.estimates(lambda s: {"beta": s.beta("y")}, n_resamples=100, seed=0)["beta"]
    assert found.value.isnan().tolist() == [True, True, False] == found.low.isnan().tolist()
    assert float(found.value[2]) == pytest.approx(0.5) and scaling.firings.tolist() == [0, 10, 10]


def test_controls_fit_what_they_say_they_fit():
    dictionary, x, code, x_hat = crosscoder()
    W = dictionary.W_dec.detach()
    error = (x - x_hat)[:, 0]
    scaling = ControlledScaling(W[:, 1], ["error"], own={"error": W[:, 0]}, n_groups=17, seed=0)
    scaling.update(code, {"error": error}, GROUP)
    order = torch.randperm(N, generator=scaling_generator(0))
    f = dense(code)
    arms = {"real": (f, W[:, 1]), "shuffled": (f[order], W[:, 1]), "random": (f, scaling.random._direction)}
    for name, (regressor, direction) in arms.items():
        found = getattr(scaling, name).estimates(lambda s: {"b": s.beta("error", error=True)}, n_resamples=0, seed=0)
        for j in range(N_LATENTS):
            y = error + torch.outer(f[:, j], W[j, 0])
            expected = least_squares(y, regressor[:, j], direction[j])
            assert float(found["b"].value[j]) == pytest.approx(expected, rel=1e-6, abs=1e-6), name
    torch.testing.assert_close(scaling.random._direction.norm(dim=1), W[:, 1].norm(dim=1))


def scaling_generator(seed):
    from saeaudit.seeds import torch_generator

    return torch_generator(seed, "scaling", "shuffle")


def test_matched_latents_fire_about_as_often_and_are_used_once():
    firings = torch.tensor([100.0, 1000, 90, 110, 900, 5000, 105])
    assert density_matched(torch.tensor([0, 1]), torch.tensor([2, 3, 4, 5, 6]), firings).tolist() == [4, 6]
    assert density_matched(torch.tensor([0, 6]), torch.tensor([3]), firings).tolist() == [3]
    assert density_matched(torch.tensor([0]), torch.zeros(0, dtype=torch.int64), firings).tolist() == []
