"""Latent scaling tells latents of the tuned model only from those that merely look so by their decoder norms."""

import math
from typing import NamedTuple

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from planted_dictionaries import dictionary_for, generator, sparse_sizes
from saeaudit.dictionaries.code import code_of_dense
from saeaudit.metrics import Exclusivity, auroc
from saeaudit.metrics.decoder_rows import TUNED_ONLY
from saeaudit.training import TrainConfig, calibrate, tensor_batches, train

D_MODEL, N_ATOMS, N_ONLY = 48, 80, 4
TUNED, BASE = range(N_ONLY), range(N_ONLY, 2 * N_ONLY)
RARE = [0, 1, 4, 5, *range(8, 16)]


class Pair(NamedTuple):
    """90 % of the atoms are on both sides, 5 % on the tuned side only, 5 % on the base only; some fire in 0.5 %."""

    x: Tensor
    sizes: Tensor
    atoms: Tensor


def pair(n_rows=30_000, seed=1, *, same=False, dimmed=1.0):
    atoms = normalize(torch.randn(N_ATOMS, D_MODEL, generator=generator(0)), dim=1)
    rates = torch.full((N_ATOMS,), 3.5 / N_ATOMS)
    rates[RARE] = 0.005
    sizes = sparse_sizes(n_rows, rates, seed)
    on = torch.ones(N_ATOMS, 2)
    if not same:
        on[TUNED, 0] = on[BASE, 1] = 0
    on[50:, 0] = dimmed
    x = torch.einsum("na,as,ad->nsd", sizes, on, atoms)
    return Pair(x + 0.01 * torch.randn(x.shape, generator=generator(seed + 1000)), sizes, atoms)


def report(dictionary, x, code, *, n_resamples=100):
    found = Exclusivity(dictionary, seed=0)
    group = torch.arange(len(x)) * 64 // len(x)
    found.update(x[:, 0], x[:, 1] - x[:, 0], code, dictionary.decode(code).detach(), group)
    return found.result(n_resamples=n_resamples, seed=0)


def score(found):
    """Larger is more specific; latents without ratios come last."""
    largest = torch.maximum(*(found.estimates[f"nu_{t}"].value.abs() for t in ("error", "reconstruction")))
    return -largest.nan_to_num(torch.finfo(largest.dtype).max)


def misled(data, *, same=False, dimmed=1.0, shrunk=range(20, 40)):
    """A crosscoder of the planted atoms with the two known faults, and its code: (dictionary, code, tuned-only).

    Shrinkage: of the `shrunk` latents the base row was pressed to 0. Decoupling: atoms 40 to 49 are said by two latents
    that fire together, one a side (the second is latent 80 and on).
    """
    dictionary = dictionary_for(data.x, "crosscoder", n_latents=N_ATOMS + 10, k=4)
    rows = torch.cat([data.atoms, data.atoms[40:50]])[:, None].repeat(1, 2, 1)
    if not same:
        rows[TUNED, 0] = rows[BASE, 1] = 0
    rows[shrunk, 0] = rows[40:50, 0] = rows[80:, 1] = 0
    rows[50:80, 0] *= dimmed
    coder = dictionary.coder
    with torch.no_grad():
        coder.W_dec.copy_(rows / coder.scale[0])
        coder.b_dec.copy_(-coder.shift / coder.scale[0])
    sizes = torch.cat([data.sizes, data.sizes[:, 40:50]], 1)
    return dictionary, code_of_dense(sizes), torch.arange(N_ATOMS + 10) < (0 if same else N_ONLY)


def test_ratios_see_through_shrinkage_and_decoupling_where_norms_do_not():
    data = pair()
    dictionary, code, tuned_only = misled(data)
    found = report(dictionary, data.x, code)
    fits = found.estimates["nu_error"].value.isfinite() | tuned_only
    assert auroc(score(found)[fits], tuned_only[fits]) > 0.95
    assert auroc(found.norms.scaled[fits], tuned_only[fits]) < 0.85, "the norms are misled, or the test is too easy"
    assert found.specific.tolist() == tuned_only.tolist()
    nu = {name: found.estimates[f"nu_{name}"].value for name in ("error", "reconstruction")}
    assert bool((nu["error"][20:40] > 0.9).all()), "shrunk: the error of the base holds the atom"
    assert bool((nu["error"][40:50].abs() < 0.2).all()) and bool((nu["reconstruction"][40:50] > 0.5).all()), "decoupled"
    assert bool((nu["error"][50:80] > 0.9).all()), "shared"


def test_the_table_sets_latents_beside_their_controls():
    data = pair()
    dictionary, code, _ = misled(data)
    every, exclusive, shared, shuffled, random = report(dictionary, data.x, code).table
    assert (every.n, exclusive.n, exclusive.n_defined, exclusive.n_specific) == (90, 34, 34, 4)
    assert (shared.n, shared.n_specific) == (34, 0)
    assert (shuffled.n, shuffled.n_defined) == (34, 0) and abs(shuffled.beta_error_tuned) < 0.1
    assert random.n == 34 and abs(random.beta_error_tuned) < 0.2
    assert exclusive.beta_error_tuned == pytest.approx(1, abs=0.05)


def test_a_model_beside_itself_has_nothing_specific():
    data = pair(same=True)
    dictionary, code, _ = misled(data, same=True)
    found = report(dictionary, data.x, code)
    assert found.table[1].n == 30 and not bool(found.specific.any())


def test_a_planted_ratio_is_recovered_and_its_interval_covers_it():
    inside = []
    for seed in range(1, 11):
        data = pair(4000, seed, dimmed=0.3)
        dictionary, code, _ = misled(data, dimmed=0.3, shrunk=[])
        value, low, high = (t[50:80] for t in report(dictionary, data.x, code, n_resamples=300).estimates["nu_error"])
        assert float((value - 0.3).abs().max()) < 2e-3
        inside.append((low <= 0.3) & (high >= 0.3))
    assert 0.90 <= float(torch.cat(inside).float().mean()) <= 0.98


def test_ratios_need_firings_and_a_denominator():
    data = pair(4000)
    dictionary, code, _ = misled(data)
    found = report(dictionary, data.x, code)
    few = found.firings < 100
    assert few.any() and bool(found.estimates["nu_error"].value[few].isnan().all())
    assert bool(found.estimates["beta_error_tuned"].value[few & (found.firings > 0)][2:].isfinite().any())
    base_only = found.estimates["nu_error"].value[list(BASE)]
    assert bool(base_only.isnan().all()), "no direction on the tuned side"
    assert not bool(found.specific[few].any())


def fitted(data, *, n_steps, **config):
    dictionary = dictionary_for(data.x, "crosscoder", n_latents=128, **config)
    train(dictionary, tensor_batches(data.x, 256, seed=0, n_steps=n_steps), TrainConfig(n_steps=n_steps, lr=3e-3))
    return dictionary


def nearest_atom(dictionary, data):
    """The atom of each latent's tuned row; -1 where there is none within cosine 0.9."""
    cosine, atom = (normalize(dictionary.W_dec.detach()[:, 1], dim=1) @ data.atoms.T).max(1)
    return torch.where(cosine > 0.9, atom, -1)


@pytest.mark.slow
def test_tuned_only_latents_of_a_trained_crosscoder_are_found():
    dictionary, data = fitted(pair(), n_steps=3000, k=4), pair(seed=2)
    calibrate(dictionary, [data.x])
    found = report(dictionary, data.x, dictionary.encode(data.x))
    atom = nearest_atom(dictionary, data)
    tuned_only = (atom >= 0) & (atom < N_ONLY)
    assert set(atom[tuned_only].tolist()) == set(TUNED), "the rare ones included"
    fires = found.firings >= 100
    assert auroc(score(found)[fires], tuned_only[fires]) > 0.95
    assert math.isclose(found.table[1].beta_error_tuned, 1, abs_tol=0.1)


@pytest.mark.slow
def test_an_l1_crosscoder_invents_exclusive_latents_and_the_ratios_see_through_them():
    """Atoms that are weaker in the base are pressed out of its rows by the penalty (arXiv 2504.02922, section 3)."""
    invented = {}
    for name, config in {
        "batchtopk": {"k": 4},
        "l1": {"k": None, "sparsity": "relu", "penalty": {"weight": 2}},
    }.items():
        data, fresh = pair(dimmed=0.25), pair(seed=2, dimmed=0.25)
        dictionary = fitted(data, n_steps=2000, **config)
        calibrate(dictionary, [data.x])
        found = report(dictionary, fresh.x, dictionary.encode(fresh.x))
        shared = (nearest_atom(dictionary, data) >= 2 * N_ONLY) & (found.firings >= 100)
        assert int(shared.sum()) > 50
        invented[name] = int((found.norms.scaled[shared] >= TUNED_ONLY).sum())
        assert not bool(found.specific[shared].any())
    assert invented["l1"] > 10 > 1 > invented["batchtopk"]


@pytest.mark.slow
def test_a_crosscoder_trained_on_a_model_beside_itself_finds_nothing_specific():
    dictionary, fresh = fitted(pair(same=True), n_steps=1000, k=4), pair(seed=2, same=True)
    calibrate(dictionary, [fresh.x])
    found = report(dictionary, fresh.x, dictionary.encode(fresh.x))
    assert int((found.firings >= 100).sum()) > 50
    assert not bool(found.specific.any())
