import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from saeaudit.errors import InputError
from saeaudit.models import context_length, encode_batch, encode_texts, pad_id, pad_rows, position_ids
from tiny import CONTEXT, tiny_model, tiny_tokenizer

rows = st.lists(st.lists(st.integers(3, 300), min_size=1, max_size=9), min_size=1, max_size=5)


@given(rows, st.sampled_from(["left", "right"]))
def test_padding_loses_nothing_and_positions_count_from_the_first_token(rows, side):
    ids, mask = pad_rows(rows, pad_id=2, side=side)
    positions = position_ids(mask)
    for i, row in enumerate(rows):
        kept = mask[i].bool()
        assert ids[i][kept].tolist() == row
        assert (ids[i][~kept] == 2).all()
        assert positions[i][kept].tolist() == list(range(len(row)))
        assert bool(kept[-1 if side == "left" else 0])


def test_only_what_the_tokenizer_adds_is_added():
    tokenizer = tiny_tokenizer()
    assert encode_texts(tokenizer, ["the cat"]) == [tokenizer("the cat")["input_ids"]]
    assert tokenizer.bos_token_id not in encode_texts(tokenizer, ["the cat"])[0]


def test_an_empty_prompt_is_named_by_its_index():
    with pytest.raises(InputError, match="prompt 1 is empty") as caught:
        encode_texts(tiny_tokenizer(), ["a", "", "b"])
    assert caught.value.code == "empty-prompt"


def test_a_prompt_beyond_the_context_is_refused_never_cut():
    with pytest.raises(InputError, match=rf"prompt 1 has \d+ tokens, at most {CONTEXT}") as caught:
        encode_batch(tiny_tokenizer(), ["a", "x y " * 100], max_length=context_length(tiny_model()))
    assert caught.value.code == "prompt-too-long"


def test_padding_falls_back_to_end_of_text():
    tokenizer = tiny_tokenizer()
    assert pad_id(tokenizer) == 2
    tokenizer.pad_token = None
    assert pad_id(tokenizer) == 1
    assert encode_batch(tokenizer, ["a", "abc"]).input_ids.dtype == torch.int64
