"""A dictionary judged on a store: held-out rows only, groups of whole documents, the right models or none."""

import itertools
import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from json_numbers import numbers
from planted_dictionaries import dictionary_for, generator
from saeaudit.activations import StoreWriter, UnitText
from saeaudit.audit.evaluate import StoreEvaluation, evaluate_on_store, groups_of_rows
from saeaudit.dictionaries import load_dictionary
from saeaudit.errors import ArtifactError, ConfigError, EvidenceError

N_ROWS, D_MODEL = 1600, 16
CARDS = {"base": {"weights_sha256": "b" * 64}, "tuned": {"weights_sha256": "t" * 64}}


def write_store(path, base, delta, cards=CARDS, document_rows=20):
    """Documents of equal length; the last one is what is left."""
    lengths = [min(document_rows, len(base) - start) for start in range(0, len(base), document_rows)]
    text = UnitText(torch.zeros(len(base), dtype=torch.int32), torch.tensor(lengths))
    names = ["layers.1/base", "layers.1/tuned"]
    writer = StoreWriter(path, made_from={"models": cards}, unit_rows=[len(base)], tensors=names)
    writer.write(0, dict(zip(names, (base, delta), strict=True)), text)
    return path


@pytest.fixture(scope="module")
def rows():
    base, delta = (torch.randn(N_ROWS, D_MODEL, generator=generator(i)) for i in (1, 2))
    return base.bfloat16().float(), delta.bfloat16().float()


@pytest.fixture
def places(rows, tmp_path):
    """(store, {kind: dictionary directory}); the dictionaries are untrained."""
    base, delta = rows
    dictionaries = {}
    for kind, x in {"sae": base, "diff": delta, "crosscoder": torch.stack([base, base + delta], 1)}.items():
        dictionary = dictionary_for(x, kind, n_latents=32)
        dictionary.coder.threshold.fill_(1.0)
        dictionary.provenance = replace(dictionary.provenance, site="layers.1", cards=CARDS)
        dictionary.save(tmp_path / kind)
        dictionaries[kind] = tmp_path / kind
    return write_store(tmp_path / "store", base, delta), dictionaries


def settings(**changes):
    return StoreEvaluation(**({"n_resamples": 100, "batch_size": 64} | changes))


@pytest.mark.parametrize("kind", ["sae", "diff", "crosscoder"])
def test_only_held_out_rows_count_and_all_of_them(places, rows, kind):
    store, dictionaries = places
    found = evaluate_on_store(dictionaries[kind], store, settings())
    base, delta = (x[-200:] for x in rows)
    dictionary = load_dictionary(dictionaries[kind])
    x = {"sae": base, "diff": delta, "crosscoder": torch.stack([base, base + delta], 1)}[kind]
    x_hat = dictionary.decode(dictionary.encode(x))
    error, variance = ((t.square()).sum((0, -1)) for t in (x - x_hat, x - x.mean(0)))
    fvu = [r.fvu.value for r in found.dictionary.reconstruction.values()]
    assert fvu[: error.numel()] == pytest.approx((error / variance).reshape(-1).tolist(), rel=1e-4)
    assert (found.n_rows, found.n_groups, found.kind, found.site) == (200, 10, kind, "layers.1")
    every = evaluate_on_store(dictionaries[kind], store, settings(rows="all"))
    assert (every.n_rows, every.n_groups) == (1600, 64) and every.splice == {}


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("kind", ["sae", "diff", "crosscoder"])
def test_a_gpu_finds_the_numbers_of_the_cpu(places, kind):
    store, dictionaries = places
    cpu, gpu = (evaluate_on_store(dictionaries[kind], store, settings(device=d)) for d in ("cpu", "cuda"))
    expected, found = (list(numbers(each.as_dict())) for each in (cpu, gpu))
    assert [name for name, _ in found] == [name for name, _ in expected]
    for (name, value), (_, wanted) in zip(found, expected, strict=True):
        assert value == wanted or value == pytest.approx(wanted, rel=1e-3, abs=1e-3), name


def test_batches_do_not_change_the_numbers(places):
    store, dictionaries = places
    found = [
        evaluate_on_store(dictionaries["diff"], store, settings(batch_size=n)).dictionary.reconstruction["difference"]
        for n in (7, 200)
    ]
    assert found[0].fvu.value == pytest.approx(found[1].fvu.value, rel=1e-6)
    assert found[0].fvu.interval == pytest.approx(found[1].fvu.interval, rel=1e-6)


def test_rows_of_a_document_stand_together(tmp_path):
    """Eight rows of a document are one and the same row: intervals must know, so they are wider than of loose rows."""
    base = torch.randn(200, D_MODEL, generator=generator(1)).repeat_interleave(8, 0)
    dictionary = dictionary_for(base, "sae", n_latents=32)
    dictionary.provenance = replace(dictionary.provenance, site="layers.1")
    dictionary.save(tmp_path / "sae")
    width = {}
    for name, rows in {"documents": base, "loose": base[torch.randperm(1600, generator=generator(3))]}.items():
        store = write_store(tmp_path / name, rows, rows, document_rows=8)
        found = evaluate_on_store(tmp_path / "sae", store, settings(rows="all"))
        width[name] = found.dictionary.reconstruction["base"].fvu.interval.half_width
    assert width["documents"] > 1.5 * width["loose"]


@given(st.lists(st.integers(0, 40), min_size=1, max_size=300).filter(any), st.data())
def test_a_group_holds_whole_documents(lengths, data):
    bounds = np.concatenate([[0], np.cumsum(lengths)])
    first = data.draw(st.sampled_from(sorted({b for b in bounds.tolist() if b < bounds[-1]})))
    rows = np.arange(first, bounds[-1])
    group = groups_of_rows(bounds, rows)
    assert set(np.diff(group).tolist()) <= {0, 1} and group[0] == 0 and group[-1] < 64
    for start, stop in itertools.pairwise(bounds):
        assert start < first or len(set(group[start - first : stop - first])) <= 1
    assert np.bincount(group).max() <= len(rows) / 64 + 1 + max(lengths)


def test_held_out_rows_begin_with_a_document(places, rows, tmp_path):
    """An eighth of 1600 rows begins at 1400; the nearest document does at 1350 (150 rows each) or 1200 (600 each)."""
    _, dictionaries = places
    for document_rows, n_held_out in ((150, 250), (600, 400)):
        store = write_store(tmp_path / str(document_rows), *rows, document_rows=document_rows)
        assert evaluate_on_store(dictionaries["sae"], store, settings()).n_rows == n_held_out
    store = write_store(tmp_path / "one", *rows, document_rows=1600)
    with pytest.raises(EvidenceError, match="1600 rows of one document"):
        evaluate_on_store(dictionaries["sae"], store, settings())
    assert evaluate_on_store(dictionaries["sae"], store, settings(rows="all")).n_rows == 1600


def test_everything_is_plain_json_and_what_is_undefined_is_null(places):
    store, dictionaries = places
    found = evaluate_on_store(dictionaries["crosscoder"], store, settings())
    value = found.as_dict()
    assert json.loads(json.dumps(value, allow_nan=False)) == value
    assert math.isnan(found.dictionary.code.dead_share) and value["dictionary"]["code"]["dead_share"] is None
    fvu = value["dictionary"]["reconstruction"]["tuned"]["fvu"]
    assert fvu.keys() == {"value", "interval", "n"} and len(fvu["interval"]) == 2
    assert len(value["dictionary"]["exclusivity"]["estimates"]["nu_error"]["value"]) == 32


def test_activations_of_other_models_are_refused_unless_allowed(places, rows, tmp_path):
    _, dictionaries = places
    other = write_store(tmp_path / "other", *rows, cards=CARDS | {"tuned": {"weights_sha256": "x" * 64}})
    with pytest.raises(ArtifactError, match="trained on a tuned model with weights tttt") as caught:
        evaluate_on_store(dictionaries["diff"], other, settings())
    assert caught.value.code == "provenance-mismatch"
    evaluate_on_store(dictionaries["diff"], other, settings(allow_mismatch=True))


def test_a_dictionary_without_a_site_and_a_store_without_rows(places, rows, tmp_path):
    store, _ = places
    dictionary_for(rows[0], "sae", n_latents=32).save(tmp_path / "nameless")
    with pytest.raises(ArtifactError, match=r"--set site=layers\.N"):
        evaluate_on_store(tmp_path / "nameless", store, settings())
    evaluate_on_store(tmp_path / "nameless", store, settings(site="layers.1"))
    small = write_store(tmp_path / "small", *(x[:7] for x in rows))
    with pytest.raises(EvidenceError, match="7 rows of one document"):
        evaluate_on_store(tmp_path / "nameless", small, settings(site="layers.1"))


@pytest.mark.parametrize("given", [{"base": "b"}, {"corpus": "c"}, {"tuned": "t"}, {"tuned": "t", "corpus": "c"}])
def test_a_splice_needs_models_and_text(given):
    with pytest.raises(ValueError, match="needs base and corpus together"):
        settings(**given)


def test_a_missing_tuned_model_is_said_before_anything_is_loaded(places, tmp_path):
    store, dictionaries = places
    (tmp_path / "text.txt").write_text("some text")
    with pytest.raises(ConfigError, match="the tuned model is missing"):
        evaluate_on_store(dictionaries["diff"], store, settings(base="no-such", corpus=tmp_path / "text.txt"))
