"""Rows in, samples out: which columns are N, D, C and the loss, and why a row was left out, if it was."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.laws import Array
from nmm.record import load_table

SIX_ND = "6ND"
TARGETS = ("avg", "mixture", "caption", "interleaved", "text")


class TableError(ValueError):
    """The table cannot be used as asked; the message names the column or row and what would help."""


@dataclass(frozen=True)
class Columns:
    """Which column plays which part. ``compute`` may be absent from the table: 6 N D is then used."""

    size: str = "n_active_non_embedding"
    tokens: str = "tokens"
    compute: str = "flops_exact"
    group: str = "arch"
    cluster: str = "trunk_id"
    targets: tuple[str, ...] = TARGETS


@dataclass(frozen=True)
class Exclusion:
    """One row left out. ``where`` is "all" or the fits it is missing from; ``kind`` is a short machine word."""

    run_id: str
    group: str
    where: str
    kind: str
    reason: str


@dataclass(frozen=True)
class Sample:
    """The rows of one fit, as float64 copies. cluster: (n,) codes 0..G-1; entropy: (n,) nats or None when unknown."""

    group: str
    target: str
    run_ids: tuple[str, ...]
    size: Array
    tokens: Array
    compute: Array
    loss: Array
    entropy: Array | None
    cluster: NDArray[np.intp]

    def __len__(self) -> int:
        return len(self.loss)

    @property
    def num_clusters(self) -> int:
        """Independent trunks among the rows."""
        return len(np.unique(self.cluster))

    def digest(self) -> str:
        """Sha256 over everything a fit reads."""
        state = hashlib.sha256(f"{self.group}|{self.target}|{self.run_ids}".encode())
        for values in (self.size, self.tokens, self.compute, self.loss, self.entropy, self.cluster):
            state.update(b"-" if values is None else np.ascontiguousarray(values).tobytes())
        return state.hexdigest()

    def where(self, keep: NDArray[np.bool_]) -> Sample:
        """The rows for which ``keep`` is true."""
        entropy = None if self.entropy is None else self.entropy[keep]
        names = tuple(name for name, kept in zip(self.run_ids, keep, strict=True) if kept)
        fields = (self.size[keep], self.tokens[keep], self.compute[keep], self.loss[keep])
        return Sample(self.group, self.target, names, *fields, entropy, self.cluster[keep])


@dataclass(frozen=True)
class RunTable:
    """The usable rows, every row read (for pictures of what was refused), and the exclusions."""

    frame: pd.DataFrame
    every_row: pd.DataFrame
    columns: Columns
    exclusions: tuple[Exclusion, ...]
    source: str
    min_tokens: float = 0.0

    @property
    def groups(self) -> list[str]:
        """Groups present in the file, early, late and moe first."""
        names = sorted(map(str, self.every_row[self.columns.group].unique()))
        known = [name for name in ("early", "late", "moe") if name in names]
        return known + [name for name in names if name not in known]

    def sample(self, group: str, target: str) -> tuple[Sample, list[Exclusion]]:
        """The rows of one group with a usable loss for ``target``, and those without one."""
        c, frame = self.columns, self.frame
        rows = frame[frame[c.group] == group]
        loss = rows[loss_column(frame, target)].to_numpy(dtype=float)
        good = np.isfinite(loss) & (loss > 0)
        left_out = [
            Exclusion(str(run), group, target, "loss", f"loss is {value}, a positive number is needed")
            for run, value in zip(rows["run_id"][~good], loss[~good], strict=True)
        ]
        rows = rows[good]
        entropy = rows[f"entropy_{target}"].to_numpy(dtype=float) if f"entropy_{target}" in rows else np.array([np.nan])
        known = len(entropy) > 0 and bool(np.isfinite(entropy).all())
        sample = Sample(
            group=group,
            target=target,
            run_ids=tuple(map(str, rows["run_id"])),
            size=rows[c.size].to_numpy(dtype=float, copy=True),
            tokens=rows[c.tokens].to_numpy(dtype=float, copy=True),
            compute=rows[c.compute].to_numpy(dtype=float, copy=True),
            loss=loss[good].copy(),
            entropy=entropy.copy() if known else None,
            cluster=pd.factorize(rows[c.cluster])[0].astype(np.intp),
        )
        return sample, left_out


def loss_column(frame: pd.DataFrame, target: str) -> str:
    """``loss_<target>`` or a column called exactly ``target``. Raises ``TableError`` naming the loss columns."""
    for name in (f"loss_{target}", target):
        if name in frame.columns:
            return name
    raise TableError(f"no column loss_{target} or {target}; the columns are: {', '.join(map(str, frame.columns))}")


def read_rows(source: str | Path | Sequence[Mapping[str, Any]] | pd.DataFrame) -> pd.DataFrame:
    """Rows from a sweep directory, a .parquet / .csv / .jsonl file, a list of dicts or a frame.

    Raises ``TableError`` for a missing path, an unknown suffix or an empty table.
    """
    if isinstance(source, pd.DataFrame):
        frame = source.copy()
    elif isinstance(source, (str, Path)):
        frame = _read_path(Path(source))
    else:
        frame = pd.DataFrame(list(source))
    if frame.empty:
        raise TableError(f"no finished run in {_describe(source)}; run the sweep first, then fit")
    return frame.reset_index(drop=True)


def _read_path(path: Path) -> pd.DataFrame:
    if path.is_dir():
        return pd.DataFrame(load_table(path))
    if not path.is_file():
        raise TableError(f"{path} does not exist; give a sweep directory or a .parquet, .csv or .jsonl table")
    match path.suffix:
        case ".parquet":
            return pd.read_parquet(path)
        case ".csv":
            return pd.read_csv(path)
        case ".jsonl":
            return pd.read_json(path, lines=True)
    raise TableError(f"{path}: cannot read a {path.suffix or 'suffixless'} file; use .parquet, .csv or .jsonl")


def _describe(source: object) -> str:
    return str(source) if isinstance(source, (str, Path)) else "the given rows"


def load(
    source: str | Path | Sequence[Mapping[str, Any]] | pd.DataFrame,
    columns: Columns | None = None,
    min_tokens: float = 0.0,
) -> RunTable:
    """Read, check the columns, and set aside the rows that no fit may use, each with its reason.

    min_tokens: rows trained on fewer tokens are left out by design (not by outcome), so they do not count as refused.
    Raises ``TableError`` when a needed column is missing (it lists those there are) or no row is left.
    """
    frame = read_rows(source)
    frame, columns = _complete(frame, columns or Columns())
    reasons = list(_row_reasons(frame, columns, min_tokens))
    excluded = {index for index, _, _ in reasons}
    kept = frame.drop(index=sorted(excluded)).reset_index(drop=True)
    exclusions = tuple(
        Exclusion(str(frame["run_id"][i]), str(frame[columns.group][i]), "all", kind, reason)
        for i, kind, reason in reasons
    )
    if kept.empty:
        first = "; ".join(f"{e.run_id}: {e.reason}" for e in exclusions[:3])
        raise TableError(f"all {len(frame)} rows of {_describe(source)} are excluded ({first} ...)")
    return RunTable(kept, frame, columns, exclusions, _describe(source), min_tokens)


def _complete(frame: pd.DataFrame, columns: Columns) -> tuple[pd.DataFrame, Columns]:
    """Add the columns that may be derived: compute, cluster, run_id and a single group."""
    available = ", ".join(map(str, frame.columns))
    for part, name in (("--n", columns.size), ("--d", columns.tokens)):
        if name not in frame.columns:
            raise TableError(f"no column {name!r} for {part}; the columns are: {available}")
    frame, columns = frame.copy(), replace(columns, targets=_targets(frame, columns.targets))
    for name in (columns.size, columns.tokens, columns.compute, *(loss_column(frame, t) for t in columns.targets)):
        if name in frame.columns:
            frame[name] = pd.to_numeric(frame[name], errors="coerce")
    if columns.group not in frame.columns:
        if columns.group != Columns.group:
            raise TableError(f"no column {columns.group!r} for --group; the columns are: {available}")
        frame[columns.group] = "all"
    frame[columns.group] = frame[columns.group].astype(str)
    if columns.compute not in frame.columns:
        if columns.compute not in (Columns.compute, SIX_ND):
            raise TableError(f"no column {columns.compute!r} for --c; the columns are: {available}")
        frame[SIX_ND] = 6.0 * frame[columns.size] * frame[columns.tokens]
        columns = replace(columns, compute=SIX_ND)
    if "run_id" not in frame.columns:
        frame["run_id"] = [f"row-{i}" for i in range(len(frame))]
    if columns.cluster not in frame.columns:
        if columns.cluster != Columns.cluster:
            raise TableError(f"no column {columns.cluster!r} for --run; the columns are: {available}")
        frame[columns.cluster] = frame["run_id"]
    return frame, columns


def _targets(frame: pd.DataFrame, asked: tuple[str, ...]) -> tuple[str, ...]:
    """The targets asked for, each checked; when none was named, those of the five that the table has."""
    if asked != TARGETS:
        for target in asked:
            loss_column(frame, target)
        return asked
    found = tuple(t for t in TARGETS if f"loss_{t}" in frame.columns)
    if not found:
        available = ", ".join(map(str, frame.columns))
        raise TableError(f"no loss column: name one with --loss; the columns are: {available}")
    return found


def _row_reasons(frame: pd.DataFrame, columns: Columns, min_tokens: float) -> Iterable[tuple[int, str, str]]:
    """(row, kind, reason) for every row that no fit may use; one reason per row, the first that applies."""
    repeated = frame["run_id"].duplicated()
    numbers = {name: frame[name] for name in (columns.size, columns.tokens, columns.compute)}
    for i in range(len(frame)):
        bad = [
            f"{name} is {values[i]}"
            for name, values in numbers.items()
            if not (np.isfinite(values[i]) and values[i] > 0)
        ]
        if bad:
            yield i, "value", f"{bad[0]}, a positive number is needed"
        elif repeated[i]:
            yield i, "duplicate", "this run id is in the table already"
        elif "status" in frame and str(frame["status"][i]) != "done":
            yield i, "status", f"status is {frame['status'][i]}, not done"
        elif numbers[columns.tokens][i] < min_tokens:
            yield i, "short", f"{numbers[columns.tokens][i]:.3g} tokens, below the {min_tokens:.3g} asked for"
        elif "on_plateau" in frame and _is_true(frame["on_plateau"][i]):
            yield i, "plateau", "sits on the vision plateau" + _colour(frame, i)


def _is_true(value: object) -> bool:
    """Truth of a flag that may have come through CSV as text."""
    return str(value).strip().lower() in {"true", "1", "1.0"}


def _colour(frame: pd.DataFrame, row: int) -> str:
    if "colour_excess" not in frame or not np.isfinite(frame["colour_excess"][row]):
        return ""
    return f" (colour excess {frame['colour_excess'][row]:.2f} nats)"
