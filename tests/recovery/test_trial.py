import pytest
import torch

from planted_pair import random_dictionary
from saeaudit.errors import EvidenceError, InputError
from saeaudit.interventions import Clamp, LatentEdit
from saeaudit.models import Pair
from saeaudit.recovery import Flip, generate, trial
from tiny import CONTEXT, TEXTS, tiny_loaded, tiny_tokenizer, tuned_copy

TOKENIZER = tiny_tokenizer()
PROMPTS = [*TEXTS, TEXTS[0][:9], TEXTS[3]]
EDIT = LatentEdit(random_dictionary(), Clamp("layers.1", (0, 1, 2), "set", 1.0))


@pytest.fixture(scope="module")
def pair():
    base = tiny_loaded("llama")
    return Pair(base, tuned_copy(base))


def flip(prompt, answer=(7, 8)):
    return Flip(prompt, tuple(TOKENIZER(prompt)["input_ids"]), answer)


FLIPS = [flip(prompt) for prompt in PROMPTS]


def written(pair, item, delta, **more):
    return generate(pair, EDIT, FLIPS, delta, torch.tensor(item), n_new=5, **more)


@pytest.mark.parametrize("batch", [1, 4, 32])
def test_each_row_gets_its_own_push_whatever_its_length_and_place(pair, monkeypatch, batch):
    everything = list(range(len(PROMPTS)))
    delta = 8 * torch.randn(len(PROMPTS), 32, generator=torch.Generator().manual_seed(0))
    alone = [written(pair, [i], delta[i : i + 1])[0] for i in everything]
    assert alone[3] != alone[5]  # one prompt, two pushes
    assert sum(a != b for a, b in zip(alone, written(pair, everything, 0 * delta), strict=True)) >= 4
    monkeypatch.setattr(trial, "BATCH", batch)
    seen = []
    assert written(pair, everything, delta, progress=lambda *at: seen.append(at)) == alone
    assert seen[-1] == (6, 6) and len(seen) == -(-6 // batch)
    order = [4, 0, 5, 2, 1, 3]
    assert written(pair, order, delta[order]) == [alone[i] for i in order]


@pytest.mark.parametrize("batch", [4, 32])
def test_drafts_change_nothing_under_a_push_either(pair, monkeypatch, batch):
    """The push stays at the last prompt token, also where tokens of the answer stand behind it in the same pass."""
    monkeypatch.setattr(trial, "BATCH", batch)
    everything = list(range(len(PROMPTS)))
    delta = 8 * torch.randn(len(PROMPTS), 32, generator=torch.Generator().manual_seed(0))
    expected = written(pair, everything, delta)
    right = [g.token_ids for g in expected]
    half = [(*ids[:2], 9, 9) for ids in right]
    still = [g.token_ids for g in written(pair, everything, 0 * delta)]
    mixed = [right[0], half[1], still[2], (), right[4], still[5]]
    for drafts in (right, half, still, mixed):
        assert written(pair, everything, delta, drafts=drafts) == expected


def test_flips_are_checked_before_any_work(pair):
    trial.require_flips(pair.tuned, [flip(p) for p in PROMPTS])
    with pytest.raises(EvidenceError, match="removed the behaviour on no prompt") as caught:
        trial.require_flips(pair.tuned, [])
    assert caught.value.code == "no-flips"
    wrong = Flip(PROMPTS[1], flip(PROMPTS[0]).prompt_ids, (1,))
    with pytest.raises(InputError, match=r"flip 1 has \d+ prompt ids") as caught:
        trial.require_flips(pair.tuned, [flip(PROMPTS[0]), wrong])
    assert caught.value.code == "flip-ids"


def test_trials_are_a_little_longer_than_the_answers_and_fit_the_context(pair):
    short, long = flip("the cat"), flip("cat " * 28)
    assert trial.longest_trial(pair.tuned, [short]) == 2 + trial.SLACK_TOKENS
    assert trial.longest_trial(pair.tuned, [short, flip("the dog", (1,) * 20)]) == 20 + trial.SLACK_TOKENS
    n = len(long.prompt_ids)
    assert CONTEXT - 10 < n < CONTEXT
    assert trial.longest_trial(pair.tuned, [short, long]) == CONTEXT - n
