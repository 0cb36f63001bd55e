"""Which column plays which part, what to say when one is missing, and the one error a table raises."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

Array = NDArray[np.float64]

SIX_ND = "6ND"
TARGETS = ("avg", "mixture", "caption", "interleaved", "text")
USUAL_COLUMNS = {"U": "unique_tokens"}
USUAL_GROUP = "usual"  # of Columns.group: the arms of an intervention where rows have any, else the architectures
_SHOWN = 40


class TableError(ValueError):
    """The table cannot be used as asked; the message names the column or row and what would help."""


@dataclass(frozen=True)
class Columns:
    """Which column plays which part.

    compute: may be absent from the table, 6 N D is then used. extra: (symbol, column) for laws that need more than N,
    D and C, as in (("U", "unique_tokens"), ("S", "sparsity")). n_convention, c_convention: names from
    ``analysis.rows.conventions``; ``size`` and ``compute`` then follow from them. warmup: steps of linear warm-up
    where recorded learning-rate curves start after it. group: a column, or ``USUAL_GROUP`` (see ``usual_group``).
    Raises ``TableError`` when a symbol of ``extra`` is given twice or is N, D or C.
    """

    size: str = "n_active_non_embedding"
    tokens: str = "tokens"
    compute: str = "flops_exact"
    group: str = "arch"
    cluster: str = "trunk_id"
    targets: tuple[str, ...] = TARGETS
    extra: tuple[tuple[str, str], ...] = ()
    n_convention: str | None = None
    c_convention: str | None = None
    warmup: float | None = None

    def __post_init__(self) -> None:
        # A study read back from JSON brings lists.
        object.__setattr__(self, "targets", tuple(self.targets))
        object.__setattr__(self, "extra", tuple((str(symbol), str(name)) for symbol, name in self.extra))
        symbols = [symbol for symbol, _ in self.extra]
        for symbol in symbols:
            if symbol in ("N", "D", "C", "loss"):
                raise TableError(f"extra column {symbol!r}: N, D, C and the loss are named by --n, --d, --c and --loss")
            if symbols.count(symbol) > 1:
                raise TableError(f"extra column {symbol!r} is given twice; one column per symbol")


def usual_group(frame: pd.DataFrame, columns: Columns) -> tuple[pd.DataFrame, Columns]:
    """The table with the column that tells groups apart, and its name for ``USUAL_GROUP``.

    Rows that have arms are told apart by ``arm`` ("none": a row without one), by ``arch_arm`` where they have several
    architectures too; all others by ``arch``.
    """
    if columns.group not in (USUAL_GROUP, "arm", "arch_arm") or "arm" not in frame:
        return frame, replace(columns, group=Columns.group) if columns.group == USUAL_GROUP else columns
    arms = frame["arm"].fillna("").astype(str)
    if columns.group == USUAL_GROUP:
        has_several = "arch" in frame and frame["arch"].nunique() > 1
        name = Columns.group if not arms.any() else "arch_arm" if has_several else "arm"
        columns = replace(columns, group=name)
    if columns.group != Columns.group:
        frame = frame.assign(arm=arms.where(arms != "", "none"))
    if columns.group == "arch_arm" and "arch" in frame:
        frame = frame.assign(arch_arm=frame["arch"].astype(str) + " " + frame["arm"])
    return frame, columns


def missing_column(frame: pd.DataFrame, name: str, flag: str) -> TableError:
    """The error for a column that is not there: near matches first, then the columns there are."""
    return TableError(f"no column {name!r} for {flag}; {listing(frame.columns, name)}")


def listing(available: Iterable[Any], wanted: str) -> str:
    """Near matches of ``wanted`` and the first 40 of the names there are, as one clause."""
    names = [str(name) for name in available]
    by_spelling = {_plain(name): name for name in reversed(names)}
    close = [by_spelling[p] for p in difflib.get_close_matches(_plain(wanted), by_spelling, n=3, cutoff=0.7)]
    hint = f"did you mean {' or '.join(map(repr, close))}? " if close else ""
    rest = f" ... ({len(names) - _SHOWN} more)" if len(names) > _SHOWN else ""
    return f"{hint}the columns are: {', '.join(names[:_SHOWN])}{rest}"


def _plain(name: str) -> str:
    return re.sub(r"[\W_]", "", name.lower()) or name


def loss_column(frame: pd.DataFrame, target: str) -> str:
    """``loss_<target>`` or a column called exactly ``target``. Raises ``TableError`` naming the columns."""
    for name in (f"loss_{target}", target):
        if name in frame.columns:
            return name
    raise TableError(f"no column loss_{target} or {target}; {listing(frame.columns, target)}")


def numbers(values: pd.Series) -> Array:
    """A writable float64 copy; what is missing or cannot be read as a number becomes NaN.

    Text, ``Decimal`` and integers beyond 64 bits (FLOP counts) are read one by one.
    """
    if pd.api.types.is_numeric_dtype(values.dtype):
        return values.to_numpy(dtype=float, na_value=np.nan, copy=True)
    return np.array([_number(value) for value in values], dtype=float)


def _number(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        return np.nan
    except OverflowError:
        return np.inf
