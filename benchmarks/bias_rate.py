"""What biases with sqrt(d) times the rate of the weights give and cost, for each sparsity rule.

    python benchmarks/bias_rate.py [--small] [--rows FILE] [--threads N] [--json FILE]

Each dictionary is trained twice on the same batches, with `bias_lr_factor` 1 and sqrt(d), and judged on held-out rows:
residuals of the embedded model on neutral text, harvested into FILE if it does not exist, as in `train.py --peers`.
The first two rows are the runs of that comparison at our best rate there. Where the faster biases make a penalty
sparser, the second run has a smaller lambda, so that fits are compared at a similar L0. `--small` is a tenth of the
steps. Nothing is timed or asserted.
"""

import argparse
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from common import machine, markdown, sentence, write
from peers.job import Job
from peers.rows import write_rows
from saeaudit.dictionaries import DictionaryConfig, Penalty, Rule, build
from saeaudit.statistics import SiteStatistics, StatisticsFitter
from saeaudit.training import TrainConfig, calibrate, evaluate, train
from train import LAYER, N_HELD_OUT, N_ROWS, ROWS

K, N_CALIBRATION = 32, 32_768


class Case(NamedTuple):
    """A dictionary to train twice; `lambdas` are those of one rate and of faster biases."""

    rule: Rule
    n_latents: int
    batch_size: int
    n_steps: int
    lr: float
    lambdas: tuple[float, float] | None = None


CASES = (
    Case("topk", 4608, 2048, 50, 0.01),
    Case("batchtopk", 4608, 2048, 50, 0.01),
    Case("topk", 1152, 512, 400, 0.003),
    Case("batchtopk", 1152, 512, 400, 0.003),
    Case("relu", 1152, 512, 150, 0.003, (5.0, 5.0)),
    Case("relu", 1152, 512, 400, 0.003, (5.0, 2.5)),
    Case("gated", 1152, 512, 400, 0.003, (6.5, 3.0)),
    Case("jumprelu", 1152, 512, 400, 0.003, (1.0, 1.0)),
)


def statistics_of(rows: Tensor) -> SiteStatistics:
    fitter = StatisticsFitter()
    for x in rows.split(N_CALIBRATION):
        fitter.update(x)
    return fitter.result()


def fitted(
    job: Job, case: Case, statistics: SiteStatistics, *, factor: float, weight: float | None
) -> dict[str, float]:
    """Return FVU, L0 and the share of dead latents on held-out rows."""
    counts = weight is None
    config = DictionaryConfig(
        kind="sae",
        n_latents=case.n_latents,
        sparsity=case.rule,
        k=K if counts else None,
        penalty=None if counts else Penalty(weight=weight),
    )
    rows = job.train_rows()
    dictionary = build(config, statistics, seed=job.seed)
    settings = TrainConfig(n_steps=job.n_steps, lr=case.lr, bias_lr_factor=factor)
    trained = train(dictionary, (rows[i] for i in job.indices()), settings)
    calibrate(dictionary, [rows[:N_CALIBRATION]])
    found = evaluate(dictionary, job.held_out_rows().split(case.batch_size))
    return {"fvu": found.fvu, "l0": found.l0, "dead": trained.dead_share}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="a tenth of the steps")
    parser.add_argument("--rows", type=Path, default=ROWS, help="rows to train on, made if missing")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if not options.rows.exists():
        write_rows(options.rows, N_ROWS, layer=LAYER)
    about = machine()
    print(sentence(about))
    print("FVU / L0 / share of latents dead at the end of training.\n", flush=True)
    results: list[dict[str, Any]] = []
    statistics: SiteStatistics | None = None
    for case in CASES:
        n_steps = case.n_steps // 10 if options.small else case.n_steps
        job = Job(  # its rows, in the order of that comparison, are all that is used of it
            library="saeaudit",
            kind="topk",
            rows=str(options.rows),
            n_held_out=N_HELD_OUT,
            n_latents=case.n_latents,
            k=K,
            batch_size=case.batch_size,
            n_steps=n_steps,
            chunk=n_steps,
            threads=options.threads,
        )
        statistics = statistics or statistics_of(job.train_rows())
        factors = (1.0, statistics.mean.numel() ** 0.5)
        both = [
            fitted(job, case, statistics, factor=factor, weight=weight)
            for factor, weight in zip(factors, case.lambdas or (None, None), strict=True)
        ]
        results.append(case._asdict() | {"n_steps": n_steps, "one rate": both[0], "sqrt(d)": both[1]})
        write(options.json, {"machine": about, "rows": results})
    columns = ["rule", "lambda", "latents", "rows a step", "steps", "one rate", "biases sqrt(d) times"]
    lines = [
        (
            r["rule"],
            " / ".join(f"{weight:g}" for weight in r["lambdas"] or ()),
            r["n_latents"],
            r["batch_size"],
            r["n_steps"],
            *(f"{f['fvu']:.4f} / {f['l0']:.1f} / {f['dead']:.2f}" for f in (r["one rate"], r["sqrt(d)"])),
        )
        for r in results
    ]
    print(markdown(columns, lines))


if __name__ == "__main__":
    main()
