"""One GPU: the encoder product, the sparse sums, and whole training steps, each against what the device can do.

    python benchmarks/gpu.py [--peers] [--small] [--repeats 9] [--json FILE]
    python benchmarks/gpu.py --device cpu                # the same on a CPU, at sizes for one
    python benchmarks/gpu.py --small --device cpu        # that it runs; the numbers mean nothing

- Product: the encoder's pre-activations against a bare bfloat16 matrix product of the same shape.
- Sums: Triton against plain torch, with the bytes of the gathered rows a second. A rate above that of a plain copy
  means that rows came from the cache.
- Step: a whole step of the training loop, optimiser and logging included, against the same step as dense autograd in
  bfloat16 and, with `--peers`, against sparsify with its Triton kernels (pip install eai-sparsify). Useful FLOP are
  those of the encoder and of the chosen places; the roofline is the bare product.

Competitors alternate; medians (min-max) of the rounds. Ratios count. Nothing is asserted.
"""

import argparse
import importlib.util
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from common import alternated, machine, markdown, quotients, sentence, spread, write
from saeaudit.dictionaries import DictionaryConfig, EncodeGemm, Rule, build
from saeaudit.dictionaries.code import Places, places_of_flat
from saeaudit.dictionaries.kernels import reference, with_torch
from saeaudit.dictionaries.kernels.choice import Kernels
from saeaudit.statistics import SiteStatistics
from saeaudit.training import Run, TrainConfig

N_BATCHES = 2
Runs = Mapping[str, Callable[[int], object]]


@dataclass(frozen=True)
class Size:
    """A dictionary and its batch; two sides are a crosscoder, one is an SAE."""

    d_model: int
    n_sides: int
    n_latents: int
    k: int
    batch: int

    @property
    def width(self) -> int:
        return self.d_model * self.n_sides

    @property
    def encode_flop(self) -> int:
        return 2 * self.batch * self.width * self.n_latents

    @property
    def useful_flop(self) -> int:
        """Encoder, decoder, gradient of the values, and both weight gradients at the chosen places."""
        return self.encode_flop + 8 * self.batch * self.width * self.k


PAPER = (Size(2304, 2, 73_728, 100, 8192), Size(576, 1, 36_864, 100, 8192))
CPU = (Size(576, 1, 8192, 32, 1024), Size(576, 1, 4608, 32, 2048))
SMALL = (Size(16, 2, 64, 4, 32), Size(16, 1, 64, 4, 32))


def synchronised(device: torch.device, runs: Runs) -> Runs:
    """Return the same calls, each ending when the device has finished."""
    if device.type == "cpu":
        return runs

    def waiting(run: Callable[[int], object]) -> Callable[[int], None]:
        def call(i: int) -> None:
            run(i)
            torch.cuda.synchronize(device)

        return call

    return {name: waiting(run) for name, run in runs.items()}


def batches(size: Size, device: torch.device) -> list[Tensor]:
    shape = (size.batch, 2, size.d_model) if size.n_sides == 2 else (size.batch, size.d_model)
    return [torch.randn(shape, device=device) for _ in range(N_BATCHES)]


def products(size: Size, device: torch.device) -> Runs:
    x, W = torch.randn(size.batch, size.width, device=device), torch.randn(size.n_latents, size.width, device=device)
    x16, W16, b, gemm = (
        x.bfloat16(),
        W.bfloat16(),
        torch.zeros(size.n_latents, device=device),
        EncodeGemm(torch.bfloat16),
    )
    out = torch.empty(size.batch, size.n_latents, dtype=torch.bfloat16, device=device)
    return {"bare": lambda _: torch.mm(x16, W16.T, out=out), "encode": lambda _: gemm(x, W, b)}


def kernels_for(device: torch.device) -> dict[str, Kernels]:
    """Return what can be compared; without Triton, the dense formulas take its place."""
    if device.type == "cpu" or importlib.util.find_spec("triton") is None:
        return {"torch": with_torch, "reference": reference}
    from saeaudit.dictionaries.kernels import with_triton

    return {"torch": with_torch, "triton": with_triton}


def places_for(size: Size, device: torch.device) -> Places:
    """Return `k` latents a row, some of which fire far more often than others."""
    popularity = torch.rand(size.n_latents, device=device).pow(4).add(1e-6)
    indices = torch.multinomial(popularity.expand(size.batch, -1), size.k)
    rows = torch.arange(size.batch, device=device)[:, None]
    places = places_of_flat((rows * size.n_latents + indices.sort(1).values).flatten(), size.batch, size.n_latents)
    _ = places.rows, places.by_latent  # once a step, for all sums
    return places


def sums(size: Size, device: torch.device) -> dict[str, Runs]:
    places = places_for(size, device)
    x, W = torch.randn(size.batch, size.width, device=device), torch.randn(size.n_latents, size.width, device=device)
    values = torch.rand(len(places.latents), device=device)
    arguments = {"bag": (values, W), "dots": (x, W), "weight_gradient": (values, x)}

    def summing(kernels: Kernels, name: str) -> Callable[[int], object]:
        return lambda _: getattr(kernels, name)(*arguments[name], places)

    kinds = kernels_for(device)
    return {name: {way: summing(kernels, name) for way, kernels in kinds.items()} for name in arguments}


def ours(size: Size, rule: Rule, device: torch.device, xs: list[Tensor]) -> Callable[[int], object]:
    kind = "crosscoder" if size.n_sides == 2 else "sae"
    mean = xs[0].mean(0).cpu()
    statistics = SiteStatistics(mean, torch.ones(mean.shape[:-1]), size.batch)
    config = DictionaryConfig(kind=kind, n_latents=size.n_latents, k=size.k, sparsity=rule)
    run = Run(build(config, statistics, seed=0).to(device), TrainConfig(n_steps=10**6, precision="bfloat16"))
    run.start(seekable=False)
    return lambda i: run.step(xs[i % N_BATCHES])


def dense(size: Size, device: torch.device, xs: list[Tensor]) -> Callable[[int], object]:
    """TopK as it is written down first: a matrix of zeros for the code, autograd for the rest."""
    W_dec = torch.nn.functional.normalize(
        torch.randn(size.n_latents, size.width, device=device), dim=1
    ).requires_grad_()
    W_enc = W_dec.detach().clone().requires_grad_()
    b_enc = torch.zeros(size.n_latents, device=device, requires_grad=True)
    b_dec = torch.zeros(size.width, device=device, requires_grad=True)
    optimiser = torch.optim.Adam([W_enc, W_dec, b_enc, b_dec], lr=1e-4, fused=True)

    def step(i: int) -> None:
        x = xs[i % N_BATCHES].flatten(1)
        with torch.autocast(device.type, torch.bfloat16):
            f = (x @ W_enc.T + b_enc).relu()
            top = f.topk(size.k, dim=1, sorted=False)
            recon = torch.zeros_like(f).scatter(1, top.indices, top.values) @ W_dec + b_dec
        (x - recon).square().mean().backward()
        torch.nn.utils.clip_grad_norm_(optimiser.param_groups[0]["params"], 1.0)
        optimiser.step()
        optimiser.zero_grad()

    return step


def sparsify(size: Size, device: torch.device, xs: list[Tensor]) -> Callable[[int], object]:
    """The step of `sparsify.Trainer` without its language model, with Adam in the place of its default optimiser."""
    from sparsify import SparseCoder, SparseCoderConfig  # pyright: ignore[reportMissingImports]

    coder = SparseCoder(size.width, SparseCoderConfig(num_latents=size.n_latents, k=size.k), device=device)
    optimiser = torch.optim.Adam(coder.parameters(), lr=1e-4, fused=True)

    def step(i: int) -> None:
        coder.set_decoder_norm_to_unit_norm()
        coder(xs[i % N_BATCHES].flatten(1)).fvu.backward()
        coder.remove_gradient_parallel_to_decoder_directions()
        torch.nn.utils.clip_grad_norm_(coder.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad()

    return step


def steps(size: Size, device: torch.device, *, peers: bool) -> Runs:
    xs = batches(size, device)
    found = {
        "ours, topk": ours(size, "topk", device, xs),
        "ours, batchtopk": ours(size, "batchtopk", device, xs),
        "dense autograd, topk": dense(size, device, xs),
    }
    return found | ({"sparsify, topk": sparsify(size, device, xs)} if peers else {})


def copies(device: torch.device, *, small: bool) -> Runs:
    x = torch.empty(1 << (16 if small else 30), dtype=torch.uint8, device=device)
    y = torch.empty_like(x)
    return {"copy": lambda _: y.copy_(x)}


def measured(size: Size, device: torch.device, options: argparse.Namespace) -> dict[str, Any]:
    def timed(runs: Runs) -> dict[str, list[float]]:
        return alternated(synchronised(device, runs), warmups=3, repeats=options.repeats)

    found = {"size": asdict(size), "product": timed(products(size, device))}
    found["sums"] = {name: timed(runs) for name, runs in sums(size, device).items()}
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    found["step"] = timed(steps(size, device, peers=options.peers))
    found["peak_bytes"] = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None
    return found


def report(result: Mapping[str, Any], copy_rate: float) -> str:
    """Return the tables of one size. Rates: TFLOP/s, GB/s, tokens/s."""
    size = Size(**result["size"])
    bare = result["product"]["bare"]
    gathered = 4 * size.batch * size.k * size.width
    useful = size.useful_flop / size.encode_flop
    product_rows = [
        (name, spread([size.encode_flop / t / 1e12 for t in ts], 1), spread(quotients(bare, ts)))
        for name, ts in result["product"].items()
    ]
    sum_rows = [
        (name, way, milliseconds(ts), spread([gathered / t / 1e9 for t in ts], 0), spread(quotients(ways["torch"], ts)))
        for name, ways in result["sums"].items()
        for way, ts in ways.items()
    ]
    step_rows = [
        (
            name,
            spread([size.batch / t for t in ts], 0),
            milliseconds(ts),
            spread([useful * share for share in quotients(bare, ts)]),
            spread(quotients(ts, result["step"]["ours, topk"])),
        )
        for name, ts in result["step"].items()
    ]
    return "\n".join(
        [
            f"## {', '.join(f'{name} {n}' for name, n in result['size'].items())}\n",
            markdown(["product", "TFLOP/s", "rate / bare"], product_rows),
            markdown(["sum", "by", "ms", f"GB/s of rows (copy: {copy_rate:.0f})", "time of torch / this"], sum_rows),
            markdown(["step", "tokens/s", "ms", "share of roofline", "time / ours, topk"], step_rows),
        ]
    )


def milliseconds(seconds: list[float]) -> str:
    return spread([1e3 * t for t in seconds], 3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", action="store_true", help="also sparsify, which must be importable")
    parser.add_argument("--small", action="store_true", help="tiny sizes")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    device = torch.device(options.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        sys.exit(
            "this benchmark measures a CUDA device, and torch finds none; --small --device cpu checks that it runs"
        )
    if options.peers and importlib.util.find_spec("sparsify") is None:
        sys.exit("--peers needs sparsify; run: pip install eai-sparsify")
    torch.manual_seed(0)
    about = machine() | {"device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"}
    print(sentence(about))
    copy = alternated(synchronised(device, copies(device, small=options.small)), warmups=3, repeats=options.repeats)[
        "copy"
    ]
    n_bytes = 2 << (16 if options.small else 30)
    results = []
    for size in SMALL if options.small else CPU if device.type == "cpu" else PAPER:
        results.append(measured(size, device, options))
        print(report(results[-1], n_bytes / min(copy) / 1e9))
    write(options.json, {"machine": about, "copy": copy, "copy_bytes": n_bytes, "results": results})


if __name__ == "__main__":
    main()
