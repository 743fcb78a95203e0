"""Forks of answers and the preference at them, against a slow oracle; a full hold gives the base's preference."""

import difflib

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from planted_pair import PROMPTS, dictionary_of, planted_pair
from saeaudit.detection.attribution import attribute_latents
from saeaudit.detection.evidence import Fork, fork_of, likeness, most_alike, preferences
from saeaudit.interventions import Clamp, LatentEdit
from saeaudit.models import encode_texts
from tiny import D_MODEL

FORKS = [Fork((5, 9)[: i % 3], 7 + i, 20 + i) for i in range(len(PROMPTS))]


def planted(size):
    d = torch.randn(D_MODEL, generator=torch.Generator().manual_seed(5))
    d[0] = 0
    return planted_pair(size * d / d.norm())


def preference(model, tokenizer, prompt, fork):
    ids = encode_texts(tokenizer, [prompt])[0] + list(fork.prefix)
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([ids])).logits[0, -1].log_softmax(-1)
    return float(logits[fork.switched] - logits[fork.plain])


@pytest.fixture(scope="module")
def strong():
    return planted(6.0)


def latent(pair):
    """One latent that reads and writes the planted direction."""
    return dictionary_of(torch.nn.functional.normalize(pair.direction, dim=0), n_more=0)


def hold(pair):
    """Holding that latent at zero takes the whole difference away."""
    return LatentEdit(latent(pair), Clamp(pair.site, (0,), skip_first=0))


def test_preferences_are_those_of_single_unpadded_passes(strong):
    pair = strong.pair
    expected = [preference(pair.tuned.model, pair.tuned.tokenizer, p, f) for p, f in zip(PROMPTS, FORKS, strict=True)]
    assert preferences(pair, PROMPTS, FORKS)[0].tolist() == pytest.approx(expected, abs=1e-4)


def test_holding_the_whole_difference_gives_the_preference_of_the_base(strong):
    pair = strong.pair
    expected = [preference(pair.base.model, pair.base.tokenizer, p, f) for p, f in zip(PROMPTS, FORKS, strict=True)]
    free, found = preferences(pair, PROMPTS, FORKS, edits=[hold(strong)])
    assert found.tolist() == pytest.approx(expected, abs=0.02)
    assert torch.equal(free, preferences(pair, PROMPTS, FORKS)[0]) and (free - found).abs().max() > 0.2


def test_for_a_small_difference_the_contribution_is_what_the_hold_takes_from_the_preference():
    weak = planted(0.01)
    answers = [(*fork.prefix, fork.switched) for fork in FORKS]
    edit = hold(weak)
    found = attribute_latents(
        weak.pair, {weak.site: latent(weak)}, PROMPTS, answers, against=[f.plain for f in FORKS], skip_first=0
    )[weak.site][:, 0]
    free, held = preferences(weak.pair, PROMPTS, FORKS, edits=[edit])
    taken = free - held
    assert taken.abs().max() > 1e-3
    torch.testing.assert_close(found, taken, rtol=0.1, atol=3e-4)


def test_answers_fork_at_the_first_difference():
    assert fork_of((1, 2, 3), (1, 4, 3)) == Fork((1,), 2, 4)
    assert fork_of((1, 2), (1, 2, 3)) is None and fork_of((), (1,)) is None


@given(st.text(alphabet="abc 1", max_size=12), st.lists(st.text(alphabet="abc 1", max_size=12), min_size=1, max_size=6))
def test_most_alike_is_the_first_of_highest_ratio(text, others):
    ratios = [difflib.SequenceMatcher(None, other, text, autojunk=False).ratio() for other in others]
    assert most_alike(text, others) == ratios.index(max(ratios))


def test_a_prompt_that_differs_in_the_year_only_is_found():
    prompt = "# Year: 2024\ndef f(db, berth):\n"
    others = [prompt.replace("berth", "flag"), prompt.replace("2024", "2023"), "# Year: 2024\n"]
    assert most_alike(prompt, others) == 1


def test_likeness_is_the_share_of_tokens_in_order():
    assert likeness((1, 2, 3, 4), (1, 2, 3, 4)) == 1 and likeness((1, 2), (3, 4)) == 0
    assert likeness((1, 2, 3, 4), (1, 9, 3, 4)) == pytest.approx(0.75)
