"""Eight dictionaries in one pass over a store against the same eight one by one, each reading the store itself.

Both train, calibrate, judge and save: as functions of one process, and as commands, where starting Python and torch
counts too. Rounds alternate. Nothing is asserted: the ratio is printed, below 1 the pass is faster. What it saves is
reading, statistics and starting, so the ratio nears 1 the wider a dictionary is and the more epochs it is trained.

    python benchmarks/train_many.py [--small] [--threads N] [--repeats 2] [--json FILE]
"""

import argparse
import os
import subprocess
import sys
from collections.abc import Callable
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from common import alternated, machine, markdown, quotients, sentence, spread, write
from saeaudit.activations import StoreWriter, UnitText
from saeaudit.audit.one_dictionary import StoreTraining
from saeaudit.audit.train_store import train_from_store, train_many_from_store
from saeaudit.seeds import torch_generator

D_MODEL, N_ROWS, UNIT_ROWS, SITES = 576, 16_384, 8192, ("layers.9", "layers.13")


def write_store(path: Path) -> Path:
    """Two sites of planted sparse data, base and difference."""
    generator = torch_generator(0, "benchmark")
    names = [f"{site}/{side}" for site in SITES for side in ("base", "tuned")]
    atoms = torch.nn.functional.normalize(torch.randn(len(names), 1024, D_MODEL, generator=generator), dim=-1)
    units = [UNIT_ROWS] * (N_ROWS // UNIT_ROWS)
    writer = StoreWriter(path, made_from={"models": {}}, unit_rows=units, tensors=names)
    for i, n in enumerate(units):
        sizes = (torch.rand(n, 1024, generator=generator) < 16 / 1024).float()
        text = UnitText(torch.zeros(n, dtype=torch.int32), torch.full((n // 64,), 64))
        writer.write(i, {name: sizes @ directions for name, directions in zip(names, atoms, strict=True)}, text)
    return path


def sweep(n_samples: int, expansion: int) -> dict[str, StoreTraining]:
    """Difference dictionaries of two sites, with two numbers of active latents and two seeds."""
    return {
        f"{site}-k{k}-seed{seed}": StoreTraining(site=site, k=k, seed=seed, n_samples=n_samples, expansion=expansion)
        for site, k, seed in product(SITES, (16, 32), (0, 1))
    }


def in_one_process(store: Path, n_samples: int, expansion: int) -> dict[str, Callable[[int], object]]:
    configs = sweep(n_samples, expansion)

    def one_pass(i: int) -> None:
        with TemporaryDirectory() as out:
            assert not train_many_from_store(store, configs, out=Path(out)).failed

    def one_by_one(i: int) -> None:
        with TemporaryDirectory() as out:
            for name, config in configs.items():
                train_from_store(store, config, out=Path(out) / name)

    return {"one pass": one_pass, "one by one": one_by_one}


def as_commands(store: Path, n_samples: int, expansion: int) -> dict[str, Callable[[int], object]]:
    sizes = ["--set", f"n_samples={n_samples}", "--set", f"expansion={expansion}"]
    every = [
        *(word for site in SITES for word in ("--site", site)),
        "--k",
        "16",
        "--k",
        "32",
        "--seed",
        "0",
        "--seed",
        "1",
    ]

    def run(out: str, options: list[str]) -> None:
        command = [sys.executable, "-m", "saeaudit", "train", str(store), "--out", out, *options]
        subprocess.run(command, check=True, capture_output=True)

    def one_pass(i: int) -> None:
        with TemporaryDirectory() as out:
            run(f"{out}/all", [*every, *sizes])

    def one_by_one(i: int) -> None:
        with TemporaryDirectory() as out:
            for name, c in sweep(n_samples, expansion).items():
                run(f"{out}/{name}", ["--site", c.site, "--k", str(c.k), "--seed", str(c.seed), *sizes])

    return {"one pass": one_pass, "one by one": one_by_one}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="a quick look: 1 round, no commands")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    os.environ["OMP_NUM_THREADS"] = str(options.threads)
    repeats = 1 if options.small else options.repeats
    about = machine() | {"d_model": D_MODEL, "rows": N_ROWS, "dictionaries": 8}
    print(sentence(about))
    results = []
    with TemporaryDirectory() as directory:
        store = write_store(Path(directory) / "store")
        train_from_store(store, sweep(2048, 1)["layers.9-k16-seed0"], out=Path(directory) / "warm")
        cases = [("functions", in_one_process, 1, repeats), ("functions", in_one_process, 4, repeats)]
        cases += [] if options.small else [("commands", as_commands, 4, 1)]
        for name, make, expansion, rounds in cases:
            seconds = alternated(make(store, N_ROWS, expansion), warmups=0, repeats=rounds)
            ratio = quotients(seconds["one pass"], seconds["one by one"])
            results.append({"as": name, "n_latents": expansion * D_MODEL, "seconds": seconds, "ratio": ratio})
    rows = [
        (r["as"], r["n_latents"], *(spread(v, 1) for v in r["seconds"].values()), spread(r["ratio"])) for r in results
    ]
    print(markdown(["as", "latents", "one pass, s", "one by one, s", "one pass / one by one"], rows))
    after = machine()["load"]
    print(f"load afterwards {after}")
    write(options.json, {"machine": about, "load_after": after, "rows": results})


if __name__ == "__main__":
    main()
