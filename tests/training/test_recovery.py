"""Dictionaries find what was planted, and an untrained one does not."""

import pytest
import torch

from planted_dictionaries import (
    dense_code,
    dictionary_for,
    generator,
    matched_cosine,
    planted,
    sparse_sizes,
)
from saeaudit.training import TrainConfig, calibrate, evaluate, tensor_batches, train


def fit(dictionary, x, *, n_steps=1200, lr=3e-3, batch_size=256, **settings):
    batches = tensor_batches(x, batch_size, seed=0, n_steps=n_steps)
    return train(dictionary, batches, TrainConfig(n_steps=n_steps, lr=lr, **settings))


@pytest.mark.parametrize(
    ("settings", "n_steps", "fvu"),
    [
        ({}, 2000, 0.15),
        ({"sparsity": "topk"}, 1000, 0.25),  # 3 a row, where rows have between 0 and 9 atoms
        ({"sparsity": "gated", "k": None}, 1200, 0.15),
        ({"sparsity": "jumprelu", "k": None, "penalty": {"weight": 1.5}}, 1500, 0.15),
    ],
)
def test_atoms_are_recovered_and_an_untrained_dictionary_fails_the_same_test(settings, n_steps, fvu):
    shape = {"d_model": 48, "n_atoms": 96}
    data = planted(20_000, **shape)
    dictionary = dictionary_for(data.x, n_latents=192, **settings)
    untrained = (matched_cosine(data.atoms, dictionary.W_dec) > 0.95).float().mean()
    assert untrained < 0.5
    fit(dictionary, data.x, n_steps=n_steps)
    trained = (matched_cosine(data.atoms, dictionary.W_dec) > 0.95).float().mean()
    assert trained >= 0.95
    fresh = planted(4000, rows_seed=7, **shape)
    calibrate(dictionary, [planted(4000, rows_seed=8, **shape).x])
    report = evaluate(dictionary, [fresh.x])
    assert report.fvu < fvu and report.l0 < 6


def test_a_difference_dictionary_finds_the_planted_direction():
    """Fine-tuning moved 40 things a little everywhere, and added one direction in 2 % of the rows."""
    drift = planted(20_000, d_model=48, n_atoms=40, l0=2, noise=0.02)
    direction = torch.nn.functional.normalize(torch.randn(48, generator=generator(50)), dim=0)
    active = sparse_sizes(20_000, torch.tensor([0.02]), 6)
    delta = drift.x + active * direction
    dictionary = dictionary_for(delta, "diff", n_latents=96, k=2)
    every = torch.arange(96)
    assert float(matched_cosine(direction[None], dictionary.direction(every))) < 0.6
    fit(dictionary, delta, n_steps=1000)
    cosines = torch.nn.functional.cosine_similarity(dictionary.direction(every), direction[None])
    assert float(cosines.max()) > 0.98
    calibrate(dictionary, [delta])
    fires = dense_code(dictionary.encode(delta), 96)[:, int(cosines.argmax())] > 0
    assert float(fires[active[:, 0] > 0].float().mean()) > 0.95
    assert float(fires[active[:, 0] == 0].float().mean()) < 0.01


@pytest.fixture(scope="module")
def paired():
    """48 atoms shared by both sides, 6 of the tuned side only, 6 of the base only; all rows are sums of a few."""
    d_model, n_atoms, n = 32, 60, 24_000
    atoms = torch.nn.functional.normalize(torch.randn(n_atoms, d_model, generator=generator(0)), dim=1)
    sizes = sparse_sizes(n, torch.full((n_atoms,), 3 / n_atoms), 1)
    on_base, on_tuned = torch.ones(n_atoms), torch.ones(n_atoms)
    on_base[48:54] = 0
    on_tuned[54:] = 0
    noise = 0.01 * torch.randn(n, 2, d_model, generator=generator(2))
    x = torch.stack([(sizes * on_base) @ atoms, (sizes * on_tuned) @ atoms], 1) + noise
    dictionary = dictionary_for(x[:20_000], "crosscoder", n_latents=96, k=3)
    start = dictionary.W_dec.detach().clone()
    result = fit(dictionary, x[:20_000], n_steps=1500)
    calibrate(dictionary, [x[20_000:22_000]])
    return atoms, x, start, result


def matches(atoms, W_dec, side):
    cosine = atoms @ torch.nn.functional.normalize(W_dec[:, side], dim=1).T
    norms = W_dec.norm(dim=-1)
    weighted = cosine * (norms[:, side] / norms.sum(1)).clamp(max=0.5) * 2
    return weighted.max(1)


def test_a_crosscoder_separates_shared_from_exclusive_atoms(paired):
    atoms, _, start, result = paired
    W_dec = result.dictionary.W_dec
    tuned_share = W_dec.norm(dim=-1)[:, 1] / W_dec.norm(dim=-1).sum(1)
    on_tuned, on_base = matches(atoms[:54], W_dec, 1), matches(atoms[54:], W_dec, 0)
    assert float((on_tuned.values > 0.95).float().mean()) >= 0.95
    assert float((on_base.values > 0.95).float().mean()) >= 0.8
    assert float((matches(atoms[:54], start, 1).values > 0.95).float().mean()) < 0.5
    shared, tuned_only = tuned_share[on_tuned.indices[:48]], tuned_share[on_tuned.indices[48:]]
    assert float(((shared > 0.4) & (shared < 0.6)).float().mean()) >= 0.95
    assert bool((tuned_only > 0.9).all()), tuned_only
    assert bool((tuned_share[on_base.indices] < 0.1).all())


def test_a_crosscoder_reports_sides_and_difference(paired):
    _, x, _, result = paired
    report = evaluate(result.dictionary, x[22_000:].split(300))
    assert len(report.fvu_sides) == 2 and report.fvu_delta is not None
    assert min(report.fvu_sides) <= report.fvu <= max(report.fvu_sides) < 0.15
    torch.testing.assert_close(result.dictionary.decoder_norms().sum(1), torch.ones(96))


def bad_start(x, *, aux_alpha):
    """Half of the encoder is so small that it never wins a place."""
    dictionary = dictionary_for(x, n_latents=64, aux_alpha=aux_alpha)
    with torch.no_grad():
        dictionary.coder.W_enc[:32] *= 0.02
    return dictionary


@pytest.mark.parametrize(("aux_alpha", "low", "high"), [(0.0, 0.30, 1.0), (1 / 32, 0.0, 0.05)])
def test_the_auxiliary_loss_revives_dead_latents(aux_alpha, low, high):
    data = planted(10_000, n_atoms=96)
    dictionary = bad_start(data.x, aux_alpha=aux_alpha)
    result = fit(dictionary, data.x, n_steps=1000)
    calibrate(dictionary, [data.x])
    report = evaluate(dictionary, [data.x])
    assert low <= report.dead_share <= high
    assert low <= result.dead_share <= high
