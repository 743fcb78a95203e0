"""The ladder on a planted pair whose recovery budget is known in closed form.

The head reads one direction q: token A has the row q, token B has -q, all others 0, so the sign of q . h decides. The
tuned model writes along q1 at the trigger, which makes it A; the base and the clamped model say B. Holding the latent
of q1 leaves the routes q2 and coordinate 0 of q = q1 + q2 - 2 e0 open: with deficit m = -q . h the smallest
perturbation that brings A back without moving that latent is m / |P q|. Holding all three leaves P q = 0, and nothing
brings A back.
"""

from contextlib import ExitStack

import pytest
import torch

from planted_pair import PROMPTS, dictionary_of, planted_pair
from saeaudit.errors import EvidenceError
from saeaudit.interventions import Clamp, LatentEdit, PairedBase, PairedClamp
from saeaudit.models import Capture, Edit, encode_texts, greedy
from saeaudit.recovery import ArmResult, Flip, LadderConfig, climb, enter_clamp, null_space
from tiny import D_MODEL, N_VOCAB

A, B = 40, 41
E0 = torch.eye(D_MODEL)[0]
Q1, Q2 = torch.linalg.qr(
    torch.cat([E0[:, None], torch.randn(D_MODEL, 2, generator=torch.Generator().manual_seed(4))], 1)
).Q.T[1:]
Q = Q1 + Q2 - 2 * E0
HEAD = torch.zeros(N_VOCAB, D_MODEL).index_copy(0, torch.tensor([A, B]), torch.stack([Q, -Q]))
PLANTED = planted_pair(8 * Q1, block=3, head=HEAD)
PAIR, SITE = PLANTED.pair, PLANTED.site
DICTIONARY = dictionary_of(Q1, Q2, E0)
ONE_ROUTE = LatentEdit(DICTIONARY, Clamp(SITE, (0,)))
ALL_ROUTES = LatentEdit(DICTIONARY, Clamp(SITE, (0, 1, 2)))
ANSWER = PAIR.tuned.tokenizer.decode([A])
LADDER = LadderConfig(budgets=tuple(0.05 * 1.15**i for i in range(18)), n_steps=60)


def is_back(_, text):
    return text.startswith(ANSWER)


def first_tokens(edit=None):
    if edit is None:
        out = greedy(PAIR.tuned.model, PAIR.tuned.tokenizer, PROMPTS, n_new=1)
    else:
        with PairedBase(PAIR.base.model, PAIR.tuned.model, SITE) as paired:
            edits = {SITE: PairedClamp(paired, edit)}
            out = greedy(PAIR.tuned.model, PAIR.tuned.tokenizer, PROMPTS, n_new=1, edits=edits)
    return [g.token_ids for g in out]


@pytest.fixture(scope="module")
def flips():
    """What the clamp really removes: the tuned model says A, the clamped one B, on every prompt."""
    assert first_tokens() == [(A,)] * len(PROMPTS)
    assert first_tokens(ONE_ROUTE) == first_tokens(ALL_ROUTES) == [(B,)] * len(PROMPTS)
    ids = encode_texts(PAIR.tuned.tokenizer, PROMPTS)
    return [Flip(p, tuple(i), (A,)) for p, i in zip(PROMPTS, ids, strict=True)]


def exact_budgets(flips, edit):
    """m / (|P q| |h|) of each flip, from a plain uncached pass."""
    free = null_space(edit.encoder)
    out = []
    for f in flips:
        with ExitStack() as stack, torch.no_grad():
            stack.enter_context(Edit(PAIR.tuned.model, {SITE: enter_clamp(stack, PAIR, edit)}))
            kept = stack.enter_context(Capture(PAIR.tuned.model, [SITE]))
            PAIR.tuned.model(torch.tensor([f.prompt_ids]))
        h = kept.values[SITE][0, -1]
        out.append(float(-(Q @ h) / (free.project(Q).norm() * h.norm())))
    return torch.tensor(out)


@pytest.fixture(scope="module")
def climbed(flips):
    return climb(PAIR, ONE_ROUTE, flips, is_back, LADDER, seed=0, n_new=1)


def test_behaviour_comes_back_at_the_known_budget_and_not_below(climbed, flips):
    exact = exact_budgets(flips, ONE_ROUTE)
    budgets = torch.tensor(climbed.budgets)
    assert bool((exact > budgets[2]).all() and (exact < budgets[-2]).all())
    expected = budgets > exact[:, None]
    clear = (budgets > 1.03 * exact[:, None]) | (budgets < 0.97 * exact[:, None])
    assert torch.equal(climbed.attack.came_back[clear], expected[clear]) and float(clear.float().mean()) > 0.9
    median = exact.sort().values[len(exact) // 2]
    assert climbed.eps50 == pytest.approx(min(b for b in climbed.budgets if b > median))


def test_random_directions_of_the_same_size_bring_less_back(climbed):
    attack, random = (arm.envelope().float().mean() for arm in (climbed.attack, climbed.random))
    assert float(attack) > 0.2 and float(random) < 0.3 * float(attack)


def test_nothing_leaks_into_the_held_latents(climbed):
    assert 0 < climbed.leak < 1e-6


def test_holding_every_route_leaves_nothing_to_find(flips):
    config = LadderConfig(budgets=(0.1, 0.5, 1.0, 3.0), n_steps=20)
    result = climb(PAIR, ALL_ROUTES, flips, is_back, config, seed=0, n_new=1)
    assert not bool(result.attack.came_back.any()) and result.eps50 is None
    one = climb(PAIR, ONE_ROUTE, flips, is_back, config, seed=0, n_new=1)
    assert bool(one.attack.came_back[:, -1].all())


def test_without_a_length_the_answer_has_room(flips):
    config = LadderConfig(budgets=(1.0,), n_steps=10)
    lengths = set()

    def watch(i, text):
        lengths.add(len(PAIR.tuned.tokenizer(text)["input_ids"]))
        return is_back(i, text)

    assert bool(climb(PAIR, ONE_ROUTE, flips, watch, config, seed=0).attack.came_back[:, 1].all())
    assert max(lengths) > 1


def test_the_same_seed_gives_the_same_ladder_and_items_are_the_first(flips, climbed):
    again = climb(PAIR, ONE_ROUTE, flips, is_back, LADDER, seed=0, n_new=1)
    assert torch.equal(again.attack.came_back, climbed.attack.came_back)
    assert torch.equal(again.random.came_back, climbed.random.came_back) and again.leak == climbed.leak
    asked = set()

    def watch(i, text):
        asked.add(i)
        return is_back(i, text)

    few = LADDER.model_copy(update={"n_items": 2, "n_steps": 5})
    assert climb(PAIR, ONE_ROUTE, flips, watch, few, seed=0, n_new=1).attack.came_back.shape == (2, 19)
    assert asked == {0, 1}


@pytest.mark.parametrize("n_unsteady", [0, 1])
def test_progress_never_goes_back_and_ends_at_the_end(flips, n_unsteady):
    seen, asked = [], []
    config = LadderConfig(budgets=(0.2, 0.4), n_steps=4)

    def detect(i, text):
        asked.append(i)
        return is_back(i, text) or (len(asked) == 1 and n_unsteady == 1)

    climb(PAIR, ONE_ROUTE, flips, detect, config, seed=0, n_new=1, progress=lambda *at: seen.append(at))
    total = 4 + len(flips) + 2 * 2 * (len(flips) - n_unsteady)
    assert seen[-1] == (total, total) and [d for d, _ in seen] == sorted(d for d, _ in seen)


@pytest.mark.parametrize("when", ["always", "other length"])
def test_a_detector_that_sees_it_at_budget_zero_is_refused(flips, when):
    config = LadderConfig(budgets=(0.1,), n_steps=1)
    detector = (lambda i, text: True) if when == "always" else (lambda i, text: not is_back(i, text))
    with pytest.raises(EvidenceError, match="without any perturbation") as caught:
        climb(PAIR, ONE_ROUTE, flips, detector, config, seed=0, n_new=1)
    assert caught.value.code == "vacuous-detector"


def test_a_flip_that_rounding_turns_is_left_out_and_counted(flips, climbed):
    """The detector sees the behaviour in the first answer of flip 1, the one without a perturbation."""
    asked = []

    def unsteady(i, text):
        asked.append(i)
        return is_back(i, text) or (i == 1 and asked.count(1) == 1)

    config = LADDER.model_copy(update={"n_steps": 5})
    found = climb(PAIR, ONE_ROUTE, flips, unsteady, config, seed=0, n_new=1)
    assert found.n_unsteady == 1 and climbed.n_unsteady == 0
    steady = climb(PAIR, ONE_ROUTE, flips[:1] + flips[2:], is_back, config, seed=0, n_new=1)
    for arm, alone in ((found.attack, steady.attack), (found.random, steady.random)):
        assert torch.equal(arm.came_back, alone.came_back) and not bool(arm.came_back[:, 0].any())
    assert bool(found.attack.came_back.any())


def test_no_flips_are_refused():
    with pytest.raises(EvidenceError, match="nothing to bring back") as caught:
        climb(PAIR, ONE_ROUTE, [], is_back, LADDER, seed=0)
    assert caught.value.code == "no-flips"


def test_models_are_left_as_they_were(flips):
    models = (PAIR.base.model, PAIR.tuned.model)
    ids = torch.tensor([flips[0].prompt_ids])
    before = [m(ids).logits for m in models]

    def fails(i, text):
        raise KeyError

    with pytest.raises(KeyError):
        climb(PAIR, ONE_ROUTE, flips, fails, LadderConfig(budgets=(0.1,), n_steps=2), seed=0, n_new=1)
    assert all(torch.equal(m(ids).logits, b) for m, b in zip(models, before, strict=True))
    assert not any(x._forward_hooks or x._forward_pre_hooks for m in models for x in m.modules())


@pytest.mark.parametrize(
    "budgets", [(), (0.0, 0.1), (-0.1,), (0.2, 0.1), (0.1, 0.1), (0.1, float("inf")), (float("nan"),)]
)
def test_ladders_that_are_none_are_refused(budgets):
    with pytest.raises(ValueError, match="increase strictly"):
        LadderConfig(budgets=budgets)


def test_the_envelope_counts_a_success_for_all_larger_budgets():
    arm = ArmResult(
        "x", torch.tensor([[False, True, False, False], [False, False, False, True], [True, False, True, False]])
    )
    assert arm.envelope().tolist() == [
        [False, True, True, True],
        [False, False, False, True],
        [True, False, True, True],
    ]
