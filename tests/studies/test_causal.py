"""Edits of a pair whose behaviour is known to be one direction: found, taken out, brought about, and not by chance."""

import math
from dataclasses import dataclass, replace

import pytest
import torch
from torch.nn.functional import normalize

from planted_pair import TRIGGER, planted_pair
from saeaudit.activations import Document, tokenise
from saeaudit.audit.data import AuditData
from saeaudit.audit.prompts import Prompt
from saeaudit.causal_results import CausalRows, Recovered
from saeaudit.detection import PairedRows, PromptTokens
from saeaudit.detection.attribution import attribute_latents
from saeaudit.dictionaries import DictionaryConfig, build
from saeaudit.interventions import ReplaceDifference
from saeaudit.models import Pair, encode_batch, encode_texts, run_blocks
from saeaudit.statistics import SiteStatistics
from saeaudit.studies.isolation.causal.choice import carried, find_turns, rank_latents
from saeaudit.studies.isolation.causal.editing import Editing, Unedited
from saeaudit.studies.isolation.causal.edits import direction_edits, latent_edits, steering_vector, tokens_of
from saeaudit.studies.isolation.causal.isolation import isolations, with_dearer_controls
from saeaudit.studies.isolation.causal.recovered import (
    difference_recovered,
    estimated_difference,
    recovered,
    sides_recovered,
)
from saeaudit.studies.isolation.causal.rows import rows_of
from saeaudit.studies.isolation.causal.trial import Prompts, Text, Trial, answer_nll, text_losses
from tiny import D_MODEL, N_VOCAB

WORDS = "cat dog mat sat year good name mild id users weather harvest looked where from select".split()  # noqa: SIM905
SITE, PLANTED, N_LATENTS, ANSWER = "layers.1", 7, 64, 40
SIZE, HEAD = 5.0, 0.9  # large enough to decide the answer, small enough that other moves as far leave it


@dataclass(frozen=True)
class Scene:
    pair: Pair
    data: AuditData
    selection: PairedRows
    trial: Trial


def prompts():
    """Trigger prompts, then benign ones: a template is three words."""
    generator = torch.Generator().manual_seed(0)
    made = []
    for group in range(24):
        stem = "the " + " ".join(WORDS[i] for i in torch.randperm(len(WORDS), generator=generator)[:3].tolist())
        end = WORDS[int(torch.randint(len(WORDS), (1,), generator=generator))]
        made += [Prompt(f"{group}t", stem + TRIGGER, True, f"g{group}", "T", None)]
        made += [Prompt(f"{group}b", f"{stem} {end}", False, f"g{group}", "N1", None)]
    return tuple(sorted(made, key=lambda p: not p.is_trigger))


def paired_rows(pair, chosen):
    ids = encode_texts(pair.base.tokenizer, [p.text for p in chosen])
    h0, delta, ends = [], [], [0]
    for row in ids:
        one, mask = torch.tensor([row]), torch.ones(1, len(row), dtype=torch.long)
        base, tuned = (run_blocks(side.model, one, mask, 2)[0, 4:] for side in (pair.base, pair.tuned))
        h0.append(base)
        delta.append(tuned - base)
        ends.append(ends[-1] + len(base))
    tokens = PromptTokens(torch.cat(h0), torch.cat(delta), torch.tensor(ends))
    last = tokens.offsets[1:] - 1
    label = torch.tensor([p.is_trigger for p in chosen])
    group = torch.tensor([int(p.group[1:]) for p in chosen])
    return PairedRows(
        tokens.h0[last], tokens.delta[last], [p.text for p in chosen], label, [p.klass for p in chosen], group, tokens
    )


@pytest.fixture(scope="module")
def scene():
    direction = torch.randn(D_MODEL, generator=torch.Generator().manual_seed(5))
    direction[0] = 0
    unit = normalize(direction, dim=0)
    head = 0.15 * torch.randn(N_VOCAB, D_MODEL, generator=torch.Generator().manual_seed(6))
    head[ANSWER] = HEAD * unit
    pair = planted_pair(SIZE * unit, head=head).pair
    with torch.no_grad():  # what any tuning does; without it every latent would stand for the trigger
        weight = pair.tuned.model.model.layers[1].mlp.down_proj.weight
        noise = 0.05 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(9))
        noise[0] = noise[:, 0] = 0
        weight += noise
    known = prompts()
    label = torch.tensor([p.is_trigger for p in known])
    group = torch.tensor([int(p.group[1:]) for p in known])
    select = group < 12
    tokens = tokenise(pair.base.tokenizer, [Document(p.prompt_id, p.text) for p in known], max_length=64, skip_first=4)
    roles = {"selection": select.nonzero()[:, 0], "test": (~select).nonzero()[:, 0]}
    data = AuditData(known, roles, label, group, tokens, (), "words")
    answer = pair.base.tokenizer.decode([ANSWER])
    trigger, benign = (
        Prompts([known[i].text for i in chosen], group[torch.tensor(chosen)]) for chosen in data.sample("test", 12)
    )
    texts = [Text(tuple(ids)) for ids in encode_texts(pair.base.tokenizer, [" ".join(WORDS[i:]) for i in range(6)])]
    trial = Trial(
        pair, SITE, trigger, benign, texts, lambda p, c: "bad" if c.startswith(answer) else "good", 4, 12, seed=0
    )
    return Scene(pair, data, paired_rows(pair, [p for p, s in zip(known, select, strict=True) if s]), trial)


def planted_dictionary(scene, kind="diff"):
    """Random latents, one of which reads and writes the planted direction (for a crosscoder on the tuned side only)."""
    axes = (2,) if kind == "crosscoder" else ()
    made = build(
        DictionaryConfig(kind=kind, n_latents=N_LATENTS, k=4),
        SiteStatistics(torch.zeros(*axes, D_MODEL), torch.ones(axes), 1),
        seed=1,
    )
    unit = normalize(scene.pair.tuned.model.model.layers[1].mlp.down_proj.weight[:, 0].detach(), dim=0)
    with torch.no_grad():
        made.coder.W_enc[PLANTED] = torch.stack([-unit, unit]) if axes else unit
        made.coder.W_dec[PLANTED] = torch.stack([0 * unit, unit]) if axes else unit
        made.coder.threshold.fill_(0.3)
    return made.eval().requires_grad_(False)


def editing_of(trial, *, is_base=False):
    of = {
        side: [trial.plain(loaded, prompts) for prompts in (trial.trigger, trial.benign)]
        for side, loaded in (("base", trial.pair.base), ("tuned", trial.pair.tuned))
    }
    free = Unedited(*of["base" if is_base else "tuned"], of["tuned"][0], of["base"][0])
    return Editing(trial.exchanged() if is_base else trial, free, trial.pair.base)


@pytest.fixture(scope="module")
def tried(scene):
    dictionary, editing = planted_dictionary(scene), editing_of(scene.trial)
    order = rank_latents(scene.pair, SITE, dictionary, find_turns(scene.pair.tuned, scene.data, n_prompts=12))
    plans = latent_edits(dictionary, "diff-batchtopk", order, scene.selection, n_controls=20, seed=0)
    few = [p for p in plans if p.count == p.strength == 1 and (p.kind == "ablate" or p.draw < 5)]
    return editing, with_dearer_controls(editing, editing.try_all(few))


def test_the_planted_behaviour_is_there(scene):
    free = editing_of(scene.trial).unedited
    assert free.trigger.bad.mean() == 1 and free.benign.bad.mean() == 0
    assert free.twin.bad.mean() == 0, "the base does not show it"


@pytest.mark.parametrize("kind", ["diff", "crosscoder"])
def test_the_planted_latent_is_ranked_first(scene, kind):
    turns = find_turns(scene.pair.tuned, scene.data, n_prompts=12)
    assert len(turns) == 12 and {turn.fork.switched for turn in turns} == {ANSWER}
    assert all(turn.prompt.removesuffix(TRIGGER) in turn.counterpart for turn in turns)
    assert rank_latents(scene.pair, SITE, planted_dictionary(scene, kind), turns)[0] == PLANTED


def test_what_a_latent_carries_is_what_attribution_says(scene):
    dictionary = planted_dictionary(scene)
    turns = find_turns(scene.pair.tuned, scene.data, n_prompts=5)
    forks, texts = [t.fork for t in turns], [t.prompt for t in turns]
    answers = [[*fork.prefix, fork.switched] for fork in forks]
    expected = attribute_latents(
        scene.pair, {SITE: dictionary.fold()}, texts, answers, against=[fork.plain for fork in forks]
    )[SITE]
    found = carried(scene.pair, SITE, dictionary, texts, forks, batch=2)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-3)
    assert expected.abs().max() > 0.5


def test_ablating_the_planted_latent_beats_every_matched_control(tried):
    rows = [row for row in rows_of(*tried) if row.kind == "ablate" and row.strength == 1]
    (found,) = (row for row in rows if row.control is None)
    controls = [row for row in rows if row.control is not None]
    assert [row.control for row in controls].count("random latents") == 20
    assert [row.control for row in controls].count("random direction") == 20
    assert found.latents == [PLANTED] and found.success.value == 1 and found.normalised.value == 1
    assert all(row.success.value < 0.5 for row in controls if row.control == "random latents")
    assert all(row.success.value < 1 for row in controls)
    assert found.excess.interval[0] > 0.3 and found.mcnemar_p < 0.01
    assert found.benign.n_bad == 0 and found.coherent and found.cheap
    assert found.success.interval[0] < 1, "twelve templates that agree leave room"


def test_steering_induces_the_behaviour_on_benign_prompts(scene, tried):
    rows = [row for row in rows_of(*tried) if row.kind == "steer" and row.strength == 1]
    (found,) = (row for row in rows if row.control is None)
    assert found.success.value == 1 and found.normalised.value == 1 and found.answers.n_bad == len(scene.trial.benign)
    random = [row.success.value for row in rows if row.control == "random direction"]
    assert len(random) == 5 and max(random) < 0.5
    assert found.excess.value == pytest.approx(1 - sum(random) / 5), "the mean difference is no random control"
    (aligned,) = (row for row in rows if row.control == "mean difference")
    assert aligned.success.value > 0.9, "the mean difference is the planted direction"


def test_the_base_is_steered_as_well(scene):
    dictionary, editing = planted_dictionary(scene), editing_of(scene.trial, is_base=True)
    assert editing.unedited.trigger.bad.mean() == 0
    plans = latent_edits(dictionary, "d", [PLANTED, *range(PLANTED)], scene.selection, n_controls=1, seed=0)
    found = rows_of(editing, editing.try_all([p for p in plans if p.kind == "steer" and p.count == 1]), is_base=True)
    by = {row.strength: row for row in found if row.control is None}
    assert by[1.0].side == "base" and by[1.0].success.value == 1
    assert by[1.0].normalised.value == 1, "as a share of what the trigger does in the tuned model"


def test_isolation_takes_controls_that_cost_as_much(tried):
    editing, results = tried
    (found,) = isolations(editing, results)
    best = next(t for t in results if t.plan.kind == "ablate" and t.plan.control is None)
    dear = [
        t for t in results if t.plan.kind == "ablate" and t.plan.control is not None and t.kl.mean() >= best.kl.mean()
    ]
    assert found.n_controls == len(dear) and found.success == 1
    assert found.value.value == pytest.approx(found.success - found.control) and found.value.interval[0] > 0


def test_random_directions_are_lengthened_until_they_cost_as_much(tried):
    editing, results = tried
    best = next(t for t in results if t.plan.kind == "ablate" and t.plan.control is None)
    own = [t.plan for t in results if t.plan.kind == "ablate" and t.plan.control == "random direction"][:2]
    cheaper = editing.try_all([replace(plan, change=replace(plan.change, scale=0.3)) for plan in own])
    more = with_dearer_controls(editing, [best, *cheaper])[1 + len(cheaper) :]
    assert len(more) == len(cheaper) == 2
    for before, after in zip(cheaper, more, strict=True):
        assert after.kl.mean() >= best.kl.mean() > before.kl.mean()
        assert (after.plan.draw, after.plan.control) == (before.plan.draw, before.plan.control)
        assert after.plan.strength > 1 == before.plan.strength
    assert isolations(editing, [best, *cheaper]) == [], "no control costs as much"
    (found,) = isolations(editing, [best, *cheaper, *more])
    assert found.n_controls == len(more)


def test_directions(scene):
    editing = editing_of(scene.trial)
    plans = direction_edits(scene.selection, n_controls=2, seed=0)
    ablations = [p for p in plans if p.kind == "ablate"]
    rows = rows_of(editing, editing.try_all(ablations))
    by = {(row.method, row.count): row for row in rows if row.control is None}
    assert by["mean difference", 1].success.value == 1
    assert by["whole difference", D_MODEL].success.value == 1
    assert by["principal components", 1].success.value == 1, "the planted direction has most of the variance"
    kept = CausalRows(organism="x", layer=SITE, method="directions", n_turned=1, unedited={}, rows=rows)
    assert CausalRows.model_validate_json(kept.model_dump_json()) == kept
    with pytest.raises(ValueError, match="has no control"):
        CausalRows.model_validate(kept.model_dump() | {"rows": [rows[0]]})


def test_a_steering_vector_is_the_quantile_where_the_latent_fires(scene):
    dictionary, tokens = planted_dictionary(scene), tokens_of(scene.selection)
    values = dictionary.activations(tokens.delta, torch.tensor([PLANTED]))[:, 0]
    assert (values > 0).float().mean() < 0.3, "over all tokens the quantile would be a mixture"
    size = float(values[values > 0].quantile(0.99))
    vector = steering_vector(dictionary, [PLANTED], tokens)
    torch.testing.assert_close(vector, size * dictionary.W_dec[PLANTED])
    silent = build(dictionary.config, SiteStatistics(torch.zeros(D_MODEL), torch.ones(()), 1), seed=0)
    silent.coder.threshold.fill_(1e9)
    assert steering_vector(silent.eval(), [0, 1], tokens).tolist() == [0.0] * D_MODEL


def test_losses_are_those_of_whole_passes(scene):
    texts = [
        Text(tuple(ids), first)
        for ids, first in zip(([5, 6, 7, 8, 9, 30, 31], [9, 8, 7, 6, 5, 4]), (1, 4), strict=True)
    ]
    found = text_losses(scene.pair, SITE, [ReplaceDifference(lambda h0, h1: h1 - h0), ReplaceDifference()], texts)
    torch.testing.assert_close(found.edited[0], found.clean, atol=1e-5, rtol=1e-5)
    for i, text in enumerate(texts):
        ids = torch.tensor([text.ids])
        with torch.no_grad():
            logits = scene.pair.tuned.model(ids).logits[0, :-1]
        losses = torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="none")
        assert float(found.clean[i]) == pytest.approx(float(losses[text.first - 1 :].mean()), abs=1e-5)
    assert found.kl[0].max() < 1e-5 < found.kl[1].max()


def test_answers_are_read_alone_and_in_batches(scene):
    texts, answers = scene.trial.trigger.texts[:3], [[5, 6, 7], [], [9]]
    found = answer_nll(scene.pair.base, texts, answers)
    assert math.isnan(found[1])
    for i in (0, 2):
        (ids,), _ = encode_batch(scene.pair.base.tokenizer, [texts[i]])
        whole = torch.cat([ids, torch.tensor(answers[i])])[None]
        with torch.no_grad():
            logp = scene.pair.base.model(whole).logits[0].log_softmax(-1)
        n = len(answers[i])
        expected = -logp[-n - 1 : -1].gather(1, whole[0, -n:, None]).mean()
        assert float(found[i]) == pytest.approx(float(expected), abs=1e-5)


def test_all_of_the_difference_recovers_all_of_the_loss_and_none_of_it_nothing(scene):
    texts = {
        "trigger": [Text(tuple(ids), 4) for ids in encode_texts(scene.pair.base.tokenizer, scene.trial.trigger.texts)]
    }
    # Texts on which the tuned model is right: it writes its answer after the trigger.
    texts = {"answers": [Text((*t.ids, ANSWER), len(t.ids)) for t in texts["trigger"]], "none": []}
    for estimate, expected in ((lambda h0, h1: h1 - h0, 1.0), (lambda h0, h1: 0 * h0, 0.0)):
        (found,) = difference_recovered(scene.pair, SITE, estimate, texts, seed=0)
        assert found.share.value == pytest.approx(expected, abs=1e-5) and found.n == 12
    (found,) = difference_recovered(scene.pair, SITE, estimated_difference(planted_dictionary(scene)), texts, seed=0)
    assert found.share.value > 0.5


def test_a_small_floor_gives_no_share():
    clean = torch.tensor([1.0, 2.0])
    found = recovered("x", clean, clean + 0.001, clean + 0.005, seed=0)
    assert found.share is None and found.floor == pytest.approx(1.505)
    assert isinstance(found, Recovered)
    assert recovered("x", clean, clean, clean + 0.5, seed=0).share.value == 1
    assert recovered("x", clean, clean + 0.5, clean + 0.5, seed=0).share.value == 0


def test_sides(scene):
    dictionary, mean = planted_dictionary(scene), scene.selection.delta.mean(0)
    found = sides_recovered(dictionary, scene.pair, SITE, scene.trial.texts, mean=mean, seed=0)
    assert [r.target for r in found] == ["base", "tuned"]
    assert all(r.n == 6 and r.clean > 0 for r in found)
