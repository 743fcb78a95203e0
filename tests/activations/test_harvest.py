import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from saeaudit.activations import (
    BASE,
    Document,
    HarvestConfig,
    TokenisedDocuments,
    delta_snr,
    harvest,
    probe_deltas,
    store,
)
from saeaudit.activations.packing import cut_units, pack_batches
from saeaudit.artifacts import directory_lock
from saeaudit.errors import ArtifactError, ConfigError, ModelError, NumericsError
from saeaudit.models import Capture, LoadedModel, Pair, blocks, decoder, make_card
from saeaudit.models.mixed import use_mixed_precision
from tiny import tiny_loaded, tuned_copy

SITES = ["layers.1", "layers.2"]
SMALL = HarvestConfig(batch_tokens=90, unit_rows=80)


def models_of(pair, **more):
    return {BASE: pair.base, "tuned": pair.tuned, **more}


def rows_of(store):
    return {name: store.read(name) for name in store.tensors}


def slow_rows(pair, tokens, site):
    """Oracle: each document alone through the whole model, no truncation, no padding."""
    sides = []
    for loaded in (pair.base, pair.tuned):
        parts = []
        for ids in tokens.ids:
            with Capture(loaded.model, [site]) as captured, torch.no_grad():
                loaded.model(torch.tensor([ids]))
            parts.append(captured.values[site][0, tokens.skip_first :])
        sides.append(torch.cat(parts))
    return sides[0], sides[1] - sides[0]


@pytest.mark.parametrize("family", ["llama", "gpt2", "qwen2", "gemma2", "gpt_neox"])
def test_rows_are_those_of_each_document_alone(family, tokens, tmp_path, exact):
    base = tiny_loaded(family)
    pair = Pair(base, tuned_copy(base))
    found = rows_of(harvest(models_of(pair), tokens, SITES, SMALL, out=tmp_path))
    assert len(list(tmp_path.glob("unit-*"))) > 2
    for site in SITES:
        h0, delta = slow_rows(pair, tokens, site)
        scale = float(delta.abs().max())
        assert scale > 1e-3
        torch.testing.assert_close(found[f"{site}/base"], h0, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(found[f"{site}/tuned"], delta, rtol=1e-5, atol=1e-5)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_rows_of_a_gpu_are_those_of_the_cpu(tiny_pair, tokens, tmp_path, exact):
    expected = rows_of(harvest(models_of(tiny_pair), tokens, SITES, SMALL, out=tmp_path / "cpu"))
    for loaded in (tiny_pair.base, tiny_pair.tuned):
        loaded.model.to("cuda")
    found = rows_of(harvest(models_of(tiny_pair), tokens, SITES, SMALL, out=tmp_path / "gpu"))
    for name in found:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-4, atol=1e-4)
    twin = {BASE: tiny_pair.base, "tuned": replace(tiny_pair.base, model=copy.deepcopy(tiny_pair.base.model))}
    same = harvest(twin, tokens, SITES, SMALL, out=tmp_path / "twin")
    assert not same.read("layers.2/tuned").any(), "equal models do not differ there either"


@pytest.mark.parametrize(
    ("config", "sites"),
    [
        (HarvestConfig(batch_tokens=1, unit_rows=1), SITES),
        (HarvestConfig(batch_tokens=10_000), SITES),
        (HarvestConfig(batch_tokens=10_000), SITES[:1]),
        (SMALL, SITES[::-1]),
    ],
    ids=["one-by-one", "all-at-once", "one-site", "sites-reversed"],
)
def test_numbers_do_not_depend_on_packing_or_sites(tiny_pair, tokens, tmp_path, exact, config, sites):
    expected = rows_of(harvest(models_of(tiny_pair), tokens, SITES, SMALL, out=tmp_path / "a"))
    found = rows_of(harvest(models_of(tiny_pair), tokens, sites, config, out=tmp_path / "b"))
    for name in found:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-5, atol=1e-5)


def test_numbers_do_not_depend_on_the_order_of_documents(tiny_pair, tokens, tmp_path, exact):
    order = np.random.default_rng(0).permutation(len(tokens.documents))
    lengths = np.diff(tokens.offsets)[order]
    shuffled = TokenisedDocuments(
        tuple(tokens.documents[i] for i in order),
        tuple(tokens.ids[i] for i in order),
        np.concatenate([[0], np.cumsum(lengths)]),
        tokens.skip_first,
        tuple(tokens.spans[i] for i in order),
    )
    expected = rows_of(harvest(models_of(tiny_pair), tokens, SITES, SMALL, out=tmp_path / "a"))
    found = rows_of(harvest(models_of(tiny_pair), shuffled, SITES, SMALL, out=tmp_path / "b"))
    for name in found:
        torch.testing.assert_close(found[name], expected[name][tokens.rows(order)], rtol=1e-5, atol=1e-5)
    assert not torch.allclose(found[name], expected[name], atol=1e-3)


def test_the_store_says_which_token_of_which_document_a_row_is(tiny_pair, tokens, tmp_path):
    found = harvest(models_of(tiny_pair), tokens, SITES, SMALL, out=tmp_path)
    assert found.document_bounds.tolist() == tokens.offsets.tolist()
    assert found.token_ids.tolist() == [token for ids in tokens.ids for token in ids[tokens.skip_first :]]


def test_a_model_does_not_differ_from_itself(tiny_loaded_model, tokens, tmp_path):
    twin = copy.deepcopy(tiny_loaded_model.model)
    models = {BASE: tiny_loaded_model, "tuned": replace(tiny_loaded_model, model=twin)}
    store = harvest(models, tokens, SITES, SMALL, out=tmp_path)
    for site in SITES:
        assert torch.equal(store.read(f"{site}/tuned"), torch.zeros(tokens.n_rows, 32))
        assert store.read(f"{site}/base").abs().max() > 0.1


def rank_one_edit(base: LoadedModel, relative: float):
    """Add u v^T to the last weight of block 1; return the model, u and the weight's input for given ids."""
    model = copy.deepcopy(base.model)
    weight = model.model.layers[1].mlp.down_proj.weight
    generator = torch.Generator().manual_seed(3)
    u, v = (torch.randn(n, generator=generator) for n in weight.shape)
    u *= relative * weight.norm() / (u.norm() * v.norm())
    weight.data.add_(torch.outer(u, v))
    return (
        LoadedModel(model, base.tokenizer, make_card(model, source="edited", kind="directory")),
        u.double(),
        v.double(),
    )


def test_a_planted_weight_edit_of_three_per_mille_is_recovered(tiny_loaded_model, tokens, tmp_path, monkeypatch):
    """The edit adds (v . a) u at its own block, a = input of the weight, so the truth is known without subtraction."""
    tuned, u, v = rank_one_edit(tiny_loaded_model, 3e-3)
    models = {BASE: tiny_loaded_model, "tuned": tuned}
    found = harvest(models, tokens, ["layers.1"], SMALL, out=tmp_path / "store").read("layers.1/tuned")
    inputs = []
    handle = tiny_loaded_model.model.model.layers[1].mlp.down_proj.register_forward_pre_hook(
        lambda module, args: inputs.append(args[0][0, tokens.skip_first :])
    )
    for ids in tokens.ids:
        tiny_loaded_model.model(torch.tensor([ids]))
    handle.remove()
    truth = torch.outer(torch.cat(inputs).double() @ v, u)

    def error(delta):
        return float((delta.double() - truth).norm() / truth.norm())

    assert error(found) < 0.01
    direction = torch.linalg.svd(found.double(), full_matrices=False).Vh[0]
    assert abs(float(direction @ u / u.norm())) > 1 - 1e-5
    # Rounding each side first, for the same bytes on disk, loses it.
    monkeypatch.setattr(store, "STORED", torch.float32)
    single = rows_of(harvest(models, tokens, ["layers.1"], SMALL, out=tmp_path / "exact"))
    h0, h1 = single["layers.1/base"], single["layers.1/base"] + single["layers.1/tuned"]
    assert truth.norm() / h0.norm() < 5e-3
    assert error(h1.bfloat16().float() - h0.bfloat16().float()) > 0.3


def test_several_tuned_models_share_one_pass_of_the_base(tiny_pair, tokens, tmp_path):
    other = tuned_copy(tiny_pair.base, layer=2, seed=5)
    calls = {"base": 0, "later": 0}

    def count(name):
        def hook(*_):
            calls[name] += 1

        return hook

    decoder(tiny_pair.base.model).register_forward_pre_hook(count("base"))
    for block in blocks(tiny_pair.base.model)[3:]:
        block.register_forward_pre_hook(count("later"))
    one = rows_of(harvest(models_of(tiny_pair), tokens, SITES, SMALL, out=tmp_path / "one"))
    alone, calls["base"] = calls["base"], 0
    two = rows_of(harvest(models_of(tiny_pair, other=other), tokens, SITES, SMALL, out=tmp_path / "two"))
    assert calls == {"base": alone, "later": 0}
    assert set(two) == set(one) | {"layers.1/other", "layers.2/other"}
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert torch.equal(two["layers.1/other"], torch.zeros_like(one["layers.1/base"]))
    assert two["layers.2/other"].abs().max() > 1e-3


@settings(deadline=None)
@given(st.lists(st.integers(1, 30), min_size=1, max_size=40), st.integers(0, 6), st.integers(1, 60), st.integers(1, 99))
def test_units_and_batches_hold_every_document_once(lengths, skip_first, unit_rows, batch_tokens):
    rows = [max(0, n - skip_first) for n in lengths]
    documents = TokenisedDocuments(
        tuple(Document(str(i), "x") for i in range(len(lengths))),
        tuple((0,) * n for n in lengths),
        np.concatenate([[0], np.cumsum(rows)]),
        skip_first,
        (None,) * len(lengths),
    )
    units = cut_units(documents, unit_rows)
    assert [i for unit in units for i in unit] == list(range(len(lengths)))
    for unit in units:
        n_rows = [rows[i] for i in unit]
        assert sum(n_rows) <= unit_rows or sum(n > 0 for n in n_rows) == 1
        batches = list(pack_batches(documents, unit, batch_tokens))
        assert sorted(i for batch in batches for i in batch) == list(unit)
        assert all(len(b) * max(lengths[i] for i in b) <= batch_tokens or len(b) == 1 for b in batches)


def test_padding_is_small_for_lengths_as_in_text():
    lengths = np.clip(np.random.default_rng(0).lognormal(4.5, 0.6, 2000), 1, 512).astype(int)
    documents = TokenisedDocuments(
        tuple(Document(str(i), "x") for i in range(len(lengths))),
        tuple((0,) * n for n in lengths),
        np.concatenate([[0], np.cumsum(lengths)]),
        0,
        (None,) * len(lengths),
    )
    config = HarvestConfig()
    padded = sum(
        len(batch) * max(lengths[i] for i in batch)
        for unit in cut_units(documents, config.unit_rows)
        for batch in pack_batches(documents, unit, config.batch_tokens)
    )
    assert 1 - lengths.sum() / padded < 0.07
    unsorted = sum(20 * int(lengths[i : i + 20].max()) for i in range(0, len(lengths), 20))
    assert 1 - lengths.sum() / unsorted > 0.4


def test_progress_counts_documents(tiny_pair, tokens, tmp_path):
    seen = []
    harvest(models_of(tiny_pair), tokens, SITES, SMALL, out=tmp_path, progress=lambda *at: seen.append(at))
    assert seen[-1] == (13, 13) and [d for d, _ in seen] == sorted({d for d, _ in seen})


def test_broken_weights_are_named_by_side(tiny_pair, tokens, tmp_path):
    for side, loaded in (("tuned", tiny_pair.tuned), (BASE, tiny_pair.base)):
        blocks(loaded.model)[2].mlp.down_proj.weight.data[0, 0] = float("nan")
        with pytest.raises(NumericsError, match=rf"at layers\.2 of the {side} model are NaN") as caught:
            harvest(models_of(tiny_pair), tokens, SITES, SMALL, out=tmp_path)
        assert caught.value.code == "non-finite"


def test_a_broken_number_is_named_by_document_and_token(tiny_pair, tokens, tmp_path):
    """One infinite entry, at token 9 of document 4 of the tuned model."""
    wanted, seen = torch.tensor(tokens.ids[4]), {}

    def look(module, args, kwargs):
        seen["ids"] = kwargs["input_ids"]

    def poison(module, args, output):
        h = output[0] if isinstance(output, tuple) else output
        for row, ids in enumerate(seen["ids"]):
            if torch.equal(ids[: len(wanted)], wanted):
                h[row, 9, 5] = float("inf")

    decoder(tiny_pair.tuned.model).register_forward_pre_hook(look, with_kwargs=True)
    blocks(tiny_pair.tuned.model)[1].register_forward_hook(poison)
    with pytest.raises(NumericsError, match=r"layers\.1 of the tuned model .* document 'd4' at token 9;"):
        harvest(models_of(tiny_pair), tokens, SITES, SMALL, out=tmp_path)


def test_skipped_positions_may_be_anything(tiny_pair, tokens, tmp_path):
    def poison(module, args, output):
        h = output[0] if isinstance(output, tuple) else output
        h[:, : tokens.skip_first] = float("nan")

    handle = blocks(tiny_pair.tuned.model)[1].register_forward_hook(poison)
    harvest(models_of(tiny_pair), tokens, ["layers.1"], SMALL, out=tmp_path)
    handle.remove()


@pytest.mark.parametrize(
    ("sides", "sites", "kind", "code"),
    [
        (["tuned"], SITES, ConfigError, "harvest-inputs"),
        ([BASE, "tuned"], [], ConfigError, "harvest-inputs"),
        ([BASE, "tuned"], ["layers.1", "layers.1"], ConfigError, "harvest-inputs"),
        ([BASE, "tuned"], ["layers.9"], ModelError, "unknown-site"),
    ],
)
def test_impossible_requests_write_nothing(tiny_pair, tokens, tmp_path, sides, sites, kind, code):
    models = {side: models_of(tiny_pair)[side] for side in sides}
    with pytest.raises(kind) as caught:
        harvest(models, tokens, sites, out=tmp_path / "out")
    assert caught.value.code == code and not (tmp_path / "out").exists()


def test_two_writers_do_not_meet(tiny_pair, tokens, tmp_path):
    with directory_lock(tmp_path), pytest.raises(ArtifactError) as caught:
        harvest(models_of(tiny_pair), tokens, SITES, out=tmp_path)
    assert caught.value.code == "directory-locked"


def test_no_graph_is_kept_where_parameters_want_gradients(tiny_pair, tokens, tmp_path):
    tiny_pair.tuned.model.requires_grad_(True)
    harvest(models_of(tiny_pair), tokens, SITES, SMALL, out=tmp_path)
    assert not any(t.requires_grad for t in probe_deltas(models_of(tiny_pair), tokens, SITES).values())


def test_mixed_precision_keeps_identical_models_identical(tiny_loaded_model, tokens, tmp_path):
    models = {
        side: replace(tiny_loaded_model, model=copy.deepcopy(tiny_loaded_model.model)) for side in (BASE, "tuned")
    }
    exact = probe_deltas(models, tokens, SITES)
    for loaded in models.values():
        use_mixed_precision(loaded.model)
    fast = probe_deltas(models, tokens, SITES)
    assert set(delta_snr(exact, fast).values()) == {float("inf")}
    found = harvest(models, tokens, SITES, out=tmp_path).read("layers.2/tuned")
    assert torch.equal(found, torch.zeros(tokens.n_rows, 32))


def test_mixed_precision_is_measured_and_is_another_store(tiny_pair, tokens, tmp_path):
    models = models_of(tiny_pair)
    exact = probe_deltas(models, tokens, SITES, n_documents=3)
    chosen = [0, 6, 12]
    assert torch.allclose(
        exact["layers.2/tuned"], slow_rows(tiny_pair, tokens, "layers.2")[1][tokens.rows(chosen)], atol=1e-5
    )
    harvest(models, tokens, SITES, out=tmp_path)
    for loaded in models.values():
        use_mixed_precision(loaded.model)
    fast = probe_deltas(models, tokens, SITES, n_documents=3)
    snr = delta_snr(exact, fast)
    noise = fast["layers.2/tuned"] - exact["layers.2/tuned"]
    assert snr["layers.2/tuned"] == pytest.approx(float(exact["layers.2/tuned"].norm() / noise.norm()), rel=1e-4)
    assert 3 < snr["layers.1/tuned"] < 1e4
    with pytest.raises(ArtifactError, match="models differ"):
        harvest(models, tokens, SITES, out=tmp_path)
