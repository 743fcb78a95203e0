"""Three metrics against the way they are usually written: the same numbers, in one process, alternated.

    python benchmarks/metrics.py [--small] [--threads N] [--repeats 5] [--json FILE]

- Latent scaling of a crosscoder: one pass for all latents, against a fit for every latent and target on the rows in
  which the latent fires, and against one encoding of the same rows.
- BIS with 500 bootstrap samples: the threshold of every latent found anew in every sample. The usual way draws the rows
  and scores them from the start; it is run on 2 samples a round and its time multiplied.
- AUROC of every latent at once, against scikit-learn's for a latent at a time, which is run on 1,024 latents and its
  time multiplied.
"""

import argparse
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor

from common import alternated, machine, markdown, quotients, sentence, spread, write
from saeaudit.dictionaries import Code, DictionaryConfig, build
from saeaudit.metrics import LatentScaling, ScalingSums, auroc_columns, bis_resamples, paper_bis, resample_weights
from saeaudit.seeds import torch_generator
from saeaudit.statistics import StatisticsFitter
from saeaudit.training import calibrate

SIDES, BATCH = ("base", "tuned"), 2048
N_SAMPLES, N_DRAWN_ANEW = 500, 2
N_ROWS, N_ONE_BY_ONE = 2500, 1024

Numbers = dict[str, Tensor]


def crosscoder(n_rows: int, d_model: int, n_latents: int, k: int):
    """Return (dictionary, rows) of structureless activations; how good the fit is does not change the work."""
    x = torch.randn(n_rows, 2, d_model, generator=torch_generator(0, "benchmark"))
    fitter = StatisticsFitter()
    fitter.update(x)
    dictionary = build(DictionaryConfig(kind="crosscoder", n_latents=n_latents, k=k), fitter.result(), seed=0)
    calibrate(dictionary, x.split(BATCH))
    return dictionary.requires_grad_(False), x


def one_pass(W: Tensor, code: Code, errors: Tensor, reconstructions: Tensor) -> Numbers:
    own = {f"error_{side}": W[:, m] for m, side in enumerate(SIDES)}
    scaling = LatentScaling(W[:, 1], [*own, *(f"reconstruction_{side}" for side in SIDES)], own=own)
    for start in range(0, len(errors), BATCH):
        rows = slice(start, start + BATCH)
        parts = torch.cat([errors[rows], reconstructions[rows]], 1).unbind(1)
        names = [f"{target}_{side}" for target in ("error", "reconstruction") for side in SIDES]
        group = torch.arange(start, start + len(parts[0])) * 64 // len(errors)
        scaling.update(Code(code.values[rows], code.indices[rows]), dict(zip(names, parts, strict=True)), group)

    def betas(sums: ScalingSums) -> Numbers:
        out = {}
        for side in SIDES:
            error, reconstruction = f"error_{side}", f"reconstruction_{side}"
            out[error] = sums.beta(error, error=True)
            out[reconstruction] = sums.beta(reconstruction)
            out[f"activation_{side}"] = sums.beta(error, reconstruction)
        return out

    return {name: found.value for name, found in scaling.estimates(betas, n_resamples=0, seed=0).items()}


def a_fit_each(W: Tensor, code: Code, errors: Tensor, reconstructions: Tensor) -> Numbers:
    f = torch.zeros(len(errors), len(W)).scatter_add_(1, code.indices, code.values)
    names = [f"{target}_{side}" for side in SIDES for target in ("error", "reconstruction", "activation")]
    out = {name: torch.full((len(W),), torch.nan, dtype=torch.float64) for name in names}
    for j in range(len(W)):
        rows = f[:, j].nonzero()[:, 0]
        active, direction = f[rows, j], W[j, 1]
        whole = direction.square().sum() * active.square().sum()
        for m, side in enumerate(SIDES):
            error, reconstruction = errors[rows, m], reconstructions[rows, m]
            targets = {
                "error": error + torch.outer(active, W[j, m]),
                "reconstruction": reconstruction,
                "activation": error + reconstruction,
            }
            for name, y in targets.items():
                out[f"{name}_{side}"][j] = (active @ (y @ direction)) / whole
    return out


def latent_scaling(*, small: bool, repeats: int) -> dict[str, Any]:
    shape = {"n_rows": 2048, "d_model": 64, "n_latents": 1024, "k": 16}
    if not small:
        shape = {"n_rows": 8192, "d_model": 576, "n_latents": 8192, "k": 64}
    dictionary, x = crosscoder(**shape)
    code, scale = dictionary.encode(x), float(dictionary.coder.scale[0])
    x_hat = dictionary.decode(code)
    bias = dictionary.decode(Code(torch.zeros(1, 1), torch.zeros(1, 1, dtype=torch.int64)))
    parts = (dictionary.W_dec.detach().clone(), code, (x - x_hat) / scale, (x_hat - bias) / scale)
    competitors: dict[str, Callable[[int], object]] = {
        "one pass": lambda _: one_pass(*parts),
        "a fit each": lambda _: a_fit_each(*parts),
        "encode": lambda _: dictionary.encode(x),
    }
    ours, theirs = one_pass(*parts), a_fit_each(*parts)
    differ = max(float((ours[name] - theirs[name]).abs().nan_to_num().max()) for name in theirs)
    seconds = alternated(competitors, warmups=1, repeats=repeats)
    ratio = {name: quotients(seconds[name], seconds["one pass"]) for name in ("a fit each", "encode")}
    return {
        "what": "latent scaling",
        "shape": shape,
        "timed": "all",
        "seconds": seconds,
        "ratio": ratio,
        "differ": differ,
    }


def sparse_rows(n_latents: int) -> tuple[Tensor, Tensor]:
    """Return activations "row latent", each latent active on 0.3 % to all of the rows, and which rows are triggers."""
    generator = torch_generator(0, "benchmark", "isolation")
    activations = torch.randn(N_ROWS, n_latents, generator=generator).abs()
    density = 10 ** (-2.5 * torch.rand(n_latents, generator=generator))
    activations *= torch.rand(N_ROWS, n_latents, generator=generator) < density
    return activations, torch.arange(N_ROWS) % 5 == 0


def isolation(*, small: bool, repeats: int) -> dict[str, Any]:
    n_latents = 512 if small else 30_720
    activations, trigger = sparse_rows(n_latents)
    weights = resample_weights(torch.arange(N_ROWS), n_resamples=N_SAMPLES, seed=0)

    def drawn_anew(round_: int) -> Tensor:
        scores = []
        for weight in weights[round_ * N_DRAWN_ANEW :][:N_DRAWN_ANEW].long():
            rows = torch.repeat_interleave(torch.arange(N_ROWS), weight)
            scores.append(paper_bis(activations[rows], trigger[rows]).bis)
        return torch.stack(scores)

    differ = float((bis_resamples(activations, trigger, weights=weights)[:N_DRAWN_ANEW] - drawn_anew(0)).abs().max())
    competitors: dict[str, Callable[[int], object]] = {
        "one sort": lambda _: bis_resamples(activations, trigger, weights=weights),
        "drawn anew": drawn_anew,
    }
    seconds = alternated(competitors, warmups=0, repeats=repeats)
    seconds["drawn anew"] = [t * N_SAMPLES / N_DRAWN_ANEW for t in seconds["drawn anew"]]
    return {
        "what": "BIS",
        "shape": {"n_rows": N_ROWS, "n_latents": n_latents, "n_samples": N_SAMPLES},
        "timed": f"{N_DRAWN_ANEW} of {N_SAMPLES} samples, multiplied",
        "seconds": seconds,
        "ratio": {"drawn anew": quotients(seconds["drawn anew"], seconds["one sort"])},
        "differ": differ,
    }


def ranking(*, small: bool, repeats: int) -> dict[str, Any]:
    n_latents = 512 if small else 30_720
    activations, trigger = sparse_rows(n_latents)
    n_timed = min(N_ONE_BY_ONE, n_latents)
    scores, labels = activations.double().numpy(), trigger.numpy()

    def one_by_one(_: int) -> list[float]:
        return [float(roc_auc_score(labels, scores[:, j])) for j in range(n_timed)]

    theirs = torch.tensor(one_by_one(0), dtype=torch.float64)
    differ = float((auroc_columns(activations, trigger)[:n_timed] - theirs).abs().max())
    competitors: dict[str, Callable[[int], object]] = {
        "all latents": lambda _: auroc_columns(activations, trigger),
        "a latent at a time": one_by_one,
    }
    seconds = alternated(competitors, warmups=0, repeats=repeats)
    seconds["a latent at a time"] = [t * n_latents / n_timed for t in seconds["a latent at a time"]]
    return {
        "what": "AUROC",
        "shape": {"n_rows": N_ROWS, "n_latents": n_latents},
        "timed": f"{n_timed} of {n_latents} latents, multiplied",
        "seconds": seconds,
        "ratio": {"a latent at a time": quotients(seconds["a latent at a time"], seconds["all latents"])},
        "differ": differ,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="a quick look: narrow dictionaries, 2 rounds")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    about = machine()
    print(sentence(about))
    print("Median (min-max) of the rounds; 'timed' says what part of theirs was run.\n")
    settings = {"small": options.small, "repeats": 2 if options.small else options.repeats}
    results = [latent_scaling(**settings), isolation(**settings), ranking(**settings)]
    rows = [
        (
            r["what"],
            ", ".join(f"{name} {value}" for name, value in r["shape"].items()),
            name,
            spread(next(iter(r["seconds"].values()))),
            spread(r["seconds"][name]),
            r["timed"],
            spread(ratio, 1),
            f"{r['differ']:.0e}",
        )
        for r in results
        for name, ratio in r["ratio"].items()
    ]
    columns = ["metric", "size", "against", "ours, s", "theirs, s", "timed", "theirs / ours", "numbers differ by"]
    print(markdown(columns, rows))
    after = machine()["load"]
    print(f"load afterwards {after}")
    medians = {f"{r['what']}, {name}": statistics.median(v) for r in results for name, v in r["ratio"].items()}
    write(options.json, {"machine": about, "load_after": after, "ratios": medians, "rows": results})


if __name__ == "__main__":
    main()
