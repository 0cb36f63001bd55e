"""A finished study of an intervention as two files: OUT/study.json (what it was) and OUT/results.jsonl (its runs).

A row of results.jsonl is one number of one arm with one seed:
    arm, seed, n (parameters or null), d (tokens, labels or samples, or null), flops (of this run itself), charged
    (FLOPs spent for the arm beforehand: scoring, reference training, bridge, extra fine-tunes and forward passes),
    every metric of the study (a number, or null where it was not measured), any further columns (steps, alpha, ratio).
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from analysis.engine.jet import Array

SCHEMA = 1
STUDY_FILE, RESULTS_FILE = "study.json", "results.jsonl"
ROLES = ("control", "treatment", "baseline", "ceiling")
BETTER = ("lower", "higher")

Row: TypeAlias = Mapping[str, Any]


class RowsError(ValueError):
    """study.json or results.jsonl cannot be used; the message names file, line, field, value and the fix."""


@dataclass(frozen=True)
class Arm:
    """One arm: its name in the rows, its role (one of ``ROLES``) and one line on what it is."""

    name: str
    role: str
    what: str


@dataclass(frozen=True)
class Metric:
    """One measured number: its column, its label with unit, and whether lower or higher is better."""

    name: str
    label: str
    better: str

    @property
    def bare(self) -> str:
        """The label without its unit, for sentences."""
        return bare(self.label)

    @property
    def sign(self) -> float:
        """+1 where higher is better, -1 where lower is."""
        return 1.0 if self.better == "higher" else -1.0


@dataclass(frozen=True)
class Study:
    """What study.json says. control: name of the reference arm; the first of ``metrics`` is the primary one."""

    method: str
    title: str
    acts_on: str
    claim: str
    control: str
    arms: tuple[Arm, ...]
    metrics: tuple[Metric, ...]
    measured_on: str


@dataclass(frozen=True)
class Data:
    """A study with its rows. Every selector returns plain values, in the order of the file."""

    study: Study
    rows: tuple[Row, ...]

    @property
    def control(self) -> str:
        """Name of the reference arm."""
        return self.study.control

    @property
    def arms(self) -> tuple[str, ...]:
        """Names of the arms that have rows, in the order of the study."""
        present = {row["arm"] for row in self.rows}
        return tuple(arm.name for arm in self.study.arms if arm.name in present)

    def arm(self, name: str) -> Arm:
        """The arm called ``name``. Raises ``RowsError`` for an unknown one."""
        for arm in self.study.arms:
            if arm.name == name:
                return arm
        raise RowsError(f"no arm {name!r} in this study; its arms are {', '.join(a.name for a in self.study.arms)}")

    def of_role(self, role: str) -> tuple[str, ...]:
        """Names of the arms of one role (control, treatment, baseline, ceiling) that have rows."""
        return tuple(name for name in self.arms if self.arm(name).role == role)

    def metric(self, name: str = "") -> Metric:
        """The metric called ``name``, or the primary one. Raises ``RowsError`` for an unknown one."""
        if not name:
            return self.study.metrics[0]
        for metric in self.study.metrics:
            if metric.name == name:
                return metric
        raise RowsError(f"no metric {name!r} in this study; they are {', '.join(m.name for m in self.study.metrics)}")

    def where(self, arm: str | Sequence[str] | None = None, **columns: Any) -> Data:
        """The same study with the rows of ``arm`` (one, several, or all) whose columns have these values.

        A value that is a list, tuple or set means any of them: ``data.where("lowest", steps=800, seed=(0, 1))``.
        """
        wanted = {**columns, **({} if arm is None else {"arm": arm})}
        return Data(self.study, tuple(row for row in self.rows if all(_is(row.get(k), v) for k, v in wanted.items())))

    def seeds(self, arm: str | None = None) -> tuple[int, ...]:
        """Distinct seeds, ascending."""
        return tuple(sorted({row["seed"] for row in self.rows if arm is None or row["arm"] == arm}))

    def levels(self, column: str) -> tuple[Any, ...]:
        """Distinct values of a column without nulls, ascending."""
        return tuple(sorted({row[column] for row in self.rows if row.get(column) is not None}))

    def values(self, column: str) -> Array:
        """(rows,) a column as floats, NaN for null. ``"total"`` is flops + charged. Raises ``RowsError`` where a row
        has no such column or no number in it."""
        return np.array([value_of(row, column) for row in self.rows], dtype=float)


def bare(label: str) -> str:
    """ "loss (nats / token)" as "loss"."""
    return label.partition(" (")[0]


def value_of(row: Row, column: str) -> float:
    """A number of a row: NaN for null, flops + charged for "total". Raises ``RowsError`` for a missing column."""
    if column == "total":
        return float(row["flops"]) + float(row["charged"])
    if column not in row:
        where = f"the row of arm {row.get('arm')}, seed {row.get('seed')}"
        raise RowsError(f"{where} has no column {column!r}; it has {', '.join(row)}")
    value = row[column]
    if value is None:
        return math.nan
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise RowsError(f"column {column!r} of arm {row['arm']}, seed {row['seed']} is {value!r}, not a number")
    return float(value)


def _is(value: Any, wanted: Any) -> bool:
    return value in wanted if isinstance(wanted, (list, tuple, set, frozenset)) else value == wanted


def load(folder: Path | str) -> Data:
    """Read OUT/study.json and OUT/results.jsonl. Raises ``RowsError`` for a missing, damaged or incomplete file."""
    folder = Path(folder)
    study = read_study(folder / STUDY_FILE)
    return Data(study, tuple(read_rows(folder / RESULTS_FILE, study)))


def read_study(path: Path) -> Study:
    """study.json as a ``Study``. Raises ``RowsError`` naming the field, its value and what is allowed."""
    if not path.is_file():
        raise RowsError(f"{path} is not there; finish the study first: nmm intervention METHOD out={path.parent}")
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise RowsError(f"{path} is damaged ({error}); run the study again, finished steps are skipped") from error
    if not isinstance(raw, dict):
        raise RowsError(f"{path} holds a {type(raw).__name__}, not an object with the fields of a study")
    if raw.get("schema") != SCHEMA:
        raise RowsError(f"{path}: schema is {raw.get('schema')!r}, this version reads {SCHEMA}; run the study again")
    texts = {name: _text(raw, name, path) for name in
             ("method", "title", "acts_on", "claim", "control", "measured_on")}  # fmt: skip
    arms = tuple(Arm(**_entry(item, ("name", "role", "what"), path, "arms")) for item in _entries(raw, "arms", path))
    metrics = tuple(
        Metric(**_entry(item, ("name", "label", "better"), path, "metrics")) for item in _entries(raw, "metrics", path)
    )
    study = Study(**texts, arms=arms, metrics=metrics)
    _check_study(study, path)
    return study


def _text(raw: Mapping[str, Any], name: str, path: Path) -> str:
    value = raw.get(name)
    if not isinstance(value, str) or not value:
        raise RowsError(f"{path}: {name} is {value!r}; it must be a text")
    return value


def _entries(raw: Mapping[str, Any], name: str, path: Path) -> list[Any]:
    value = raw.get(name)
    if not isinstance(value, list) or not value:
        raise RowsError(f"{path}: {name} is {value!r}; it must be a list with at least one entry")
    return value


def _entry(item: Any, fields: Sequence[str], path: Path, where: str) -> dict[str, str]:
    if not isinstance(item, dict):
        raise RowsError(f"{path}: an entry of {where} is {item!r}; it must have {', '.join(fields)}")
    return {name: _text(item, name, path) for name in fields}


def _check_study(study: Study, path: Path) -> None:
    for kind, names in (("arm", [a.name for a in study.arms]), ("metric", [m.name for m in study.metrics])):
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise RowsError(f"{path}: two {kind}s are called {twice[0]!r}; names must differ")
    for arm in study.arms:
        if arm.role not in ROLES:
            raise RowsError(f"{path}: role of arm {arm.name} is {arm.role!r}; allowed are {', '.join(ROLES)}")
    for metric in study.metrics:
        if metric.better not in BETTER:
            raise RowsError(f"{path}: better of metric {metric.name} is {metric.better!r}; allowed are lower, higher")
    if study.control not in [arm.name for arm in study.arms]:
        known = ", ".join(arm.name for arm in study.arms)
        raise RowsError(f"{path}: control is {study.control!r}, which is no arm; the arms are {known}")


def read_rows(path: Path, study: Study) -> list[Row]:
    """The rows of results.jsonl. Raises ``RowsError`` naming the line, and when the control has no row."""
    if not path.is_file():
        raise RowsError(f"{path} is not there; finish the study first: nmm intervention METHOD out={path.parent}")
    rows = [_row(line, number, path, study) for number, line in _lines(path)]
    if not any(row["arm"] == study.control for row in rows):
        raise RowsError(f"{path}: no row of the reference arm {study.control!r} among {len(rows)} rows")
    return rows


def _lines(path: Path) -> Iterable[tuple[int, str]]:
    text = path.read_text(encoding="utf-8", errors="replace")
    return ((number, line) for number, line in enumerate(text.splitlines(), 1) if line.strip())


def _row(line: str, number: int, path: Path, study: Study) -> Row:
    where = f"{path}, line {number}"
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise RowsError(f"{where} is damaged ({error}); run the study again, finished steps are skipped") from error
    if not isinstance(row, dict):
        raise RowsError(f"{where} holds a {type(row).__name__}, not a row")
    needed = ("arm", "seed", "n", "d", "flops", "charged", *(metric.name for metric in study.metrics))
    if missing := [name for name in needed if name not in row]:
        raise RowsError(f"{where}: field {missing[0]} is missing; a row has {', '.join(needed)}")
    if row["arm"] not in [arm.name for arm in study.arms]:
        names = ", ".join(arm.name for arm in study.arms)
        raise RowsError(f"{where}: arm {row['arm']!r} is not in study.json; its arms are {names}")
    if isinstance(row["seed"], bool) or not isinstance(row["seed"], int):
        raise RowsError(f"{where}: seed is {row['seed']!r}; it must be a whole number")
    for name in ("n", "d", "flops", "charged", *(metric.name for metric in study.metrics)):
        _check_number(row[name], name, where)
    return row


def _check_number(value: Any, name: str, where: str) -> None:
    if value is None and name not in ("flops", "charged"):
        return
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise RowsError(f"{where}: {name} is {value!r}; it must be a finite number")
    if value < 0 and name in ("flops", "charged") or value <= 0 and name in ("n", "d"):
        raise RowsError(f"{where}: {name} is {value!r}; it must not be negative (n and d: positive)")
