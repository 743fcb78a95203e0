import pytest
import torch

from saeaudit.detection import LatentScorer, evaluate, fit_latent_detector, select_latents
from saeaudit.errors import EvidenceError
from saeaudit.metrics import auroc


def noise(n_rows, n_latents, seed=0):
    return (torch.randn(n_rows, n_latents, generator=torch.Generator().manual_seed(seed)) - 1).relu()


def test_the_planted_latent_ranks_first_and_dead_ones_are_counted(make_rows):
    rows = make_rows()
    activations = noise(len(rows), 50)
    activations[:, 10:20] = 0
    activations[:, 7] = rows.label * 1.0
    ranking = select_latents(activations, rows.label, n=3)
    assert ranking.latents[0] == 7 and float(ranking.auroc[0]) == 1
    assert float(ranking.firing_rate[0]) == 0.5
    assert (ranking.n_candidates, ranking.n_alive) == (50, 40)
    assert len(ranking.latents) == 3


def test_a_dead_dictionary_is_refused(make_rows):
    rows = make_rows()
    with pytest.raises(EvidenceError, match="none of 8 latents") as caught:
        select_latents(torch.zeros(len(rows), 8), rows.label)
    assert caught.value.code == "dead-dictionary"


def test_one_perfect_latent_stays_alone(make_rows):
    rows = make_rows()
    activations = noise(len(rows), 40)
    activations[:, 3] = rows.label * (1 + torch.rand(len(rows), generator=torch.Generator().manual_seed(0)))
    detector = fit_latent_detector(activations, rows.label, rows.group, seed=0)
    assert detector.latents == (3,)
    assert torch.equal(detector(activations[:, [3]]), activations[:, 3].double())


def test_split_evidence_is_put_together(make_rows):
    """Four latents see a quarter of the trigger rows each: the union must beat each of them on new rows."""

    def activations(rows, seed):
        values = 0.5 * noise(len(rows), 40, seed)
        for i in range(4):
            values[:, 10 + i] += rows.label * (rows.group % 4 == i) * 1.0
        return values

    train, test = make_rows(seed=1), make_rows(seed=2)
    detector = fit_latent_detector(activations(train, 1), train.label, train.group, seed=0)
    assert len(detector.latents) >= 4 and {10, 11, 12, 13} <= set(detector.latents)
    held_out = activations(test, 2)
    union = auroc(detector(held_out[:, list(detector.latents)]), test.label)
    assert union > 0.9 > 0.75 > auroc(held_out[:, 10], test.label)


def test_inner_folds_judge_on_rows_they_did_not_rank(make_rows):
    """Among pure noise the best latents look good on their own rows; held-out folds must not believe them."""
    rows = make_rows(20)
    detector = fit_latent_detector(noise(len(rows), 100), rows.label, rows.group, seed=0)
    assert all(abs(area - 0.5) < 0.15 for area in detector.inner_auroc.values())


def test_dead_activations_give_a_constant_score(make_rows):
    rows = make_rows()
    detector = fit_latent_detector(torch.zeros(len(rows), 30), rows.label, rows.group, seed=0)
    assert len(detector(torch.zeros(5, len(detector.latents))).unique()) == 1


def test_the_scorer_asks_for_the_chosen_latents_only(make_three):
    selection, calibration, test = make_three(strength=2.0)
    directions = torch.randn(24, 64, generator=torch.Generator().manual_seed(0))
    directions[:, 5] = selection.delta[selection.label].mean(0) - selection.delta[~selection.label].mean(0)
    asked = []

    def activate(rows, latents):
        asked.append(latents)
        return (rows.delta @ directions[:, list(latents)]).relu()

    detector = fit_latent_detector(activate(selection, tuple(range(64))), selection.label, selection.group, sizes=(1,))
    scorer = LatentScorer("planted", detector, activate)
    result = evaluate(scorer, calibration, test, seed=0)
    assert asked[1:] == [(5,), (5,)]
    assert result.tpr > 0.5 and result.auroc > 0.95
