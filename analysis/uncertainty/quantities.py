"""What a fit is asked for, as one number per parameter vector: a parameter, a, b, N*(C), D*(C), a loss.

Shapes: B parameter vectors, P parameters, K budgets.

Names, as a command line would give them:
    alpha               a parameter of the law, natural units
    a, b                exponents of N* ~ C^a and D* ~ C^b: closed form where the law has one, else the slope through
                        the optima at five budgets over the tested compute
    N*(1e21), D*(1e21)  the best split of a budget
    loss(1e21)          the lowest loss of a budget
    loss(N=7e9, D=1e11) the loss of one run
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from analysis.decisions.optimum import SIX_ND, Cost, Landscape, has_closed_form, landscape, optimum
from analysis.engine.jet import Array
from analysis.laws.additive import allocation
from analysis.result import FitResult, Interval
from analysis.uncertainty.draws import interval_from

_OF_BUDGET = re.compile(r"^(N\*|D\*|loss)\(\s*(?:C\s*=\s*)?([^=,()]+)\)$")
_OF_RUN = re.compile(r"^loss\((.+)\)$")
_STEP = 1e-4
_BUDGETS = 5


@dataclass(frozen=True)
class Quantity:
    """``values``: working parameters (B, P) -> (B,), NaN where it does not exist. log: intervals are made in its
    logarithm. low, high: values it cannot pass."""

    name: str
    values: Callable[[Array], Array]
    log: bool = False
    low: float = -np.inf
    high: float = np.inf

    def scaled(self, theta: Array) -> Array:
        """The values on the scale of their intervals, (B,)."""
        with np.errstate(all="ignore"):
            found = self.values(theta)
            return np.asarray(np.log(found) if self.log else found)

    def natural(self, scaled: Array | float) -> Array | float:
        """The inverse of the scale of the intervals."""
        with np.errstate(over="ignore"):
            return np.exp(scaled) if self.log else scaled

    def gradient(self, theta: Array, free: NDArray[np.bool_]) -> Array:
        """Derivatives (B, P) of the scaled value at ``theta`` (B, P) by central differences; 0 where not ``free``."""
        count, width = theta.shape
        moves = _STEP * np.eye(width)[free]
        around = np.concatenate([theta[:, None] + moves, theta[:, None] - moves], axis=1)
        values = self.scaled(around.reshape(-1, width)).reshape(count, 2 * len(moves))
        out = np.zeros((count, width))
        half = len(moves)
        out[:, free] = (values[:, :half] - values[:, half:]) / (2 * _STEP)
        return out

    def within(self, item: Interval) -> Interval:
        """The interval cut to what the quantity can be."""
        return replace(item, low=max(item.low, self.low), high=min(item.high, self.high))


def quantity(
    result: FitResult, name: str, cost: Cost | None = SIX_ND, given: Mapping[str, float] | None = None
) -> Quantity:
    """The quantity of that name for a fit (see the module's text).

    cost: (scale, power, error) of C = scale N^power D, 6 N D by default; None for the fit's own. given: values of the
    law's other columns (U, S, ...). Raises ``ValueError`` naming what there is, and for a law without N and D.
    """
    if name in result.params:
        return _parameter(result, name)
    if name in ("a", "b"):
        return _exponent(landscape(result, cost, given), name)
    if found := _OF_BUDGET.match(name.strip()):
        return _at_budget(landscape(result, cost, given), found[1], _number(found[2], name), name)
    if found := _OF_RUN.match(name.strip()):
        return _at_run(result, found[1], given or {}, name)
    known = ", ".join(result.params)
    raise ValueError(f"no quantity {name!r}; there are {known}, a, b, N*(C), D*(C), loss(C) and loss(N=..., D=...)")


def quantity_names(result: FitResult, budgets: Sequence[float] = ()) -> tuple[str, ...]:
    """The parameters that were fitted, then for a law of N and D a, b, and N*, D* and loss at ``budgets``."""
    names = [name for name in result.params if name not in result.fixed]
    if set(result.shape.columns) == {"N", "D"}:
        names += ["a", "b"] + [f"{what}({c:.6g})" for c in budgets for what in ("N*", "D*", "loss")]
    return tuple(names)


def bootstrap_interval(result: FitResult, wanted: Quantity) -> Interval:
    """Percentile interval of a quantity from the draws of a fit, stretched about the point.

    Not known without draws, and where more than 5 % of the draws have no value (``Interval.why``).
    """
    theta = result.theta[None] if result.draws is None else np.concatenate([result.theta[None], result.draws])
    return wanted.within(interval_from(wanted.values(theta), result.widening, wanted.log, wanted.name))


def closed_forms(result: FitResult) -> list[Quantity]:
    """a and b for laws with that closed form; for others what the law derives by formula, in its paper's names."""
    law = result.shape
    if law.derived is allocation:
        if not has_closed_form(law):
            return []
        land = landscape(result, SIX_ND)
        return [_exponent(land, "a"), _exponent(land, "b")]
    if law.derived is None:
        return []

    def derived(name: str) -> Callable[[Array], Array]:
        def values(theta: Array) -> Array:
            natural = law.to_natural(theta, result.centre)
            assert law.derived is not None
            with np.errstate(all="ignore"):
                return np.asarray(law.derived({n: natural[:, i] for i, n in enumerate(law.names)})[name])

        return values

    point = law.derived({n: np.array([result.params[n]]) for n in law.names})
    return [
        Quantity(f"{name} of the paper" if name in ("a", "b") else name, derived(name), log=bool(value[0] > 0))
        for name, value in point.items()
    ]


def _parameter(result: FitResult, name: str) -> Quantity:
    law, at = result.shape, result.shape.names.index(name)
    kind = law.params[name]

    def values(theta: Array) -> Array:
        return law.to_natural(theta, result.centre)[:, at]

    return Quantity(name, values, kind.log, kind.low, kind.high)


def _exponent(land: Landscape, name: str) -> Quantity:
    law, power = land.law, land.cost[1]

    def closed(theta: Array) -> Array:
        alpha, beta = (theta[:, law.names.index(n)] for n in ("alpha", "beta"))
        return np.asarray((beta if name == "a" else alpha) / (alpha + power * beta))

    def regressed(theta: Array) -> Array:
        budgets = np.geomspace(*land.ranges["C"], _BUDGETS)
        best = optimum(land, theta, budgets)
        log = np.log(np.where(best.found, best.size if name == "a" else best.tokens, np.nan))
        x = np.log(budgets) - np.mean(np.log(budgets))
        return np.asarray(log @ x / np.sum(x * x))

    if has_closed_form(law):
        return Quantity(name, closed, low=0.0, high=1.0 / power if name == "a" else 1.0)
    return Quantity(name, regressed)


def _at_budget(land: Landscape, what: str, budget: float, name: str) -> Quantity:
    def values(theta: Array) -> Array:
        best = optimum(land, theta, np.array([budget]))
        found = {"N*": best.size, "D*": best.tokens, "loss": best.loss}[what]
        return np.where(best.found, found, np.nan)[:, 0]

    return Quantity(name, values, what != "loss" or land.law.positive, 0.0 if what != "loss" else -np.inf)


def _at_run(result: FitResult, text: str, given: Mapping[str, float], name: str) -> Quantity:
    columns = dict(given)
    for part in text.split(","):
        symbol, equals, value = part.partition("=")
        if not equals:
            raise ValueError(f"{name!r}: a loss is loss(1e21) at a budget or loss(N=7e9, D=1e11) of a run")
        columns[symbol.strip()] = _number(value, name)
    law = result.shape
    if missing := [symbol for symbol in law.columns if symbol not in columns]:
        raise ValueError(f"{name!r}: law {law.name} also reads {', '.join(missing)}")
    arrays = {symbol: np.array([columns[symbol]]) for symbol in law.columns}
    added = result.added_entropy()

    def values(theta: Array) -> Array:
        return result.respond(arrays, theta)[:, 0] + added

    return Quantity(name, values, law.positive)


def _number(text: str, name: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"{name!r}: {text.strip()!r} is not a number") from None
