"""Ranks that divide a step train the dictionary that one process trains."""

import pytest
import torch

from dictionary_configs import CASES
from planted_dictionaries import dictionary_for, generator
from processes import in_processes
from saeaudit.dictionaries import merge, shard
from saeaudit.distributed import WHOLE, grid_of
from saeaudit.errors import ConfigError, EvidenceError, NumericsError, ResourceError
from saeaudit.training import Callback, CheckpointConfig, TrainConfig, tensor_batches, train

N_STEPS, BATCH = 12, 32
CONFIG = TrainConfig(n_steps=N_STEPS, lr=3e-3, dead_after=60, precision="float32", log_every=6)
ROUNDED = CONFIG.model_copy(update={"precision": "bfloat16"})
SHARDABLE = {
    f"{kind} {rule}": (kind, {"sparsity": rule, "aux_alpha": 0.5, "aux_k": 4})
    for kind in ("sae", "diff", "crosscoder")
    for rule in ("topk", "batchtopk")
}


class Logs(Callback):
    def __init__(self):
        self.seen = []

    def on_log(self, metrics):
        self.seen.append({name: value for name, value in metrics.items() if "second" not in name})


def rows_for(kind):
    g = generator(3)
    shape = (2, 6) if kind == "crosscoder" else (6,)
    atoms = torch.randn(5, *shape, generator=g)
    sizes = torch.rand(320, 5, generator=g) * (torch.rand(320, 5, generator=g) < 0.4)
    return torch.einsum("na,a...->n...", sizes, atoms) + 0.05 * torch.randn(320, *shape, generator=g)


def trained(case, grid=WHOLE, *, config=CONFIG, dtype=torch.float32, checkpoint=None, cases=CASES, n_steps=None):
    """All that a run leaves, as tensors and numbers."""
    kind, given = cases[case]
    x = rows_for(kind).to(dtype)
    dictionary = dictionary_for(x.float(), kind, n_latents=20, **({"k": 3} | given)).to(dtype)
    if dtype == torch.float64:
        # Silent from the start, so that every way of reviving has work. Not in fp32: where such a latent's gradient is
        # but rounding, Adam makes a step of full size of it.
        dictionary.coder.b_enc.data[:4] -= 4
    shard(dictionary, grid.latents)
    logs, n_steps = Logs(), n_steps or config.n_steps
    batches = tensor_batches(x, BATCH, seed=0, n_steps=n_steps)
    if dtype == torch.float64:
        batches = [batch.double() for batch in batches]
    result = train(dictionary, batches, config, callbacks=[logs], grid=grid, checkpoint=checkpoint)
    merge(dictionary, grid.latents)
    assert result.n_tokens == N_STEPS * BATCH
    return {
        "weights": {name: value.detach() for name, value in dictionary.coder.state_dict().items()},
        "logs": logs.seen,
        "fit": [result.fvu, result.l0, result.dead_share],
    }


def agree(found, expected, *, rtol):
    for name, value in expected["weights"].items():
        scale = float(value.abs().max().clamp_min(1e-3))
        torch.testing.assert_close(found["weights"][name] / scale, value / scale, rtol=0, atol=rtol, msg=name)
    assert found["fit"] == pytest.approx(expected["fit"], rel=rtol)
    for ours, theirs in zip(found["logs"], expected["logs"], strict=True):
        assert ours == pytest.approx(theirs, rel=10 * rtol, abs=1e-9)


@pytest.fixture(scope="module")
def divided(tmp_path_factory):
    """Every loss and rule, its rows divided between two processes, in fp64: rounding has no part in a difference."""

    def work(ranks):
        return {case: trained(case, grid_of(ranks), dtype=torch.float64) for case in CASES}

    return in_processes(2, work, tmp_path_factory.mktemp("rows"))


@pytest.mark.parametrize("case", CASES)
def test_rows_divided_are_one_process(divided, case):
    expected = trained(case, dtype=torch.float64)
    agree(divided[0][case], expected, rtol=1e-9)
    assert divided[1][case]["logs"] == [], "the first rank alone tells the callbacks"
    for name, value in divided[0][case]["weights"].items():
        assert torch.equal(value, divided[1][case]["weights"][name]), "every rank has the same bits"


def test_some_latents_died_so_that_the_revival_was_tested(divided):
    assert any(log["loss/auxk"] > 0 for log in divided[0]["topk"]["logs"])
    assert any(log["loss/ghost"] != 0 for log in divided[0]["ghost of 2024"]["logs"])
    assert any(0 < log["dead_share"] < 1 for log in divided[0]["matryoshka"]["logs"])


@pytest.fixture(scope="module")
def in_float32(tmp_path_factory):
    def work(ranks):
        everyone, latents = grid_of(ranks), grid_of(ranks, latent_shards=2)
        local = grid_of(ranks, selection="local")
        return {
            "rows": {case: trained(case, everyone, cases=SHARDABLE) for case in SHARDABLE},
            "latents": {case: trained(case, latents, cases=SHARDABLE) for case in SHARDABLE},
            "exact": {case: trained(case, latents, cases=SHARDABLE, dtype=torch.float64) for case in SHARDABLE},
            "local": trained("sae batchtopk", local, cases=SHARDABLE),
            "rounded": {
                (case, how): trained(case, grid, config=ROUNDED, cases=SHARDABLE)
                for case in SHARDABLE
                for how, grid in (("rows", everyone), ("latents", latents))
            },
        }

    return in_processes(2, work, tmp_path_factory.mktemp("float32"))


@pytest.mark.parametrize("case", SHARDABLE)
@pytest.mark.parametrize(("how", "rtol"), [("rows", 1e-6), ("latents", 1e-5)])
def test_either_division_in_float32(in_float32, case, how, rtol):
    agree(in_float32[0][how][case], trained(case, cases=SHARDABLE), rtol=rtol)
    assert in_float32[0][how][case]["weights"]["W_enc"].shape[0] == 20


@pytest.mark.parametrize("case", SHARDABLE)
def test_latents_divided_are_one_process(in_float32, case):
    expected = trained(case, cases=SHARDABLE, dtype=torch.float64)
    agree(in_float32[0]["exact"][case], expected, rtol=1e-9)


@pytest.mark.parametrize("case", SHARDABLE)
@pytest.mark.parametrize("how", ["rows", "latents"])
def test_ties_of_rounded_scores_go_as_in_one_process(in_float32, case, how):
    agree(in_float32[0]["rounded"][case, how], trained(case, config=ROUNDED, cases=SHARDABLE), rtol=1e-5)


def test_local_selection_gives_every_rank_its_own_budget(in_float32):
    ours, whole = in_float32[0]["local"], trained("sae batchtopk", cases=SHARDABLE)
    assert ours["fit"][1] == whole["fit"][1] == pytest.approx(3)
    assert not torch.allclose(ours["weights"]["W_enc"], whole["weights"]["W_enc"], atol=1e-4)
    for name, value in ours["weights"].items():
        assert torch.equal(value, in_float32[1]["local"]["weights"][name]), name


def test_rows_and_latents_at_once(tmp_path):
    found = in_processes(
        4,
        lambda ranks: trained("crosscoder batchtopk", grid_of(ranks, latent_shards=2), cases=SHARDABLE),
        tmp_path,
    )
    agree(found[0], trained("crosscoder batchtopk", cases=SHARDABLE), rtol=1e-5)


@pytest.mark.parametrize("shards", [1, 2])
def test_a_run_continues_from_the_newest_checkpoint_of_all(tmp_path, shards):
    """Interrupted at step 9 of 12; one shard then loses its last checkpoint, as if killed while it was written."""

    def run(ranks, n_steps=None):
        grid = grid_of(ranks, latent_shards=shards)
        checkpoint = CheckpointConfig(directory=tmp_path / "state", every=3)
        return trained("diff batchtopk", grid, cases=SHARDABLE, checkpoint=checkpoint, n_steps=n_steps)

    def interrupted(ranks):
        with pytest.raises(EvidenceError):
            run(ranks, n_steps=9)
        return {}

    in_processes(2, interrupted, tmp_path / "first")
    kept = sorted(path.relative_to(tmp_path / "state") for path in (tmp_path / "state").rglob("step-*"))
    assert len(kept) == 2 * shards
    if shards > 1:
        newest = kept[-1]
        assert str(newest) == "shard-1-of-2/step-000000009"
        (tmp_path / "state" / newest).rename(tmp_path / "lost")
    continued = in_processes(2, run, tmp_path / "second")[0]

    def straight(ranks):
        return trained("diff batchtopk", grid_of(ranks, latent_shards=shards), cases=SHARDABLE)

    expected = in_processes(2, straight, tmp_path / "third")[0]
    for name, value in expected["weights"].items():
        assert torch.equal(continued["weights"][name], value), name
    assert continued["logs"] == expected["logs"][-len(continued["logs"]) :]


def test_another_number_of_processes_continues(tmp_path):
    checkpoint = CheckpointConfig(directory=tmp_path / "state", every=3)

    def interrupted(ranks):
        with pytest.raises(EvidenceError):
            trained("diff batchtopk", grid_of(ranks), cases=SHARDABLE, checkpoint=checkpoint, n_steps=6)
        return {}

    in_processes(2, interrupted, tmp_path / "meet")
    assert len(list((tmp_path / "state").iterdir())) == 2
    expected = trained("diff batchtopk", cases=SHARDABLE)
    found = trained("diff batchtopk", cases=SHARDABLE, checkpoint=checkpoint)
    agree(found | {"logs": []}, expected | {"logs": []}, rtol=1e-6)
    assert len(found["logs"]) < len(expected["logs"]), "the first half was not done again"


def test_rows_that_cannot_be_divided(tmp_path):
    def work(ranks):
        with pytest.raises(ConfigError, match="32 rows cannot be divided among 3 processes") as caught:
            trained("topk", grid_of(ranks))
        return {"code": caught.value.code}

    assert in_processes(3, work, tmp_path)[0]["code"] == "batch-not-divisible"


@pytest.mark.parametrize(
    ("case", "reason"),
    [
        ("matryoshka", "the rule matryoshka is not topk or batchtopk"),
        ("relu", "a penalty is added"),
        ("layouts", "ranges of their own"),
        ("topk with a decoder bias before encoding", "subtracted before encoding"),
        ("topk and L1, tied, as published", "encoder and decoder are one matrix"),
    ],
)
def test_dictionaries_that_cannot_be_sharded(case, reason):
    from saeaudit.distributed import Ranks

    kind, given = CASES[case]
    dictionary = dictionary_for(rows_for(kind), kind, n_latents=20, **({"k": 3} | given))
    with pytest.raises(ConfigError, match=reason) as caught:
        shard(dictionary, Ranks(0, 2))
    assert caught.value.code == "not-shardable"
    with pytest.raises(ConfigError, match="20 latents cannot be cut into 3 equal parts"):
        shard(dictionary_for(rows_for("sae"), n_latents=20), Ranks(0, 3))


def test_a_number_that_is_not_finite_on_one_rank_stops_all(tmp_path):
    def work(ranks):
        x = rows_for("sae")
        x[3] = float("nan")  # in the first half of the batch: the rows of rank 0
        dictionary = dictionary_for(rows_for("sae"), n_latents=20)
        with pytest.raises(NumericsError, match="step 0"):
            train(dictionary, [x[:BATCH]] * 12, CONFIG, grid=grid_of(ranks))
        assert all(bool(torch.isfinite(p).all()) for p in dictionary.parameters())
        return {}

    in_processes(2, work, tmp_path)


def test_an_error_of_one_rank_ends_the_runs_of_all(tmp_path):
    def work(ranks):
        class Broken(Callback):
            def on_log(self, metrics):
                raise EvidenceError("no disk", code="x")  # the first rank alone is told

        dictionary = dictionary_for(rows_for("sae"), n_latents=20)
        batches = tensor_batches(rows_for("sae"), BATCH, seed=0, n_steps=12)
        try:
            train(dictionary, batches, CONFIG, grid=grid_of(ranks), callbacks=[Broken()])
        except (EvidenceError, ResourceError) as error:
            return {"code": error.code}

    assert [found["code"] for found in in_processes(2, work, tmp_path)] == ["x", "rank-lost"]
