"""Studies of interventions with known worth, for tests and for the coverage of intervals.

Shapes: one row per arm, size, token count and seed.

An arm is worth ``m`` data when it behaves as if every token counted m times: L = E + A / N^alpha + B / (m D)^beta. Runs
of all arms with one size, data and seed share part of their noise.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from analysis.interventions.rows import Arm, Data, Metric, Row, Study

TRUTH = {"E": 0.5, "A": 80.0, "alpha": 0.42, "B": 300.0, "beta": 0.40}
SIZES, TOKENS = (20_000, 50_000, 120_000), (1_000_000, 2_000_000, 4_000_000, 8_000_000)


@dataclass(frozen=True)
class Setup:
    """What is simulated. worth: data multiplier of every arm beside the control ("control"). charged: FLOPs charged to
    these arms. own, shared: standard deviations of ln L of a run and of what the arms share. seedwise: of what all runs
    of one seed of an arm share. betas, floors: exponents and E of arms that differ from the control's."""

    worth: Mapping[str, float]
    seeds: int = 3
    sizes: Sequence[int] = SIZES
    tokens: Sequence[int] = TOKENS
    charged: float = 0.0
    own: float = 0.01
    shared: float = 0.01
    seedwise: float = 0.0
    betas: Mapping[str, float] | None = None
    floors: Mapping[str, float] | None = None


def true_loss(setup: Setup, arm: str, size: float, tokens: float) -> float:
    """Expected loss of an arm (nats)."""
    beta = (setup.betas or {}).get(arm, TRUTH["beta"])
    data = TRUTH["B"] / (setup.worth.get(arm, 1.0) * tokens) ** beta
    floor = (setup.floors or {}).get(arm, TRUTH["E"])
    return floor + TRUTH["A"] / size ** TRUTH["alpha"] + data


def study(setup: Setup, seed: int = 0) -> Data:
    """A study of ``setup``: metrics loss (nats) and accuracy, a monotone function of the loss. The same seed gives the
    same rows."""
    rng, other = (np.random.default_rng([seed, 20_260_701, *more]) for more in ((), (1,)))
    rows: list[Row] = []
    for run in range(setup.seeds):
        moved = {arm: setup.seedwise * other.standard_normal() for arm in ("control", *setup.worth)}
        for size in setup.sizes:
            for tokens in setup.tokens:
                common = setup.shared * rng.standard_normal()
                for arm in ("control", *setup.worth):
                    noise = moved[arm] + common + setup.own * rng.standard_normal()
                    loss = true_loss(setup, arm, size, tokens) * math.exp(noise)
                    rows.append({
                        "arm": arm, "seed": run, "n": size, "d": tokens, "flops": 6.0 * size * tokens,
                        "charged": 0.0 if arm == "control" else setup.charged, "loss": loss,
                        "accuracy": math.exp(TRUTH["E"] - loss),
                    })  # fmt: skip
    return Data(_described(setup), tuple(rows))


def _described(setup: Setup) -> Study:
    arms = tuple(Arm(name, "treatment", f"every token counts {worth:g} times") for name, worth in setup.worth.items())
    return Study(
        method="simulated",
        title="A simulated intervention",
        acts_on="data",
        claim="None: the truth is known.",
        control="control",
        arms=(Arm("control", "control", "every token counts once"), *arms),
        metrics=(Metric("loss", "loss (nats / token)", "lower"), Metric("accuracy", "accuracy", "higher")),
        measured_on=f"{len(setup.sizes)} sizes, {len(setup.tokens)} token counts, {setup.seeds} seeds; simulated.",
    )
