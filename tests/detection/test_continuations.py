"""Continuations under a clamp, the effect of clamps on given answers, and their cost on text."""

import pytest
import torch

from planted_pair import PROMPTS, dictionary_of, planted_pair, random_dictionary
from saeaudit.detection.continuations import continue_clamped, continue_plain, score_answers, text_cost
from saeaudit.interventions import Clamp, LatentEdit
from tiny import D_MODEL, TEXTS

N_NEW = 4


def unit(seed):
    d = torch.randn(D_MODEL, generator=torch.Generator().manual_seed(seed))
    d[0] = 0
    return d / d.norm()


@pytest.fixture(scope="module")
def planted():
    return planted_pair(12 * unit(5))


@pytest.fixture(scope="module")
def answers(planted):
    return [list(g.token_ids) for g in continue_plain(planted.pair.tuned, PROMPTS, n_new=N_NEW)]


def hold(planted, folded, *latents):
    return LatentEdit(folded, Clamp(planted.site, latents, skip_first=0))


def test_holding_the_planted_latent_gives_back_the_base(planted, answers):
    edit = hold(planted, dictionary_of(unit(5)), 0)
    base = continue_plain(planted.pair.base, PROMPTS, n_new=N_NEW)
    held = continue_clamped(planted.pair, edit, PROMPTS, n_new=N_NEW)
    assert held == base
    assert [list(g.token_ids) for g in base] != answers


def test_a_latent_that_never_fires_changes_nothing_at_all(planted, answers):
    never = hold(planted, dictionary_of(-unit(5), n_more=0), 0)
    (scores,) = score_answers(planted.pair, [never], PROMPTS, answers)
    assert scores.drop.tolist() == scores.changed.tolist() == [0.0] * len(PROMPTS)
    held = continue_clamped(planted.pair, never, PROMPTS, n_new=N_NEW)
    assert [list(g.token_ids) for g in held] == answers
    (cost,) = text_cost(planted.pair, [never], TEXTS, max_length=20)
    assert cost.kl.abs().max() < 1e-6 and cost.ce_rise.tolist() == [0.0] * len(TEXTS)


def test_changed_is_whether_the_first_answer_token_that_matters_is_left(planted, answers):
    """Oracle: really generate under the clamp; leaving the answer somewhere is the same as not reproducing it."""
    edits = [hold(planted, dictionary_of(unit(5)), 0), hold(planted, random_dictionary(6, seed=4), 1, 3)]
    for edit, scores in zip(edits, score_answers(planted.pair, edits, PROMPTS, answers), strict=True):
        held = continue_clamped(planted.pair, edit, PROMPTS, n_new=N_NEW)
        left = [float(list(g.token_ids) != a) for g, a in zip(held, answers, strict=True)]
        assert scores.changed.tolist() == left
    assert score_answers(planted.pair, edits, PROMPTS, answers)[0].changed.max() == 1


def test_batches_padding_and_order_do_not_matter(planted, answers):
    """Answers of unequal length too, so that the columns of a batch mean different things in different rows."""
    cut = [a[: 1 + i % N_NEW] for i, a in enumerate(answers)]
    edits = [hold(planted, dictionary_of(unit(5)), 0), hold(planted, random_dictionary(6, seed=4), 2)]
    together = score_answers(planted.pair, edits, PROMPTS, cut, batch=16)
    pairs = score_answers(planted.pair, edits, PROMPTS, cut, batch=2)
    for k in range(len(edits)):
        alone = [score_answers(planted.pair, [edits[k]], [p], [a])[0] for p, a in zip(PROMPTS, cut, strict=True)]
        for scores in (together[k], pairs[k]):
            torch.testing.assert_close(scores.drop, torch.cat([s.drop for s in alone]), atol=1e-4, rtol=1e-4)
            assert torch.equal(scores.changed, torch.cat([s.changed for s in alone]))
    assert together[0].drop.max() > 0.1


def test_the_drop_is_a_difference_of_log_probabilities(planted, answers):
    from saeaudit.interventions import PairedBase, PairedClamp
    from saeaudit.models import Edit, encode_texts

    edit = hold(planted, dictionary_of(unit(5)), 0)
    (scores,) = score_answers(planted.pair, [edit], PROMPTS[:1], answers[:1])
    ids = torch.tensor([encode_texts(planted.pair.base.tokenizer, PROMPTS[:1])[0] + answers[0]])
    values = []
    for clamped in (False, True):
        model = planted.pair.tuned.model
        with torch.no_grad(), PairedBase(planted.pair.base.model, model, planted.site) as paired:
            edits = {planted.site: PairedClamp(paired, edit)} if clamped else {planted.site: lambda h, _: h}
            with Edit(model, edits):
                logits = model(input_ids=ids).logits[0]
        rows = logits.log_softmax(-1)[-len(answers[0]) - 1 : -1]
        values.append(float(rows.gather(1, ids[0, -len(answers[0]) :, None]).sum()))
    assert float(scores.drop[0]) == pytest.approx(values[0] - values[1], abs=1e-4)


def test_the_cost_on_text_is_zero_where_nothing_fires_and_positive_where_it_does(planted):
    edits = [hold(planted, dictionary_of(unit(5)), 0), hold(planted, random_dictionary(6), 0, 1, 2, 3, 4, 5)]
    seen = []
    texts = ["the cat sat on the mat", "the~ cat~ sat"]
    free, random = text_cost(planted.pair, edits, texts, max_length=12, progress=lambda done, n: seen.append((done, n)))
    assert float(free.kl[0]) == pytest.approx(0, abs=1e-6), "the planted token does not occur in the first text"
    assert float(free.kl[1]) > 1e-3 and float(random.kl.min()) >= -1e-6
    assert seen == [(1, 2), (2, 2)]
    (cut,) = text_cost(planted.pair, edits[:1], ["the cat" + "~" * 30], max_length=2)
    assert float(cut.kl[0]) == pytest.approx(0, abs=1e-6), "only the first tokens are read"
