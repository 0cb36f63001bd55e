from __future__ import annotations

import json
import math

import numpy as np
import pytest
from isoflop_rows import CHINCHILLA, SPARSE, SYMMETRIC, Drawn, a_of, isoflop_rows

from analysis.approaches.bias import Additive, parabola_shift
from analysis.approaches.isoflop import IsoflopResult, Options, isoflop
from analysis.approaches.power import PowerLaws

NO_DRAWS = Options(draws=0)


def laws_of(result: IsoflopResult) -> PowerLaws:
    assert result.laws is not None, result.notes
    return result.laws


def run(rows: Drawn, **options: object) -> IsoflopResult:
    return isoflop(*rows.columns, slices=rows.slices, options=Options(**options))  # type: ignore[arg-type]


@pytest.mark.parametrize("surface", [CHINCHILLA, SPARSE])
def test_exponents_are_exact_without_noise_and_the_level_has_exactly_the_known_bias(surface: Additive) -> None:
    laws = laws_of(run(isoflop_rows(surface, num_sizes=15), draws=0))
    assert laws.a.value == pytest.approx(a_of(surface), abs=1e-12)
    assert laws.b.value == pytest.approx(1 - a_of(surface), abs=1e-12)
    shift = parabola_shift(surface, 1e24, np.geomspace(0.25, 4, 15))
    size, tokens = surface.optimum(1e24)
    best = laws.at(1e24)
    assert best.size.value == pytest.approx(float(size) * math.exp(shift.log_size), rel=1e-9)
    assert 100 * (best.tokens.value / float(tokens) - 1) == pytest.approx(shift.tokens_percent, abs=1e-6)
    assert best.beyond == pytest.approx(100)
    assert laws.coefficient("size").value * 1e24**laws.a.value == pytest.approx(best.size.value, rel=1e-9)


def test_a_symmetric_surface_has_no_bias() -> None:
    laws = laws_of(run(isoflop_rows(SYMMETRIC), draws=0))
    assert laws.at(1e20).size.value == pytest.approx(float(SYMMETRIC.optimum(1e20)[0]), rel=1e-9)
    assert not laws.a.known and "no resamples" in laws.a.why


def test_slices_found_from_compute_are_those_of_the_column() -> None:
    rows = isoflop_rows(SPARSE, noise=1e-3, jitter=0.03)
    found = isoflop(*rows.columns, options=NO_DRAWS)
    named = isoflop(*rows.columns, slices=[f"budget {s}" for s in rows.slices], options=NO_DRAWS)
    assert found.laws == named.laws and found.slices == named.slices


def test_intervals_cover_the_truth() -> None:
    """Nominal 95 % for the slope and for N* a decade beyond the slices, 100 simulated sweeps of 7 slices x 7 sizes."""
    hits = np.zeros(2)
    for seed in range(100):
        laws = laws_of(run(isoflop_rows(SYMMETRIC, 7, 7, noise=2e-3, seed=seed), draws=200))
        size, truth = laws.at(1e23).size, float(SYMMETRIC.optimum(1e23)[0])
        hits += laws.a.low <= 0.5 <= laws.a.high, size.low <= truth <= size.high
    assert np.all((hits >= 89) & (hits <= 100))


@pytest.mark.parametrize("how", [{"jitter": 0.04}, {"tilt": 0.05}])
def test_compute_inside_a_slice_may_differ(how: dict[str, float]) -> None:
    """By chance, or with the size as attention does: a move along the parabolas leaves little of the error."""
    rows = isoflop_rows(CHINCHILLA, num_sizes=11, seed=1, **how)  # type: ignore[arg-type]
    want = laws_of(run(isoflop_rows(CHINCHILLA, num_sizes=11), draws=0))
    moved, rounded = (run(rows, draws=0, correct_compute=flag) for flag in (True, False))
    errors = [
        max(abs(math.log(one.size.value / want.at(one.compute).size.value)) for one in result.slices)
        for result in (moved, rounded)
    ]
    assert errors[0] < 0.1 * errors[1] and errors[1] > 0.02
    assert max(one.spread for one in moved.slices) > 0.02 and max(one.moved for one in moved.slices) > 1e-3
    assert "losses moved" in moved.notes[0] and "not moved" in rounded.notes[0]


def test_tokens_spend_the_slices_compute_under_any_convention() -> None:
    """FLOPs per token grow by more than 6 N at small sizes, as attention and the head make them."""
    rows = isoflop_rows(SYMMETRIC)
    exact = rows.compute * (1 + 3e3 / np.sqrt(rows.size))
    result = isoflop(rows.size, rows.tokens, rows.loss, exact, slices=rows.slices, options=NO_DRAWS)
    for one in result.slices:
        size = one.size.value
        assert 6 * size * one.tokens * (1 + 3e3 / math.sqrt(size)) == pytest.approx(one.compute, rel=2e-3)
        assert one.cost[1] < 1
    laws = laws_of(result)
    assert laws.a.value + laws.b.value > 1.0


def spoiled(rows: Drawn, slice_at: int, keep: np.ndarray | None = None, loss: np.ndarray | None = None) -> Drawn:
    """The rows with one slice cut down to ``keep`` or given another loss."""
    mine = np.nonzero(rows.slices == slice_at)[0]
    new_loss = rows.loss.copy()
    if loss is not None:
        new_loss[mine] = loss
    used = np.ones(len(rows.size), dtype=bool)
    if keep is not None:
        used[mine] = keep
    return Drawn(rows.size[used], rows.tokens[used], new_loss[used], rows.compute[used], rows.slices[used])


NINE = np.arange(9)


@pytest.mark.parametrize(
    ("keep", "loss", "kind", "word"),
    [
        (NINE >= 5, None, "EdgeMinimum", "smallest size"),
        (NINE <= 3, None, "EdgeMinimum", "largest size"),
        (NINE < 3, None, "TooFew", "3 distinct sizes"),
        (None, 3.0 - 1e-2 * (NINE - 4.0) ** 2, "NotConvex", "upwards"),
        (None, 3.0 + 1e-5 * (NINE - 4.0) ** 2 + 1e-2 * (-1.0) ** NINE, "NotConvex", "reaches 0"),
    ],
)
def test_a_slice_without_a_minimum_is_listed_and_the_others_stay(
    keep: np.ndarray | None, loss: np.ndarray | None, kind: str, word: str
) -> None:
    rows = spoiled(isoflop_rows(SPARSE), 4, keep, loss)
    result = run(rows, draws=0)
    assert [r.kind for r in result.refusals] == [kind]
    assert result.refusals[0].compute == pytest.approx(1e20) and word in str(result.refusals[0])
    assert len(result.slices) == 8
    assert laws_of(result).a.value == pytest.approx(a_of(SPARSE), abs=1e-9)


def test_the_lowest_loss_at_the_edge_is_refused_even_if_the_parabola_turns_inside() -> None:
    rows = isoflop_rows(SYMMETRIC, num_slices=2, num_sizes=9)
    size, _ = SYMMETRIC.optimum(1e20)
    factors = np.geomspace(0.9, 12, 8)
    tokens = 1e20 / (6 * float(size) * factors)
    columns = (
        np.append(rows.size, float(size) * factors),
        np.append(rows.tokens, tokens),
        np.append(rows.loss, SYMMETRIC.loss(float(size) * factors, tokens)),
    )
    result = isoflop(*columns, options=NO_DRAWS)
    assert [r.kind for r in result.refusals] == ["EdgeMinimum"]
    assert "observed" in result.refusals[0].why


def test_checkpoints_along_curves_are_no_slices() -> None:
    size = np.repeat(np.geomspace(1e8, 1e10, 8), 60)
    tokens = np.tile(np.geomspace(1e9, 1e12, 60), 8)
    result = isoflop(size, tokens, SPARSE.loss(size, tokens), options=NO_DRAWS)
    assert {r.kind for r in result.refusals} >= {"WideSlice"} and result.laws is None
    assert "no power law" in result.notes[-1]


def test_drift_of_the_grid_is_seen_and_biases_the_exponent() -> None:
    centred, drifting = (run(isoflop_rows(SPARSE, drift=d, noise=2e-4), draws=200) for d in (0.0, 2.0))
    assert not any("drifts" in note for note in centred.notes)
    assert any("drifts" in note for note in drifting.notes) and any("outer quarter" in n for n in drifting.notes)
    assert drifting.drift.high < 0 and drifting.drift_factor == pytest.approx(math.exp(-2), rel=0.5)
    assert centred.drift_factor == pytest.approx(1, rel=0.02)
    errors = [abs(laws_of(result).a.value - a_of(SPARSE)) for result in (centred, drifting)]
    assert errors[0] < 1e-3 and errors[1] > 0.015


def test_a_cubic_is_nearer_to_the_optimum_than_a_parabola() -> None:
    rows = isoflop_rows(SPARSE, num_sizes=15, width=8)
    truth = float(SPARSE.optimum(1e20)[1])
    parabola, cubic = (
        abs(math.log(laws_of(run(rows, draws=0, shape=shape)).at(1e20).tokens.value / truth))
        for shape in ("parabola", "cubic")
    )
    assert cubic < 0.1 * parabola
    assert laws_of(run(rows, draws=50, shape="cubic", response="log")).a.known


def test_minima_off_the_line_stretch_the_interval() -> None:
    """Resamples know the noise inside a slice only: slices that disagree with each other must widen the result."""
    rows = isoflop_rows(SYMMETRIC, 9, 9, noise=5e-4)
    shifts = np.exp(0.25 * np.random.default_rng(3).standard_normal(9))[rows.slices]
    calm = run(rows, draws=200)
    torn = isoflop(
        rows.size * shifts,
        rows.tokens / shifts,
        rows.loss,
        rows.compute,
        slices=rows.slices,
        options=Options(draws=200),
    )
    assert laws_of(calm).scatter == 1 and not any("scatter" in note for note in calm.notes)
    assert laws_of(torn).scatter > 4 and any("scatter" in note for note in torn.notes)
    assert laws_of(torn).a.low < 0.5 < laws_of(torn).a.high
    widths = [laws_of(result).a.high - laws_of(result).a.low for result in (calm, torn)]
    assert widths[1] / widths[0] == pytest.approx(laws_of(torn).scatter, rel=0.25)


def test_huber_resists_a_diverged_run() -> None:
    rows = isoflop_rows(SYMMETRIC, num_sizes=11, noise=5e-4)
    loss = rows.loss.copy()
    loss[5 * 11 + 10] *= 1.05
    bad = Drawn(rows.size, rows.tokens, loss, rows.compute, rows.slices)
    clean = run(rows, draws=0).slices[5].size.value
    plain, huber = (abs(math.log(run(bad, draws=0, delta=d).slices[5].size.value / clean)) for d in (None, "auto"))
    assert huber < 0.25 * plain
    assert run(bad, draws=0, delta="auto").slices[5].weights[10] < 0.1
    assert run(bad, draws=0, delta=1e3).slices == run(bad, draws=0).slices


def test_whole_runs_share_their_luck() -> None:
    """A size that is lucky in every slice moves all minima together: only whole runs show that in the level."""
    rows = isoflop_rows(SYMMETRIC, 7, 9)
    position = np.tile(np.arange(9), 7)
    shared = np.random.default_rng(0).normal(0, 4e-3, 9)[position]
    loss = rows.loss * np.exp(shared)
    widths = []
    for clusters in (None, position):
        result = isoflop(
            *rows.columns[:2], loss, rows.compute, clusters=clusters, options=Options(draws=400, resampling="wild")
        )
        best = laws_of(result).at(1e20).size
        widths.append(math.log(best.high / best.low))
    assert widths[1] > 1.6 * widths[0]
    assert "one sign per run" in laws_of(result).method


def test_the_resampling_follows_the_number_of_rows() -> None:
    few, many = (run(isoflop_rows(SYMMETRIC, 5, n, noise=1e-3), draws=40) for n in (9, 24))
    assert "signs" in laws_of(few).method and "rows with replacement" in laws_of(many).method
    rows = isoflop_rows(SYMMETRIC, 5, 24, noise=1e-3)
    whole = isoflop(*rows.columns, clusters=np.tile(np.arange(24), 5), options=Options(draws=40))
    assert "whole runs with replacement" in laws_of(whole).method
    assert "t(3)/1.96" in laws_of(few).method and laws_of(few).widening == pytest.approx(3.182 / 1.96, rel=1e-3)


def test_draws_repeat_with_the_seed() -> None:
    rows = isoflop_rows(SPARSE, noise=1e-3)
    first, again, other = (laws_of(run(rows, draws=60, seed=s)).a for s in (1, 1, 2))
    assert first == again != other


def test_two_slices_have_no_interval_and_one_has_no_law() -> None:
    two = run(isoflop_rows(SYMMETRIC, 2), draws=100)
    assert (
        laws_of(two).a.value == pytest.approx(0.5) and not laws_of(two).a.known and "two slices" in laws_of(two).a.why
    )
    one = run(isoflop_rows(SYMMETRIC, 1, jitter=0.02), draws=100)
    assert one.laws is None and len(one.slices) == 1
    assert any("not moved" in n for n in one.notes) and any("two are needed" in n for n in one.notes)


def test_results_are_plain_json() -> None:
    values = json.loads(json.dumps(run(isoflop_rows(SPARSE, noise=1e-3), draws=40).to_dict(), allow_nan=False))
    assert values["laws"]["a"]["low"] < values["laws"]["a"]["value"] < values["laws"]["a"]["high"]
    assert len(values["slices"]) == 9 and values["options"]["shape"] == "parabola"


def test_inputs_are_checked_and_left_alone() -> None:
    rows = isoflop_rows(SYMMETRIC, 3, 5)
    for column in rows.columns:
        column.flags.writeable = False
    assert laws_of(isoflop(*rows.columns, options=NO_DRAWS)).num_points == 3
    broken = rows.loss.copy()
    broken[7] = np.nan
    with pytest.raises(ValueError, match="column loss, row 7"):
        isoflop(rows.size, rows.tokens, broken)
    with pytest.raises(ValueError, match="shape"):
        isoflop(rows.size, rows.tokens[:-1], rows.loss)
    with pytest.raises(ValueError, match="clusters has 2 labels for 15 rows"):
        isoflop(*rows.columns, clusters=["a", "b"])


@pytest.mark.parametrize(
    "options",
    [
        {"shape": "quartic"},
        {"response": "ln"},
        {"resampling": "pairs"},
        {"delta": -1.0},
        {"draws": 5},
        {"tolerance": 0.0},
    ],
)
def test_unknown_options_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        Options(**options)  # type: ignore[arg-type]
