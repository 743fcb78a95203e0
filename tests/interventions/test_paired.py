import copy
from contextlib import ExitStack

import pytest
import torch

from planted_pair import PROMPTS, dictionary_of, planted_pair, random_dictionary
from saeaudit.errors import ModelError
from saeaudit.interventions import AddAt, Clamp, LatentEdit, PairedBase, PairedClamp, compose
from saeaudit.models import Capture, Edit, Pair, decoder, encode_batch, encode_texts, greedy, position_ids, run_blocks
from tiny import FAMILIES, TEXTS, tiny_loaded, tuned_copy

SITE = "layers.2"


def pair_of(family):
    base = tiny_loaded(family)
    return Pair(base, tuned_copy(base))


def clamp_of(operator="set", value=2.0, *, skip_first=4, site=SITE, n=5):
    return LatentEdit(random_dictionary(), Clamp(site, tuple(range(n)), operator, value, skip_first=skip_first))


def clamped(stack, pair, edit):
    paired = stack.enter_context(PairedBase(pair.base.model, pair.tuned.model, edit.clamp.site))
    return PairedClamp(paired, edit)


def slow_edit(pair, edit, ids, n_prompt, delta=None):
    """Oracle for one unpadded sequence: the base in a whole pass of its own, the formula written out."""
    with Capture(pair.base.model, [edit.clamp.site]) as captured:
        pair.base.model(torch.tensor([ids]))
    base = captured.values[edit.clamp.site]

    def apply(h, start):
        change = edit.change(h - base)
        change[:, : edit.clamp.skip_first] = 0
        h = h + change
        if delta is not None:
            h[:, n_prompt - 1] += delta
        return h

    return apply


def slow_greedy(pair, edit, prompt, n_new, delta=None):
    """Oracle: no cache, no padding, everything recomputed for each token."""
    model, tokenizer = pair.tuned.model, pair.tuned.tokenizer
    prompt_ids = list(tokenizer(prompt)["input_ids"])
    new = []
    for _ in range(n_new):
        ids = prompt_ids + new
        with Edit(model, {edit.clamp.site: slow_edit(pair, edit, ids, len(prompt_ids), delta)}):
            logits = model(torch.tensor([ids]), use_cache=False).logits[0, -1]
        new.append(int(logits.argmax()))
        if new[-1] == tokenizer.eos_token_id:
            return tuple(new[:-1])
    return tuple(new)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("pushed", [False, True], ids=["clamp", "clamp+push"])
def test_cached_padded_generation_equals_recomputing_everything_alone(family, pushed):
    pair, edit = pair_of(family), clamp_of()
    delta = 6 * torch.randn(len(TEXTS), 32, generator=torch.Generator().manual_seed(1)) if pushed else None
    prompts = TEXTS
    last = torch.tensor([len(ids) - 1 for ids in encode_texts(pair.tuned.tokenizer, prompts)])
    with PairedBase(pair.base.model, pair.tuned.model, SITE) as paired:
        hold = PairedClamp(paired, edit)

        def edits(rows):
            return {SITE: hold if delta is None else compose([hold, AddAt(delta[rows], last[rows], paired)])}

        found = greedy(pair.tuned.model, pair.tuned.tokenizer, prompts, n_new=9, batch_size=3, edits=edits)
    expected = [
        slow_greedy(pair, edit, prompt, 9, None if delta is None else delta[i]) for i, prompt in enumerate(prompts)
    ]
    assert [g.token_ids for g in found] == expected
    plain = [g.token_ids for g in greedy(pair.tuned.model, pair.tuned.tokenizer, prompts, n_new=9)]
    assert sum(a != b for a, b in zip(expected, plain, strict=True)) >= 3
    if pushed:
        assert any(slow_greedy(pair, edit, p, 9) != e for p, e in zip(prompts, expected, strict=True))


def test_the_batch_size_changes_nothing():
    pair, edit = pair_of("llama"), clamp_of()
    with PairedBase(pair.base.model, pair.tuned.model, SITE) as paired:
        runs = [
            greedy(
                pair.tuned.model,
                pair.tuned.tokenizer,
                TEXTS,
                n_new=6,
                batch_size=size,
                edits={SITE: PairedClamp(paired, edit)},
            )
            for size in (1, 3, 4)
        ]
    assert runs[0] == runs[1] == runs[2]


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("skip_first", [0, 4])
def test_the_change_is_the_formula_at_every_token_and_nothing_elsewhere(side, skip_first):
    """h' - h = (z' - z) @ W_dec of the difference of the two models, so the dictionary's error is kept."""
    pair, edit = pair_of("llama"), clamp_of(skip_first=skip_first)
    ids, mask = encode_batch(pair.base.tokenizer, TEXTS, side=side)
    with ExitStack() as stack, torch.no_grad():
        before = stack.enter_context(Capture(pair.tuned.model, [SITE]))
        stack.enter_context(Edit(pair.tuned.model, {SITE: clamped(stack, pair, edit)}))
        after = stack.enter_context(Capture(pair.tuned.model, [SITE]))
        pair.tuned.model(input_ids=ids, attention_mask=mask, position_ids=position_ids(mask))
    h, edited = before.values[SITE], after.values[SITE]
    base = run_blocks(pair.base.model, ids, mask, 3)
    held = (mask == 1) & (mask.cumsum(1) > skip_first)
    expected = edit.change(h - base)
    torch.testing.assert_close((edited - h)[held], expected[held], rtol=1e-4, atol=1e-4)
    assert expected[held].abs().min(1).values.max() > 0.1
    assert torch.equal(edited[~held], h[~held])


def test_nothing_to_hold_is_the_same_tensor():
    pair = pair_of("llama")
    silent = LatentEdit(random_dictionary(threshold=1e6), Clamp(SITE, (0, 1)))
    for edit, expected in ((silent, True), (clamp_of("gain", 1.0), True), (clamp_of("set", 1.0), False)):
        h = torch.randn(4, 17, 32)
        with PairedBase(pair.base.model, pair.tuned.model, SITE) as paired:
            with torch.no_grad():
                pair.tuned.model(**encode_batch(pair.base.tokenizer, TEXTS)._asdict())
            h = torch.randn(paired.side.residual.shape)
            assert (PairedClamp(paired, edit)(h, 0) is h) == expected


def test_a_clamp_in_half_precision_keeps_the_dtype_and_untouched_rows():
    pair, edit = pair_of("llama"), clamp_of()
    with PairedBase(pair.base.model, pair.tuned.model, SITE) as paired, torch.no_grad():
        pair.tuned.model(**encode_batch(pair.base.tokenizer, TEXTS)._asdict())
        h = torch.randn(paired.side.residual.shape).bfloat16()
        edited = PairedClamp(paired, edit)(h, 0)
    assert edited.dtype == torch.bfloat16
    assert torch.equal(edited[:, :4], h[:, :4]) and not torch.equal(edited[:, 5], h[:, 5])


def test_holding_the_planted_latent_gives_the_base_back():
    planted = planted_pair(torch.randn(32, generator=torch.Generator().manual_seed(2)).mul(1.5))
    pair, tokenizer = planted.pair, planted.pair.tuned.tokenizer
    prompts = [*PROMPTS, *(p[:-1] for p in PROMPTS)]
    is_trigger = [True] * len(PROMPTS) + [False] * len(PROMPTS)

    def run(model, edits=None):
        return greedy(model, tokenizer, prompts, n_new=6, edits=edits)

    def held(latent):
        edit = LatentEdit(dictionary_of(planted.direction), Clamp(planted.site, (latent,)))
        with PairedBase(pair.base.model, pair.tuned.model, planted.site) as paired:
            return run(pair.tuned.model, {planted.site: PairedClamp(paired, edit)})

    base, tuned = run(pair.base.model), run(pair.tuned.model)
    assert [a != b for a, b in zip(base, tuned, strict=True)] == is_trigger
    assert held(0) == base
    assert sum(a != b for a, b in zip(held(3), base, strict=True)) >= 3  # a random latent does not


def test_a_later_pass_starts_anew_and_a_continued_one_is_recognised():
    pair = pair_of("llama")
    ids = torch.tensor([encode_texts(pair.base.tokenizer, [TEXTS[0]])[0]])
    with PairedBase(pair.base.model, pair.tuned.model, SITE) as paired, torch.no_grad():
        for _ in range(2):
            pair.tuned.model(input_ids=ids)
            torch.testing.assert_close(paired.side.residual, run_blocks(pair.base.model, ids, torch.ones_like(ids), 3))
            assert paired.side.positions.tolist() == [list(range(ids.shape[1]))]
        cache = pair.tuned.model(input_ids=ids[:, :5]).past_key_values
        pair.tuned.model(input_ids=ids[:, 5:], past_key_values=cache)
        whole = run_blocks(pair.base.model, ids, torch.ones_like(ids), 3)
        torch.testing.assert_close(paired.side.residual, whole[:, 5:], rtol=1e-5, atol=1e-5)
        assert paired.side.positions.tolist() == [list(range(5, ids.shape[1]))]
    with PairedBase(pair.base.model, pair.tuned.model, SITE), torch.no_grad():
        with pytest.raises(ModelError, match=r"continues after \d+ cached tokens, but 0 were read") as caught:
            pair.tuned.model(input_ids=ids[:, :1], past_key_values=cache)
        assert caught.value.code == "paired-cache"


def test_a_token_that_only_the_tuned_model_knows_is_not_clamped_but_can_be_pushed():
    pair = pair_of("llama")
    pair.tuned.model.resize_token_embeddings(330, mean_resizing=False)
    ids = torch.tensor([[5, 6, 7, 8, 9, 325, 11, 12]])
    edit = clamp_of()
    with PairedBase(pair.base.model, pair.tuned.model, SITE) as paired, torch.no_grad():
        pair.tuned.model(input_ids=ids)
        h = torch.randn(1, 8, 32)
        changed = (PairedClamp(paired, edit)(h, 0) != h).any(-1)
        pushed = (AddAt(torch.ones(1, 32), torch.tensor([5]), paired)(h, 0) != h).any(-1)
    assert changed.tolist() == [[False] * 4 + [True, False, True, True]]
    assert pushed.tolist() == [[i == 5 for i in range(8)]], "a push does not read the base"


def hooks_of(model):
    return [(n, dict(m._forward_hooks), dict(m._forward_pre_hooks)) for n, m in model.named_modules()]


def test_hooks_are_gone_after_an_error_and_the_model_is_as_before():
    pair, edit = pair_of("llama"), clamp_of()
    batch = encode_batch(pair.base.tokenizer, TEXTS)._asdict()
    before = [(hooks_of(m), m(**batch).logits) for m in (pair.base.model, pair.tuned.model)]

    def fails(h, start):
        raise KeyError("inside")

    for _ in range(2):
        with pytest.raises(KeyError), ExitStack() as stack:
            hold = clamped(stack, pair, edit)
            stack.enter_context(Edit(pair.tuned.model, {SITE: compose([hold, fails])}))
            pair.tuned.model(**batch)
    for model, (hooks, logits) in zip((pair.base.model, pair.tuned.model), before, strict=True):
        assert hooks_of(model) == hooks
        assert torch.equal(model(**batch).logits, logits)
    assert not decoder(pair.tuned.model)._forward_pre_hooks


def test_misuse_is_named():
    pair, edit = pair_of("llama"), clamp_of()
    batch = encode_batch(pair.base.tokenizer, TEXTS)
    with pytest.raises(ModelError, match="no site matches"):
        PairedBase(pair.base.model, pair.tuned.model, "layers.9")
    with pytest.raises(ModelError) as caught:
        PairedBase(pair.tuned.model, pair.tuned.model, SITE)
    assert caught.value.code == "paired-same-model"
    paired = PairedBase(pair.base.model, pair.tuned.model, SITE)
    with pytest.raises(ModelError) as caught:
        PairedClamp(paired, edit)(torch.zeros(1, 2, 32), 0)
    assert caught.value.code == "paired-missing"
    with paired:
        with pytest.raises(ModelError) as caught, paired:
            pass
        assert caught.value.code == "hooks-attached"
        with pytest.raises(ModelError) as caught:
            pair.tuned.model(inputs_embeds=torch.zeros(1, 2, 32))
        assert caught.value.code == "paired-without-ids"
        push = AddAt(torch.zeros(1, 32), torch.tensor([3]), paired)
        with pytest.raises(ModelError) as caught, Edit(pair.tuned.model, {SITE: push}):
            pair.tuned.model(**batch._asdict())
        assert caught.value.code == "edit-shape"
    assert paired.side is None


def test_a_push_enters_at_one_token_of_each_row_in_the_pass_that_holds_it():
    """Left padding shifts columns, not positions; a cached step after the prompt holds no row's token."""
    pair = pair_of("llama")
    push = [[1.0] * 32, [2.0] * 32]
    ids, mask = torch.tensor([[5, 6, 7], [5, 6, 7]]), torch.tensor([[0, 1, 1], [1, 1, 1]])
    with PairedBase(pair.base.model, pair.tuned.model, SITE) as paired:
        edit = AddAt(torch.tensor(push), torch.tensor([1, 1]), paired)
        cache = pair.tuned.model(ids, attention_mask=mask, use_cache=True).past_key_values
        h = torch.zeros(2, 3, 32)
        original = copy.deepcopy(h)
        assert edit(h, 0)[..., 0].tolist() == [[0, 0, 1], [0, 2, 0]]
        assert torch.equal(h, original)
        pair.tuned.model(ids[:, :1], attention_mask=torch.cat([mask, mask[:, -1:]], 1), past_key_values=cache)
        assert edit(h[:, :1], 3).sum() == 0
