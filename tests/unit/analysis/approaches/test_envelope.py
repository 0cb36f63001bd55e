from __future__ import annotations

import json

import numpy as np
import pytest
from isoflop_rows import EARLY, Drawn, a_of, grid_rows

from analysis.approaches.curves import hull_vertices
from analysis.approaches.envelope import EnvelopeResult, Options, envelope
from analysis.approaches.power import PowerLaws

SIZES = np.geomspace(1e8, 2e10, 12)
CURVES = grid_rows(EARLY, SIZES, np.geomspace(1e9, 3e12, 60))
PAPER_SIZES = np.array([274.8, 464.0, 931.7, 1626.8, 2279.9, 3354.2]) * 1e6
PAPER = grid_rows(EARLY, PAPER_SIZES, np.geomspace(2.5e9, 600e9, 13))


def run(rows: Drawn, **options: object) -> EnvelopeResult:
    return envelope(*rows.columns, options=Options(**({"draws": 0} | options)))  # type: ignore[arg-type]


def laws_of(result: EnvelopeResult) -> PowerLaws:
    assert result.laws is not None, result.notes
    return result.laws


@pytest.mark.parametrize("variant", ["bins", "hull"])
def test_a_fine_grid_of_sizes_finds_the_exponents(variant: str) -> None:
    laws = laws_of(run(grid_rows(EARLY, np.geomspace(1e8, 2e10, 30), np.geomspace(1e9, 3e12, 100)), variant=variant))
    assert laws.a.value == pytest.approx(a_of(EARLY), abs=2e-3)
    assert laws.b.value == pytest.approx(1 - a_of(EARLY), abs=2e-3)
    size, tokens = EARLY.optimum(1e21)
    best = laws.at(1e21)
    assert best.size.value == pytest.approx(float(size), rel=0.03)
    # one power law over five decades of a loss with a floor is 2 % high in the middle
    assert best.loss.value == pytest.approx(float(EARLY.loss(size, tokens)), rel=0.03)
    assert -0.056 < laws.c.value < -0.047


def test_points_lie_on_the_surface_and_never_below_the_true_frontier() -> None:
    result = run(CURVES)
    for point in result.points:
        assert point.loss == pytest.approx(float(EARLY.loss(point.size, point.tokens)), rel=2e-4)
        size, tokens = EARLY.optimum(point.compute)
        assert point.loss > float(EARLY.loss(size, tokens)) * (1 - 1e-6)
        assert 6 * point.size * point.tokens == pytest.approx(point.compute, rel=1e-9)


def test_edges_of_the_size_grid_are_listed_and_left_out() -> None:
    result = run(PAPER)
    assert result.num_sizes == 6 and result.sizes_used == pytest.approx(PAPER_SIZES[1:-1])
    for point in result.points:
        edge = any(point.size == pytest.approx(s) for s in PAPER_SIZES[[0, -1]])
        assert bool(point.excluded) >= edge
    reasons = {r.why.split(": ", 1)[1] for r in result.refusals}
    assert reasons >= {"smallest size: smaller ones could be lower", "largest size: larger ones could be lower"}
    assert {r.kind for r in result.refusals} == {"EdgeMinimum"}


def test_a_size_whose_neighbour_was_not_run_at_this_compute_is_censored() -> None:
    few_tokens = (PAPER.size == PAPER_SIZES[4]) & (PAPER.compute > 2e21)
    cut = Drawn(*(column[~few_tokens] for column in (*PAPER.columns, PAPER.slices)))
    whys = {p.excluded for p in run(cut).points if p.size == pytest.approx(PAPER_SIZES[3])}
    assert "the next larger size has no run at this compute" in whys


def test_one_point_a_size_is_not_flattened_by_the_staircase() -> None:
    """Six sizes, four of them uncensored: a line through every point of the frontier is too flat, noise or not."""
    by_size, by_point = (laws_of(run(PAPER, regress=r)).a.value - a_of(EARLY) for r in ("sizes", "points"))
    assert abs(by_size) < 0.02 and by_point < -0.02
    noisy = [
        [
            laws_of(run(grid_rows(EARLY, PAPER_SIZES, np.geomspace(2.5e9, 6e11, 13), 3e-3, s), regress=r)).a.value
            for s in range(20)
        ]
        for r in ("sizes", "points")
    ]
    errors = np.mean(noisy, axis=1) - a_of(EARLY)
    assert abs(errors[0]) < 0.04 and errors[1] < -0.03


def test_the_threshold_drops_low_compute() -> None:
    result = run(CURVES, above=3e20)
    assert min(p.compute for p in result.points) == pytest.approx(3e20)
    with pytest.raises(ValueError, match="no compute is left above"):
        run(CURVES, above=1e30)


def test_hull_vertices_are_the_lower_hull() -> None:
    x = np.linspace(-1, 1, 41)
    assert list(hull_vertices(x, x**2)) == list(range(41))
    bumped = x**2 + np.where(np.arange(41) % 2, 0.1, 0.0)
    assert list(hull_vertices(x, bumped)) == list(range(0, 41, 2))
    assert list(hull_vertices(x, -(x**2))) == [0, 40]
    assert list(hull_vertices(np.arange(4.0), np.array([0.0, 0.0, 0.0, 1.0]))) == [0, 2, 3]


def test_whole_runs_are_resampled_and_the_interval_holds_the_truth() -> None:
    rows = grid_rows(EARLY, SIZES, np.geomspace(1e9, 3e12, 20), 2e-3)
    runs = envelope(*rows.columns, clusters=np.arange(len(rows.size)), options=Options(draws=60))
    sizes = envelope(*rows.columns, options=Options(draws=60))
    for result in (runs, sizes):
        a = laws_of(result).a
        assert a.known and a.low < a_of(EARLY) < a.high
    assert "whole runs" in laws_of(runs).method and "whole sizes" in laws_of(sizes).method
    assert "no run was named" in sizes.notes[-1]
    width = [laws_of(r).a.high - laws_of(r).a.low for r in (runs, sizes)]
    assert width[0] < width[1]
    again = envelope(*rows.columns, options=Options(draws=60))
    assert laws_of(again).a == laws_of(sizes).a
    json.dumps(runs.to_dict(), allow_nan=False)


def test_seeds_of_one_size_and_compute_are_averaged() -> None:
    twice = Drawn(*(np.concatenate([column, column]) for column in (*CURVES.columns, CURVES.slices)))
    shifted = np.concatenate([CURVES.loss * 1.01, CURVES.loss / 1.01])
    result = envelope(twice.size, twice.tokens, shifted, options=Options(draws=0))
    np.testing.assert_allclose(laws_of(result).lines, laws_of(run(CURVES)).lines, atol=1e-9)


def test_too_little_to_go_on_is_refused() -> None:
    three = grid_rows(EARLY, SIZES[:3], np.geomspace(1e9, 1e12, 9))
    with pytest.raises(ValueError, match="there are 3 sizes"):
        run(three)
    disjoint = Drawn(
        *(
            np.concatenate(parts)
            for parts in zip(
                *(
                    (*grid_rows(EARLY, SIZES[i : i + 1], np.geomspace(1e9, 2e9, 5) * 40.0**i).columns, np.full(5, i))
                    for i in range(4)
                ),
                strict=True,
            )
        )
    )
    result = run(disjoint)
    assert result.laws is None and "two are needed" in result.notes[0]
    with pytest.raises(ValueError, match="variant"):
        Options(variant="spline")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="num_bins"):
        Options(num_bins=3)
