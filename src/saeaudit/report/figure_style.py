"""What all charts share: colours, marker shapes, and the step from a plotly figure to data for the page.

The colours of text, lines and grid follow the page (light, dark, print) through its style sheet; only the colours of
the data are set here. They were chosen to keep a contrast of 3:1 on white and on the dark background, and every
family also has its own marker shape, so that nothing depends on telling colours apart.
"""

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

import plotly.graph_objects as go

from saeaudit.report.numbers import share, share_interval

INK = "#7d8490"
TARGET = "#c2379a"


class FamilyStyle(NamedTuple):
    """Name in the legend, colour, and marker shape of a family of detectors."""

    label: str
    colour: str
    symbol: str


FAMILIES = {
    "dictionary": FamilyStyle("dictionary", "#2878b8", "circle"),
    "baseline": FamilyStyle("baseline", "#d2690e", "square"),
    "control": FamilyStyle("control", "#80808c", "diamond"),
}
# Several methods of one family in one chart: tints of the family's colour, and shapes in a fixed order.
TINTS = {
    "dictionary": ["#2878b8", "#5b5fc7", "#0f8f95", "#7d86d8", "#3f9ad6"],
    "baseline": ["#d2690e", "#b5483a", "#a87900", "#c9546b", "#8f6a4a"],
    "control": ["#80808c"],
}
SYMBOLS = ["circle", "square", "diamond", "triangle-up", "triangle-down", "cross", "x", "star", "hexagon", "pentagon"]


def translucent(colour: str, alpha: float) -> str:
    """Return `#rrggbb` as an rgba() colour."""
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},{alpha})"


def error_bars(values: Sequence[float], ends: Sequence[tuple[float, float]], colour: str) -> dict[str, Any]:
    """Return asymmetric error bars from interval ends; an end on the wrong side of its value gives length 0."""
    return {
        "type": "data",
        "symmetric": False,
        "array": [max(high - value, 0.0) for value, (_, high) in zip(values, ends, strict=True)],
        "arrayminus": [max(value - low, 0.0) for value, (low, _) in zip(values, ends, strict=True)],
        "color": colour,
        "thickness": 1.5,
        "width": 0,
    }


def with_interval(value: float, ends: tuple[float, float]) -> str:
    """Return the text of a share with its interval for a hover label."""
    return f"{share(value)} {share_interval(ends)}"


def styled(figure: go.Figure, *, height: int, legend_rows: int = 0, titled: bool = False) -> go.Figure:
    """Give `figure` the layout that all charts share: a plot of `height` pixels and the legend below it.

    `legend_rows`: room for the legend on a wide page (0 = no legend); `titled`: the x axis has a title.
    """
    below = 62 if titled else 38
    axis = {"gridcolor": "#dde", "zeroline": False, "linecolor": "#99a", "ticks": "outside", "ticklen": 4}
    figure.update_xaxes(**axis, title_font_size=13)
    figure.update_yaxes(**axis, title_font_size=13, automargin=True)
    figure.update_annotations(font_size=13)
    return figure.update_layout(
        template=go.layout.Template(),
        height=30 + height + below + 22 * legend_rows,
        margin={"l": 10, "r": 14, "t": 30, "b": below + 22 * legend_rows},
        font={"family": "system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif", "size": 13, "color": INK},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        dragmode=False,
        hovermode="closest",
        hoverlabel={
            "bgcolor": "#22252b",
            "bordercolor": "#22252b",
            "font": {"color": "#ffffff", "size": 12},
            "align": "left",
        },
        showlegend=legend_rows > 0,
        legend={"orientation": "h", "x": 0, "xanchor": "left", "y": -below / height, "yanchor": "top"},
    )


def figure_data(figure: go.Figure) -> dict[str, Any]:
    """Return `{"data": ..., "layout": ...}` as plain JSON values for `Plotly.newPlot`."""
    value = json.loads(str(figure.to_json(engine="json")))
    return {"data": value["data"], "layout": value["layout"]}
