"""Peak memory of training a wide dictionary, against the formula that the out-of-memory error quotes.

    python benchmarks/memory.py [--small] [--json FILE]

Each case is a process of its own with one thread: three steps of a difference dictionary of 32,768 latents and width
960 on batches of 1,024 rows, latents that did not fire in a batch being dead in the next, so that AuxK takes its part.
The peak is the process's largest resident memory (`ru_maxrss`), the store several times its window; pages mapped from
its files are the system's to take back, and stand apart. Linux only. Nothing is asserted.
"""

import argparse
import json
import resource
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from common import machine, markdown, sentence, write
from saeaudit.activations import ActivationStore, StoreWriter, UnitText
from saeaudit.dictionaries import DictionaryConfig, build
from saeaudit.statistics import SiteStatistics
from saeaudit.training import CheckpointConfig, TrainConfig, WindowedBatches, tensor_batches, train
from saeaudit.training.memory import training_bytes

WIDTH, BATCH, K, N_STEPS = 960, 1024, 32, 3
UNIT_ROWS, WINDOW_MB, TENSOR = 8192, 64, "layers.0/tuned"
CASES = ("rows in memory", "with a checkpoint", "from a store")


def measure(case: str, n_latents: int, n_units: int, directory: Path) -> dict[str, int]:
    """Train in this process; return bytes: at the start, at the peak, as predicted, mapped from files at the end."""
    torch.set_num_threads(1)
    x = torch.randn(BATCH, WIDTH)
    batches: Any = tensor_batches(x, BATCH, seed=0, n_steps=N_STEPS)
    if case == "from a store":
        store = ActivationStore(write_store(directory / "store", n_units))
        rows = WindowedBatches(store, [TENSOR], BATCH, seed=0, n_steps=N_STEPS, window_bytes=WINDOW_MB << 20)
        batches = (parts[TENSOR] for parts in rows)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    config = DictionaryConfig(kind="diff", n_latents=n_latents, k=K)
    dictionary = build(config, SiteStatistics(x.mean(0), torch.tensor(1.0), BATCH), seed=0)
    checkpoint = CheckpointConfig(directory=directory / "checkpoints") if case == "with a checkpoint" else None
    train(dictionary, batches, TrainConfig(n_steps=N_STEPS, dead_after=1), checkpoint=checkpoint)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"before": before, "peak": peak, "predicted": training_bytes(dictionary.coder, BATCH), "mapped": mapped()}


def write_store(path: Path, n_units: int) -> Path:
    writer = StoreWriter(path, made_from={}, unit_rows=[UNIT_ROWS] * n_units, tensors=[TENSOR])
    for i in range(n_units):
        text = UnitText(torch.zeros(UNIT_ROWS, dtype=torch.int32), torch.tensor([UNIT_ROWS]))
        writer.write(i, {TENSOR: torch.randn(UNIT_ROWS, WIDTH)}, text)
    return path


def mapped() -> int:
    """Return the bytes of files, libraries included, that are in this process's resident memory."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssFile")) * 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="an eighth of the latents and of the store")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--case", choices=CASES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    n_latents, n_units = (4096, 4) if options.small else (32_768, 32)
    if options.case:
        with TemporaryDirectory() as directory:
            print(json.dumps(measure(options.case, n_latents, n_units, Path(directory))))
        return
    about = machine() | {"latents": n_latents, "width": WIDTH, "batch": BATCH}
    about |= {"store": f"{n_units * UNIT_ROWS * WIDTH * 2 / 1e6:.0f} MB", "window": f"{WINDOW_MB << 20} bytes"}
    print(sentence(about))
    results = {}
    for case in CASES:
        command = [sys.executable, __file__, *(["--small"] if options.small else []), "--case", case]
        results[case] = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    columns = ["", "before, GB", "peak, GB", "peak - before, GB", "formula, GB", "mapped files at the end, GB"]
    lines = [
        (
            case,
            *(f"{v / 1e9:.2f}" for v in (r["before"], r["peak"], r["peak"] - r["before"], r["predicted"], r["mapped"])),
        )
        for case, r in results.items()
    ]
    print(markdown(columns, lines))
    write(options.json, {"machine": about, "bytes": results})


if __name__ == "__main__":
    main()
