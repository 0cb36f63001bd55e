from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from analysis.decisions.compare import compare_samples, exponent_differences
from analysis.decisions.paired import match, pair_keys, paired_fits
from analysis.fit import fit_law
from analysis.rows.table import RunTable, Sample, TableError, load
from analysis.simulation.simulator import COLUMNS, Design, Noise, grid, simulate_rows
from analysis.simulation.surfaces import EARLY, LATE

SIZES, TOKENS = (3e8, 6e8, 1.2e9, 2.4e9), (5e9, 2e10, 8e10, 3.2e11)
BY = ("N", "D", "seed")


def tables(design: Design, shared: float, own: float, seed: int = 0) -> RunTable:
    """Early and late with noise that both have in common, and a little of their own."""
    common = Noise(shared, shared).draw(design, 1, np.random.default_rng(seed))[0]
    rows: list[dict[str, Any]] = []
    for i, truth in enumerate((EARLY, LATE)):
        drawn = simulate_rows(
            "chinchilla", truth.params, design, Noise(0.0, own), group=truth.name, seed=100 * seed + i
        )
        rows += [row | {"loss": row["loss"] * np.exp(c)} for row, c in zip(drawn, common, strict=True)]
    return load(rows, COLUMNS)


def samples(table: RunTable) -> tuple[Sample, Sample]:
    return table.sample("early", "loss")[0], table.sample("late", "loss")[0]


def test_pairs_cancel_what_they_share() -> None:
    table = tables(grid(SIZES, TOKENS), 0.004, 0.0004)
    left, right = samples(table)
    keys = pair_keys(table, left, BY), pair_keys(table, right, BY)
    alone = compare_samples(left, right, draws=200)
    paired = compare_samples(left, right, draws=200, keys=keys)
    assert paired.pairing.startswith("16 pairs of runs resampled together, drawn with replacement")
    assert paired.pairing in paired.verdict and alone.pairing == ""
    width = [np.mean(np.subtract(c.high, c.low)) for c in (alone, paired)]
    assert width[1] < 0.4 * width[0]
    by_name = [{d.name: d.difference for d in c.exponents} for c in (alone, paired)]
    spans = [found["beta"].high - found["beta"].low for found in by_name]
    assert spans[1] < 0.5 * spans[0]


def test_few_pairs_keep_the_grid_and_share_the_signs() -> None:
    table = tables(grid(SIZES, TOKENS, one_run=True), 0.003, 0.0002, seed=1)
    left, right = samples(table)
    keys = pair_keys(table, left, BY), pair_keys(table, right, BY)
    fits = [(fit_law(sample, "free", check=False), sample) for sample in (left, right)]
    first, second, text = paired_fits(fits[0], fits[1], keys, 100)
    assert text.startswith("4 pairs of runs") and "changed together" in text and "t(3)" in text
    assert first.draws is not None and second.draws is not None
    at = first.shape.names.index("beta")
    together = np.corrcoef(first.draws[:, at], second.draws[:, at])[0, 1]
    assert together > 0.8 and first.widening == pytest.approx(3.1824 / 1.96, rel=1e-3)
    assert exponent_differences(first, second)[0].name == "alpha"


def test_runs_without_a_partner_are_counted() -> None:
    table = tables(grid(SIZES, TOKENS), 0.003, 0.001)
    left, right = samples(table)
    keys = pair_keys(table, left, BY), pair_keys(table, right, BY)
    fewer = right.where(right.size < 2e9)
    pairing = match(left, fewer, *keys)
    assert pairing.num_pairs == 12 and "(4 of early and 0 of late without a partner)" in pairing.text
    np.testing.assert_array_equal(pairing.left[left.size < 2e9], pairing.right)


def test_a_key_shared_by_several_runs_makes_one_block() -> None:
    table = tables(grid(SIZES, TOKENS), 0.003, 0.001)
    left, right = samples(table)
    keys = pair_keys(table, left, ("N",)), pair_keys(table, right, ("N",))
    assert match(left, right, *keys).num_pairs == 4


def test_nothing_to_pair_is_said_and_changes_nothing() -> None:
    table = tables(grid(SIZES, TOKENS), 0.003, 0.001)
    left, right = samples(table)
    keys = ({run: ("early", i) for i, run in enumerate(left.run_ids)}, {run: ("late", run) for run in right.run_ids})
    fits = [(fit_law(sample, "free", check=False), sample) for sample in (left, right)]
    first, second, text = paired_fits(fits[0], fits[1], keys, 50)
    assert text == "not paired: no run of early shares its key with one of late"
    assert first is fits[0][0] and second is fits[1][0]
    found = compare_samples(left, right, draws=40, keys=keys)
    assert found.pairing == text and found.status == "ok"


def test_mistakes() -> None:
    table = tables(grid(SIZES, TOKENS), 0.003, 0.001)
    left, right = samples(table)
    with pytest.raises(TableError, match="no column 'shape' to pair runs by"):
        pair_keys(table, left, ("shape",))
    keys = pair_keys(table, left, BY), pair_keys(table, right, BY)
    fits = [(fit_law(sample, "free", check=False), sample) for sample in (left, right)]
    with pytest.raises(ValueError, match="5 draws"):
        paired_fits(fits[0], fits[1], keys, 5)
