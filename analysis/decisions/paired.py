"""Resampling two groups together where their runs come in pairs: same size, same data, same seed.

Shapes: B draws, n rows, H blocks (a pair of runs, or a run without a partner).

A shared data order or seed moves both groups the same way, so their difference is known better than either. The draws
here keep that: one resampling of the blocks serves both groups, and draw b of one belongs to draw b of the other.
    12 pairs or more  pairs are drawn with replacement, each bringing its rows of both groups; runs without a partner
                      are drawn among themselves
    fewer             the grid is kept and the residuals of whole blocks change sign and size together (wild bootstrap,
                      as ``analysis.uncertainty.resampling``), so that no size drops out of a resample
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from analysis.engine.jet import Array
from analysis.engine.leverage import left_out
from analysis.fit import Setup, prepare
from analysis.result import FitResult
from analysis.rows.cleaning import ROW_ID
from analysis.rows.table import RunTable, Sample, TableError
from analysis.uncertainty.draws import t_widening
from analysis.uncertainty.linear import linearise, smooth_objective
from analysis.uncertainty.resampling import refit, signs

FEW_PAIRS = 12
Keys = Mapping[str, Hashable]


def pair_keys(table: RunTable, sample: Sample, by: Sequence[str]) -> dict[str, Hashable]:
    """Row name -> what its partner in the other group must share, from the columns ``by`` (as size, tokens, seed).

    Raises ``TableError`` naming a missing column.
    """
    if missing := [name for name in by if name not in table.frame]:
        have = ", ".join(map(str, table.frame))
        raise TableError(f"no column {missing[0]!r} to pair runs by; the columns are: {have}")
    values = table.frame.set_index(ROW_ID)[list(by)].loc[list(sample.run_ids)]
    return dict(zip(sample.run_ids, values.itertuples(index=False, name=None), strict=True))


@dataclass(frozen=True)
class Pairing:
    """Block numbers of the rows of both groups (n,), whether a block has rows of both (H,), and a sentence."""

    left: NDArray[np.intp]
    right: NDArray[np.intp]
    matched: NDArray[np.bool_]
    text: str

    @property
    def num_pairs(self) -> int:
        """Blocks with runs of both groups."""
        return int(self.matched.sum())


def match(left: Sample, right: Sample, left_keys: Keys, right_keys: Keys) -> Pairing:
    """Runs that share any key form one block; so do runs connected through a third."""
    samples, keys = (left, right), (left_keys, right_keys)
    codes = [np.unique(sample.cluster, return_inverse=True)[1] for sample in samples]
    shift = int(codes[0].max()) + 1
    run = np.concatenate([codes[0], codes[1] + shift])
    names = [keys[side][name] for side in (0, 1) for name in samples[side].run_ids]
    number = {name: i for i, name in enumerate(dict.fromkeys(names))}
    nodes = int(run.max()) + 1
    ends = np.array([nodes + number[name] for name in names])
    edges = coo_matrix((np.ones(len(run)), (run, ends)), shape=(nodes + len(number),) * 2)
    labels = connected_components(edges, directed=False)[1][run]
    block = np.unique(labels, return_inverse=True)[1].astype(np.intp)
    first, second = block[: len(left)], block[len(left) :]
    matched = np.isin(np.arange(int(block.max()) + 1), first) & np.isin(np.arange(int(block.max()) + 1), second)
    alone = [len(np.unique(b[~matched[b]])) for b in (first, second)]
    pairs = int(matched.sum())
    text = f"{pairs} pairs of runs resampled together"
    if not pairs:
        text = f"not paired: no run of {left.group} shares its key with one of {right.group}"
    elif sum(alone):
        text += f" ({alone[0]} of {left.group} and {alone[1]} of {right.group} without a partner)"
    return Pairing(first, second, matched, text)


def paired_fits(
    left: tuple[FitResult, Sample],
    right: tuple[FitResult, Sample],
    keys: tuple[Keys, Keys],
    draws: int = 1000,
    seed: int = 0,
) -> tuple[FitResult, FitResult, str]:
    """Both fits with draws that belong together by index, and the sentence for ``compare(pairing=...)``.

    Intervals of single parameters (``ci``) are left as they are. Where nothing can be paired the fits come back
    unchanged and the sentence says so. Raises ``ValueError`` for fewer than 20 draws.
    """
    if draws < 20:
        raise ValueError(f"{draws} draws cannot give a 95 % interval; use at least 20 (1000 is usual)")
    setups = [prepare(sample, fit.form, fit.fixed, fit.domains)[0] for fit, sample in (left, right)]
    pairing = match(setups[0].sample, setups[1].sample, *keys)
    if not pairing.num_pairs:
        return left[0], right[0], pairing.text
    rng = np.random.default_rng([seed, 613])
    wild = pairing.num_pairs < FEW_PAIRS
    factors = signs(rng, draws, len(pairing.matched)) if wild else _counts(pairing, draws, rng)
    freedom = max(pairing.num_pairs - 1, 1)
    how = "residuals of each pair changed together" if wild else "drawn with replacement"
    method = f"{pairing.text}, {how}, stretched by t({freedom})/1.96"
    found = []
    for (fit, _), setup, block in zip((left, right), setups, (pairing.left, pairing.right), strict=True):
        theta = _refitted(setup, fit, factors[:, block], wild)
        found.append(replace(fit, draws=theta, widening=t_widening(freedom), ci_method=method))
    return found[0], found[1], method


def _counts(pairing: Pairing, draws: int, rng: np.random.Generator) -> Array:
    """How often every block is drawn (B, H): pairs among pairs, single runs among those of their own group."""
    counts = np.zeros((draws, len(pairing.matched)))
    of_left = np.isin(np.arange(len(pairing.matched)), pairing.left)
    for kind in (pairing.matched, ~pairing.matched & of_left, ~pairing.matched & ~of_left):
        members = np.nonzero(kind)[0]
        if len(members):
            drawn = members[rng.integers(0, len(members), (draws, len(members)))]
            np.add.at(counts, (np.arange(draws)[:, None], drawn), 1.0)
    return counts


def _refitted(setup: Setup, fit: FitResult, factors: Array, wild: bool) -> Array:
    """Working parameters (B, P) of the resamples, from ``factors`` (B, n): weights, or multipliers of residuals."""
    if not wild:
        return refit(setup, fit, factors).theta
    linear, objective = linearise(setup, fit), smooth_objective(fit)
    noise = factors * left_out(linear.jacobian, -linear.residual, linear.codes)
    ones = np.ones((1, len(setup.y)))
    moved = setup.problem(ones, objective).predict(fit.theta[None]) + noise
    return refit(setup, fit, np.ones_like(factors), np.exp(moved) if objective.is_log else moved).theta
