"""The charts of the report: detectors at one site, classes of benign prompts, layers, budget against recovery.

Each function takes records of `saeaudit.findings` and returns a plotly figure. Names in the records may be hostile and
pass through `chart_text`. Every point carries its interval, and what it is compared with is drawn in the same chart.
"""

import math
from collections.abc import Sequence
from typing import Any, Literal

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from saeaudit.findings import ClassRate, MethodScore, RecoveryArm, RecoveryCurve
from saeaudit.report import figure_style as style
from saeaudit.report.numbers import budget, count, number, percent, share
from saeaudit.report.text import chart_text

Metric = Literal["auroc", "tpr"]


def methods_figure(scores: Sequence[MethodScore]) -> go.Figure:
    """AUROC and TPR of every method at one site, in the order given (first on top), each with the null of its kind."""
    target = scores[0].target_fpr
    titles = ["AUROC", f"TPR at the threshold for {percent(target)} FPR"]
    figure = make_subplots(rows=1, cols=2, shared_yaxes=True, horizontal_spacing=0.04, subplot_titles=titles)
    rows = [len(scores) - 1 - i for i in range(len(scores))]
    for column, metric in enumerate(("auroc", "tpr"), start=1):
        _add_nulls(figure, scores, rows, metric, column)
        for family, look in style.FAMILIES.items():
            members = [(score, row) for score, row in zip(scores, rows, strict=True) if score.family == family]
            if not members:
                continue
            values = [_value(score, metric) for score, _ in members]
            ends = [_interval(score, metric) for score, _ in members]
            figure.add_scatter(
                x=values,
                y=[row for _, row in members],
                error_x=style.error_bars(values, ends, look.colour),
                mode="markers",
                marker={"color": look.colour, "symbol": look.symbol, "size": 10},
                name=look.label,
                legendgroup=family,
                showlegend=column == 1,
                customdata=[
                    [chart_text(score.method), style.with_interval(_value(score, metric), _interval(score, metric))]
                    for score, _ in members
                ],
                hovertemplate="%{customdata[0]}<br>" + metric.upper() + " %{customdata[1]}<extra></extra>",
                row=1,
                col=column,
            )
    figure.add_vline(x=0.5, line={"color": "#99a", "width": 1, "dash": "dot"}, row=1, col=1)  # pyright: ignore[reportArgumentType]
    figure.add_vline(x=target, line={"color": style.TARGET, "width": 1, "dash": "dot"}, row=1, col=2)  # pyright: ignore[reportArgumentType]
    labels = [f"<b>{chart_text(s.method)}</b> ★" if s.chosen else chart_text(s.method) for s in scores]
    figure.update_yaxes(tickvals=rows, ticktext=labels, range=[-0.6, len(scores) - 0.4])
    figure.update_xaxes(range=[_floor(scores, "auroc"), 1.02], row=1, col=1)
    figure.update_xaxes(range=[-0.02, 1.02], row=1, col=2)
    return style.styled(figure, height=20 + 30 * len(scores), legend_rows=1)


def _add_nulls(figure: go.Figure, scores: Sequence[MethodScore], rows: list[int], metric: Metric, column: int) -> None:
    """Draw the null of each method as a tick, and as a band where an interval belongs to this metric."""
    nulls = [(s, row, _null(s, metric)) for s, row in zip(scores, rows, strict=True)]
    drawn = [(s, row, value) for s, row, value in nulls if value is not None]
    for score, row, _ in drawn:
        if score.null_interval is not None and _null_interval_metric(score) == metric:
            figure.add_scatter(
                x=list(score.null_interval),
                y=[row, row],
                mode="lines",
                line={"color": style.translucent("#80808c", 0.35), "width": 9},
                hoverinfo="skip",
                showlegend=False,
                row=1,
                col=column,
            )
    figure.add_scatter(
        x=[value for _, _, value in drawn],
        y=[row for _, row, _ in drawn],
        mode="markers",
        marker={"symbol": "line-ns", "size": 15, "line": {"width": 2, "color": "#80808c"}, "color": "#80808c"},
        name="null of the method",
        legendgroup="null",
        showlegend=column == 1 and bool(drawn),
        customdata=[[chart_text(score.method), share(value)] for score, _, value in drawn],
        hovertemplate="null of %{customdata[0]}<br>" + metric.upper() + " %{customdata[1]}<extra></extra>",
        row=1,
        col=column,
    )


def classes_figure(rates: Sequence[ClassRate], *, target_fpr: float | None) -> go.Figure:
    """False-positive rate of the chosen detector in each class of benign prompts, highest on top."""
    ordered = sorted(rates, key=lambda rate: (rate.fpr, rate.interval[1]))
    values = [rate.fpr for rate in ordered]
    over = [target_fpr is not None and rate.interval[0] > target_fpr for rate in ordered]
    colour = style.FAMILIES["dictionary"].colour
    figure = go.Figure(
        go.Bar(
            x=values,
            y=list(range(len(ordered))),
            orientation="h",
            width=0.6,
            marker={
                "color": [
                    style.translucent(style.TARGET, 0.75) if high else style.translucent(colour, 0.65) for high in over
                ],
                "pattern": {"shape": ["/" if high else "" for high in over], "size": 6, "fgcolor": style.TARGET},
            },
            error_x=style.error_bars(values, [rate.interval for rate in ordered], style.INK) | {"width": 4},
            customdata=[
                [chart_text(rate.name), style.with_interval(rate.fpr, rate.interval), count(rate.n)] for rate in ordered
            ],
            hovertemplate="%{customdata[0]}<br>FPR %{customdata[1]}, n = %{customdata[2]}<extra></extra>",
        )
    )
    labels = [f"{chart_text(rate.name)} (n {count(rate.n)})" for rate in ordered]
    highest = max([rate.interval[1] for rate in ordered] + [target_fpr or 0.0, 0.02])
    figure.update_yaxes(tickvals=list(range(len(ordered))), ticktext=labels, range=[-0.6, len(ordered) - 0.4])
    figure.update_xaxes(range=[0, highest * 1.06], title="false-positive rate", rangemode="tozero")
    if target_fpr is not None:
        figure.add_vline(
            x=target_fpr,
            line={"color": style.TARGET, "width": 1.5, "dash": "dash"},
            annotation={"text": f"target {percent(target_fpr)}", "yanchor": "bottom", "showarrow": False},
        )
    return style.styled(figure, height=20 + 32 * len(ordered), titled=True)


def layers_figure(scores: Sequence[MethodScore], sites: Sequence[str]) -> go.Figure:
    """AUROC (top) and TPR (bottom) of every method over the sites, in the order given."""
    figure = make_subplots(rows=2, cols=1, shared_xaxes=True, vertical_spacing=0.07)
    methods = list(dict.fromkeys((score.method, score.family) for score in scores))
    seen = dict.fromkeys(style.TINTS, 0)
    for index, (method, family) in enumerate(methods):
        tint = style.TINTS[family][seen[family] % len(style.TINTS[family])]
        seen[family] += 1
        members = sorted(
            (s for s in scores if s.method == method and s.family == family), key=lambda s: sites.index(s.site)
        )
        # Methods at one site are set side by side, or their intervals would hide each other.
        shift = 0.5 * ((index + 0.5) / len(methods) - 0.5)
        for row, metric in enumerate(("auroc", "tpr"), start=1):
            values = [_value(score, metric) for score in members]
            ends = [_interval(score, metric) for score in members]
            figure.add_scatter(
                x=[sites.index(score.site) + shift for score in members],
                y=values,
                error_y=style.error_bars(values, ends, style.translucent(tint, 0.6)),
                mode="lines+markers",
                line={"color": tint, "width": 1.6, "dash": "dot" if family == "control" else "solid"},
                marker={"color": tint, "symbol": style.SYMBOLS[index % len(style.SYMBOLS)], "size": 8},
                name=chart_text(method),
                legendgroup=f"method {index}",
                showlegend=row == 1,
                customdata=[
                    [f"{chart_text(method)}, {chart_text(s.site)}", style.with_interval(v, e)]
                    for s, v, e in zip(members, values, ends, strict=True)
                ],
                hovertemplate="%{customdata[0]}<br>" + metric.upper() + " %{customdata[1]}<extra></extra>",
                row=row,
                col=1,
            )
    figure.update_xaxes(tickvals=list(range(len(sites))), ticktext=[chart_text(site) for site in sites])
    figure.update_xaxes(range=[-0.5, len(sites) - 0.5])
    figure.update_yaxes(title="AUROC", range=[_floor(scores, "auroc"), 1.02], row=1, col=1)
    figure.update_yaxes(title=f"TPR at {percent(scores[0].target_fpr)} FPR", range=[-0.03, 1.03], row=2, col=1)
    figure.add_hline(y=0.5, line={"color": "#99a", "width": 1, "dash": "dot"}, row=1, col=1)  # pyright: ignore[reportArgumentType]
    return style.styled(figure, height=460, legend_rows=1 + len(methods) // 4)


def recovery_figure(curve: RecoveryCurve) -> go.Figure:
    """Share of suppressed prompts that came back at each relative budget; bands are 95 % intervals."""
    figure = go.Figure()
    x = budget_positions(curve.budgets_relative)
    seen = {"attack": 0, "control": 0}
    for index, arm in enumerate(curve.arms):
        tints = style.TINTS["dictionary" if arm.role == "control" else "baseline"]
        tint = tints[seen[arm.role] % len(tints)]
        seen[arm.role] += 1
        _add_arm(figure, arm, x, curve.budgets_relative, tint, style.SYMBOLS[index % len(style.SYMBOLS)])
    figure.update_yaxes(range=[-0.03, 1.05], title="share recovered")
    figure.update_xaxes(
        tickvals=x,
        ticktext=[budget(value) for value in curve.budgets_relative],
        title="relative budget: norm of the perturbation / norm of the residual",
    )
    if curve.eps50 is not None and curve.eps50 > 0:
        figure.add_vline(
            x=_position(curve.eps50, curve.budgets_relative),
            line={"color": style.TARGET, "width": 1.5, "dash": "dash"},
            annotation={"text": f"eps50 = {number(curve.eps50)}", "showarrow": False, "yanchor": "bottom"},
        )
    return style.styled(figure, height=320, legend_rows=1 + len(curve.arms) // 4, titled=True)


def budget_positions(budgets: Sequence[float]) -> list[float]:
    """Place budgets on a log axis; 0 stands one typical step left of the smallest positive one."""
    return [_position(value, budgets) for value in budgets]


def _position(value: float, budgets: Sequence[float]) -> float:
    logs = sorted(math.log10(b) for b in budgets if b > 0)
    if value > 0:
        return math.log10(value)
    if not logs:
        return 0.0
    return logs[0] - ((logs[-1] - logs[0]) / (len(logs) - 1) if len(logs) > 1 else 1.0)


def _add_arm(
    figure: go.Figure, arm: RecoveryArm, x: Sequence[float], budgets: Sequence[float], tint: str, symbol: str
) -> None:
    # A ladder that was stopped early has fewer rates than budgets.
    n = min(len(x), len(arm.rate), len(arm.interval))
    rate, ends, at = arm.rate[:n], arm.interval[:n], list(x[:n])
    name = chart_text(arm.name)
    figure.add_scatter(
        x=[*at, *reversed(at)],
        y=[*(high for _, high in ends), *(low for low, _ in reversed(ends))],
        fill="toself",
        mode="lines",
        line={"width": 0, "color": tint},
        fillcolor=style.translucent(tint, 0.14),
        hoverinfo="skip",
        showlegend=False,
        legendgroup=name,
    )
    extra: dict[str, Any] = {"dash": "dash"} if arm.role == "control" else {}
    figure.add_scatter(
        x=at,
        y=rate,
        mode="lines+markers",
        line={"color": tint, "width": 2, **extra},
        marker={"color": tint, "symbol": symbol, "size": 8},
        name=f"{name} ({arm.role}, n {count(arm.n)})",
        legendgroup=name,
        customdata=[
            [name, budget(b), style.with_interval(r, e)] for b, r, e in zip(budgets[:n], rate, ends, strict=True)
        ],
        hovertemplate="%{customdata[0]}<br>budget %{customdata[1]}<br>recovered %{customdata[2]}<extra></extra>",
    )


def _value(score: MethodScore, metric: Metric) -> float:
    return score.auroc if metric == "auroc" else score.tpr


def _interval(score: MethodScore, metric: Metric) -> tuple[float, float]:
    return score.auroc_interval if metric == "auroc" else score.tpr_interval


def _null(score: MethodScore, metric: Metric) -> float | None:
    return score.null_auroc if metric == "auroc" else score.null_tpr


def _null_interval_metric(score: MethodScore) -> Metric:
    """`null_interval` belongs to the null AUROC where there is one, else to the null TPR."""
    return "auroc" if score.null_auroc is not None else "tpr"


def _floor(scores: Sequence[MethodScore], metric: Metric) -> float:
    """Lower end of an axis: .4, or lower where something would be cut off."""
    lowest = min(min(_interval(s, metric)[0], 1.0 if (n := _null(s, metric)) is None else n) for s in scores)
    return min(0.38, math.floor(20 * lowest) / 20 - 0.02)
