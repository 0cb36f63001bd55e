from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import picture_examples as some
import pytest
from matplotlib.colors import to_hex
from matplotlib.text import Text
from picture_text import assert_readable

from analysis import plots
from analysis.plots.cloud import _ellipse, _region
from analysis.plots.inputs import columns
from analysis.plots.labels import label_points, lay_out
from analysis.plots.style import log_axis, panels, readable, styled
from analysis.report.marks import GROUP_COLOURS
from analysis.result import Interval

NAMES = list(some.PICTURES)


def words(figure: plots.Figure) -> str:
    """All text of a picture but its ticks, line breaks as spaces."""
    return " ".join(text.get_text() for text in figure.findobj(Text) if text.get_text()).replace("\n", " ")


def lines(figure: plots.Figure, panel: int, marker: str) -> list[np.ndarray]:
    """(x, y) of every line of a panel with this marker."""
    return [line.get_xydata() for line in figure.axes[panel].lines if line.get_marker() == marker]


@pytest.mark.parametrize("narrow", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_every_picture_is_readable_and_its_axes_have_units(name: str, narrow: bool) -> None:
    figure = some.PICTURES[name](narrow)
    assert_readable(figure)
    labels = [axis.label.get_text() for panel in figure.axes for axis in (panel.xaxis, panel.yaxis)]
    assert [text for text in labels if text and not re.search(r"\([^()]+\)", text)] == []
    assert sum(map(bool, labels)) >= 2
    assert figure.get_figwidth() == (4.3 if narrow else 10.6)


EMPTY = {
    "frontier": lambda: plots.compute_frontier([]),
    "frontier of nan": lambda: plots.compute_frontier([replace(some.frontier(), loss=np.full(20, np.nan))]),
    "isoflop": lambda: plots.isoflop_slices([]),
    "contour": lambda: plots.loss_contour([replace(some.loss_map(), grid_loss=np.full((20, 20), np.nan))]),
    "residuals": lambda: plots.residual_panels(plots.Residuals([], [], [], [], [])),
    "predictions": lambda: plots.predicted_against_observed(plots.Predictions([np.nan], [2.0], [True])),
    "profiles": lambda: plots.profile_curves([], 3.84),
    "clouds": lambda: some.clouds(count=1),
    "multiplier": lambda: plots.multiplier_curves([replace(some.multiplier(), value=np.full(21, np.nan))]),
    "approaches": lambda: plots.approaches_forest([]),
    "sensitivity": lambda: plots.sensitivity_forest([]),
    "design": lambda: plots.design_curve([plots.Additions([], [])], 0.3, "alpha"),
    "power": lambda: plots.power_curve([]),
}


@pytest.mark.parametrize("name", list(EMPTY))
def test_nothing_to_draw_is_said_in_a_sentence(name: str) -> None:
    figure = EMPTY[name]()
    assert_readable(figure)
    assert words(figure).endswith((".", "draw", "compare.")) and len(figure.axes) == 1 and not figure.axes[0].lines


def first(array: object) -> np.ndarray:
    """The first entry of a column, as a column."""
    return np.asarray(array)[:1]


def one_row_pictures() -> list[plots.Figure]:
    """Every picture of a single row."""
    runs, slice_, rows = some.frontier(), some.isoflop(1e20), some.residuals()
    curve = plots.Curve(COMPUTE_ONE, [2.5], [2.4], [2.6])
    alone = replace(runs, size=first(runs.size), compute=first(runs.compute), loss=first(runs.loss), curve=curve)
    bare = plots.IsoflopSlice(1e20, first(slice_.size), first(slice_.loss))
    lone = plots.Residuals(*(first(c) for c in (rows.residual, rows.fitted, rows.size, rows.tokens)), ["run-0"])
    one = plots.Multiplier("early", "late", COMPUTE_ONE, [1.1], [1.0], [1.2])
    return [
        plots.compute_frontier([alone]),
        plots.isoflop_slices([bare]),
        plots.residual_panels(lone),
        plots.predicted_against_observed(plots.Predictions([2.0], [2.1], [True], [3.0])),
        plots.profile_curves([plots.Profile("alpha", [0.3], [0.0], Interval(0.3, np.nan, np.nan))], 3.84),
        some.clouds(count=2),
        plots.multiplier_curves([one]),
        plots.approaches_forest(some.estimates()[:1]),
        plots.sensitivity_forest([s for s in some.settings() if s.is_default]),
        plots.design_curve([plots.Additions([1e20], [0.2], ["N 1B"])], 0.3, "alpha"),
        plots.power_curve([plots.Power("early or late", [8], [0.5], [0.4], [0.6])]),
    ]


COMPUTE_ONE = np.array([1e20])


@pytest.mark.filterwarnings("error::UserWarning")
def test_a_single_row_is_drawn() -> None:
    for figure in one_row_pictures():
        assert_readable(figure)


REFUSED = {
    "loss has 2 values and size 3": lambda: columns(size=[1, 2, 3], loss=[1, 2]),
    r"loss has shape \(1, 2\)": lambda: columns(loss=[[1, 2]]),
    "only its low end": lambda: plots.Curve([1.0], [1.0], low=[1.0]),
    r"value has shape \(2,\) and x \(1,\)": lambda: plots.Curve([1.0], [1.0, 2.0]),
    "no known entropy for early": lambda: plots.compute_frontier([some.frontier()], excess=True),
    r"grid_loss of early has shape \(20, 19\)": lambda: replace(some.loss_map(), grid_loss=np.ones((20, 19))),
    "tokens of the path": lambda: plots.OptimalPath([1.0], [1.0], [1.0, 2.0], (0, 1)),
    "run has 1 names and residual 20": lambda: plots.residual_panels(replace(some.residuals(), run=["a"])),
    "distance holds 0.5": lambda: plots.predicted_against_observed(plots.Predictions([1], [1], [True], [0.5])),
    "low has shape": lambda: plots.predicted_against_observed(replace(some.predictions(), low=[1.0])),
    "threshold is 0": lambda: plots.profile_curves(some.profiles(), 0),
    "no draws of 'gamma'": lambda: plots.bootstrap_clouds({"alpha": [1, 2]}, {}, [("alpha", "gamma")]),
    "high of late against early": lambda: replace(some.multiplier(), high=[1.0]),
    "0 of 2 choices have is_default": lambda: plots.sensitivity_forest(some.settings()[2:4]),
    "baseline is nan": lambda: plots.design_curve(some.additions(), np.nan, "alpha"),
    "has 1 labels and 2 runs": lambda: plots.design_curve([plots.Additions([1, 2], [1, 1], ["a"])], 1, "E"),
    "need 0 <= low <= share": lambda: plots.power_curve([plots.Power("x", [4], [0.9], [0.95], [1.0])]),
}


@pytest.mark.parametrize("message", list(REFUSED))
def test_wrong_input_is_refused_by_name(message: str) -> None:
    with pytest.raises(ValueError, match=message):
        REFUSED[message]()


def test_rows_that_are_not_finite_are_counted_under_the_picture() -> None:
    part = some.frontier()
    loss = np.array(part.loss)
    loss[[2, 5]] = np.nan, -1.0
    assert "2 of 20 points without a finite value not shown." in words(
        plots.compute_frontier([replace(part, loss=loss)])
    )
    share = replace(some.powers()[0], share=[0.2, np.nan, 0.8, 0.95])
    assert "1 of 4 points" in words(plots.power_curve([share]))


def test_groups_keep_their_colours_and_what_was_not_tested_is_dashed_and_hatched() -> None:
    figure = plots.compute_frontier([some.frontier("early"), some.frontier("late")])
    for panel, group in zip(figure.axes, ("early", "late"), strict=False):
        thick = [line for line in panel.lines if line.get_linewidth() == 2.0]
        assert {to_hex(line.get_color()).upper() for line in thick} == {GROUP_COLOURS[group]}
        dashed = [line for line in thick if line.is_dashed()]
        (solid,) = [line for line in thick if not line.is_dashed()]
        tested = some.frontier(group).tested
        np.testing.assert_allclose(solid.get_xdata()[[0, -1]], tested)
        assert {round(float(np.log10(x))) for line in dashed for x in line.get_xdata()[[0, -1]]} >= {17, 24}
        assert sum(band.get_hatch() is not None for band in panel.collections) == 2


def test_excess_is_the_loss_above_the_entropy() -> None:
    plain, above = (plots.compute_frontier([some.frontier(entropy=1.6)], excess=e) for e in (False, True))
    points = [figure.axes[0].collections[0].get_offsets() for figure in (plain, above)]
    np.testing.assert_allclose(points[0][:, 1] - points[1][:, 1], 1.6)


def test_a_refused_minimum_is_crossed_out_and_explained() -> None:
    figure = some.PICTURES["isoflop"](False)
    ((cross,),) = lines(figure, 0, "X")
    refused = some.isoflop(6e18, True)
    assert cross[1] == min(refused.loss)
    assert "Refused at 6e18: the lowest loss was observed at the smallest size." in words(figure)
    places = [float(xy[0, 0]) for xy in lines(figure, 1, "s")]
    np.testing.assert_allclose(places, [10, 0, 10, 0], atol=1e-9)


def test_outliers_are_named_and_counted() -> None:
    figure = some.PICTURES["residuals"](False)
    assert [[t.get_text() for t in panel.texts if t.get_text()] for panel in figure.axes] == [["run-3"]] * 4 + [[]]
    assert "beyond 4 sigmas: 1" in words(figure)
    assert "beyond" not in words(plots.residual_panels(some.residuals(0.0)))


def test_errors_in_words_are_those_of_the_rows() -> None:
    rows = some.predictions()
    held = np.array(rows.held)
    observed, predicted = np.array(rows.observed)[held], np.array(rows.predicted)[held]
    mae, share = np.mean(np.abs(predicted - observed)), 100 * np.mean(np.abs(predicted - observed) / observed)
    r2 = 1 - np.sum((predicted - observed) ** 2) / np.sum((observed - observed.mean()) ** 2)
    expected = f"held out: MAE {mae:.2g} nats, {share:.2g} %, R2 {r2:.4f}"
    assert expected in words(plots.predicted_against_observed(rows))


def test_open_ends_of_a_profile_are_not_given_as_numbers() -> None:
    text = words(some.PICTURES["profiles"](False))
    assert text.count("not identified") == 3 and "lower end open" in text and "both ends open" in text
    assert "not identified" not in words(plots.profile_curves(some.profiles()[:1], 3.84))


@pytest.mark.parametrize("count", [400, 120])
def test_the_region_of_a_cloud_holds_95_per_cent(count: int) -> None:
    points = np.array([some.DRAWS[:count, 0], 19 * some.DRAWS[:count, 0] + 1e-3 * some.DRAWS[:count, 1]])
    if count >= 300:
        grid, density, level = _region(points)
        nearest = [np.argmin(((grid - p[:, None, None]) ** 2 / np.var(points)).sum(axis=0)) for p in points.T]
        inside = density.ravel()[nearest] >= level
    else:
        centred = points - points.mean(axis=1, keepdims=True)
        ring = _ellipse(points[0], points[1]) - points.mean(axis=1, keepdims=True)
        inverse = np.linalg.inv(np.cov(points))
        radius = np.einsum("ik,ij,jk->k", ring, inverse, ring)
        np.testing.assert_allclose(radius, 5.991, rtol=1e-3)
        inside = np.einsum("ik,ij,jk->k", centred, inverse, centred) <= radius.min()
    assert 0.91 <= inside.mean() <= 0.98


def test_draws_at_a_bound_are_said() -> None:
    share = np.mean(some.DRAWS[:, 1] <= 0.26)
    assert f"{100 * share:.0f} % of the resamples have beta at a bound." in words(some.clouds())


def test_a_multiplier_is_solid_only_where_both_were_seen() -> None:
    figure = some.PICTURES["multiplier"](False)
    curve = some.multiplier()
    seen = (curve.bound == 0) & (curve.edge == 0)
    solid = [line for line in figure.axes[0].lines if line.get_linewidth() == 2.2 and not line.is_dashed()]
    np.testing.assert_array_equal(np.isfinite(solid[0].get_ydata()), seen)
    triangles = np.concatenate(lines(figure, 0, "^"))
    assert len(triangles) and triangles[:, 0].min() > 1e22
    assert any(patch.get_hatch() for patch in figure.axes[0].patches)


def test_a_choice_outside_the_default_stands_out() -> None:
    figure = some.PICTURES["sensitivity"](False)
    assert [float(xy[0, 0]) for xy in lines(figure, 0, "D")] == [0.38] and lines(figure, 1, "D") == []
    ticks = [tick.get_text() for tick in figure.axes[0].get_yticklabels()]
    assert ticks[:2] == ["default: log-huber", "objective: log-mse"]


def test_refusals_of_an_approach_stand_in_full_below() -> None:
    text = words(some.PICTURES["approaches"](False))
    assert text.count("refused, see below") == 2
    assert "Refused (2 isoFLOP, raw, early): 3 of 5 minima lie at the edge of the sizes." in text


def test_labels_of_points_avoid_each_other_and_say_what_found_no_room() -> None:
    with styled():
        figure, (panel,) = panels(1, True, 2.0)
        panel.plot([0.5] * 3, [0.5, 0.52, 0.54], "o")
        panel.set(xlim=(0, 1), ylim=(0, 1))
        lay_out(figure)
        points = np.array([[0.5, 0.5], [0.5, 0.52], [0.5, 0.54]])
        assert label_points(panel, [(x, y, f"run {y}") for x, y in points], points) == []
        crowd = [(0.5, 0.5, "a name that is far too long for a panel of this width, which is four inches")]
        assert label_points(panel, crowd, points) == [crowd[0][2]]
    assert_readable(figure)


@pytest.mark.parametrize(
    ("low", "high", "form", "expected"),
    [
        (2.1, 3.4, "plain", ["2.25", "2.5", "2.75", "3", "3.25"]),
        (1.5e8, 8e9, "words", ["200M", "500M", "1B", "2B", "5B"]),
        (1e17, 1e26, "power", ["$10^{17}$", "$10^{19}$", "$10^{21}$", "$10^{23}$", "$10^{25}$"]),
        (1e20, 3e21, "power", ["1e20", "2e20", "5e20", "1e21", "2e21"]),
    ],
)
def test_logarithmic_axes_have_a_few_round_ticks(low: float, high: float, form: str, expected: list[str]) -> None:
    with styled():
        figure, (panel,) = panels(1, False, 2.0)
        panel.set(xscale="log", xlim=(low, high))
        log_axis(panel.xaxis, form)  # type: ignore[arg-type]
        figure.canvas.draw()
    assert [t.get_text() for t in panel.get_xticklabels()] == expected


def test_light_colours_are_darkened_for_text() -> None:
    assert readable("#007D5C") == pytest.approx((0, 125 / 255, 92 / 255, 1))
    assert sum(readable((0.64, 0.86, 0.21, 1.0))[:3]) < 0.75 * (0.64 + 0.86 + 0.21)
