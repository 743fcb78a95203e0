"""What is held: what really turns answers back, and of equals the earliest set; the site that tells best is read."""

from types import SimpleNamespace
from unittest.mock import Mock

import pytest

from saeaudit.audit import choice
from saeaudit.audit.choice import Candidate, ChoiceRecord, Ranking
from saeaudit.audit.config import BehaviourSizes
from saeaudit.audit.session import Session


def candidate(site, n, removed, benign=0.0):
    return Candidate(site=site, latents=list(range(n)), removed=removed, changed_benign=benign)


def ranking(site, inner, auroc=0.9):
    return Ranking(site=site, pooling="last", latents=[0], auroc=[auroc], firing_rate=[0.1], inner_auroc=inner)


@pytest.fixture
def choose(monkeypatch):
    def run(candidates, rankings=None, returned=None):
        """`returned`: by site, what writing under that site's best set shows; None where no answer is turned."""
        rankings = rankings or [ranking(site, 0.9) for site in dict.fromkeys(c.site for c in candidates)]
        table = {r.site: r for r in rankings}
        given = SimpleNamespace(forks=returned is not None)
        monkeypatch.setattr(choice, "_answers", lambda session: given)
        monkeypatch.setattr(choice, "_candidates", lambda session, given: candidates)
        monkeypatch.setattr(choice, "_returned", lambda session, given, c: returned[c.site])
        monkeypatch.setattr(choice, "_ranking", lambda session, site: table[site])
        return choice._choose(Mock(spec=Session, sites=list(table)))

    return run


def test_what_the_model_writes_decides_and_not_the_preference_for_one_token(choose):
    sets = [candidate("layers.9", 4, 0.7), candidate("layers.9", 16, 0.76), candidate("layers.21", 64, 0.95)]
    assert choose(sets).site == "layers.21"
    found = choose(sets, returned={"layers.9": 0.9, "layers.21": 0.4})
    assert (found.site, len(found.latents)) == ("layers.9", 16)
    assert [c.returned for c in found.candidates] == [None, 0.9, 0.4]
    tie = {"layers.9": 0.88, "layers.21": 0.9}
    assert choose(sets, returned=tie).site == "layers.9", "among equals the earliest site"
    worse = [sets[0], candidate("layers.9", 16, 0.76, benign=0.6), sets[2]]
    assert len(choose(worse, returned={"layers.9": 0.9, "layers.21": 0.4}).latents) == 4


def test_the_smallest_set_within_five_points_of_the_best(choose):
    found = choose([candidate("layers.1", 4, 0.5), candidate("layers.1", 16, 0.96), candidate("layers.2", 64, 1.0)])
    assert (found.site, len(found.latents)) == ("layers.1", 16)


def test_a_hold_that_changes_benign_answers_too_is_worth_less(choose):
    found = choose([candidate("layers.1", 4, 1.0, benign=0.8), candidate("layers.2", 64, 0.6, benign=0.0)])
    assert found.site == "layers.2"


def test_among_equals_the_earliest_site_and_there_the_smallest_set(choose):
    found = choose([candidate("layers.2", 4, 1.0), candidate("layers.1", 64, 1.0), candidate("layers.1", 16, 0.96)])
    assert (found.site, len(found.latents)) == ("layers.1", 16)
    assert choose([candidate("layers.10", 4, 1.0), candidate("layers.9", 4, 0.97)]).site == "layers.9"


def test_the_reading_site_is_another_question(choose):
    found = choose(
        [candidate("layers.1", 4, 1.0)],
        [ranking("layers.1", 0.8), ranking("layers.2", 0.95, auroc=0.7), ranking("layers.3", 0.95, auroc=0.9)],
    )
    assert isinstance(found, ChoiceRecord)
    assert (found.site, found.read_site) == ("layers.1", "layers.3")
    assert found.ranking("layers.2").inner_auroc == 0.95


def test_a_set_that_had_to_be_smaller_than_asked_is_a_warning():
    sizes = BehaviourSizes(clamp_counts=(16, 64))
    sets = [candidate("layers.9", 16, 0.7), candidate("layers.13", 14, 0.7), candidate("layers.13", 14, 0.7)]
    found = ChoiceRecord(site="layers.9", latents=[1], read_site="layers.9", candidates=sets, rankings=[])
    (warning,) = found.warnings(sizes)
    assert warning.startswith("At layers.13") and "(16, 64)" in warning and "14 latents" in warning
    assert found.model_copy(update={"candidates": sets[:1]}).warnings(sizes) == []
