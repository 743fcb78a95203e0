import pytest
import torch

from saeaudit.errors import ConfigError, InputError, ModelError, NumericsError
from saeaudit.models import Edit, greedy
from tiny import CONTEXT, FAMILIES, TEXTS, tiny_model, tiny_tokenizer


def slow_greedy(model, tokenizer, prompt, n_new, edits=None):
    """Oracle: no cache, no padding, one prompt, the whole sequence recomputed for each token."""
    ids = list(tokenizer(prompt)["input_ids"])
    new = []
    for _ in range(n_new):
        with Edit(model, edits or {}):
            logits = model(torch.tensor([ids + new]), use_cache=False).logits[0, -1]
        new.append(int(logits.argmax()))
        if new[-1] == tokenizer.eos_token_id:
            return tuple(new[:-1])
    return tuple(new)


def push(h, start):
    """An edit whose effect differs by column, so that a wrong `start` or a missed cached step shows."""
    direction = torch.linspace(-1, 1, h.shape[-1])
    return h + 3 * direction * torch.tanh(h.mean(-1, keepdim=True))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("edits", [None, {"layers.1": push, "layers.3": push}], ids=["plain", "edited"])
def test_cached_and_padded_equals_uncached_and_alone(family, edits):
    model, tokenizer = tiny_model(family, 3), tiny_tokenizer()
    together = greedy(model, tokenizer, TEXTS, n_new=12, batch_size=4, edits=edits)
    expected = [slow_greedy(model, tokenizer, text, 12, edits) for text in TEXTS]
    assert [g.token_ids for g in together] == expected
    assert any(len(set(ids)) > 2 for ids in expected)
    for size in (1, 3):
        assert greedy(model, tokenizer, TEXTS, n_new=12, batch_size=size, edits=edits) == together


def test_edits_change_what_is_generated_and_leave_no_trace(tiny_llama, tokenizer):
    plain = greedy(tiny_llama, tokenizer, TEXTS, n_new=8)
    assert greedy(tiny_llama, tokenizer, TEXTS, n_new=8, edits={"layers.1": push}) != plain
    assert greedy(tiny_llama, tokenizer, TEXTS, n_new=8, edits={"layers.1": lambda h, start: h}) == plain
    assert greedy(tiny_llama, tokenizer, TEXTS, n_new=8) == plain


def test_an_edit_of_prompt_columns_only_uses_start(tiny_llama, tokenizer):
    calls = []

    def note(h, start):
        calls.append((start, h.shape[1]))
        return h

    greedy(tiny_llama, tokenizer, [TEXTS[0]], n_new=4, edits={"layers.2": note})
    width = len(tokenizer(TEXTS[0])["input_ids"])
    assert calls == [(0, width), (width, 1), (width + 1, 1), (width + 2, 1)]


def test_a_row_ends_at_its_own_end_token(tokenizer):
    model = tiny_model("llama", 3)
    free = greedy(model, tokenizer, TEXTS, n_new=10)
    stop = free[0].token_ids[1]
    model.generation_config.eos_token_id = [stop]
    ended = greedy(model, tokenizer, TEXTS, n_new=10)
    for before, after in zip(free, ended, strict=True):
        cut = before.token_ids.index(stop) if stop in before.token_ids else len(before.token_ids)
        assert after.token_ids == before.token_ids[:cut]


def test_text_is_the_decoded_ids_and_order_is_that_of_the_prompts(tiny_llama, tokenizer):
    found = greedy(tiny_llama, tokenizer, TEXTS, n_new=5, batch_size=2)
    assert [g.text for g in found] == [tokenizer.decode(g.token_ids) for g in found]
    assert greedy(tiny_llama, tokenizer, TEXTS[::-1], n_new=5, batch_size=2) == found[::-1]


def test_progress_counts_prompts(tiny_llama, tokenizer):
    seen = []
    greedy(tiny_llama, tokenizer, TEXTS, n_new=2, batch_size=3, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(3, 4), (4, 4)]


def test_no_prompts_give_no_generations(tiny_llama, tokenizer):
    assert greedy(tiny_llama, tokenizer, [], n_new=3) == []


def test_bad_requests_are_refused(tiny_llama, tokenizer):
    with pytest.raises(InputError, match="prompt 0 is empty"):
        greedy(tiny_llama, tokenizer, [""], n_new=3)
    with pytest.raises(InputError, match="at most 4 fit"):
        greedy(tiny_llama, tokenizer, [TEXTS[0]], n_new=CONTEXT - 4)
    with pytest.raises(ConfigError, match="n_new = 0"):
        greedy(tiny_llama, tokenizer, TEXTS, n_new=0)
    with pytest.raises(ModelError, match="no site matches"):
        greedy(tiny_llama, tokenizer, TEXTS, n_new=2, edits={"layers.7": push})


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("edits", [None, {"layers.1": push, "layers.3": push}], ids=["plain", "edited"])
def test_drafts_change_nothing(family, edits):
    """Right ones, ones that go wrong at each place, wrong from the start, none, shorter and longer than asked."""
    model, tokenizer = tiny_model(family, 3), tiny_tokenizer()
    expected = greedy(model, tokenizer, TEXTS, n_new=8, edits=edits)
    right = [g.token_ids for g in expected]
    wrong_at = [[tuple((t + (i == k)) % 300 for i, t in enumerate(ids)) for ids in right] for k in (0, 3, 6, 7)]
    others = [[()] * 4, [ids[:5] for ids in right], [(*ids, 7, 7) for ids in right], [right[0], (), right[2][:1], (9,)]]
    for drafts in (right, *wrong_at, *others):
        assert greedy(model, tokenizer, TEXTS, n_new=8, batch_size=3, edits=edits, drafts=drafts) == expected


def test_a_right_draft_is_read_in_one_pass_and_a_wrong_one_decoded_from_where_it_departs(tiny_llama, tokenizer):
    right = [g.token_ids for g in greedy(tiny_llama, tokenizer, TEXTS[:1], n_new=8)]
    width = len(tokenizer(TEXTS[0])["input_ids"])
    calls = []

    def note(h, start):
        calls.append((start, h.shape[1]))
        return h

    greedy(tiny_llama, tokenizer, TEXTS[:1], n_new=8, edits={"layers.2": note}, drafts=right)
    assert calls == [(0, width + 7)]
    calls.clear()
    wrong = [(*right[0][:4], right[0][4] + 1, 5, 5)]
    greedy(tiny_llama, tokenizer, TEXTS[:1], n_new=8, edits={"layers.2": note}, drafts=wrong)
    assert calls == [(0, width + 7), (0, width + 5), (width + 5, 1), (width + 6, 1)]


def test_a_draft_that_runs_over_an_end_token_ends_there(tokenizer):
    model = tiny_model("llama", 3)
    free = greedy(model, tokenizer, TEXTS, n_new=10)
    model.generation_config.eos_token_id = [free[0].token_ids[4]]
    ended = greedy(model, tokenizer, TEXTS, n_new=10)
    assert len(ended[0].token_ids) < 10
    assert greedy(model, tokenizer, TEXTS, n_new=10, drafts=[g.token_ids for g in free]) == ended
    assert greedy(model, tokenizer, TEXTS, n_new=10, drafts=[g.token_ids for g in ended]) == ended


def test_edits_may_differ_from_prompt_to_prompt(tiny_llama, tokenizer):
    sizes = torch.tensor([0.0, 3.0, -3.0, 6.0])

    def edits(rows):
        return {"layers.1": lambda h, start: h + sizes[rows][:, None, None] * torch.linspace(-1, 1, h.shape[-1])}

    expected = [
        greedy(tiny_llama, tokenizer, [t], n_new=6, edits=lambda _, i=i: edits([i]))[0] for i, t in enumerate(TEXTS)
    ]
    assert greedy(tiny_llama, tokenizer, TEXTS, n_new=6, batch_size=2, edits=edits) == expected
    assert expected != greedy(tiny_llama, tokenizer, TEXTS, n_new=6)


@pytest.mark.parametrize("drafts", [None, [(5, 6)] * len(TEXTS)], ids=["decoding", "checking drafts"])
def test_a_model_whose_logits_are_not_numbers_writes_nothing(tiny_llama, tokenizer, drafts):
    with pytest.raises(NumericsError, match="logits are NaN or infinite") as caught:
        greedy(tiny_llama, tokenizer, TEXTS, n_new=4, edits={"layers.2": lambda h, _: h * torch.nan}, drafts=drafts)
    assert caught.value.code == "non-finite"
