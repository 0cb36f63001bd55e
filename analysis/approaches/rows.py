"""Rows of runs as four checked arrays, and the grouping of nearly equal values. Shapes: n rows."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]
Labels = NDArray[np.int_]
SAME_SIZE = 1e-3

RefusalKind = Literal["EdgeMinimum", "TooFew", "NotConvex", "WideSlice"]


@dataclass(frozen=True)
class Refusal:
    """One slice or size that gave no number: what kind of reason, at which compute (FLOPs), and a sentence."""

    kind: RefusalKind
    compute: float
    why: str

    def __str__(self) -> str:
        return f"{self.kind} at C = {self.compute:.3g}: {self.why}"


@dataclass(frozen=True)
class Rows:
    """Parameters N, tokens D, loss in nats and compute C in FLOPs, each (n,), all finite and positive."""

    size: Array
    tokens: Array
    loss: Array
    compute: Array

    def __len__(self) -> int:
        return len(self.size)

    def take(self, keep: NDArray[np.bool_] | Labels) -> Rows:
        """The chosen rows."""
        return Rows(self.size[keep], self.tokens[keep], self.loss[keep], self.compute[keep])


def rows_from(size: ArrayLike, tokens: ArrayLike, loss: ArrayLike, compute: ArrayLike | None = None) -> Rows:
    """Copies as float64; without ``compute`` it is 6 N D. Raises ``ValueError`` naming the column and the row."""
    columns = {"size": size, "tokens": tokens, "loss": loss}
    if compute is not None:
        columns["compute"] = compute
    arrays = {name: np.array(values, dtype=np.float64) for name, values in columns.items()}
    length = len(arrays["size"]) if arrays["size"].ndim == 1 else -1
    for name, values in arrays.items():
        if values.ndim != 1 or len(values) != length:
            raise ValueError(f"column {name} has shape {values.shape}; every column must be (n,) with the same n")
        bad = np.nonzero(~(np.isfinite(values) & (values > 0)))[0]
        if len(bad):
            raise ValueError(
                f"column {name}, row {bad[0]}: {values[bad[0]]!r}; values must be finite and positive. "
                f"{len(bad)} such rows: clean the table first"
            )
    if not length:
        raise ValueError("there are no rows; give at least one run")
    arrays.setdefault("compute", 6.0 * arrays["size"] * arrays["tokens"])
    return Rows(**arrays)


def codes_of(labels: Sequence[Hashable] | NDArray | None, length: int, name: str) -> Labels | None:
    """Labels as whole numbers from 0, None for None. Raises ``ValueError`` unless there is one for each row."""
    if labels is None:
        return None
    if len(labels) != length:
        raise ValueError(f"{name} has {len(labels)} labels for {length} rows; give one a row")
    return np.unique(np.asarray(labels), return_inverse=True)[1].astype(int).ravel()


def group_close(values: Array, gap: float) -> Labels:
    """Labels (n,) in ascending order; a new group begins where sorted neighbours lie more than ``gap`` apart."""
    order = np.argsort(values, kind="stable")
    labels = np.empty(len(values), dtype=int)
    labels[order] = np.concatenate([[0], np.cumsum(np.diff(values[order]) > gap)])
    return labels
