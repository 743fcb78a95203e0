"""`saeaudit study`: compare methods on planted organisms, with the controls that the papers lack."""

from typing import TYPE_CHECKING, Annotated, Literal

import typer

from saeaudit.cli.options import Config, Out, Overrides, Seed
from saeaudit.cli.progress import watch
from saeaudit.cli.screen import command_line, complain, show, show_table

if TYPE_CHECKING:
    from saeaudit.isolation_results import IsolationResults

app = typer.Typer(no_args_is_help=True, help="Studies: many organisms, layers and methods, cell by cell.")

Preset = Annotated[
    Literal["smoke", "zoo", "standard", "paper"],
    typer.Option(
        help="smoke: minutes, no evidence; zoo: trigger families and false alarms on a small model made in the run; "
        "standard: the shipped organisms, every dictionary; paper: the experiment as published and its faults."
    ),
]

Where = Annotated[
    Literal["here", "ray"],
    typer.Option(help="here: one task after the other; ray: on a Ray cluster, see RAY_ADDRESS, else on all cores."),
]


@app.command()
def isolation(
    out: Out,
    preset: Preset = "smoke",
    engine: Where = "here",
    seed: Seed = None,
    config: Config = None,
    overrides: Overrides = None,
) -> None:
    """Which method isolates a planted backdoor, how well, and against which controls (arXiv 2605.07324).

    Writes OUT/results.json with a cell for every organism, layer and method, tables in CSV, and the page
    OUT/report.html. A stopped study continues when the same command is given again; no finished cell is made twice.
    """
    from saeaudit.config import read_config
    from saeaudit.report import write_isolation_report
    from saeaudit.studies.isolation.config import IsolationConfig
    from saeaudit.studies.isolation.presets import PRESETS
    from saeaudit.studies.isolation.run import run_study
    from saeaudit.studies.isolation.tables import write_tables
    from saeaudit.studies.ray_engine import run_on_ray
    from saeaudit.studies.tasks import run_here

    given = {"seed": seed}
    settings = read_config(
        IsolationConfig, defaults=PRESETS[preset], file=config, given=given, overrides=overrides or []
    )
    engines = {"here": run_here, "ray": run_on_ray}
    with watch() as watcher:
        results = run_study(
            settings, out=out, preset=preset, command=command_line(), engine=engines[engine], watcher=watcher
        )
    write_tables(results, out)
    page = write_isolation_report(out)
    if results.cells:
        _show_cells(results)
    if results.paper:
        _show_paper(results)
    show(f"results: {out / 'results.json'}")
    show(f"page: {page}")
    for name, reason in results.failed.items():
        complain(f"{name} failed: {reason}")
    if results.failed:
        raise typer.Exit(1)


def _show_cells(results: "IsolationResults") -> None:
    cells = sorted(results.cells, key=lambda cell: (cell.organism, cell.layer, -cell.tpr_at_1pct_fpr))
    show_table(
        ["organism", "layer", "method", "TPR at 1 %", "null", "worst class", "AUROC", "BIS", "of at most", "BIS*"],
        [
            [
                cell.organism,
                cell.layer,
                cell.method,
                f"{cell.tpr_at_1pct_fpr:.2f}",
                f"{cell.random_basis_null:.2f}",
                f"{cell.worst_class_fpr:.2f}",
                f"{cell.auroc:.3f}",
                f"{cell.bis:.3f}",
                f"{cell.bis_ceiling:.3f}",
                f"{cell.bis_star:.3f}",
            ]
            for cell in cells
        ],
    )


def _show_paper(results: "IsolationResults") -> None:
    show_table(
        ["organism", "layer", "reads", "method", "BIS", "of at most", "by chance", "published"],
        [
            [
                row.organism,
                row.layer,
                row.reads,
                row.method,
                row.status if row.bis is None else f"{row.bis:.3f}",
                f"{row.ceiling:.3f}",
                f"{row.by_chance:.3f}",
                "" if row.published is None else f"{row.published:.3f}",
            ]
            for row in results.paper
        ],
    )
