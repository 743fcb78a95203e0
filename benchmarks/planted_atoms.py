"""How many planted atoms each sparsity rule finds, at the default lambdas, and with slow and fast biases.

    python benchmarks/planted_atoms.py [--small] [--seeds 3] [--threads N] [--json FILE]

Rows are sums of 3, on average, of 96 random directions in 48 dimensions, with sizes of 1 to 2 and a little noise; a
dictionary of 192 latents has room for all of them. An SAE sees one side; a crosscoder sees two, where 76 atoms stand on
both, 10 on the base alone and 10 on the tuned side alone. An atom is found where a decoder row (both sides as one
vector) has a cosine above .95 with it. Means of the seeds. Nothing is timed or asserted.
"""

import argparse
from pathlib import Path
from statistics import mean
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from common import machine, markdown, sentence, write
from saeaudit.dictionaries import COUNTING, DictionaryConfig, Kind, Rule, build
from saeaudit.seeds import torch_generator
from saeaudit.statistics import StatisticsFitter
from saeaudit.training import TrainConfig, calibrate, evaluate, tensor_batches, train

N_ATOMS, D_MODEL, N_ACTIVE, N_LATENTS = 96, 48, 3, 192
N_ONE_SIDED = 10
N_ROWS, N_HELD_OUT, NOISE = 20_000, 4000, 0.01
BATCH, LR = 256, 3e-3
FOUND = 0.95
CASES: tuple[tuple[Kind, Rule], ...] = (
    ("sae", "batchtopk"),
    ("sae", "relu"),
    ("sae", "gated"),
    ("sae", "jumprelu"),
    ("crosscoder", "batchtopk"),
    ("crosscoder", "relu"),
)


class Planted(NamedTuple):
    """Rows, and the atoms as they stand in a row."""

    x: Float[Tensor, "row *side d_model"]
    atoms: Float[Tensor, "atom *side d_model"]


def planted(kind: Kind, seed: int) -> Planted:
    generator = torch_generator(seed, "planted-atoms")
    atoms = torch.nn.functional.normalize(torch.randn(N_ATOMS, D_MODEL, generator=generator), dim=1)
    active = torch.rand(N_ROWS + N_HELD_OUT, N_ATOMS, generator=generator) < N_ACTIVE / N_ATOMS
    sizes = active * (1 + torch.rand(active.shape, generator=generator))
    if kind == "crosscoder":
        stands = torch.ones(N_ATOMS, 2)
        stands[:N_ONE_SIDED, 1] = stands[-N_ONE_SIDED:, 0] = 0
        atoms = atoms.unsqueeze(1) * stands.unsqueeze(-1)
    x = torch.tensordot(sizes, atoms, dims=1)
    return Planted(x + NOISE * torch.randn(x.shape, generator=generator), atoms)


def best_cosines(atoms: Float[Tensor, "atom *axes"], rows: Float[Tensor, "latent *axes"]) -> Float[Tensor, " atom"]:
    """Return the largest cosine of each atom with a row."""
    a, b = (torch.nn.functional.normalize(t.flatten(1), dim=1) for t in (atoms, rows))
    return (a @ b.T).max(1).values


def found(kind: Kind, rule: Rule, *, fast: bool, seed: int, n_steps: int) -> dict[str, float]:
    """Return the share of atoms found, their mean best cosine, and the fit on held-out rows."""
    x, atoms = planted(kind, seed)
    rows, held_out = x[:N_ROWS], x[N_ROWS:]
    fitter = StatisticsFitter()
    fitter.update(rows)
    k = N_ACTIVE if rule in COUNTING else None
    config = DictionaryConfig(kind=kind, n_latents=N_LATENTS, sparsity=rule, k=k)
    dictionary = build(config, fitter.result(), seed=seed)
    factor = x[0].numel() ** 0.5 if fast else 1.0
    batches = tensor_batches(rows, BATCH, seed=seed, n_steps=n_steps)
    train(dictionary, batches, TrainConfig(n_steps=n_steps, lr=LR, bias_lr_factor=factor))
    calibrate(dictionary, [rows])
    cosines, fit = best_cosines(atoms, dictionary.W_dec), evaluate(dictionary, [held_out])
    share = float((cosines > FOUND).float().mean())
    return {"found": share, "cosine": float(cosines.mean()), "fvu": fit.fvu, "l0": fit.l0}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="a tenth of the steps")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    n_steps = 100 if options.small else 1000
    about = machine() | {"n_steps": n_steps, "seeds": options.seeds}
    print(sentence(about))
    print("Share of atoms found (mean best cosine) / FVU / L0.\n", flush=True)
    results: list[dict[str, Any]] = []
    for kind, rule in CASES:
        runs = {
            name: [found(kind, rule, fast=fast, seed=seed, n_steps=n_steps) for seed in range(options.seeds)]
            for name, fast in (("one rate", False), ("sqrt(d)", True))
        }
        results.append({"kind": kind, "rule": rule, **runs})
        write(options.json, {"machine": about, "rows": results})
    lines = [(r["kind"], r["rule"], cell(r["one rate"]), cell(r["sqrt(d)"])) for r in results]
    print(markdown(["kind", "rule", "one rate", "biases sqrt(d) times"], lines))


def cell(runs: list[dict[str, float]]) -> str:
    share, cosine, fvu, l0 = (mean(run[name] for run in runs) for name in ("found", "cosine", "fvu", "l0"))
    return f"{share:.2f} ({cosine:.3f}) / {fvu:.3f} / {l0:.1f}"


if __name__ == "__main__":
    main()
