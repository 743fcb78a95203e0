"""Changes that read both sides: identities, what they leave, and equal norms token by token."""

import pytest
import torch

from planted_pair import PROMPTS, planted_pair
from saeaudit.dictionaries import DictionaryConfig, build
from saeaudit.errors import ModelError
from saeaudit.interventions import (
    EqualNorm,
    GainLatents,
    PairedBase,
    ProjectOut,
    ReplaceDifference,
    SidedEdit,
    Steer,
    changed,
    read_base,
    read_latents,
    written_rows,
)
from saeaudit.models import Edit, encode_batch, greedy
from saeaudit.statistics import SiteStatistics
from tiny import D_MODEL

KINDS = ("sae", "diff", "crosscoder")
LAST = "layers.3"


def rows(seed=0):
    return torch.randn(2, 3, 7, D_MODEL, generator=torch.Generator().manual_seed(seed)).unbind(0)


def dictionary_of_kind(kind, sparsity="batchtopk"):
    axes = (2,) if kind == "crosscoder" else ()
    generator = torch.Generator().manual_seed(4)
    mean = torch.randn(*axes, D_MODEL, generator=generator)
    stats = SiteStatistics(mean, torch.full(axes, 1.7), 100)
    config = DictionaryConfig(kind=kind, n_latents=48, sparsity=sparsity, k=6)
    return build(config, stats, seed=3).eval().requires_grad_(False)


def pair_at(site, seed=3):
    direction = torch.randn(D_MODEL, generator=torch.Generator().manual_seed(5))
    return planted_pair(2 * direction, block=int(site.rpartition(".")[2]), seed=seed).pair


def continuations(pair, change, site=LAST):
    with PairedBase(pair.base.model, pair.tuned.model, site) as paired:
        edits = {site: SidedEdit(paired, change)}
        return greedy(pair.tuned.model, pair.tuned.tokenizer, PROMPTS, n_new=6, edits=edits)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sparsity", ["batchtopk", "topk"])
def test_taking_all_latents_out_takes_the_reconstruction_of_the_difference_out(kind, sparsity):
    dictionary, (h0, h1) = dictionary_of_kind(kind, sparsity), rows()
    every = range(dictionary.n_latents)
    assert (read_latents(dictionary, every, h0, h1) > 0).any()
    change = GainLatents(dictionary, every)(h0, h1)
    x = {"sae": h1, "diff": h1 - h0, "crosscoder": torch.stack([h0, h1], 2)}[kind].flatten(end_dim=1)
    with_code, without = (
        dictionary.decode(dictionary.encode(x)),
        dictionary.decode(dictionary.encode(x)._replace(values=torch.zeros_like(dictionary.encode(x).values))),
    )
    expected = without - with_code
    if kind == "crosscoder":
        expected = expected[:, 1] - expected[:, 0]
    torch.testing.assert_close(change.flatten(end_dim=1), expected, atol=1e-4, rtol=1e-4)


def test_one_latent_is_its_activation_times_its_row():
    dictionary, (h0, h1) = dictionary_of_kind("crosscoder"), rows()
    f = read_latents(dictionary, range(48), h0, h1)
    latent = int(f.flatten(end_dim=1).mean(0).argmax())
    W = dictionary.W_dec[latent] * 1.7
    expected = -0.75 * f[..., latent, None] * (W[1] - W[0])
    torch.testing.assert_close(GainLatents(dictionary, [latent], 0.25)(h0, h1), expected)
    torch.testing.assert_close(written_rows(dictionary, [latent])[0], W[1] - W[0])


@pytest.mark.parametrize("kind", KINDS)
def test_no_latents_gain_one_and_no_push_are_the_identity(kind):
    dictionary, pair = dictionary_of_kind(kind), pair_at("layers.1")
    plain = greedy(pair.tuned.model, pair.tuned.tokenizer, PROMPTS, n_new=6)
    for change in (
        GainLatents(dictionary, ()),
        GainLatents(dictionary, range(48), 1.0),
        Steer(torch.zeros(D_MODEL)),
        EqualNorm(GainLatents(dictionary, ()), torch.ones(D_MODEL)),
    ):
        h0, h1 = rows()
        assert float(change(h0, h1).abs().max()) < 1e-5
        assert continuations(pair, change, "layers.1") == plain
    assert continuations(pair, Steer(torch.ones(D_MODEL)), "layers.1") != plain


def test_no_difference_at_the_last_block_is_the_base():
    pair = pair_at(LAST)
    base, tuned = (greedy(side.model, side.tokenizer, PROMPTS, n_new=6) for side in (pair.base, pair.tuned))
    assert base != tuned
    assert continuations(pair, ReplaceDifference()) == base
    assert continuations(pair, ReplaceDifference(lambda h0, h1: h1 - h0)) == tuned
    everything = ProjectOut(torch.eye(D_MODEL))
    assert continuations(pair, everything) == base


def test_projecting_out_leaves_the_rest_of_the_difference():
    h0, h1 = rows()
    directions = torch.linalg.qr(torch.randn(D_MODEL, 3, generator=torch.Generator().manual_seed(2)))[0].T
    left = h1 + ProjectOut(directions)(h0, h1) - h0
    assert float((left @ directions.T).abs().max()) < 1e-5
    other = torch.linalg.qr(torch.cat([directions.T, torch.randn(D_MODEL, 1)], 1))[0][:, 3]
    torch.testing.assert_close(left @ other, (h1 - h0) @ other, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_the_control_moves_each_token_exactly_as_far(scale):
    pair = pair_at("layers.1")
    ids, mask = encode_batch(pair.base.tokenizer, PROMPTS)
    side = read_base(pair.base.model, ids, mask, 2)
    h = side.residual + torch.randn(side.residual.shape, generator=torch.Generator().manual_seed(8))
    direction = torch.nn.functional.normalize(torch.randn(D_MODEL), dim=0)
    change = GainLatents(dictionary_of_kind("diff"), range(20))
    moved, control = (changed(h, side, c) - h for c in (change, EqualNorm(change, direction, scale)))
    held = (mask == 1) & (mask.cumsum(1) > 4)
    sizes = moved.norm(dim=-1)
    assert sizes[held].std() > 0.1
    torch.testing.assert_close(control.norm(dim=-1), scale * sizes, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(control[held] @ direction, scale * sizes[held], atol=1e-4, rtol=1e-4)
    assert float(control[~held].abs().max()) == float(moved[~held].abs().max()) == 0


def test_outside_its_context_it_says_so():
    pair = pair_at("layers.1")
    edit = SidedEdit(PairedBase(pair.base.model, pair.tuned.model, "layers.1"), Steer(torch.zeros(D_MODEL)))
    with pytest.raises(ModelError) as caught, Edit(pair.tuned.model, {"layers.1": edit}):
        pair.tuned.model(**encode_batch(pair.base.tokenizer, PROMPTS)._asdict())
    assert caught.value.code == "paired-missing"
