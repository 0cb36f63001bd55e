"""Is the interval that `nmm sweep next` promises the one that comes, and is it better than repeating the grid?

The runs are chosen through the command line's own path; whole sweeps of the law are then drawn and fitted many times,
with the runs there were, with those that were chosen, and with as many repetitions of the grid as the same FLOPs buy.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from law_sweep import ALPHA, BETA, FILLING, ROW_NOISE, TRUNK_NOISE, A, B, E, plan_law_sweep, run_all

from analysis.laws.catalogue import law_named
from analysis.simulation.batch import fit_batch
from analysis.simulation.simulator import Design, Noise, responses
from nmm.flops import count_params
from sweeps.adaptive import engine
from sweeps.adaptive.goal import Ask, Goal
from sweeps.adaptive.planning import choose, ready
from sweeps.manifest import Entry

TRUTH = {"E": E, "A": A, "alpha": ALPHA, "B": B, "beta": BETA}
SWEEPS = 1200


def as_design(entries: list[Entry]) -> Design:
    """The branches of a manifest, those of one trunk as one run."""
    points = [e for e in entries if e.role == "branch"]
    size = np.array([count_params(e.config).active_non_embedding for e in points], dtype=float)
    tokens = np.array([FILLING * e.config.total_steps * e.config.tokens_per_step for e in points])
    run = np.unique([e.parent_id for e in points], return_inverse=True)[1].astype(np.intp)
    return Design({"N": size, "D": tokens}, run, np.zeros(len(run), dtype=np.intp))


def realised(entries: list[Entry], seed: int) -> float:
    """Robust standard deviation of the fitted ln(alpha), E being known, over many sweeps with the true noise."""
    law, sweep = law_named("chinchilla_excess"), as_design(entries)
    true = {name: TRUTH[name] for name in law.names}
    drawn = responses(law, true, sweep, Noise(TRUNK_NOISE, ROW_NOISE), SWEEPS, seed, entropy=E) - E
    found = fit_batch(law, sweep.columns, np.maximum(drawn, 1e-3), sweep.run, start=true)
    values = np.log(law.to_natural(found.theta, found.centre)[:, list(law.names).index("alpha")])
    return float(1.4826 * np.median(np.abs(values - np.median(values))))


def repetition(directory: Path, old: list[Entry], budget: float) -> list[Entry]:
    """The grid again with new seeds, cheapest size first, as long as the budget lasts."""
    found: list[Entry] = []
    left = budget
    for seed in range(1, 9):
        again = plan_law_sweep(directory / f"seed{seed}", seeds=[seed])
        for trunk in sorted((e for e in again if e.role == "trunk"), key=lambda e: e.estimate.flops):
            lines = [trunk, *(e for e in again if e.parent_id == trunk.run_id)]
            cost = sum(e.estimate.flops for e in lines)
            if cost <= left:
                found, left = [*found, *lines], left - cost
    return found


def test_the_realised_interval_is_the_promised_one_and_beats_repetition(tmp_path: Path) -> None:
    directory = tmp_path / "runs"
    old = plan_law_sweep(directory, seeds=[0, 1])
    run_all(directory, old)
    fits = engine.fit(directory, tmp_path / "fits.json", ("--bootstrap", "60"))
    noise = ("--run-noise", str(TRUNK_NOISE), "--row-noise", str(ROW_NOISE))
    budget = 0.4 * sum(e.estimate.flops for e in old)
    ask = Ask(Goal("alpha", "early"), budget, beyond=1.0, design_options=noise)
    chosen = choose(directory, ask, *ready(directory), fits, tmp_path)
    again = repetition(tmp_path, old, budget)
    assert chosen.cost <= budget * (1 + 1e-9) and sum(e.estimate.flops for e in again) <= budget
    before, after, repeated = realised(old, 1), realised([*old, *chosen.entries], 2), realised([*old, *again], 3)
    print(f"promised x {chosen.advice.ratio:.3f}, realised x {after / before:.3f}, repeated x {repeated / before:.3f}")
    print(f"chosen over repeated: x {after / repeated:.3f}; costs {chosen.cost:.3g} of {budget:.3g}")
    assert 0.75 < (after / before) / chosen.advice.ratio < 1.3
    assert after < 0.9 * repeated
