"""`evaluate` with real tiny models: from two checkpoints to a judged dictionary."""

import json

import pytest

from tiny import save_checkpoint, tiny_loaded, tuned_copy

WORDS = "cat dog mat sat year good name mild users weather harvest looked where from select the".split()  # noqa: SIM905


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    directory = tmp_path_factory.mktemp("pair")
    save_checkpoint(directory / "base")
    save_checkpoint(directory / "tuned", model=tuned_copy(tiny_loaded()).model)
    texts = [" ".join(WORDS[(i * k + k * k) % len(WORDS)] for k in range(9)) for i in range(1, 121)]
    (directory / "corpus.txt").write_text("\n\n".join(texts))
    return directory


@pytest.fixture
def trained(saeaudit, pair, tmp_path):
    """(store, dictionary of a kind) made by the other commands."""

    def make(kind):
        corpus = ["--corpus", pair / "corpus.txt", "--layers", "1", "--max-length", "32"]
        done = saeaudit("harvest", pair / "base", pair / "tuned", *corpus, "--out", tmp_path / "store")
        assert done.code == 0, done.err
        sizes = [f"--set={s}" for s in ("expansion=2", "k=4", "n_samples=4000", "batch_size=100")]
        arguments = ["--site", "layers.1", "--kind", kind, "--out", tmp_path / kind]
        assert saeaudit("train", tmp_path / "store", *arguments, *sizes).code == 0
        return tmp_path / "store", tmp_path / kind

    return make


QUICK = ["--set", "n_resamples=100", "--set", "max_length=32", "--set", "template_ids=1,2"]


@pytest.mark.parametrize("kind", ["sae", "diff", "crosscoder"])
def test_a_dictionary_is_judged_with_its_models(saeaudit, trained, pair, tmp_path, kind):
    store, dictionary = trained(kind)
    models = ["--base", pair / "base", "--corpus", pair / "corpus.txt"]
    models += [] if kind == "sae" else ["--tuned", pair / "tuned"]
    out = tmp_path / "found.json"
    done = saeaudit("evaluate", dictionary, "--store", store, "--out", out, *models, *QUICK)
    assert done.code == 0, done.err
    for expected in ("Reconstruction", "fvu", "L0", "mostly on the template", "gap_closed", f"results: {out}"):
        assert expected in done.out
    assert ("Latent scaling" in done.out) == (kind != "sae")
    found = json.loads(out.read_text())
    assert found["schema"] == 1 and found["settings"]["base"] == str(pair / "base")
    assert found["kind"] == kind and found["dictionary"]["code"]["l0"]["value"] > 0
    assert list(found["splice"]) == (["base"] if kind == "sae" else ["base", "tuned"])
    assert 0 < found["splice"]["base"]["kl_clean_splice"]["value"] < 10
    # An eighth of the documents is held out; a document has a dozen tokens.
    assert found["splice"]["base"]["ce_clean"]["n"] < found["n_rows"]

    (tmp_path / "folder").mkdir()
    done = saeaudit("evaluate", dictionary, "--store", store, "--out", tmp_path / "folder")
    assert done.code == 2 and "nothing is overwritten" in done.err, "not after the work"
    again = saeaudit("evaluate", dictionary, "--store", store, "--out", out)
    assert again.code == 2 and "nothing is overwritten" in again.err


def test_another_model_is_refused(saeaudit, trained, pair, tmp_path):
    store, dictionary = trained("sae")
    models = ["--base", pair / "tuned", "--corpus", pair / "corpus.txt"]
    done = saeaudit("evaluate", dictionary, "--store", store, "--out", tmp_path / "o.json", *models, *QUICK)
    assert done.code == 2 and "trained on a base model with weights" in done.err
    assert not (tmp_path / "o.json").exists()


def test_bad_settings_and_missing_inputs_are_named(saeaudit, tmp_path):
    base = ["evaluate", tmp_path / "none", "--store", tmp_path / "none", "--out", tmp_path / "o.json"]
    assert "n_resamples (from --set)" in saeaudit(*base, "--set", "n_resamples=1").err
    assert "needs base and corpus together" in saeaudit(*base, "--base", "b").err
    done = saeaudit(*base, "--device", "cuda:99")
    assert done.code == 2 and "device 'cuda:99' was asked for" in done.err
    done = saeaudit(*base)
    assert done.code == 2 and str(tmp_path / "none") in done.err
