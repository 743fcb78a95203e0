"""Four metrics against the way they are usually written: the same numbers, in one process, alternated.

    python benchmarks/metrics.py [--small] [--threads N] [--repeats 5] [--json FILE]

- Latent scaling of a crosscoder: one pass for all latents, against a fit for every latent and target on the rows in
  which the latent fires, and against one encoding of the same rows.
- Latent scaling with 500 bootstrap samples of groups of documents, from sums by group, with intervals. The usual way
  draws the rows and fits from the start, without the intervals: every latent and target, or all of them in one pass. It
  is run on 2 samples a round, and the fits on 1,024 latents; its time is multiplied.
- BIS with 500 bootstrap samples: the threshold of every latent found anew in every sample. The usual way draws the rows
  and scores them from the start; it is run on 2 samples a round and its time multiplied.
- AUROC of every latent at once, against scikit-learn's for a latent at a time, which is run on 1,024 latents and its
  time multiplied.
"""

import argparse
import statistics
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor

from common import alternated, machine, markdown, quotients, sentence, spread, write
from saeaudit.dictionaries import Code, Dictionary, DictionaryConfig, build
from saeaudit.metrics import LatentScaling, ScalingSums, auroc_columns, bis_resamples, paper_bis, resample_weights
from saeaudit.metrics.group_sums import N_GROUPS
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


@dataclass(frozen=True)
class Parts:
    """What latent scaling reads: decoder rows, the code, and the scaled rows of both targets, "row side d_model"."""

    W: Tensor
    code: Code
    errors: Tensor
    reconstructions: Tensor

    def drawn(self, rows: Tensor) -> "Parts":
        code = Code(self.code.values[rows], self.code.indices[rows])
        return Parts(self.W, code, self.errors[rows], self.reconstructions[rows])

    @cached_property
    def f(self) -> Tensor:
        """Activations "latent row" as a dense matrix."""
        values, indices = self.code
        return torch.zeros(len(values), len(self.W)).scatter_add_(1, indices, values).T.contiguous()


def scaling_parts(dictionary: Dictionary, x: Tensor) -> Parts:
    code, scale = dictionary.encode(x), float(dictionary.coder.scale[0])
    x_hat = dictionary.decode(code)
    bias = dictionary.decode(Code(torch.zeros(1, 1), torch.zeros(1, 1, dtype=torch.int64)))
    return Parts(dictionary.W_dec.detach().clone(), code, (x - x_hat) / scale, (x_hat - bias) / scale)


def groups(n_rows: int) -> Tensor:
    return torch.arange(n_rows) * N_GROUPS // n_rows


def one_pass(parts: Parts) -> LatentScaling:
    own = {f"error_{side}": parts.W[:, m] for m, side in enumerate(SIDES)}
    scaling = LatentScaling(parts.W[:, 1], [*own, *(f"reconstruction_{side}" for side in SIDES)], own=own)
    names = [f"{target}_{side}" for target in ("error", "reconstruction") for side in SIDES]
    for rows in torch.arange(len(parts.errors)).split(BATCH):
        part = parts.drawn(rows)
        y = torch.cat([part.errors, part.reconstructions], 1).unbind(1)
        scaling.update(part.code, dict(zip(names, y, strict=True)), groups(len(parts.errors))[rows])
    return scaling


def betas(sums: ScalingSums) -> Numbers:
    out = {}
    for side in SIDES:
        error, reconstruction = f"error_{side}", f"reconstruction_{side}"
        out[error] = sums.beta(error, error=True)
        out[reconstruction] = sums.beta(reconstruction)
        out[f"activation_{side}"] = sums.beta(error, reconstruction)
    return out


def values(scaling: LatentScaling) -> Numbers:
    return {name: found.value for name, found in scaling.estimates(betas, n_resamples=0, seed=0).items()}


def a_fit_each(parts: Parts, rows: Tensor, latents: Iterable[int]) -> Numbers:
    """Return β "latent" of some latents on `rows`, which may have rows several times."""
    found: dict[str, list[Tensor]] = {}
    for j in latents:
        f, direction = parts.f[j, rows], parts.W[j, 1]
        fires, active = rows[f > 0], f[f > 0]
        whole = direction.square().sum() * active.square().sum()
        for m, side in enumerate(SIDES):
            error, reconstruction = parts.errors[fires, m], parts.reconstructions[fires, m]
            targets = {
                "error": error + torch.outer(active, parts.W[j, m]),
                "reconstruction": reconstruction,
                "activation": error + reconstruction,
            }
            for name, y in targets.items():
                found.setdefault(f"{name}_{side}", []).append((active @ (y @ direction)) / whole)
    return {name: torch.stack(betas) for name, betas in found.items()}


def largest_difference(ours: Numbers, theirs: Numbers) -> float:
    """Return the largest difference of any number; those that are not defined must be so on both sides."""
    for name in theirs:
        if not torch.equal(ours[name].isnan(), theirs[name].isnan()):
            raise AssertionError(f"{name} is not defined for the same latents")
    return max(float((ours[name] - theirs[name]).abs().nan_to_num().max()) for name in theirs)


def latent_scaling(*, small: bool, repeats: int) -> dict[str, Any]:
    shape = {"n_rows": 2048, "d_model": 64, "n_latents": 1024, "k": 16}
    if not small:
        shape = {"n_rows": 8192, "d_model": 576, "n_latents": 8192, "k": 64}
    dictionary, x = crosscoder(**shape)
    parts = scaling_parts(dictionary, x)
    everything = torch.arange(len(x)), range(shape["n_latents"])
    competitors: dict[str, Callable[[int], object]] = {
        "one pass": lambda _: values(one_pass(parts)),
        "a fit each": lambda _: a_fit_each(parts, *everything),
        "encode": lambda _: dictionary.encode(x),
    }
    differ = largest_difference(values(one_pass(parts)), a_fit_each(parts, *everything))
    seconds = alternated(competitors, warmups=1, repeats=repeats)
    return {
        "what": "latent scaling",
        "shape": shape,
        "timed": dict.fromkeys(("a fit each", "encode"), "all"),
        "seconds": seconds,
        "ratio": {name: quotients(seconds[name], seconds["one pass"]) for name in ("a fit each", "encode")},
        "differ": differ,
    }


def resampled_scaling(*, small: bool, repeats: int) -> dict[str, Any]:
    shape = {"n_rows": 512, "d_model": 64, "n_latents": 1024, "k": 16}
    if not small:
        shape = {"n_rows": N_ROWS, "d_model": 576, "n_latents": 30_720, "k": 64}
    n_rows, n_latents = shape["n_rows"], shape["n_latents"]
    parts = scaling_parts(*crosscoder(**shape))
    latents = range(0, n_latents, n_latents // min(N_ONE_BY_ONE, n_latents))
    weights = resample_weights(torch.arange(N_GROUPS), n_resamples=N_SAMPLES, seed=0)[:, groups(n_rows)].long()

    def drawn_rows(round_: int) -> list[Tensor]:
        return [torch.repeat_interleave(w) for w in weights[round_ * N_DRAWN_ANEW :][:N_DRAWN_ANEW]]

    def refitted(round_: int) -> list[Numbers]:
        return [a_fit_each(parts, rows, latents) for rows in drawn_rows(round_)]

    def passed_again(round_: int) -> list[Numbers]:
        return [values(one_pass(parts.drawn(rows))) for rows in drawn_rows(round_)]

    competitors: dict[str, Callable[[int], object]] = {
        "sums by group": lambda _: one_pass(parts).estimates(betas, n_resamples=N_SAMPLES, seed=0),
        "a fit each, drawn anew": refitted,
        "one pass, drawn anew": passed_again,
    }
    ours, fits, passes = draws(one_pass(parts), N_DRAWN_ANEW), refitted(0), passed_again(0)
    differ = max(largest_difference(*pair) for pair in zip(ours, passes, strict=True))
    for found, fit in zip(ours, fits, strict=True):
        differ = max(differ, largest_difference({name: beta[latents] for name, beta in found.items()}, fit))
    seconds = alternated(competitors, warmups=0, repeats=repeats)
    samples = f"{N_DRAWN_ANEW} of {N_SAMPLES} samples, multiplied"
    timed = {
        "a fit each, drawn anew": (f"{len(latents)} of {n_latents} latents in {samples}", n_latents / len(latents)),
        "one pass, drawn anew": (samples, 1),
    }
    for name, (_, factor) in timed.items():
        seconds[name] = [t * factor * N_SAMPLES / N_DRAWN_ANEW for t in seconds[name]]
    return {
        "what": "latent scaling, resampled",
        "shape": shape | {"n_samples": N_SAMPLES},
        "timed": {name: text for name, (text, _) in timed.items()},
        "seconds": seconds,
        "ratio": {name: quotients(seconds[name], seconds["sums by group"]) for name in timed},
        "differ": differ,
    }


def draws(scaling: LatentScaling, n: int) -> list[Numbers]:
    """Return β "latent" in each of the first `n` bootstrap samples."""
    parts: list[Numbers] = []

    def kept(sums: ScalingSums) -> Numbers:
        parts.append(betas(sums))
        return parts[-1]

    scaling.estimates(kept, n_resamples=N_SAMPLES, seed=0)
    return [{name: torch.cat([part[name][i] for part in parts]) for name in parts[0]} for i in range(1, n + 1)]


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
        "timed": {"drawn anew": f"{N_DRAWN_ANEW} of {N_SAMPLES} samples, multiplied"},
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
        "timed": {"a latent at a time": f"{n_timed} of {n_latents} latents, multiplied"},
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
    results = [measure(**settings) for measure in (latent_scaling, resampled_scaling, isolation, ranking)]
    rows = [
        (
            r["what"],
            ", ".join(f"{name} {value}" for name, value in r["shape"].items()),
            name,
            spread(next(iter(r["seconds"].values()))),
            spread(r["seconds"][name]),
            r["timed"][name],
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
