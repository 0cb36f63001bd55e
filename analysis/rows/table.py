"""Rows in, samples out: which columns are N, D, C and the loss, and why a row was left out, if it was."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.rows.cleaning import (
    ROW_ID,
    Exclusion,
    comparability,
    find_exclusions,
    identify,
    loss_reason,
    usable_loss,
)
from analysis.rows.columns import (
    SIX_ND,
    TARGETS,
    USUAL_COLUMNS,
    Array,
    Columns,
    TableError,
    listing,
    loss_column,
    missing_column,
    numbers,
    usual_group,
)
from analysis.rows.conventions import apply_conventions
from analysis.rows.reading import Source, describe, read_rows
from analysis.rows.schedules import CURVE_SYMBOLS, columns_from_curves

__all__ = ["SIX_ND", "TARGETS", "Columns", "Exclusion", "RunTable", "Sample", "TableError", "load", "loss_column",
           "read_rows"]  # fmt: skip

_WORDS = {"N": "parameters N (--n)", "D": "tokens D (--d)", "C": "compute C (--c)"}


@dataclass(frozen=True)
class Sample:
    """The rows of one fit.

    columns: symbol of the law ("N", "D", "C", "U", ...) -> (n,) float64 of its own. loss: (n,), float64.
    entropy: (n,) nats, or None when unknown. cluster: (n,) codes 0..G-1, rows of one code share noise.
    """

    group: str
    target: str
    run_ids: tuple[str, ...]
    columns: dict[str, Array]
    loss: Array
    entropy: Array | None
    cluster: NDArray[np.intp]

    def __len__(self) -> int:
        return len(self.loss)

    def column(self, symbol: str) -> Array:
        """(n,) values of one symbol. Raises ``TableError`` when the table was read without it."""
        if symbol not in self.columns:
            what = _WORDS.get(symbol, f"{symbol} (--column {symbol}=NAME)")
            raise TableError(f"{self.group}/{self.target}: the table has no column for {what}")
        return self.columns[symbol]

    @property
    def size(self) -> Array:
        """N, (n,)."""
        return self.column("N")

    @property
    def tokens(self) -> Array:
        """D, (n,)."""
        return self.column("D")

    @property
    def compute(self) -> Array:
        """C, (n,)."""
        return self.column("C")

    @property
    def num_clusters(self) -> int:
        """Independent trunks among the rows."""
        return len(np.unique(self.cluster))

    def digest(self) -> str:
        """Sha256 over everything a fit reads."""
        symbols = sorted(self.columns)
        state = hashlib.sha256(f"{self.group}|{self.target}|{self.run_ids}|{symbols}".encode())
        for values in (*(self.columns[s] for s in symbols), self.loss, self.entropy, self.cluster):
            state.update(b"-" if values is None else np.ascontiguousarray(values).tobytes())
        return state.hexdigest()

    def where(self, keep: NDArray[np.bool_]) -> Sample:
        """The rows for which ``keep`` is true."""
        return replace(
            self,
            run_ids=tuple(name for name, kept in zip(self.run_ids, keep, strict=True) if kept),
            columns={symbol: values[keep] for symbol, values in self.columns.items()},
            loss=self.loss[keep],
            entropy=None if self.entropy is None else self.entropy[keep],
            cluster=self.cluster[keep],
        )


@dataclass(frozen=True)
class RunTable:
    """The usable rows, every row read (for pictures of what was refused), and the exclusions.

    columns: as resolved, so that loading the source again with them gives the same table. symbols: symbol -> column of
    what every sample carries. notes: sentences on rows that may not be comparable (nothing is excluded for them).
    keep, min_tokens, positive_loss: as given to ``load``.
    """

    frame: pd.DataFrame
    every_row: pd.DataFrame
    columns: Columns
    exclusions: tuple[Exclusion, ...]
    source: str
    min_tokens: float = 0.0
    symbols: Mapping[str, str] = field(default_factory=dict)
    keep: str | None = None
    positive_loss: bool = True
    notes: tuple[str, ...] = ()

    @property
    def groups(self) -> list[str]:
        """Groups present in the file, control, early, late and moe first."""
        names = sorted(map(str, self.every_row[self.columns.group].dropna().unique()))
        known = [name for name in ("control", "early", "late", "moe") if name in names]
        return known + [name for name in names if name not in known]

    def sample(self, group: str, target: str) -> tuple[Sample, list[Exclusion]]:
        """The rows of one group with a usable loss for ``target``, and those without one."""
        frame = self.frame
        rows = frame[frame[self.columns.group] == group]
        loss = numbers(rows[loss_column(frame, target)])
        good = usable_loss(loss, self.positive_loss)
        left_out = [
            Exclusion(str(run), group, target, "loss", loss_reason(value, self.positive_loss))
            for run, value in zip(rows[ROW_ID][~good], loss[~good], strict=True)
        ]
        rows = rows[good]
        entropy = numbers(rows[f"entropy_{target}"]) if f"entropy_{target}" in rows else np.array([np.nan])
        known = len(entropy) > 0 and bool(np.isfinite(entropy).all())
        columns = {symbol: numbers(rows[name]) for symbol, name in self.symbols.items()}
        if {"step", "lr"} <= columns.keys():
            runs = rows[self.columns.cluster].to_numpy()
            columns |= columns_from_curves(runs, columns["step"], columns["lr"], self.columns.warmup)
        sample = Sample(
            group=group,
            target=target,
            run_ids=tuple(map(str, rows[ROW_ID])),
            columns=columns,
            loss=loss[good],
            entropy=entropy if known else None,
            cluster=pd.factorize(rows[self.columns.cluster])[0].astype(np.intp),
        )
        return sample, left_out


def load(
    source: Source,
    columns: Columns | None = None,
    min_tokens: float = 0.0,
    *,
    needed: Sequence[str] = ("N", "D"),
    keep: str | None = None,
    positive_loss: bool = True,
) -> RunTable:
    """Read, apply the conventions of ``columns``, and set aside the rows no fit may use, each with its reason.

    source: see ``read_rows``. min_tokens: rows trained on fewer tokens are left out by design (not by outcome), so they
    do not count as refused. needed: symbols the law reads; N and D may be absent when not among them, C is 6 N D where
    it is missing and both are there, any other symbol is the column given in ``columns.extra``, its usual name
    (U: unique_tokens) or a column called like the symbol. keep: a row filter (``analysis.rows.row_filter``), such as
    "loss < 5.0". positive_loss: False for responses in linear space that may be 0 or below (accuracies).
    A law of learning-rate curves needs "step" and "lr" instead of the columns made from them (``CURVE_SYMBOLS``), one
    row per recorded step and the run in ``columns.cluster``.
    N, D and C must be positive, extras finite. Which rows are one run: see ``analysis.rows.cleaning``.
    Raises ``TableError`` when a column is missing (the message lists them), ``keep`` is unreadable, or no row is left.
    """
    read = read_rows(source)
    raw, columns = apply_conventions(*usual_group(read, columns or Columns()))
    if CURVE_SYMBOLS & set(needed):
        needed = (*(symbol for symbol in needed if symbol not in CURVE_SYMBOLS), "step", "lr")
    frame, columns, symbols = _complete(raw, columns, needed)
    if min_tokens > 0 and "D" not in symbols:
        raise TableError("--min-tokens needs a column of tokens; name it with --d")
    frame = identify(raw, frame, columns, symbols)
    excluded = find_exclusions(raw, frame, columns, symbols, min_tokens, keep, positive_loss)
    kept = frame.drop(index=list(excluded)).reset_index(drop=True)
    exclusions = tuple(excluded.values())
    if kept.empty:
        first = "; ".join(f"{e.run_id}: {e.reason}" for e in exclusions[:3])
        raise TableError(f"all {len(frame)} rows of {describe(source)} are excluded ({first} ...)")
    notes = (*read.attrs.get("notes", ()), *comparability(kept, columns, symbols))
    return RunTable(kept, frame, columns, exclusions, describe(source), min_tokens, symbols, keep, positive_loss, notes)


def _complete(
    raw: pd.DataFrame, columns: Columns, needed: Sequence[str]
) -> tuple[pd.DataFrame, Columns, dict[str, str]]:
    """Numbers as float64, a group for every row, C where it may be derived; and symbol -> column."""
    symbols = _size_and_tokens(raw, columns, needed)
    columns = replace(columns, targets=_targets(raw, columns.targets))
    columns = replace(columns, extra=_extra(raw, columns, needed))
    if columns.group not in raw.columns and columns.group != Columns.group:
        raise missing_column(raw, columns.group, "--group")
    if columns.cluster not in raw.columns and columns.cluster != Columns.cluster:
        raise missing_column(raw, columns.cluster, "--run")
    frame = raw.copy()
    frame[columns.group] = raw[columns.group].map(str, na_action="ignore") if columns.group in raw else "all"
    for name in {*symbols.values(), *dict(columns.extra).values(), *(loss_column(raw, t) for t in columns.targets)}:
        frame[name] = numbers(raw[name])
    if columns.compute in raw.columns:
        frame[columns.compute] = numbers(raw[columns.compute])
        symbols["C"] = columns.compute
    elif columns.compute not in (Columns.compute, SIX_ND):
        raise missing_column(raw, columns.compute, "--c")
    elif {"N", "D"} <= symbols.keys():
        frame[SIX_ND] = 6.0 * frame[columns.size] * frame[columns.tokens]
        columns, symbols["C"] = replace(columns, compute=SIX_ND), SIX_ND
    elif "C" in needed:
        raise missing_column(raw, columns.compute, "--c (without it C is 6 N D, which needs --n and --d)")
    return frame, columns, symbols | dict(columns.extra)


def _size_and_tokens(raw: pd.DataFrame, columns: Columns, needed: Sequence[str]) -> dict[str, str]:
    """N and D with their columns. One that is not needed may be absent, unless it was named."""
    found = {}
    for symbol, flag, name, usual in (
        ("N", "--n", columns.size, Columns.size),
        ("D", "--d", columns.tokens, Columns.tokens),
    ):
        if name in raw.columns:
            found[symbol] = name
        elif symbol in needed or name != usual:
            raise missing_column(raw, name, flag)
    return found


def _extra(raw: pd.DataFrame, columns: Columns, needed: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """The extra columns named, and for further needed symbols the usual column or one of that name."""
    found = dict(columns.extra)
    for symbol, name in found.items():
        if name not in raw.columns:
            raise missing_column(raw, name, f"--column {symbol}=")
    for symbol in needed:
        if symbol in ("N", "D", "C") or symbol in found:
            continue
        names = [name for name in (USUAL_COLUMNS.get(symbol), symbol) if name is not None and name in raw.columns]
        if not names:
            raise TableError(
                f"the law needs {symbol}; name its column with --column {symbol}=NAME; {listing(raw.columns, symbol)}"
            )
        found[symbol] = names[0]
    return tuple(found.items())


def _targets(frame: pd.DataFrame, asked: tuple[str, ...]) -> tuple[str, ...]:
    """The targets asked for, each checked; when none was named, those of the five that the table has."""
    if asked != TARGETS:
        for target in asked:
            loss_column(frame, target)
        return asked
    found = tuple(t for t in TARGETS if f"loss_{t}" in frame.columns)
    if not found:
        raise TableError(f"no loss column: name one with --loss; {listing(frame.columns, 'loss')}")
    return found
