"""Attribution against what really happens: the derivative in a small scaling, and the hold of a weak planted latent."""

import pytest
import torch

from planted_pair import PROMPTS, dictionary_of, planted_pair, random_dictionary
from saeaudit.detection.attribution import attribute_latents
from saeaudit.detection.continuations import continue_plain, score_answers
from saeaudit.interventions import Clamp, LatentEdit
from saeaudit.models import Edit, encode_texts
from tiny import D_MODEL

STEP = 1e-2


def direction(size=6.0):
    d = torch.randn(D_MODEL, generator=torch.Generator().manual_seed(5))
    d[0] = 0
    return size * d / d.norm()


@pytest.fixture(scope="module")
def planted():
    return planted_pair(direction())


@pytest.fixture(scope="module")
def answers(planted):
    return [list(g.token_ids) for g in continue_plain(planted.pair.tuned, PROMPTS, n_new=4)]


def likelihood(pair, ids, n_answer, edits):
    """Log-probability of the last `n_answer` tokens under edits of the tuned model (a slow oracle, in float64)."""
    tokens = torch.tensor([ids])
    with torch.no_grad(), Edit(pair.tuned.model, edits):
        logits = pair.tuned.model(input_ids=tokens).logits[0].double()
    rows = logits[-n_answer - 1 : -1].log_softmax(-1)
    return float(rows.gather(1, tokens[0, -n_answer:, None]).sum())


def numeric(pair, site, folded, ids, n_answer, latent, skip):
    """Derivative of the likelihood with respect to how much of the latent's contribution is kept."""
    from saeaudit.models import Capture

    mask = torch.ones(1, len(ids), dtype=torch.long)
    residual = {}
    for name, loaded in (("base", pair.base), ("tuned", pair.tuned)):
        with torch.no_grad(), Capture(loaded.model, [site]) as seen:
            loaded.model(input_ids=torch.tensor([ids]), attention_mask=mask)
        residual[name] = seen.values[site][0]
    f = folded.activations(residual["tuned"] - residual["base"])[:, latent]
    f[:skip] = 0
    part = f[:, None] * folded.W_dec[latent]
    ends = [likelihood(pair, ids, n_answer, {site: lambda h, _, s=s: h + s * part}) for s in (STEP, -STEP)]
    return (ends[0] - ends[1]) / (2 * STEP)


@pytest.mark.parametrize("site", ["layers.0", "layers.1", "layers.2"])
def test_contributions_are_derivatives(planted, answers, site):
    folded = random_dictionary(8, seed=1)
    found = attribute_latents(planted.pair, {site: folded}, PROMPTS[:2], answers[:2], skip_first=2)[site]
    rows = [p + a for p, a in zip(encode_texts(planted.pair.base.tokenizer, PROMPTS[:2]), answers, strict=False)]
    expected = torch.tensor(
        [
            [numeric(planted.pair, site, folded, ids, len(a), j, 2) for j in range(8)]
            for ids, a in zip(rows, answers, strict=False)
        ]
    )
    torch.testing.assert_close(found, expected.float(), atol=2e-3, rtol=2e-2)
    if site != "layers.0":  # below the planted block the two models agree, and only a biased latent fires
        assert expected.abs().max() > 1e-2


def test_several_sites_at_once_give_what_each_gives_alone(planted, answers):
    sites = {"layers.2": random_dictionary(6, seed=2), "layers.1": random_dictionary(6, seed=3)}
    together = attribute_latents(planted.pair, sites, PROMPTS, answers)
    for site, folded in sites.items():
        alone = attribute_latents(planted.pair, {site: folded}, PROMPTS, answers)[site]
        torch.testing.assert_close(together[site], alone, atol=1e-4, rtol=1e-4)


def test_for_a_small_difference_the_contribution_is_what_the_hold_takes_away():
    weak = planted_pair(direction(0.01))
    d = torch.nn.functional.normalize(weak.direction, dim=0)
    folded = dictionary_of(d, n_more=0)
    given = [list(g.token_ids) for g in continue_plain(weak.pair.tuned, PROMPTS, n_new=4)]
    found = attribute_latents(weak.pair, {weak.site: folded}, PROMPTS, given)[weak.site][:, 0]
    (held,) = score_answers(weak.pair, [LatentEdit(folded, Clamp(weak.site, (0,)))], PROMPTS, given)
    assert held.drop.abs().max() > 1e-3
    torch.testing.assert_close(found, held.drop, rtol=0.1, atol=2e-4)


def test_skipped_positions_and_silent_latents_count_nothing(planted, answers):
    d = torch.nn.functional.normalize(planted.direction, dim=0)
    silent = dictionary_of(-d, n_more=0)
    zero = attribute_latents(planted.pair, {planted.site: silent}, PROMPTS, answers)[planted.site]
    assert torch.count_nonzero(zero) == 0
    late = attribute_latents(
        planted.pair, {planted.site: dictionary_of(d, n_more=0)}, PROMPTS, answers, skip_first=1000
    )[planted.site]
    assert torch.count_nonzero(late) == 0


def test_models_are_left_without_gradients(planted, answers):
    attribute_latents(planted.pair, {planted.site: random_dictionary()}, PROMPTS[:1], answers[:1])
    parameters = [*planted.pair.base.model.parameters(), *planted.pair.tuned.model.parameters()]
    assert not any(p.requires_grad or p.grad is not None for p in parameters)


@pytest.mark.parametrize("last_only", [False, True], ids=["answer", "last token against another"])
def test_rows_that_share_a_pass_give_what_each_gives_alone(planted, answers, last_only):
    prompts = ["a longer beginning before " * i + p for i, p in enumerate(PROMPTS)]
    given = [a[: 1 + i % 4] for i, a in enumerate(answers)]
    against = [(a[-1] + 1) % 50 for a in given] if last_only else None
    sites = {"layers.1": random_dictionary(6, seed=3)}
    alone, together = (
        attribute_latents(planted.pair, sites, prompts, given, against=against, batch=n)["layers.1"] for n in (1, 3)
    )
    assert alone.abs().amax(1).min() > 1e-4
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-4)
