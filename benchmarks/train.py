"""Tokens a second of a whole training step: against dense autograd, or against other libraries.

    python benchmarks/train.py [--small] [--threads N] [--repeats 9] [--precision auto] [--json FILE]
    python benchmarks/train.py --dead SHARE [SHARE ...] [--threads N] [--repeats 9] [--precision auto] [--json FILE]
    python benchmarks/train.py --peers [PYTHON] [--tune] [--small] [--rows FILE] [--threads N] [--json FILE]

Without `--peers`: ours against the same step written as dense autograd, and against what its parts alone predict:
the encoder product, one bag (k rows of a matrix summed for each token) for each of the decoder, the exact values, their
gradient and the two weight gradients, and Adam. Both steps start from the same weights and use fused Adam, unit norms
and BatchTopK; competitors alternate, the median is reported.

With `--dead`: ours with AuxK while these shares of the latents are dead, against ours while none is.

With `--peers`: ours against sparsify, SAELens and dictionary_learning (`benchmarks/peers/README.md` says how to install
them), in processes of their own that take turns of 10 steps on the same rows: residuals of the embedded model on
neutral text, harvested into FILE if it does not exist. Every library trains by its own training function with its own
optimiser at the best of three learning rates, and is judged on held-out rows by its own inference rule. `--tune` tries
the rates first (long; it goes on where it was stopped) and keeps what it found beside the results.

Ratios count, absolute numbers are those of the machine. Nothing is asserted.
"""

import argparse
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from common import alternated, machine, markdown, quotients, sentence, spread, write
from peers.compare import Comparison, report
from peers.process import PYTHON
from peers.rows import write_rows
from saeaudit.dictionaries import DictionaryConfig, EncodeGemm, Precision, SparseCoder, build, resolve_precision
from saeaudit.seeds import torch_generator
from saeaudit.statistics import SiteStatistics
from saeaudit.training import AuxK

D_MODEL, BATCH, N_BATCHES = 576, 2048, 4
N_BAGS = 5
LAYER, N_ROWS, N_HELD_OUT = 14, 139_264, 8192
RATES = Path(__file__).parent / "results" / "train-rates.json"
ROWS = Path("out") / "benchmarks" / "rows.npy"


def planted(n_rows: int) -> Tensor:
    generator = torch_generator(0, "benchmark")
    atoms = torch.nn.functional.normalize(torch.randn(2 * D_MODEL, D_MODEL, generator=generator), dim=1)
    active = torch.rand(n_rows, len(atoms), generator=generator) < 24 / len(atoms)
    sizes = active * (1 + torch.rand(active.shape, generator=generator))
    return sizes @ atoms + 0.02 * torch.randn(n_rows, D_MODEL, generator=generator)


def batch(x: Tensor, i: int) -> Tensor:
    start = i % N_BATCHES * BATCH
    return x[start : start + BATCH]


def dictionary_for(x: Tensor, n_latents: int, k: int):
    mean = x.mean(0)
    stats = SiteStatistics(mean, (x - mean).square().mean().sqrt(), len(x))
    return build(DictionaryConfig(kind="sae", n_latents=n_latents, k=k), stats, seed=0)


def update(coder: SparseCoder, optimiser: torch.optim.Optimizer) -> None:
    """Do what follows the backward pass of a step."""
    coder.project_gradient()
    torch.nn.utils.clip_grad_norm_(coder.parameters(), 1.0)
    optimiser.step()
    optimiser.zero_grad()
    coder.project_weights()


def ours(x: Tensor, n_latents: int, k: int, precision: Precision, *, dead_share: float = 0.0) -> Callable[[int], None]:
    coder = dictionary_for(x, n_latents, k).coder
    dead = torch.arange(n_latents) < dead_share * n_latents
    coder.W_enc.data[dead] *= 0.02  # too small to win a place
    aux = AuxK()
    optimiser = torch.optim.Adam(coder.parameters(), lr=3e-4, fused=True)
    gemm = EncodeGemm(resolve_precision(precision, torch.device("cpu")))

    def step(i: int) -> None:
        forward = coder(batch(x, i), gemm=gemm)
        (forward.fvu + aux(forward, dead)).backward()
        update(coder, optimiser)

    return step


def dense(x: Tensor, n_latents: int, k: int) -> Callable[[int], None]:
    coder = dictionary_for(x, n_latents, k).coder
    optimiser = torch.optim.Adam(coder.parameters(), lr=3e-4, fused=True)

    def step(i: int) -> None:
        target = coder.scaled(batch(x, i))
        f = (target @ coder.W_enc.T + coder.b_enc).relu()
        top = f.flatten().topk(BATCH * k, sorted=False)
        code = torch.zeros_like(f).flatten().scatter(0, top.indices, top.values).view_as(f)
        error = target - (code @ coder.W_dec + coder.b_dec)
        (error.square().sum() / error.numel()).backward()
        update(coder, optimiser)

    return step


def parts(x: Tensor, n_latents: int, k: int, precision: Precision) -> dict[str, Callable[[int], object]]:
    """Return the parts of a step that its predicted time is made of, each alone."""
    coder = dictionary_for(x, n_latents, k).coder
    gemm = EncodeGemm(resolve_precision(precision, torch.device("cpu")))
    optimiser = torch.optim.Adam(coder.parameters(), lr=3e-4, fused=True)
    for parameter in coder.parameters():
        parameter.grad = torch.zeros_like(parameter)
    rows, indices, weights = batch(x, 0), torch.randint(n_latents, (BATCH, k)), torch.rand(BATCH, k)

    def bag(_: int) -> Tensor:
        return torch.nn.functional.embedding_bag(indices, coder.W_dec.detach(), mode="sum", per_sample_weights=weights)

    return {
        "product": lambda _: gemm(rows, coder.W_enc, coder.b_enc),
        "bag": bag,
        "Adam": lambda _: optimiser.step(),
    }


def against_dense(options: argparse.Namespace) -> None:
    x = planted(N_BATCHES * BATCH)
    about = machine() | {"precision": options.precision, "d_model": D_MODEL, "batch": BATCH}
    print(sentence(about))
    print("Median (min-max) of the rounds; predicted is the time of the parts alone.\n")
    results = []
    for n_latents in (2304,) if options.small else (2304, 4608):
        for k in (16, 32):
            steps: dict[str, Callable[[int], object]] = {
                "ours": ours(x, n_latents, k, options.precision),
                "dense": dense(x, n_latents, k),
            }
            steps |= parts(x, n_latents, k, options.precision)
            seconds = alternated(steps, warmups=3, repeats=3 if options.small else options.repeats)
            each = zip(seconds["product"], seconds["bag"], seconds["Adam"], strict=True)
            predicted = [product + N_BAGS * bag + adam for product, bag, adam in each]
            ratio = quotients(seconds["dense"], seconds["ours"])
            surplus = quotients(seconds["ours"], predicted)
            results.append(
                {"n_latents": n_latents, "k": k, "seconds": seconds, "ratio": ratio, "ours / predicted": surplus}
            )
    rows = [
        (
            r["n_latents"],
            r["k"],
            *(spread([BATCH / t for t in r["seconds"][name]], 0) for name in ("ours", "dense")),
            spread(r["ratio"]),
            *(spread([1e3 * t for t in r["seconds"][name]], 1) for name in ("product", "bag", "Adam")),
            spread(r["ours / predicted"]),
        )
        for r in results
    ]
    columns = ["latents", "k", "ours, tokens/s", "dense autograd, tokens/s", "dense / ours"]
    print(markdown([*columns, "product, ms", "bag, ms", "Adam, ms", "ours / predicted"], rows))
    after = machine()["load"]
    print(f"load afterwards {after}")
    write(options.json, {"machine": about, "load_after": after, "rows": results})


def against_none_dead(options: argparse.Namespace) -> None:
    x, n_latents, k = planted(N_BATCHES * BATCH), 4608, 32
    about = machine() | {"precision": options.precision, "d_model": D_MODEL, "batch": BATCH}
    print(sentence(about))
    steps = {share: ours(x, n_latents, k, options.precision, dead_share=share) for share in (0.0, *options.dead)}
    seconds = alternated({f"{share:.0%}": step for share, step in steps.items()}, warmups=2, repeats=options.repeats)
    rows = [
        (name, spread([BATCH / t for t in times], 0), spread(quotients(times, seconds["0%"])))
        for name, times in seconds.items()
    ]
    print(markdown(["dead", "tokens/s", "time / none dead"], rows))
    write(options.json, {"machine": about, "load_after": machine()["load"], "seconds": seconds})


def against_peers(options: argparse.Namespace) -> None:
    shape: dict[str, Any] = {"rows": str(options.rows.resolve()), "n_held_out": N_HELD_OUT, "threads": options.threads}
    shape |= {"n_latents": 4608, "k": 32, "batch_size": BATCH}
    shape |= {"n_steps": 14, "chunk": 2} if options.small else {"n_steps": 100, "chunk": 10}
    with tempfile.TemporaryDirectory() as logs:
        comparison = Comparison(options.peers, shape, Path(logs))
        comparison.require_same_torch()
        if not options.rows.exists():
            write_rows(options.rows, N_ROWS, layer=LAYER)
        if options.tune:
            half = shape | {"n_steps": shape["n_steps"] // 2}
            Comparison(options.peers, half, Path(logs)).tune(options.rates)
        rates = json.loads(options.rates.read_text()) if options.rates.exists() else []
        print(report(comparison.run(rates, options.json)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="a quick look: the narrow dictionary, or 14 steps")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--precision", choices=["auto", "float32", "bfloat16"], default="auto")
    parser.add_argument("--dead", type=float, nargs="+", metavar="SHARE", help="of the latents, in 0..1")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--peers", type=Path, nargs="?", const=PYTHON, metavar="PYTHON", help="of their environment")
    parser.add_argument("--tune", action="store_true", help="try three learning rates for each library first")
    parser.add_argument("--rates", type=Path, default=RATES, help="what --tune found")
    parser.add_argument("--rows", type=Path, default=ROWS, help="rows to train on, made if missing")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    (against_peers if options.peers else against_none_dead if options.dead else against_dense)(options)


if __name__ == "__main__":
    main()
