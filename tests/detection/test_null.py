import pytest
import torch

from saeaudit.detection import (
    draw_basis,
    evaluate,
    fit_random_directions,
    label_shuffle_null,
    random_basis_null,
    summarise_null,
)
from saeaudit.detection.null import shuffle_labels
from saeaudit.detection.supervised import fit_mean_direction
from saeaudit.errors import ConfigError
from saeaudit.metrics import auroc_columns

RATES = torch.linspace(0, 0.5, 40)


@pytest.mark.parametrize("law", ["isotropic", "covariance"])
def test_a_random_basis_fires_as_often_as_it_is_told(law):
    delta = torch.randn(200, 16, generator=torch.Generator().manual_seed(0)) * torch.linspace(1, 3, 16)
    rates = torch.tensor([0.0, 0.005, 0.1, 0.5, 0.995, 1.0]).repeat(20)
    basis, activations = draw_basis(delta, rates, law=law, generator=torch.Generator().manual_seed(1))
    assert ((activations > 0).sum(0) == (rates * 200).round()).all()
    assert torch.allclose(basis(delta), activations, atol=1e-5)
    assert basis.directions.norm(dim=1).tolist() == pytest.approx([1] * 120, rel=1e-5)


def test_the_covariance_law_follows_the_data_and_the_isotropic_one_does_not():
    delta = torch.randn(400, 8, generator=torch.Generator().manual_seed(0))
    delta[:, 0] *= 10
    share = {}
    for law in ("isotropic", "covariance"):
        basis, _ = draw_basis(delta, torch.full((500,), 0.1), law=law, generator=torch.Generator().manual_seed(1))
        share[law] = float(basis.directions[:, 0].square().mean())
    assert share["isotropic"] == pytest.approx(1 / 8, abs=0.02)
    # E[x0²/(x0² + 7/100)] for a Gaussian x0 is about .78.
    assert share["covariance"] > 0.7


def test_chance_rows_put_the_null_at_the_false_positive_rate(make_three):
    selection, calibration, test = make_three()
    null = random_basis_null(selection, calibration, test, firing_rates=RATES, n_draws=30, seed=0)
    assert float(null.auroc.mean()) == pytest.approx(0.5, abs=0.04)
    assert float(null.tpr.mean()) < 0.04
    again = random_basis_null(selection, calibration, test, firing_rates=RATES, n_draws=30, seed=0)
    assert torch.equal(null.tpr, again.tpr) and torch.equal(null.auroc, again.auroc)


def test_selection_is_repeated_inside_the_null(make_three):
    """More directions to choose from give a better best one: a null of single random directions would not move."""
    selection, calibration, test = make_three(strength=2.0)
    few = random_basis_null(selection, calibration, test, firing_rates=torch.full((2,), 0.3), n_draws=20, seed=0)
    many = random_basis_null(selection, calibration, test, firing_rates=torch.full((300,), 0.3), n_draws=20, seed=0)
    assert float(many.auroc.mean()) > float(few.auroc.mean()) + 0.1


def test_half_of_the_draws_follow_the_covariance(make_three):
    """With one loud direction that carries the label, the covariance draws (odd) find it and isotropic ones do not."""
    loud = make_three(strength=2.0)
    null = random_basis_null(*loud, firing_rates=torch.full((3,), 0.3), n_draws=30, seed=0)
    assert float(null.auroc[1::2].mean()) > float(null.auroc[::2].mean()) + 0.05


def test_a_planted_direction_beats_its_null_and_shuffled_labels_do_not(make_three):
    selection, calibration, test = make_three(strength=1.2)
    observed = evaluate(fit_mean_direction(selection, seed=0), calibration, test, seed=0)
    null = random_basis_null(selection, calibration, test, firing_rates=torch.full((60,), 0.3), n_draws=40, seed=0)
    summary = summarise_null(null.auroc, observed.auroc)
    assert summary.p == pytest.approx(1 / 41) and summary.gap > 0.1
    assert summary.observed > summary.interval.high
    mixed = selection.label[torch.randperm(len(selection), generator=torch.Generator().manual_seed(0))]
    wrong = type(selection)(selection.h0, selection.delta, selection.text, mixed, selection.klass, selection.group)
    chance = evaluate(fit_mean_direction(wrong, seed=0), calibration, test, seed=0)
    assert summarise_null(null.auroc, chance.auroc).p > 0.05


def test_identical_models_are_silent_under_the_null(make_three):
    selection, calibration, test = make_three(scale=0.0)
    null = random_basis_null(selection, calibration, test, firing_rates=RATES, sizes=(1, 4, 16), n_draws=4, seed=0)
    assert null.tpr.tolist() == [0] * 4 and null.auroc.tolist() == [0.5] * 4


def test_unions_are_drawn_by_the_same_rule(make_three):
    selection, calibration, test = make_three(strength=1.5)
    one = random_basis_null(selection, calibration, test, firing_rates=torch.full((80,), 0.3), n_draws=8, seed=0)
    union = random_basis_null(
        selection, calibration, test, firing_rates=torch.full((80,), 0.3), sizes=(16,), n_draws=8, seed=0
    )
    assert float(union.auroc.mean()) > float(one.auroc.mean())


def test_the_random_baseline_is_a_control(make_three):
    selection, calibration, test = make_three(strength=3.0)
    generator = torch.Generator().manual_seed(0)
    scorer = fit_random_directions(selection, firing_rates=torch.full((200,), 0.3), generator=generator)
    assert scorer.family == "control" and scorer.basis.directions.shape == (1, 24)
    assert 0.6 < evaluate(scorer, calibration, test, seed=0).auroc < 1


def test_summary_counts_ties_as_reached():
    summary = summarise_null(torch.tensor([0.0, 0.25, 0.5, 0.5]), 0.5)
    assert summary.p == pytest.approx(3 / 5)
    assert summary.mean == pytest.approx(0.3125) and summary.gap == pytest.approx(0.1875) and summary.n_draws == 4


def test_an_empty_null_is_refused(make_three):
    with pytest.raises(ConfigError, match="0 draws"):
        random_basis_null(*make_three(), firing_rates=RATES, n_draws=0, seed=0)


def test_shuffled_labels_stay_in_their_template_or_move_as_whole_groups():
    generator = torch.Generator().manual_seed(0)
    group = torch.tensor([5, 0, 5, 0, 5, 0, 1, 1, 2, 2, 3, 3])
    label = torch.tensor([True, True, False, False, False, True, True, True, False, False, False, False])
    seen = set()
    for _ in range(60):
        shuffled = shuffle_labels(label, group, generator=generator)
        assert int(shuffled[group == 5].sum()) == 1 and int(shuffled[group == 0].sum()) == 2
        for pure in (1, 2, 3):
            assert len(shuffled[group == pure].unique()) == 1
        assert int(shuffled[group % 5 > 0].sum()) == 2
        seen.add(tuple(shuffled.tolist()))
    assert len(seen) > 20


def test_shuffle_null_equals_a_loop_and_separates_signal_from_noise(make_rows):
    rows = make_rows(30)
    generator = torch.Generator().manual_seed(4)
    activations = (torch.randn(len(rows), 25, generator=generator) - 1).relu()
    null = label_shuffle_null(activations, rows.label, rows.group, n_draws=100, seed=0)
    assert null.shape == (100,)
    # The same maximum, computed one labelling at a time: the identity labelling must lie inside the null's range.
    observed = float(auroc_columns(activations, rows.label).max())
    assert summarise_null(null, observed).p > 0.02
    activations[:, 3] += rows.label * 1.0
    assert summarise_null(null, float(auroc_columns(activations, rows.label).max())).p == pytest.approx(1 / 101)


def test_shuffle_null_matches_the_exact_area_of_its_labellings(make_rows):
    rows = make_rows(10)
    activations = torch.randint(0, 3, (len(rows), 6), generator=torch.Generator().manual_seed(0)).float()
    null = label_shuffle_null(activations, rows.label, rows.group, n_draws=20, seed=7)
    from saeaudit.seeds import torch_generator

    generator = torch_generator(7, "detection", "label-shuffle")
    slow = [
        float(auroc_columns(activations, shuffle_labels(rows.label, rows.group, generator=generator)).max())
        for _ in range(20)
    ]
    assert null.tolist() == pytest.approx(slow, abs=1e-12)
