"""At which values of a law's further columns groups are compared and frontiers drawn: those that most rows have."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from analysis.engine.law import Law
from analysis.result import FitResult
from analysis.rows.table import Sample

MAIN = ("N", "D", "C")


def has_frontier(fit: FitResult) -> bool:
    """Whether a lowest loss at each compute is defined: a law of C, or of N and D where runs have a cost."""
    return _over_compute(fit.shape) and ("C" in fit.shape.columns or fit.cost is not None)


def _over_compute(law: Law) -> bool:
    return "C" in law.columns or {"N", "D"} <= set(law.columns)


def usual_values(law: Law, samples: Sequence[Sample]) -> dict[str, float]:
    """The combination of the columns beyond N, D and C that most rows have (the middle one of equals), by symbol.

    Empty for a law that says nothing over compute, such as one of learning-rate curves.
    """
    names = [name for name in law.columns if name not in MAIN]
    if not names or not _over_compute(law):
        return {}
    counts: Counter[tuple[float, ...]] = Counter()
    for sample in samples:
        counts.update(zip(*(map(float, sample.columns[name]) for name in names), strict=True))
    most = max(counts.values())
    ties = sorted(values for values, count in counts.items() if count == most)
    return dict(zip(names, ties[len(ties) // 2], strict=True))
