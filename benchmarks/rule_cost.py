"""What a whole training step costs under each sparsity rule, from a fresh start, against BatchTopK.

    python benchmarks/rule_cost.py [--small] [--threads N] [--repeats 9] [--json FILE]

Rules that keep every positive latent begin with half of all places, where the sparse sums are dense products; later,
when few are active, they cost what BatchTopK costs. The rate is so small that no step changes which latents are active.
Beside them stands ReLU as it is written down first, with dense autograd. Competitors alternate; medians (min-max) of
the rounds. Ratios count. Nothing is asserted.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from common import alternated, machine, markdown, quotients, sentence, spread, write
from saeaudit.dictionaries import COUNTING, DictionaryConfig, EncodeGemm, Rule, build, resolve_precision
from saeaudit.seeds import torch_generator
from saeaudit.statistics import SiteStatistics
from saeaudit.training import terms_for
from train import update

D_MODEL, N_LATENTS, K, BATCH = 576, 2304, 16, 1024
LR = 1e-7
RULES: tuple[Rule, ...] = ("batchtopk", "topk", "matryoshka", "relu", "jumprelu", "gated")
BASELINE, DENSE = "batchtopk", "relu, dense autograd"


class Step:
    """A training step without the loop around it; `share` is that of the places where the last step computed values."""

    def __init__(self, rule: Rule, x: Tensor, n_latents: int) -> None:
        config = DictionaryConfig(kind="sae", n_latents=n_latents, sparsity=rule, k=K if rule in COUNTING else None)
        mean = x.mean(0)
        stats = SiteStatistics(mean, (x - mean).square().mean().sqrt(), len(x))
        self.x, self.share = x, 0.0
        self.coder, self.terms = build(config, stats, seed=0).coder, terms_for(config)
        self.dead = torch.zeros(n_latents, dtype=torch.bool)
        self.gemm = EncodeGemm(resolve_precision("auto", x.device))
        self.optimiser = torch.optim.Adam(self.coder.parameters(), lr=LR, fused=True)

    def __call__(self, i: int) -> None:
        forward = self.coder(self.x, gemm=self.gemm)
        self.share = len(forward.values) / (len(self.x) * len(self.dead))
        sum((term(forward, self.dead, 0.5) for term in self.terms), torch.zeros(())).backward()
        update(self.coder, self.optimiser)


class DenseRelu(Step):
    """The same dictionary, its code a dense matrix throughout."""

    def __call__(self, i: int) -> None:
        coder = self.coder
        target = coder.scaled(self.x)
        code = (target @ coder.W_enc.T + coder.b_enc).relu()
        self.share = float((code > 0).float().mean())
        error = target - (code @ coder.W_dec + coder.b_dec)
        penalty = (code * coder.row_norms()).sum()
        ((error.square().sum() + penalty) / error.numel()).backward()
        update(coder, self.optimiser)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="a quarter of the latents, 2 rounds")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    n_latents, repeats = (N_LATENTS // 4, 2) if options.small else (N_LATENTS, options.repeats)
    x = torch.randn(BATCH, D_MODEL, generator=torch_generator(0, "benchmark"))
    steps: dict[str, Step] = {rule: Step(rule, x, n_latents) for rule in RULES}
    steps[DENSE] = DenseRelu("relu", x, n_latents)
    about = machine() | {"d_model": D_MODEL, "latents": n_latents, "k": K, "batch": BATCH}
    print(sentence(about))
    competitors: dict[str, Callable[[int], object]] = dict(steps)
    seconds = alternated(competitors, warmups=2, repeats=repeats)
    lines = [
        (name, f"{steps[name].share:.3f}", spread([1e3 * t for t in ts], 0), spread(quotients(ts, seconds[BASELINE])))
        for name, ts in seconds.items()
    ]
    print(markdown(["rule", "share of places", "ms", f"time / {BASELINE}"], lines))
    shares = {name: step.share for name, step in steps.items()}
    write(options.json, {"machine": about, "load_after": machine()["load"], "shares": shares, "seconds": seconds})


if __name__ == "__main__":
    main()
