"""The charts of an isolation study: true positives at each layer of an organism, BIS as a share of its ceiling, cost.

Rows are the methods, in one order on the whole page. Names pass through `chart_text`, as on the page of an audit.
"""

from collections.abc import Sequence

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from saeaudit.isolation_results import Cell, Role
from saeaudit.report import figure_style as style
from saeaudit.report.isolation_cells import ROLES, Place, caveat
from saeaudit.report.isolation_questions import ceiling_share
from saeaudit.report.numbers import share
from saeaudit.report.text import chart_text
from saeaudit.wording import duration

ROW = 24
LAYER_WIDTH = 190
NULL = "#80808c"


def headline_figure(places: Sequence[Place], methods: Sequence[str]) -> go.Figure:
    """TPR at 1 % FPR of every method at every layer of one organism.

    Beside each value stand the range that random directions reach (band), and the clean twin's value (hollow).
    """
    layers = [chart_text(place.layer) for place in places]
    figure = make_subplots(rows=1, cols=len(places), shared_yaxes=True, horizontal_spacing=0.03, subplot_titles=layers)
    rows = {method: len(methods) - 1 - k for k, method in enumerate(methods)}
    named: set[Role] = set()  # not every role need be at the first layer
    for column, place in enumerate(places, start=1):
        _add_null(figure, list(place.cells.values()), rows, column)
        for role in ROLES:
            if cells := [cell for cell in place.cells.values() if cell.role == role]:
                _add_rates(figure, cells, rows, column, in_legend=role not in named)
                named.add(role)
        _add_twin(figure, list(place.twin_cells.values()), rows, column)
    figure.update_xaxes(range=[-0.03, 1.03], tickvals=[0, 0.5, 1])
    _label_rows(figure, [cell for place in places for cell in place.cells.values()], rows)
    return style.styled(figure, height=20 + ROW * len(methods), legend_rows=1)


def ceiling_figure(places: Sequence[Place], methods: Sequence[str]) -> go.Figure:
    """BIS as a share of its ceiling, a point for every organism and layer: planted above, clean twin below it."""
    figure = go.Figure()
    rows = {method: len(methods) - 1 - k for k, method in enumerate(methods)}
    planted = [cell for place in places for cell in place.cells.values()]
    twins = list({(c.organism, c.layer, c.method): c for p in places for c in p.twin_cells.values()}.values())
    for cells, shift in ((planted, 0.16), (twins, -0.16)):
        for role in ROLES:
            look, hollow = style.FAMILIES[role], shift < 0
            members = [cell for cell in cells if cell.role == role]
            figure.add_scatter(
                x=[ceiling_share(cell) for cell in members],
                y=[rows[cell.method] + shift for cell in members],
                mode="markers",
                marker={
                    "color": look.colour,
                    "symbol": f"{look.symbol}-open" if hollow else look.symbol,
                    "size": 9,
                    "line": {"width": 1.5, "color": look.colour},
                    "opacity": [0.3 if caveat(cell) else 0.8 for cell in members],
                },
                name=f"{look.label}, clean twin" if hollow else look.label,
                customdata=[[_where(cell), f"{share(cell.bis)} of {share(cell.bis_ceiling)}"] for cell in members],
                hovertemplate="%{customdata[0]}<br>BIS %{customdata[1]}<extra></extra>",
                showlegend=bool(members),
            )
    figure.add_vline(x=1, line={"color": style.TARGET, "width": 1.5, "dash": "dash"})
    figure.update_xaxes(range=[-0.03, 1.03], title="BIS / the highest BIS that any score could have")
    _label_rows(figure, planted, rows)
    return style.styled(figure, height=20 + ROW * len(methods), legend_rows=2, titled=True)


def cost_figure(cells: Sequence[Cell]) -> go.Figure:
    """TPR at 1 % FPR over the seconds of training and scoring (log axis), on organisms with a planted behaviour."""
    figure = go.Figure()
    for role in ROLES:
        look = style.FAMILIES[role]
        members = [cell for cell in cells if cell.role == role and cell.planted and cell.status == "ok"]
        figure.add_scatter(
            x=[max(seconds(cell), 0.01) for cell in members],
            y=[cell.tpr_at_1pct_fpr for cell in members],
            mode="markers",
            marker={"color": look.colour, "symbol": look.symbol, "size": 9, "opacity": 0.85},
            name=look.label,
            customdata=[[_where(cell), share(cell.tpr_at_1pct_fpr), duration(seconds(cell))] for cell in members],
            hovertemplate="%{customdata[0]}<br>TPR %{customdata[1]} for %{customdata[2]}<extra></extra>",
            showlegend=bool(members),
        )
    figure.update_xaxes(type="log", dtick=1, title="seconds of training and scoring")
    figure.update_yaxes(range=[-0.03, 1.03], title="TPR at 1 % FPR")
    return style.styled(figure, height=300, legend_rows=1, titled=True)


def seconds(cell: Cell) -> float:
    """Return what training and scoring took."""
    return cell.cost.train_seconds + cell.cost.score_seconds


def _add_null(figure: go.Figure, cells: Sequence[Cell], rows: dict[str, int], column: int) -> None:
    """Draw the range of random directions: one line with a gap after every method."""
    figure.add_scatter(
        x=[end for cell in cells for end in (*cell.interval["random_basis_null"], None)],
        y=[at for cell in cells for at in (rows[cell.method], rows[cell.method], None)],
        mode="lines",
        line={"color": style.translucent(NULL, 0.3), "width": 11},
        name="range of random directions",
        legendgroup="null",
        showlegend=column == 1,
        hoverinfo="skip",
        row=1,
        col=column,
    )


def _add_rates(figure: go.Figure, cells: Sequence[Cell], rows: dict[str, int], column: int, *, in_legend: bool) -> None:
    look = style.FAMILIES[cells[0].role]
    values = [cell.tpr_at_1pct_fpr for cell in cells]
    ends = [cell.interval["tpr_at_1pct_fpr"] for cell in cells]
    figure.add_scatter(
        x=values,
        y=[rows[cell.method] for cell in cells],
        error_x=style.error_bars(values, ends, look.colour),
        mode="markers",
        marker={
            "color": look.colour,
            "symbol": look.symbol,
            "size": 10,
            "opacity": [0.3 if caveat(cell) else 1.0 for cell in cells],
        },
        name=look.label,
        legendgroup=look.label,
        showlegend=in_legend,
        customdata=[
            [_where(cell), style.with_interval(value, end), share(cell.random_basis_null)]
            for cell, value, end in zip(cells, values, ends, strict=True)
        ],
        hovertemplate="%{customdata[0]}<br>TPR %{customdata[1]}<br>random directions %{customdata[2]}<extra></extra>",
        row=1,
        col=column,
    )


def _add_twin(figure: go.Figure, cells: Sequence[Cell], rows: dict[str, int], column: int) -> None:
    known = [cell for cell in cells if cell.method in rows]
    figure.add_scatter(
        x=[cell.tpr_at_1pct_fpr for cell in known],
        y=[rows[cell.method] for cell in known],
        mode="markers",
        marker={"color": style.INK, "symbol": "circle-open", "size": 9, "line": {"width": 2, "color": style.INK}},
        name="clean twin",
        legendgroup="twin",
        showlegend=column == 1,
        customdata=[
            [_where(cell), style.with_interval(cell.tpr_at_1pct_fpr, cell.interval["tpr_at_1pct_fpr"])]
            for cell in known
        ],
        hovertemplate="%{customdata[0]}<br>TPR %{customdata[1]}<extra></extra>",
        row=1,
        col=column,
    )


def _label_rows(figure: go.Figure, cells: Sequence[Cell], rows: dict[str, int]) -> None:
    """Write the methods at the rows, with what keeps one from being compared, or at how many places something does."""
    labels = []
    for method in rows:
        notes = [caveat(cell) for cell in cells if cell.method == method]
        bad = [note for note in notes if note]
        same = len(set(notes)) == 1
        suffix = f" ({bad[0]})" if bad and same else f" (✗ at {len(bad)} of {len(notes)})" if bad else ""
        labels.append(chart_text(method) + suffix)
    figure.update_yaxes(tickvals=list(rows.values()), ticktext=labels, range=[-0.6, len(rows) - 0.4])


def _where(cell: Cell) -> str:
    return f"{chart_text(cell.method)}, {chart_text(cell.organism)}, {chart_text(cell.layer)}"
