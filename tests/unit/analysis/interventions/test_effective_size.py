"""What a guided pair is worth in size: known answers come back, bounds beyond the tested sizes, intervals over seeds."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from analysis.interventions.effective import Effective, effective_sizes
from analysis.interventions.rows import Arm, Data, Metric, RowsError, Study

SIZES = {"a": 1_000, "b": 4_000, "c": 16_000, "d": 64_000}
ARMS = tuple(Arm(name, "baseline", name) for name in ("base", "guided", "tuned"))
METRICS = (Metric("accuracy", "accuracy", "higher"), Metric("nll", "loss (nats)", "lower"))
STUDY = Study("guide", "t", "decoding", "c", "base", ARMS, METRICS, "m")


def skill(n: float) -> float:
    """Accuracy of a tuned model, a straight line in log n."""
    return 0.1 * math.log2(n / 500)


def rows(worth: float, seeds: Sequence[int] = range(4), noise: Callable[[int], float] = lambda _: 0.0) -> list[Any]:
    """Small "b" guides big "d" as well as a tuned model of ``worth`` parameters; the base knows nothing."""
    found: list[dict[str, Any]] = []
    for seed in seeds:
        for size, n in SIZES.items():
            common = {"seed": seed, "d": None, "big": size, "n": n, "flops": 1.0}
            tuned = skill(n) + noise(seed)
            found.append({"arm": "tuned", "small": None, "charged": 10.0 * n, "accuracy": tuned, **common})
            found.append({"arm": "base", "small": None, "charged": 0.0, "accuracy": noise(seed), **common})
        pair = {"arm": "guided", "seed": seed, "d": None, "small": "b", "big": "d", "n": 64_000, "ratio": 16.0}
        found.append({**pair, "flops": 1.0, "charged": 40_000.0, "accuracy": skill(worth) + 2 * noise(seed)})
    return [{**row, "nll": 1 - row["accuracy"]} for row in found]


def only(all_rows: list[Any], metric: str = "") -> Effective:
    (found,) = effective_sizes(Data(STUDY, tuple(all_rows)), metric=metric)
    return found


@pytest.mark.parametrize("metric", ["accuracy", "nll"])
@pytest.mark.parametrize("worth", [2_000, 16_000, 50_000])
def test_a_known_worth_comes_back(worth: float, metric: str) -> None:
    found = only(rows(worth), metric)
    assert found.n_eff.value == pytest.approx(worth) and found.mark == ""
    assert found.inference.value == pytest.approx(worth / (64_000 + 2 * 4_000))
    assert (found.ratio, found.training, found.seeds) == (16.0, pytest.approx(16.0), (0, 1, 2, 3))
    assert found.gap.value == pytest.approx(skill(worth) / skill(64_000))
    assert found.n_eff.low == pytest.approx(worth) == found.n_eff.high


def test_beyond_the_tested_sizes_there_is_a_bound() -> None:
    above, below = only(rows(200_000)), only(rows(700))
    assert (above.mark, above.n_eff.value) == (">=", pytest.approx(64_000)) and above.gap.value > 1
    assert (below.mark, below.n_eff.value) == ("<=", pytest.approx(1_000))


def test_seeds_that_differ_widen_the_interval() -> None:
    """What moves base and tuned model alike moves the gap by what is left of it in the pair alone."""
    found = only(rows(16_000, noise=lambda seed: 0.02 * (seed - 1.5)))
    assert found.n_eff.low < 16_000 < found.n_eff.high and found.n_eff.known
    assert found.gap.low < found.gap.value < found.gap.high
    assert found.inference.low == pytest.approx(found.n_eff.low / 72_000)


def test_few_seeds_give_no_interval() -> None:
    found = only(rows(16_000, seeds=(0, 1)))
    assert math.isnan(found.n_eff.low) and not found.n_eff.known and found.n_eff.value == pytest.approx(16_000)


def test_tuning_that_changes_nothing_leaves_no_gap() -> None:
    flat = [row | ({"accuracy": 0.0} if row["arm"] == "base" else {}) for row in rows(16_000)]
    flat = [row | ({"accuracy": 0.0} if row["arm"] == "tuned" else {}) for row in flat]
    assert math.isnan(only(flat).gap.value)


def test_what_cannot_be_said() -> None:
    one_size = [row for row in rows(16_000) if row["arm"] != "tuned" or row["big"] == "d"]
    with pytest.raises(RowsError, match="arm tuned has one size"):
        effective_sizes(Data(STUDY, tuple(one_size)))
    apart = [row | {"seed": row["seed"] + 10 * (row["arm"] == "guided")} for row in rows(16_000)]
    with pytest.raises(RowsError, match="b guiding d: no seed that tuned and base have too"):
        effective_sizes(Data(STUDY, tuple(apart)))
