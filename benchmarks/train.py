"""Tokens a second of a whole training step: ours against the same step written as dense autograd.

Both start from the same weights and use fused Adam, unit norms and BatchTopK; competitors alternate, the median is
reported. Ratios count, absolute numbers are those of the machine. Nothing is asserted.

    python benchmarks/train.py [--threads 1] [--repeats 9] [--json FILE]
"""

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from saeaudit.dictionaries import DictionaryConfig, EncodeGemm, build, resolve_precision
from saeaudit.seeds import torch_generator
from saeaudit.statistics import SiteStatistics

D_MODEL, BATCH, N_BATCHES = 576, 2048, 4


def planted(n_rows: int) -> Tensor:
    generator = torch_generator(0, "benchmark")
    atoms = torch.nn.functional.normalize(torch.randn(2 * D_MODEL, D_MODEL, generator=generator), dim=1)
    active = torch.rand(n_rows, len(atoms), generator=generator) < 24 / len(atoms)
    sizes = active * (1 + torch.rand(active.shape, generator=generator))
    return sizes @ atoms + 0.02 * torch.randn(n_rows, D_MODEL, generator=generator)


def dictionary_for(x: Tensor, n_latents: int, k: int):
    mean = x.mean(0)
    stats = SiteStatistics(mean, (x - mean).square().mean().sqrt(), len(x))
    return build(DictionaryConfig(kind="sae", n_latents=n_latents, k=k), stats, seed=0)


def ours(x: Tensor, n_latents: int, k: int, precision: str) -> Callable[[int], None]:
    coder = dictionary_for(x, n_latents, k).coder
    optimiser = torch.optim.Adam(coder.parameters(), lr=3e-4, fused=True)
    gemm = EncodeGemm(resolve_precision(precision, torch.device("cpu")))

    def step(i: int) -> None:
        coder(x[i * BATCH : (i + 1) * BATCH], gemm=gemm).fvu.backward()
        coder.project_gradient()
        torch.nn.utils.clip_grad_norm_(coder.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad()
        coder.project_weights()

    return step


def dense(x: Tensor, n_latents: int, k: int) -> Callable[[int], None]:
    coder = dictionary_for(x, n_latents, k).coder
    optimiser = torch.optim.Adam(coder.parameters(), lr=3e-4, fused=True)

    def step(i: int) -> None:
        target = coder.scaled(x[i * BATCH : (i + 1) * BATCH])
        f = (target @ coder.W_enc.T + coder.b_enc).relu()
        top = f.flatten().topk(BATCH * k, sorted=False)
        code = torch.zeros_like(f).flatten().scatter(0, top.indices, top.values).view_as(f)
        error = target - (code @ coder.W_dec + coder.b_dec)
        (error.square().sum() / error.numel()).backward()
        coder.project_gradient()
        torch.nn.utils.clip_grad_norm_(coder.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad()
        coder.project_weights()

    return step


def interleaved(steps: dict[str, Callable[[int], None]], repeats: int) -> dict[str, list[float]]:
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for i in range(3 + repeats):
        for name, step in steps.items():
            began = time.perf_counter()
            step(i % N_BATCHES)
            if i >= 3:
                seconds[name].append(time.perf_counter() - began)
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--precision", choices=["auto", "float32", "bfloat16"], default="auto")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    x = planted(N_BATCHES * BATCH)
    machine = {"torch": torch.__version__, "machine": platform.machine(), "threads": options.threads}
    rows = []
    print(f"{machine}, load {os.getloadavg()[0]:.1f} of {os.cpu_count()} cores, d={D_MODEL}, B={BATCH}")
    print(
        f"{'F':>6} {'k':>4} {'ours tok/s':>11} {'dense tok/s':>11} {'ratio':>6}   ms ours (min-max) / dense (min-max)"
    )
    for n_latents in (2304, 4608):
        for k in (16, 32):
            steps = {"ours": ours(x, n_latents, k, options.precision), "dense": dense(x, n_latents, k)}
            seconds = interleaved(steps, options.repeats)
            median = {name: statistics.median(times) for name, times in seconds.items()}
            row = {"n_latents": n_latents, "k": k, **{name: BATCH / t for name, t in median.items()}}
            row["ratio"] = median["dense"] / median["ours"]
            rows.append({**row, "seconds": seconds})
            spread = " / ".join(f"{1e3 * min(t):.0f}-{1e3 * max(t):.0f}" for t in seconds.values())
            print(f"{n_latents:>6} {k:>4} {row['ours']:>11.0f} {row['dense']:>11.0f} {row['ratio']:>5.1f}x   {spread}")
    if options.json:
        text = json.dumps({"machine": machine, "load": os.getloadavg()[0], "rows": rows}, indent=1)
        options.json.write_text(text + "\n")


if __name__ == "__main__":
    main()
