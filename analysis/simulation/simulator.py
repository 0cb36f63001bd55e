"""Sweeps drawn from any law: which runs, at which noise, as rows that ``load`` reads.

Shapes: n rows, R repetitions of a whole sweep.

A design says which rows there are and which of them belong to one run. The noise of ln L has a part that every
checkpoint of a run shares (its seed, its data order) and a part of each row; both may have heavy tails, and a share of
the rows may be too high by more than noise explains, as runs with a poor learning rate are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from analysis.engine.jet import Array
from analysis.engine.law import Law
from analysis.laws.catalogue import law_named
from analysis.rows.table import Columns

COLUMNS = Columns(size="N", tokens="D", compute="C", group="group", cluster="run", targets=("loss",))


@dataclass(frozen=True)
class Design:
    """columns: symbol -> (n,) values, N and D among them where the law reads them. run: (n,) which run a row is a
    checkpoint of. seed: (n,) number of the repetition, for pairing groups."""

    columns: dict[str, Array]
    run: NDArray[np.intp]
    seed: NDArray[np.intp]

    def __post_init__(self) -> None:
        lengths = {name: len(values) for name, values in self.columns.items()} | {"seed": len(self.seed)}
        if wrong := [name for name, length in lengths.items() if length != len(self.run)]:
            raise ValueError(f"column {wrong[0]} has {lengths[wrong[0]]} rows, the design has {len(self.run)}")

    def __len__(self) -> int:
        return len(self.run)

    @property
    def num_runs(self) -> int:
        """Independent runs."""
        return len(np.unique(self.run))

    def flops(self, cost: tuple[float, float, float] = (6.0, 1.0, 0.0)) -> float:
        """What all runs cost at C = scale N^power D, each at its last checkpoint."""
        compute = cost[0] * self.columns["N"] ** cost[1] * self.columns["D"]
        return float(sum(compute[self.run == run].max() for run in np.unique(self.run)))

    def with_compute(self) -> dict[str, Array]:
        """The columns with C = 6 N D where N and D are there and C is not."""
        if "C" in self.columns or not {"N", "D"} <= set(self.columns):
            return self.columns
        return {**self.columns, "C": 6.0 * self.columns["N"] * self.columns["D"]}


def rows_design(seeds: int = 1, run: ArrayLike | None = None, **columns: ArrayLike) -> Design:
    """A design from columns, every row its own run unless ``run`` (n,) says which rows belong together.

    seeds: how often the whole design is repeated with fresh runs.
    """
    arrays = {name: np.array(values, dtype=float) for name, values in columns.items()}
    count = len(next(iter(arrays.values())))
    codes = np.arange(count) if run is None else np.unique(np.asarray(run), return_inverse=True)[1]
    one = Design(arrays, codes.astype(np.intp), np.zeros(count, dtype=np.intp))
    return repeated(one, seeds)


def grid(sizes: Sequence[float], tokens: Sequence[float], seeds: int = 1, one_run: bool = False) -> Design:
    """Every size at every token count; each pair is a run, or with ``one_run`` a checkpoint of one run per size."""
    size, many = (axis.ravel() for axis in np.meshgrid(sizes, tokens, indexing="ij"))
    return rows_design(seeds, np.repeat(np.arange(len(sizes)), len(tokens)) if one_run else None, N=size, D=many)


def isoflop(
    budgets: Sequence[float], per_budget: int = 7, spread: float = 4.0, tokens_per_parameter: float = 20.0,
    seeds: int = 1, exponent: float = 0.5,
) -> Design:  # fmt: skip
    """``per_budget`` runs at each budget C = 6 N D, sizes log-spaced from 1/spread to spread times the middle one.

    The middle has ``tokens_per_parameter`` at the geometric mean of the budgets and moves as C^exponent.
    """
    if per_budget < 1 or not spread >= 1:
        raise ValueError(f"per_budget is {per_budget} and spread {spread}; at least 1 run, and a spread of at least 1")
    compute = np.asarray(budgets, dtype=float)
    middle = float(np.exp(np.mean(np.log(compute))))
    centre = np.sqrt(middle / (6.0 * tokens_per_parameter)) * (compute / middle) ** exponent
    size = (centre[:, None] * np.geomspace(1.0 / spread, spread, per_budget)[None, :]).ravel()
    spent = np.repeat(compute, per_budget)
    return rows_design(seeds, N=size, D=spent / (6.0 * size), C=spent)


def scattered(
    count: int, size_range: tuple[float, float], tokens_range: tuple[float, float], seed: int = 0, seeds: int = 1
) -> Design:
    """``count`` runs with N and D log-uniform in their ranges."""
    rng = np.random.default_rng([seed, 104729])
    size, tokens = (np.exp(rng.uniform(np.log(low), np.log(high), count)) for low, high in (size_range, tokens_range))
    return rows_design(seeds, N=size, D=tokens)


def crossed(design: Design, **extra: Sequence[float]) -> Design:
    """The design once for every combination of further columns (U, S, shares of sources, ...), each with fresh runs."""
    axes = [axis.ravel() for axis in np.meshgrid(*extra.values(), indexing="ij")]
    times, count = len(axes[0]), len(design)
    columns = {name: np.tile(values, times) for name, values in design.columns.items()}
    columns |= {name: np.repeat(axis, count) for name, axis in zip(extra, axes, strict=True)}
    shift = np.repeat(np.arange(times), count) * (design.run.max() + 1)
    return Design(columns, np.tile(design.run, times) + shift, np.tile(design.seed, times))


def repeated(design: Design, seeds: int) -> Design:
    """The design ``seeds`` times with fresh runs. Raises ``ValueError`` for fewer than one."""
    if seeds < 1:
        raise ValueError(f"seeds is {seeds}; a design needs at least 1")
    again = crossed(design, _=range(seeds))
    columns = {name: values for name, values in again.columns.items() if name != "_"}
    return replace(again, columns=columns, seed=np.repeat(np.arange(seeds), len(design)))


@dataclass(frozen=True)
class Noise:
    """Standard deviations of ln L: ``run`` shared by the checkpoints of a run, ``row`` of every row by itself.

    tails: degrees of freedom of a Student t instead of normal noise, scaled to the same standard deviation (so above
    2). outliers: share of the rows that lie higher by an exponential amount of mean ``outlier_size`` in ln L: failures
    of training are one-sided. For a law whose response is not a loss (an accuracy) the noise is added instead.
    """

    run: float = 0.0
    row: float = 0.0
    tails: float | None = None
    outliers: float = 0.0
    outlier_size: float = 0.05

    def __post_init__(self) -> None:
        for name in ("run", "row", "outlier_size"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"noise {name} is {getattr(self, name)}; it must be 0 or above")
        if self.tails is not None and not self.tails > 2:
            raise ValueError(f"noise tails is {self.tails}; a Student t needs more than 2 degrees of freedom here")
        if not 0 <= self.outliers < 1:
            raise ValueError(f"noise outliers is {self.outliers}; it is a share of the rows, below 1")

    @property
    def total(self) -> float:
        """Standard deviation of one row, outliers aside."""
        return float(np.hypot(self.run, self.row))

    def draw(self, design: Design, repetitions: int, rng: np.random.Generator) -> Array:
        """Noise (R, n) of ln L."""
        codes = np.unique(design.run, return_inverse=True)[1]
        shared = self.run * self._standard(rng, (repetitions, int(codes.max()) + 1))[:, codes]
        own = self.row * self._standard(rng, (repetitions, len(design)))
        if not self.outliers:
            return shared + own
        hit = rng.random(own.shape) < self.outliers
        return shared + own + np.where(hit, rng.exponential(self.outlier_size, own.shape), 0.0)

    def _standard(self, rng: np.random.Generator, shape: tuple[int, int]) -> Array:
        if self.tails is None:
            return rng.standard_normal(shape)
        return rng.standard_t(self.tails, shape) * np.sqrt((self.tails - 2.0) / self.tails)


def expected(
    law: Law | str, params: Mapping[str, float], design: Design, centre: Mapping[str, float] | None = None
) -> Array:
    """Noise-free response (n,) of a law with natural parameters at a design.

    centre: ln N0 and ln D0, for the laws whose parameters are meant there. Raises ``ValueError`` for a missing or
    unknown parameter, or a column that the design lacks.
    """
    law = law_named(law) if isinstance(law, str) else law
    if wrong := sorted(set(law.names) ^ set(params)):
        raise ValueError(f"law {law.name} has the parameters {', '.join(law.names)}; {wrong[0]} is missing or unknown")
    columns = design.with_compute()
    if missing := [name for name in law.columns if name not in columns]:
        raise ValueError(f"law {law.name} reads {missing[0]}; the design has {', '.join(columns)} (see crossed)")
    values = np.array([[params[name] for name in law.names]], dtype=float)
    return law.loss(law.to_working(values, centre or {}), columns, centre or {})[0]


def responses(
    law: Law | str, params: Mapping[str, float], design: Design, noise: Noise, repetitions: int,
    seed: int | Sequence[int] = 0, centre: Mapping[str, float] | None = None, entropy: float = 0.0,
) -> Array:  # fmt: skip
    """``repetitions`` whole sweeps at once, (R, n). entropy: added to the law before the noise, for laws of an excess.

    The same seed gives the same responses. Raises ``ValueError`` as ``expected`` does.
    """
    law = law_named(law) if isinstance(law, str) else law
    clean = expected(law, params, design, centre) + entropy
    drawn = noise.draw(design, repetitions, np.random.default_rng(seed))
    return clean * np.exp(drawn) if law.positive else clean + drawn


def simulate_rows(
    law: Law | str,
    params: Mapping[str, float],
    design: Design,
    noise: Noise | None = None,
    *,
    group: str = "simulated",
    seed: int = 0,
    centre: Mapping[str, float] | None = None,
    entropy: float | None = None,
) -> list[dict[str, Any]]:
    """One sweep as rows with run, group, seed, the columns of the design, C = 6 N D, and loss; ``COLUMNS`` names them.

    noise: none by default. entropy: a known floor; it is added to the law and written as ``entropy_loss``, so that laws
    of an excess can be drawn and fitted. The same arguments give the same rows.
    """
    loss = responses(law, params, design, noise or Noise(), 1, seed, centre, entropy or 0.0)[0]
    columns = design.with_compute()
    rows = []
    for i in range(len(design)):
        row: dict[str, Any] = {"run": f"{group}-r{design.run[i]}", "group": group, "seed": int(design.seed[i])}
        row |= {name: float(values[i]) for name, values in columns.items()}
        row["loss"] = float(loss[i])
        rows.append(row if entropy is None else row | {"entropy_loss": entropy})
    return rows
