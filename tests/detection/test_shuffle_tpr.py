"""The label-shuffle null of the TPR: near alpha on noise, and it does not see the true labels."""

import pytest
import torch

from saeaudit.detection import label_shuffle_tpr
from saeaudit.errors import EvidenceError

ALPHA = 0.1


def null(parts, *, strength=0.0, n_draws=30, seed=0, sizes=(1,)):
    """Latents: |noise|; the first of 40 also fires on trigger rows."""
    activations = []
    for part in parts:
        x = part.delta.repeat(1, 2)[:, :40].clamp(min=0)
        x[part.label, 0] += strength
        activations.append(x)
    return label_shuffle_tpr(
        *activations, selection=parts[0], test=parts[2], sizes=sizes, n_draws=n_draws, alpha=ALPHA, seed=seed
    )


def test_on_noise_the_rate_is_the_calibrated_one(make_three):
    found = null(make_three(), sizes=(1, 4))
    assert found.shape == (30,) and ((found >= 0) & (found <= 1)).all()
    assert 0.5 * ALPHA < float(found.mean()) < 1.6 * ALPHA


def test_a_planted_latent_is_not_chosen_for_shuffled_labels(make_three):
    """True labels would choose it every time and flag everything; shuffled ones choose it about one time in forty."""
    found = null(make_three(), strength=50.0)
    assert float((found > 0.9).float().mean()) < 0.2
    assert float(found.quantile(0.5)) < 3 * ALPHA


def test_the_same_seed_gives_the_same_draws_and_the_first_draws_do_not_depend_on_their_number(make_three):
    parts = make_three()
    many = null(parts, n_draws=8)
    assert torch.equal(many, null(parts, n_draws=8)) and torch.equal(many[:4], null(parts, n_draws=4))
    assert not torch.equal(many, null(parts, n_draws=8, seed=1))


def test_the_labels_of_the_test_rows_count_and_must_hold_both(make_three):
    selection, calibration, test = make_three()
    with pytest.raises(EvidenceError) as caught:
        null((selection, calibration, test.benign()))
    assert caught.value.code == "single-class"
