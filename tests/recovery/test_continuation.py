"""Only the blocks above the site run, from stored residuals: it must equal the whole model with its hooks."""

from contextlib import ExitStack

import pytest
import torch

from planted_pair import random_dictionary
from saeaudit.errors import InputError
from saeaudit.interventions import AddAt, Clamp, LatentEdit, PairedBase, PairedClamp, compose
from saeaudit.models import Edit, Pair, greedy
from saeaudit.recovery import ClampedContinuation, RowScores, enter_clamp, null_space, search
from saeaudit.recovery.search import random_feasible
from tiny import FAMILIES, TEXTS, tiny_loaded, tiny_tokenizer, tuned_copy

TOKENIZER = tiny_tokenizer()
PROMPTS = [tuple(TOKENIZER(text)["input_ids"]) for text in (*TEXTS, TEXTS[0][:9])]
TARGETS = [(7, 9, 200), (31,), (100, 101, 102, 103, 104), (5, 5), (250, 3, 17)]
ITEM = torch.tensor([0, 0, 3, 1, 4, 2, 4])
SITE = "layers.1"


def pair_of(family):
    base = tiny_loaded(family)
    return Pair(base, tuned_copy(base))


def edit_of(site=SITE, value=1.5):
    return LatentEdit(random_dictionary(), Clamp(site, (0, 1, 2, 5), "set", value))


def continuation(pair, edit, items=range(5)):
    return ClampedContinuation(
        pair.tuned.model,
        edit.clamp.site,
        lambda stack: enter_clamp(stack, pair, edit),
        [PROMPTS[i] for i in items],
        [TARGETS[i] for i in items],
    )


def deltas(n=7):
    return 2 * torch.randn(n, 32, generator=torch.Generator().manual_seed(3))


def slow_scores(pair, edit, delta, item):
    """Oracle: every row alone, the whole tuned model without cache or padding, clamp on, delta added by an edit."""
    losses, margins = [], []
    for row, i in zip(delta, item.tolist(), strict=True):
        prompt, target = PROMPTS[i], TARGETS[i]
        ids = torch.tensor([[*prompt, *target]])

        def push(h, start, row=row, prompt=prompt):
            h = h.clone()
            h[0, len(prompt) - 1] += row
            return h

        with ExitStack() as stack, torch.no_grad():
            paired = stack.enter_context(PairedBase(pair.base.model, pair.tuned.model, edit.clamp.site))
            clamp = PairedClamp(paired, edit)
            stack.enter_context(Edit(pair.tuned.model, {edit.clamp.site: lambda h, s, c=clamp, p=push: p(c(h, s), s)}))
            logits = pair.tuned.model(ids, use_cache=False).logits[0, len(prompt) - 1 : -1]
        own = logits[torch.arange(len(target)), list(target)]
        logits[torch.arange(len(target)), list(target)] = -torch.inf
        margin = own - logits.max(1).values
        margins.append(margin.min())
        losses.append((0.1 - margin).clamp_min(0).mean())
    return RowScores(torch.stack(losses), torch.stack(margins))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("site", ["layers.0", "layers.1", "layers.3"])
def test_scores_equal_the_whole_model_with_its_hooks(family, site):
    pair, edit = pair_of(family), edit_of(site)
    objective = continuation(pair, edit)
    for delta in (torch.zeros(len(ITEM), 32), deltas()):
        found, expected = objective(delta, ITEM), slow_scores(pair, edit, delta, ITEM)
        torch.testing.assert_close(found.margin, expected.margin, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(found.loss, expected.loss, rtol=1e-4, atol=1e-4)
    assert float((expected.loss - slow_scores(pair, edit, 0 * delta, ITEM).loss).abs().median()) > 1e-3
    loose = slow_scores(pair, edit_of(site, value=0.0), delta, ITEM)
    assert float((expected.margin - loose.margin).abs().max()) > 1e-2  # the clamp matters


def test_anchors_are_the_clamped_residuals_of_the_last_prompt_tokens():
    pair, edit = pair_of("llama"), edit_of()
    objective = continuation(pair, edit)
    for i, prompt in enumerate(PROMPTS):
        seen = []
        with ExitStack() as stack, torch.no_grad():
            clamp = enter_clamp(stack, pair, edit)

            def look(h, start, clamp=clamp, seen=seen):
                seen.append(clamp(h, start))
                return seen[-1]

            stack.enter_context(Edit(pair.tuned.model, {SITE: look}))
            pair.tuned.model(torch.tensor([prompt]))
        torch.testing.assert_close(objective.clamped[i, 0], seen[0][0, -1], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(objective.anchor_norm[i], seen[0][0, -1].norm(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_a_call_leaves_no_trace(family):
    pair = pair_of(family)
    before = pair.tuned.model(torch.tensor([PROMPTS[0]])).logits
    objective = continuation(pair, edit_of())
    first = objective(deltas(), ITEM)
    again = objective(deltas(), ITEM)
    assert torch.equal(first.margin, again.margin) and torch.equal(first.loss, again.loss)
    assert [k.shape[2] for k, _ in objective._keys_values] == [max(map(len, PROMPTS)) - 1] * 4
    assert torch.equal(pair.tuned.model(torch.tensor([PROMPTS[0]])).logits, before)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in pair.tuned.model.modules())


def test_rows_do_not_see_each_other():
    pair, edit = pair_of("llama"), edit_of()
    objective, delta = continuation(pair, edit), deltas()
    together = objective(delta, ITEM)
    order = torch.tensor([6, 2, 0, 5, 1, 4, 3])
    torch.testing.assert_close(objective(delta[order], ITEM[order]).margin, together.margin[order])
    for row, i in enumerate(ITEM.tolist()):
        alone = continuation(pair, edit, items=[i])(delta[row : row + 1], torch.tensor([0]))
        torch.testing.assert_close(alone.margin, together.margin[row : row + 1], rtol=1e-4, atol=1e-4)


def test_gradients_are_those_of_the_loss():
    pair = pair_of("llama")
    objective, delta = continuation(pair, edit_of()), deltas().requires_grad_(True)
    (gradient,) = torch.autograd.grad(objective(delta, ITEM).loss.sum(), delta)
    way = torch.nn.functional.normalize(gradient, dim=1)
    with torch.no_grad():
        up, down = (objective(delta + sign * 1e-2 * way, ITEM).loss for sign in (1, -1))
    torch.testing.assert_close((up - down) / 2e-2, gradient.norm(dim=1), rtol=0.05, atol=1e-3)
    assert all(p.grad is None for p in pair.tuned.model.parameters())


def test_searches_in_a_batch_equal_searches_one_by_one():
    pair, edit = pair_of("llama"), edit_of()
    free, objective = null_space(edit.encoder), continuation(pair, edit)
    budgets = objective.anchor_norm[ITEM] * torch.tensor([0.1, 0.5, 0.0, 1.0, 0.3, 0.5, 0.8])
    starts = random_feasible(0.01 * budgets, free, torch.Generator().manual_seed(0))
    together = search(lambda d, rows: objective(d, ITEM[rows]), budgets, free, n_steps=6, starts=starts)
    assert bool((together.margin[budgets > 0] > objective(0 * starts, ITEM).margin[budgets > 0]).all())
    for row in range(len(ITEM)):
        one, alone = slice(row, row + 1), continuation(pair, edit, items=[int(ITEM[row])])
        found = search(
            lambda d, _, alone=alone: alone(d, torch.tensor([0])), budgets[one], free, n_steps=6, starts=starts[one]
        )
        torch.testing.assert_close(found.delta, together.delta[one], rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(found.margin, together.margin[one], rtol=1e-3, atol=1e-3)


def test_a_positive_margin_means_that_greedy_decoding_writes_the_answer():
    pair, edit, delta, item = pair_of("llama"), edit_of(), deltas(5), torch.arange(5)
    prompts = [TOKENIZER.decode(ids) for ids in PROMPTS]
    written = []
    for i, prompt in enumerate(prompts):
        with ExitStack() as stack:
            paired = stack.enter_context(PairedBase(pair.base.model, pair.tuned.model, SITE))
            push = AddAt(delta[i : i + 1], torch.tensor([len(PROMPTS[i]) - 1]), paired)
            edits = {SITE: compose([PairedClamp(paired, edit), push])}
            written += greedy(pair.tuned.model, TOKENIZER, [prompt], n_new=3, edits=edits)
    answers = [g.token_ids for g in written]

    def objective(targets):
        return ClampedContinuation(
            pair.tuned.model, SITE, lambda stack: enter_clamp(stack, pair, edit), PROMPTS, targets
        )

    assert bool((objective(answers)(delta, item).margin > 0).all())
    assert bool((objective([(*a[:-1], a[-1] + 1) for a in answers])(delta, item).margin <= 0).all())
    assert bool((objective(answers)(0 * delta, item).margin <= 0).any())


def test_a_model_in_half_precision_is_pushed_in_single():
    pair = pair_of("llama")
    for loaded in (pair.base, pair.tuned):
        loaded.model.bfloat16()
    objective = continuation(pair, edit_of())
    delta = deltas().requires_grad_(True)
    scores = objective(delta, ITEM)
    assert scores.margin.dtype == objective.clamped.dtype == torch.float32
    scores.loss.sum().backward()
    assert delta.grad is not None and bool(torch.isfinite(delta.grad).all())


@pytest.mark.parametrize(
    ("prompts", "targets", "code"),
    [([(4, 5), (4,)], [(1,), (1,)], "prompt-too-short"), ([(4, 5), (4, 6)], [(1,), ()], "empty-answer")],
)
def test_items_without_room_are_refused(prompts, targets, code):
    pair, edit = pair_of("llama"), edit_of()
    with pytest.raises(InputError, match="1 has") as caught:
        ClampedContinuation(pair.tuned.model, SITE, lambda stack: enter_clamp(stack, pair, edit), prompts, targets)
    assert caught.value.code == code
