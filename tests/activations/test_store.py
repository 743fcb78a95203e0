import errno
import json
import os

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from saeaudit.activations import ActivationStore, StoreWriter, UnitText
from saeaudit.errors import ArtifactError, ConfigError, NumericsError, ResourceError

ROWS = [3, 0, 5, 2]
NAMES = ["layers.1/base", "layers.1/tuned"]
ORIGIN = {"documents": "abc", "sites": ["layers.1"], "models": {"base": {"weights_sha256": "0"}}}
DOCUMENTS = [[2, 1], [0], [5], [0, 2]]
WHOLE = {name: torch.randn(sum(ROWS), 6, generator=torch.Generator().manual_seed(i)) for i, name in enumerate(NAMES)}


def unit(index):
    start = sum(ROWS[:index])
    return {name: tensor[start : start + ROWS[index]] for name, tensor in WHOLE.items()}


def text(index):
    start = sum(ROWS[:index])
    return UnitText(torch.arange(start, start + ROWS[index]), torch.tensor(DOCUMENTS[index]))


def writer(directory, origin=ORIGIN, rows=ROWS, tensors=NAMES):
    return StoreWriter(directory, made_from=origin, unit_rows=rows, tensors=tensors)


def write(directory):
    opened = writer(directory)
    for index in opened.missing:
        opened.write(index, unit(index), text(index))


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    directory = tmp_path_factory.mktemp("store")
    write(directory)
    return ActivationStore(directory, verify=True)


@settings(deadline=None)
@given(st.lists(st.integers(0, sum(ROWS) - 1), max_size=20), st.sampled_from(NAMES))
def test_rows_come_back_in_the_order_asked_for(store, rows, name):
    expected = WHOLE[name].bfloat16().float()
    assert torch.equal(store.read(name, np.array(rows, dtype=int)), expected[rows])
    assert torch.equal(store.read(name), expected)
    assert store.n_rows == 10 and store.tensors == NAMES and store.made_from == ORIGIN


def test_the_store_knows_its_documents_and_tokens(store):
    assert store.document_bounds.tolist() == [0, 2, 3, 3, 8, 8, 10]
    assert store.token_ids.tolist() == list(range(10))


@pytest.mark.parametrize("rows", [[-1], [10], [0.5], [True, False]])
def test_rows_that_are_none_are_refused(store, rows):
    with pytest.raises(ArtifactError, match=r"0\.\.9") as caught:
        store.read(NAMES[0], np.array(rows))
    assert caught.value.code == "row-out-of-range"


def test_an_unknown_tensor_is_answered_with_the_known_ones(store):
    with pytest.raises(ArtifactError, match=r"no tensor 'layers.2/base'; it has layers.1/base, layers.1/tuned"):
        store.read("layers.2/base")


def test_tensors_are_mapped_and_not_copied(store):
    first, again = (store._units[2].get_tensor(NAMES[0]) for _ in range(2))
    assert first.data_ptr() == again.data_ptr()


def damage(directory, how):
    path = directory / "unit-00002.safetensors"
    data = bytearray(path.read_bytes())
    match how:
        case "flip":
            data[-1] ^= 1
            path.write_bytes(data)
        case "truncate":
            path.write_bytes(data[:-1])
        case "delete":
            path.unlink()
        case "header":
            data[3] ^= 0xFF
            path.write_bytes(data)


@pytest.mark.parametrize(
    ("how", "code", "verify"),
    [
        ("flip", "shard-corrupt", True),
        ("truncate", "shard-corrupt", False),
        ("delete", "shard-missing", False),
        ("header", "shard-corrupt", False),
    ],
)
def test_damage_is_named_and_repaired_by_writing_again(tmp_path, how, code, verify):
    write(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    damage(tmp_path, how)
    with pytest.raises(ArtifactError, match=r"unit-00002.*run the same harvest again") as caught:
        ActivationStore(tmp_path, verify=verify)
    assert caught.value.code == code
    if how in ("flip", "header"):
        (tmp_path / "unit-00002.safetensors").unlink()  # as the text says
    assert writer(tmp_path).missing == [2]
    write(tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_flipped_byte_needs_the_full_check(tmp_path):
    write(tmp_path)
    damage(tmp_path, "flip")
    ActivationStore(tmp_path)


def test_an_unfinished_store_says_how_to_finish(tmp_path):
    opened = writer(tmp_path)
    opened.write(0, unit(0), text(0))
    with pytest.raises(ArtifactError, match="has 1 of 4 units; run the same harvest again") as caught:
        ActivationStore(tmp_path)
    assert caught.value.code == "store-unfinished"
    assert writer(tmp_path).missing == [1, 2, 3]


def test_files_that_the_manifest_does_not_name_do_not_exist(tmp_path):
    opened = writer(tmp_path)
    opened.write(0, unit(0), text(0))
    (tmp_path / "unit-00001.safetensors").write_bytes(b"of an older harvest")
    (tmp_path / ".unit-00001.safetensors.tmp-0123").write_bytes(b"half")
    write(tmp_path)
    assert torch.equal(ActivationStore(tmp_path, verify=True).read(NAMES[1]), WHOLE[NAMES[1]].bfloat16().float())
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"origin": ORIGIN | {"documents": "abd"}}, "documents differ"),
        ({"origin": ORIGIN | {"new": 1}}, "new differ"),
        ({"rows": [3, 0, 5, 1]}, "unit_rows differ"),
        ({"tensors": NAMES[:1]}, "tensors differ"),
    ],
)
def test_a_store_of_other_settings_is_left_alone(tmp_path, change, named):
    write(tmp_path)
    before = (tmp_path / "manifest.json").read_bytes()
    with pytest.raises(ArtifactError, match=named) as caught:
        writer(tmp_path, **change)
    assert caught.value.code == "resume-mismatch"
    assert (tmp_path / "manifest.json").read_bytes() == before


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda m: m.update(schema=1), "schema-mismatch"),
        (lambda m: m.pop("tensors"), "artifact-broken"),
        (lambda m: m.update(tensors=[]), "artifact-broken"),
        (lambda m: m["units"].pop(), "artifact-broken"),
        (lambda m: m["units"][0].update(file="../../elsewhere"), "artifact-broken"),
        (lambda m: m.update(unit_rows=[3, 0, 6, 1]), "shard-corrupt"),
    ],
)
def test_a_broken_manifest_is_named(tmp_path, change, code):
    write(tmp_path)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    change(manifest)
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ArtifactError) as caught:
        ActivationStore(tmp_path)
    assert caught.value.code == code


def test_no_store_is_no_store(tmp_path):
    with pytest.raises(ArtifactError, match="does not exist"):
        ActivationStore(tmp_path)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 3.4e38])
def test_numbers_that_the_format_cannot_hold_are_refused(tmp_path, value):
    opened, tensors = writer(tmp_path), {name: t.clone() for name, t in unit(0).items()}
    tensors[NAMES[1]][1, 2] = value
    with pytest.raises(NumericsError, match=r"unit 0 has NaN or infinite values in layers\.1/tuned"):
        opened.write(0, tensors, text(0))
    assert opened.missing == [0, 1, 2, 3]


@pytest.mark.parametrize("wrong", [unit(2), {NAMES[0]: WHOLE[NAMES[0]][:3]}])
def test_a_unit_of_another_shape_is_refused(tmp_path, wrong):
    with pytest.raises(ConfigError, match=r"unit 0 needs 3 rows of each of layers\.1/base, layers\.1/tuned"):
        writer(tmp_path).write(0, wrong, text(0))


@pytest.mark.parametrize(
    "wrong", [UnitText(torch.arange(3), torch.tensor([2])), UnitText(torch.arange(2), torch.tensor([3]))]
)
def test_a_text_of_other_rows_is_refused(tmp_path, wrong):
    with pytest.raises(ConfigError, match="unit 0 has 3 rows; found") as caught:
        writer(tmp_path).write(0, unit(0), wrong)
    assert caught.value.code == "unit-shape"


def test_a_full_disk_keeps_finished_units(tmp_path, monkeypatch):
    opened = writer(tmp_path)
    opened.write(0, unit(0), text(0))
    fsync, calls = os.fsync, []

    def full(handle):
        calls.append(handle)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ResourceError, match="unit-00001") as caught:
        opened.write(1, unit(1), text(1))
    assert caught.value.code == "disk-full" and calls
    monkeypatch.setattr(os, "fsync", fsync)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["manifest.json", "unit-00000.safetensors"]
    assert writer(tmp_path).missing == [1, 2, 3]
    write(tmp_path)
    assert torch.equal(ActivationStore(tmp_path, verify=True).read(NAMES[0]), WHOLE[NAMES[0]].bfloat16().float())
