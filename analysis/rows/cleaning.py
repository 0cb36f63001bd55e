"""Which rows no fit may use, each with one machine word and one sentence; and which rows are the same run.

Rules, in this order (a row gets the first that applies):
    missing     an empty cell where N, D, C, an extra column, the group or the run is needed
    text        a cell that is not a number        infinite    one that is not finite        value    N, D or C <= 0
    duplicate   a copy of an earlier row: same run id, group, N, D, C, extras and losses; without a column ``run_id``,
                the same in every column
    status      a column ``status`` that is not "done"
    short       fewer tokens than asked for        plateau     a column ``on_plateau`` that is true
    loss        the response cannot be used (here when there is one response, otherwise target by target)
    keep        the user's expression is false, or cannot be decided because a cell it reads is empty

Runs. The run of a row is its ``run_id``, or where there is no such column, the column named with --run. Further rows of
one run are its checkpoints, not duplicates: they are named <run>#1, <run>#2, ... and share noise (unless a coarser
column is named with --run). A table with neither column has one run per row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.rows.columns import Array, Columns, loss_column, numbers
from analysis.rows.row_filter import decide

ROW_ID = "row id"
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Exclusion:
    """One row left out. ``where`` is "all" or the fits it is missing from; ``kind`` is a short machine word."""

    run_id: str
    group: str
    where: str
    kind: str
    reason: str


@dataclass(frozen=True)
class Rule:
    """rows: (n,) true where the rule applies. kind, reason: what the exclusion says. where: as in ``Exclusion``."""

    kind: str
    rows: Mask
    reason: Callable[[int], str]
    where: str = "all"


def identify(raw: pd.DataFrame, frame: pd.DataFrame, columns: Columns, symbols: Mapping[str, str]) -> pd.DataFrame:
    """``frame`` with a column of unique row names and, where the table has none, the column of runs.

    raw: the rows as read, before anything was derived. symbols: symbol -> column.
    """
    frame, run = frame.copy(), _runs(raw, columns)
    if run is None:
        frame[ROW_ID] = [f"row-{i}" for i in range(len(frame))]
    else:
        place = run.groupby(run, dropna=False).cumcount() + 1
        distinct = (~duplicates(raw, frame, columns, symbols)).groupby(run, dropna=False).transform("sum")
        numbered = (distinct > 1) | ("run_id" not in raw)
        frame[ROW_ID] = [
            f"row-{i}" if pd.isna(name) else f"{name}#{k}" if several else name
            for i, (name, k, several) in enumerate(zip(run, place, numbered, strict=True))
        ]
    if "run_id" not in frame:
        frame["run_id"] = frame[ROW_ID]
    if columns.cluster not in frame:
        frame[columns.cluster] = frame["run_id"]
    return frame


def _runs(raw: pd.DataFrame, columns: Columns) -> pd.Series | None:
    for name in ("run_id", columns.cluster):
        if name in raw:
            return raw[name].map(str, na_action="ignore")
    return None


def duplicates(raw: pd.DataFrame, frame: pd.DataFrame, columns: Columns, symbols: Mapping[str, str]) -> pd.Series:
    """(n,) true for every copy after the first, by the rule in the module's text."""
    if "run_id" not in raw:
        return raw.map(_hashable).duplicated()
    read = [columns.group, *symbols.values(), *(loss_column(frame, target) for target in columns.targets)]
    return frame[list(dict.fromkeys(read))].assign(**{ROW_ID: raw["run_id"].map(_hashable)}).duplicated()


def _hashable(value: object) -> object:
    return str(value) if isinstance(value, (list, dict, np.ndarray)) else value


def find_exclusions(
    raw: pd.DataFrame,
    frame: pd.DataFrame,
    columns: Columns,
    symbols: Mapping[str, str],
    min_tokens: float = 0.0,
    keep: str | None = None,
    positive_loss: bool = True,
) -> dict[int, Exclusion]:
    """Row number -> why it is left out, for the rules of the module's text, in row order.

    raw: the rows as read. frame: the same rows, completed by ``identify``. symbols: symbol -> column.
    Raises ``TableError`` when ``keep`` cannot be read.
    """
    rules = [
        *_cell_rules(raw, frame, columns, symbols),
        Rule(
            "duplicate",
            duplicates(raw, frame, columns, symbols).to_numpy(dtype=bool),
            _always("a copy of an earlier row: same run, numbers and losses"),
        ),
        *_course_rules(frame, symbols, min_tokens),
        *_loss_rules(frame, columns, positive_loss),
    ]
    taken: dict[int, Exclusion] = {}
    for rule in rules:
        _apply(rule, frame, columns, taken)
    if keep is not None:
        _apply(_keep_rule(keep, frame, columns, symbols, set(taken)), frame, columns, taken)
    return dict(sorted(taken.items()))


def _apply(rule: Rule, frame: pd.DataFrame, columns: Columns, taken: dict[int, Exclusion]) -> None:
    """Add the rows of a rule that no earlier rule has taken."""
    for i in map(int, np.flatnonzero(rule.rows)):
        if i not in taken:
            group = frame[columns.group][i]
            name = "" if pd.isna(group) else str(group)
            taken[i] = Exclusion(str(frame[ROW_ID][i]), name, rule.where, rule.kind, rule.reason(i))


def _cell_rules(raw: pd.DataFrame, frame: pd.DataFrame, columns: Columns, symbols: Mapping[str, str]) -> Iterable[Rule]:
    """Cells that are empty, not numbers, not finite, or, for N, D and C, not positive."""
    for symbol, name in symbols.items():
        positive = symbol in ("N", "D", "C")
        values, written = numbers(frame[name]), raw[name] if name in raw else frame[name]
        wanted = "a positive number is needed" if positive else "a number is needed"
        empty = written.isna().to_numpy() | (written.astype(str).str.strip() == "").to_numpy()

        say = _cell(name, written, wanted)
        yield Rule("missing", empty, _always(f"{name} is missing, {wanted}"))
        yield Rule("text", np.isnan(values) & ~empty, say)
        yield Rule("infinite", np.isinf(values), say)
        if positive:
            yield Rule("value", values <= 0, say)
    for part, name in (("group", columns.group), ("run", columns.cluster)):
        reason = _always(f"{name} is missing, so the {part} of the row is unknown")
        yield Rule("missing", frame[name].isna().to_numpy(), reason)


def _cell(name: str, written: pd.Series, wanted: str) -> Callable[[int], str]:
    return lambda i: f"{name} is {written[i]}, {wanted}"


def _always(reason: str) -> Callable[[int], str]:
    return lambda i: reason


def _course_rules(frame: pd.DataFrame, symbols: Mapping[str, str], min_tokens: float) -> Iterable[Rule]:
    """Runs that did not finish, were too short by design, or never learnt to see."""
    if "status" in frame:
        status = frame["status"].astype(str)
        yield Rule("status", (status != "done").to_numpy(), lambda i: f"status is {status[i]}, not done")
    if "D" in symbols and min_tokens > 0:
        tokens = frame[symbols["D"]].to_numpy(dtype=float)
        yield Rule(
            "short", tokens < min_tokens, lambda i: f"{tokens[i]:.3g} tokens, below the {min_tokens:.3g} asked for"
        )
    if "on_plateau" in frame:
        # A flag that came through CSV may be text.
        on_plateau = frame["on_plateau"].astype(str).str.strip().str.lower().isin(("true", "1", "1.0"))
        yield Rule(
            "plateau", on_plateau.to_numpy(dtype=bool), lambda i: "sits on the vision plateau" + _colour(frame, i)
        )


def _colour(frame: pd.DataFrame, row: int) -> str:
    if "colour_excess" not in frame or not np.isfinite(frame["colour_excess"][row]):
        return ""
    return f" (colour excess {frame['colour_excess'][row]:.2f} nats)"


def _loss_rules(frame: pd.DataFrame, columns: Columns, positive: bool) -> Iterable[Rule]:
    """With one response its bad rows go here, so that ranks and quantiles of --keep are over usable rows."""
    if len(columns.targets) == 1:
        loss = frame[loss_column(frame, columns.targets[0])].to_numpy(dtype=float)
        yield Rule(
            "loss", ~usable_loss(loss, positive), lambda i: loss_reason(loss[i], positive), where=columns.targets[0]
        )


def usable_loss(loss: Array, positive: bool) -> Mask:
    """(n,) finite, and above 0 where the fit takes its logarithm."""
    return np.isfinite(loss) & ((loss > 0) | (not positive))


def loss_reason(value: float, positive: bool) -> str:
    """What the exclusion says of a response that cannot be used."""
    return f"loss is {value}, a {'positive' if positive else 'finite'} number is needed"


def _keep_rule(keep: str, frame: pd.DataFrame, columns: Columns, symbols: Mapping[str, str], taken: set[int]) -> Rule:
    """The user's filter over the rows that are still there."""
    usable = np.array([i not in taken for i in range(len(frame))])
    short = dict(symbols)
    if len(columns.targets) == 1:
        short["loss"] = loss_column(frame, columns.targets[0])
    verdict = decide(keep, frame[usable].drop(columns=ROW_ID), short)
    rows = np.zeros(len(frame), dtype=bool)
    rows[usable] = ~verdict.keep
    position = np.cumsum(usable) - 1
    return Rule("keep", rows, lambda i: verdict.reason(int(position[i]), keep))


def comparability(frame: pd.DataFrame, columns: Columns, symbols: Mapping[str, str]) -> tuple[str, ...]:
    """Sentences about usable rows that one law may not hold for: mixed schedules, repeated data, C that is not 6 N D.

    Nothing is excluded for these. A column ``schedule``, ``cooldown``, ``cooled`` or ``decayed`` with several values
    inside a group mixes annealed and unannealed losses, unless the law has a further column to tell them apart by.
    """
    notes = []
    for name in ("schedule", "cooldown", "cooled", "decayed"):
        if name in frame and not set(symbols) - {"N", "D", "C", "U"}:
            values = frame.groupby(columns.group)[name].nunique()
            mixed = ", ".join(str(group) for group in values.index[values > 1])
            if mixed:
                notes.append(f"{name} has several values inside {mixed}: fit them apart (--group or --keep)")
    unique = next((c for c in (symbols.get("U"), "unique_tokens") if c is not None and c in frame), None)
    if unique is not None and "U" not in symbols and "D" in symbols:
        repeated = int((numbers(frame[unique]) < frame[symbols["D"]].to_numpy(dtype=float)).sum())
        if repeated:
            notes.append(f"{repeated} rows repeat their data (D above {unique}): a law in D alone takes them for fresh")
    if {"N", "D", "C"} <= set(symbols):
        n, d, c = (frame[symbols[s]].to_numpy(dtype=float) for s in "NDC")
        ratio = c / (n * d)
        if np.ptp(ratio) < 0.02 * ratio.mean() and abs(ratio.mean() - 2.0) < 0.1:
            notes.append(f"{symbols['C']} is 2 N D in every row: forward FLOPs only? training costs 6 N D")
    return tuple(notes)
