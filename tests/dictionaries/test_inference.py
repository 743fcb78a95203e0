import pytest
import torch

from oracles_dictionaries import inference_code
from planted_dictionaries import dense_code, random_dictionary
from saeaudit.dictionaries import Code

KINDS = ["sae", "diff", "crosscoder"]


@pytest.mark.parametrize("kind", KINDS)
def test_encode_is_the_definition(kind):
    dictionary, x = random_dictionary(kind)
    expected = inference_code(dictionary.coder, x[:20])
    assert 0 < float((expected > 0).float().mean()) < 1
    torch.testing.assert_close(dense_code(dictionary.encode(x[:20]), 20), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_does_not_see_its_batch(kind):
    dictionary, x = random_dictionary(kind)
    together = dense_code(dictionary.encode(x), 20)
    alone = torch.cat([dense_code(dictionary.encode(x[i : i + 1]), 20) for i in range(len(x))])
    among_giants = dense_code(dictionary.encode(torch.cat([x, 100 * x])), 20)[: len(x)]
    torch.testing.assert_close(alone, together, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(among_giants, together, rtol=1e-5, atol=1e-5)


def test_the_training_rule_does_see_its_batch():
    dictionary, x = random_dictionary("sae")
    coder = dictionary.coder.eval()
    together = coder(torch.cat([x, 100 * x])).places
    assert int((together.rows < len(x)).sum()) < 3 * len(x)


@pytest.mark.parametrize("kind", KINDS)
def test_rows_in_chunks_equal_rows_at_once(kind, monkeypatch):
    dictionary, x = random_dictionary(kind)
    whole = dictionary.encode(x)
    monkeypatch.setattr("saeaudit.dictionaries.coder._CHUNK_BYTES", 4 * 20 * 7)
    parts = dictionary.encode(x)
    torch.testing.assert_close(dense_code(parts, 20), dense_code(whole, 20), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_some_latents_equal_the_columns_of_all(kind):
    dictionary, x = random_dictionary(kind)
    latents = torch.tensor([17, 3, 8])
    expected = dense_code(dictionary.encode(x), 20)[:, latents]
    torch.testing.assert_close(dictionary.activations(x, latents), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_folded_codes_and_reconstructions_are_equal(kind):
    dictionary, x = random_dictionary(kind)
    folded, code = dictionary.fold(), dictionary.encode(x)
    torch.testing.assert_close(dense_code(folded.encode(x), 20), dense_code(code, 20), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(folded.decode(code), dictionary.decode(code), rtol=1e-4, atol=1e-4)
    latents = torch.tensor([4, 9])
    torch.testing.assert_close(folded.activations(x, latents), dictionary.activations(x, latents), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_an_edit_of_a_folded_code_moves_by_decoder_rows(kind):
    dictionary, x = random_dictionary(kind)
    folded, code = dictionary.fold(), dictionary.encode(x)
    edited = Code(code.values * 3, code.indices)
    step = torch.einsum("bf,f...->b...", dense_code(edited, 20) - dense_code(code, 20), folded.W_dec)
    torch.testing.assert_close(folded.decode(edited) - folded.decode(code), step, rtol=1e-4, atol=1e-4)
    rows = folded.W_dec[[2, 7]] if kind != "crosscoder" else folded.W_dec[[2, 7], 1]
    torch.testing.assert_close(dictionary.direction(torch.tensor([2, 7])), rows)


def test_folded_activations_carry_a_gradient_to_the_input():
    dictionary, x = random_dictionary("sae")
    folded = dictionary.fold()
    x = x.requires_grad_()
    f = folded.activations(x)
    f.sum().backward()
    expected = (f.detach() > 0).float() @ folded.W_enc
    torch.testing.assert_close(x.grad, expected)


def test_canonical_norms_keep_the_function_and_the_scores():
    dictionary, x = random_dictionary("crosscoder")
    before, norms = dictionary.encode(x), dictionary.decoder_norms()
    x_hat = dictionary.decode(before)
    dictionary.coder.canonicalise()
    after = dictionary.encode(x)
    torch.testing.assert_close(dictionary.decoder_norms().sum(1), torch.ones(20))
    torch.testing.assert_close(dictionary.decoder_norms(), norms / norms.sum(1, keepdim=True))
    torch.testing.assert_close(dictionary.decode(after), x_hat, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(dense_code(after, 20), dense_code(before, 20) * norms.sum(1), rtol=1e-4, atol=1e-5)


def test_empty_rows_and_empty_batches():
    dictionary, x = random_dictionary("sae")
    dictionary.coder.threshold.fill_(1e6)
    code = dictionary.encode(x)
    assert code.values.shape == (len(x), 1) and float(code.values.abs().max()) == 0
    bias = dictionary.fold().b_dec.expand_as(x)
    torch.testing.assert_close(dictionary.decode(code), bias)
    assert dictionary.encode(x[:0]).values.shape[0] == 0
