"""What ranks tell each other; and that one process pays nothing for it."""

import subprocess
import sys

import pytest
import torch

from processes import in_processes
from saeaudit.distributed import ALONE, WHOLE, Ranks, grid_of, joined
from saeaudit.errors import ConfigError


def test_collectives_of_three_processes(tmp_path):
    def work(ranks):
        x = torch.tensor([1.0, -2.0]) * (ranks.rank + 1)
        ranks.barrier()
        return {
            "sum": ranks.sum(x.clone()),
            "mean": ranks.mean(x.clone()),
            "max": ranks.max(x.clone()),
            "min": ranks.min(x.clone()),
            "gather": ranks.gather(x[:1]),
            "json": ranks.gather_json({"rank": ranks.rank, "text": "é" * ranks.rank}),
        }

    for found in in_processes(3, work, tmp_path):
        assert found["sum"].tolist() == [6.0, -12.0] and found["mean"].tolist() == [2.0, -4.0]
        assert found["max"].tolist() == [3.0, -2.0] and found["min"].tolist() == [1.0, -6.0]
        assert found["gather"].tolist() == [[1.0], [2.0], [3.0]]
        assert found["json"] == [{"rank": rank, "text": "é" * rank} for rank in range(3)]


def test_a_grid_has_rows_and_columns(tmp_path):
    """Four ranks, two shards: neighbours divide the latents, every second rank the rows."""

    def work(ranks):
        grid, own = grid_of(ranks, latent_shards=2), torch.tensor([float(ranks.rank)])
        groups = (grid.rows, grid.latents, grid.world, grid.compete, grid_of(ranks, selection="local").compete)
        return {"members": [group.gather(own).flatten().tolist() for group in groups], "rank": grid.latents.rank}

    found = in_processes(4, work, tmp_path)
    rows, latents = [[0.0, 2.0], [1.0, 3.0]], [[0.0, 1.0], [2.0, 3.0]]
    for rank, (members, place) in enumerate((f["members"], f["rank"]) for f in found):
        assert members[:2] == [rows[rank % 2], latents[rank // 2]] and place == rank % 2
        assert members[2] == members[3] == [0.0, 1.0, 2.0, 3.0] and members[4] == [float(rank)]


def test_shards_that_do_not_divide_the_processes():
    with pytest.raises(ConfigError, match="groups of 2 were asked of 3 processes") as caught:
        grid_of(Ranks(0, 3), latent_shards=2)
    assert caught.value.code == "ranks-not-divisible"


def test_one_process_is_given_back_what_it_gave():
    x = torch.tensor([1.0, 2.0])
    assert all(getattr(ALONE, name)(x) is x for name in ("sum", "mean", "max", "min"))
    assert torch.equal(ALONE.gather(x), x.unsqueeze(0)) and ALONE.gather_json({"a": 1}) == [{"a": 1}]
    assert grid_of(ALONE) == WHOLE
    with joined() as ranks:
        assert ranks is ALONE and not torch.distributed.is_initialized()


def test_without_torchrun_nothing_is_imported():
    script = "import sys; from saeaudit.distributed import joined\nwith joined(): print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_a_rank_that_is_gone_is_an_error_of_the_others(tmp_path):
    def work(ranks):
        if ranks.rank == 1:
            return {"code": "gone"}
        from saeaudit.errors import ResourceError

        with pytest.raises(ResourceError, match="another process of this run stopped") as caught:
            for _ in range(1000):
                ranks.barrier()
        return {"code": caught.value.code}

    assert in_processes(2, work, tmp_path)[0]["code"] == "rank-lost"
