import pytest

from report.example import SITES, example, recovery, share_interval
from saeaudit.findings import ClassRate
from saeaudit.report import figures
from saeaudit.report.figure_style import figure_data

EVIL = '<a href="javascript:window.__pwned=1">x</a>%{customdata[0]}'


def _traces(figure):
    return figure_data(figure)["data"]


def _points(traces, axis):
    return {
        (x, y)
        for t in traces
        if t.get("xaxis", "x") == axis and t["mode"] == "markers"
        for x, y in zip(t["x"], t["y"], strict=True)
    }


@pytest.fixture
def scores():
    return [score for score in example("flag").scores if score.site == "layers.20"]


def test_every_method_is_drawn_once_in_both_panels_with_its_interval_and_null(scores):
    traces = _traces(figures.methods_figure(scores))
    for axis, metric in (("x", "auroc"), ("x2", "tpr")):
        points = _points(traces, axis)
        for i, score in enumerate(scores):
            assert (getattr(score, metric), len(scores) - 1 - i) in points
            null = getattr(score, f"null_{metric}")
            assert null is None or (null, len(scores) - 1 - i) in points
        for trace in traces:
            if "error_x" in trace and trace.get("xaxis", "x") == axis:
                ends = [
                    (x - low, x + high)
                    for x, low, high in zip(
                        trace["x"], trace["error_x"]["arrayminus"], trace["error_x"]["array"], strict=True
                    )
                ]
                expected = [getattr(s, f"{metric}_interval") for s in scores if s.family == trace["legendgroup"]]
                assert ends == [pytest.approx(pair) for pair in expected]


def test_the_interval_of_a_null_is_a_band_in_the_panel_it_belongs_to(scores):
    def bands(figure):
        return [(t["x"], t.get("xaxis", "x")) for t in _traces(figure) if t["mode"] == "lines"]

    with_null = [score for score in scores if score.null_auroc is not None]
    assert bands(figures.methods_figure(scores)) == [(list(score.null_interval), "x") for score in with_null]
    of_tpr = [score.model_copy(update={"null_auroc": None}) for score in with_null[:1]]
    assert bands(figures.methods_figure(of_tpr)) == [(list(of_tpr[0].null_interval), "x2")]


def test_families_differ_in_colour_and_in_shape(scores):
    looks = {
        (t["legendgroup"], t["marker"]["color"], t["marker"]["symbol"])
        for t in _traces(figures.methods_figure(scores))
        if t["mode"] == "markers" and t["legendgroup"] != "null"
    }
    assert len(looks) == 3 == len({look[1] for look in looks}) == len({look[2] for look in looks})


def test_the_chosen_method_is_marked(scores):
    ticks = figure_data(figures.methods_figure(scores))["layout"]["yaxis"]["ticktext"]
    assert [tick for tick in ticks if "★" in tick] == ["<b>diff-SAE latent</b> ★"]


def test_classes_are_ordered_and_compared_with_the_target():
    rates = [
        ClassRate(name=n, fpr=p, interval=share_interval(p, 300), n=300)
        for n, p in [("low", 0.0), ("high", 0.2), ("mid", 0.02)]
    ]
    data = figure_data(figures.classes_figure(rates, target_fpr=0.01))
    (bar,) = data["data"]
    assert bar["x"] == [0.0, 0.02, 0.2]
    assert [label.split()[0] for label in data["layout"]["yaxis"]["ticktext"]] == ["low", "mid", "high"]
    # Hatched exactly where the whole interval is above the target.
    assert bar["marker"]["pattern"]["shape"] == ["", "", "/"]
    assert [shape["x0"] for shape in data["layout"]["shapes"]] == [0.01]
    assert not figure_data(figures.classes_figure(rates, target_fpr=None))["layout"].get("shapes")


def test_every_layer_of_every_method_is_drawn():
    scores = example("flag").scores
    traces = _traces(figures.layers_figure(scores, SITES))
    drawn = sorted(y for t in traces if t.get("yaxis", "y") == "y" for y in t["y"])
    assert drawn == pytest.approx(sorted(score.auroc for score in scores))
    for trace in traces:
        assert [round(x) for x in trace["x"]] == list(range(len(SITES)))


def test_a_method_that_is_missing_at_a_site_leaves_a_gap():
    scores = [s for s in example("flag").scores if not (s.method == "mean difference" and s.site == "layers.13")]
    traces = [t for t in _traces(figures.layers_figure(scores, SITES)) if t["name"] == "mean difference"]
    assert [[round(x) for x in t["x"]] for t in traces] == [[0, 2, 3], [0, 2, 3]]


def test_zero_budget_has_its_own_place_left_of_the_ladder():
    x = figures.budget_positions([0.0, 0.01, 0.1, 1.0])
    assert x == pytest.approx([-3.0, -2.0, -1.0, 0.0])
    assert figures.budget_positions([0.0]) == [0.0]
    assert figures.budget_positions([0.0, 0.1]) == pytest.approx([-2.0, -1.0])


def test_recovery_draws_rates_and_bands_and_eps50():
    curve = recovery()
    data = figure_data(figures.recovery_figure(curve))
    lines = [t for t in data["data"] if t.get("fill") != "toself"]
    bands = [t for t in data["data"] if t.get("fill") == "toself"]
    assert [t["y"] for t in lines] == [arm.rate for arm in curve.arms]
    assert [(t["y"][0], t["y"][-1]) for t in bands] == [arm.interval[0][::-1] for arm in curve.arms]
    assert [t["line"].get("dash") for t in lines] == [None, "dash", "dash"]
    assert len(data["layout"]["shapes"]) == 1
    without = curve.model_copy(update={"eps50": None})
    assert not figure_data(figures.recovery_figure(without))["layout"].get("shapes")


def test_a_ladder_that_stopped_early_is_drawn_as_far_as_it_goes():
    curve = recovery()
    short = curve.arms[0].model_copy(update={"rate": [0.1, 0.2], "interval": [(0.0, 0.2), (0.1, 0.3)]})
    line = _traces(figures.recovery_figure(curve.model_copy(update={"arms": [short]})))[1]
    assert len(line["x"]) == len(line["y"]) == 2


def test_hostile_names_reach_plotly_as_text(scores):
    evil = [score.model_copy(update={"method": EVIL}) for score in scores]
    curve = recovery()
    arms = [arm.model_copy(update={"name": EVIL}) for arm in curve.arms]
    rates = [ClassRate(name=EVIL, fpr=0.1, interval=(0.0, 0.2), n=3)]
    for figure in (
        figures.methods_figure(evil),
        figures.layers_figure(evil, ["layers.20"]),
        figures.classes_figure(rates, target_fpr=0.01),
        figures.recovery_figure(curve.model_copy(update={"arms": arms})),
    ):
        data = figure_data(figure)
        assert "<a" not in str(data)
        assert all(EVIL[:5] not in str(t.get("hovertemplate")) for t in data["data"])
        # A name inside a template would have its %{...} filled in; names travel as custom data.
        assert all("javascript" not in str(t.get("hovertemplate")) for t in data["data"])
