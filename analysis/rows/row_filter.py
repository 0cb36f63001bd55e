"""``--keep``: a yes/no expression over the columns of a table, read with ``ast`` and never executed as code.

    loss < 5.0 and D/N > 0.4        rank(loss) > 5        quantile(loss, 0.9) > loss        `Model Size` >= 1e9
    arch == 'early'                 size in ('s', 'm')    not on_plateau                    log(D) - log(N) > 1

Names are columns (backticks when not plain words) and the symbols of the fit: N, D, C, those of extra columns, and loss
where there is one response; where the table has a column of that very name, the column is meant. rank(x) is 1 for the
largest (equal values share the smaller rank); quantile(x, q), max(x) and min(x) run over the rows that no other rule
leaves out, of all groups; max and min of several take the larger or smaller in each row; log is natural.
"""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.rows.columns import Array, TableError, listing, numbers

MAX_LENGTH = 1000
_FUNCTIONS = ("rank", "quantile", "max", "min", "log")
_ARITHMETIC = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Pow: operator.pow,
    ast.Mod: operator.mod,
}
_ORDER = {ast.Lt: operator.lt, ast.LtE: operator.le, ast.Gt: operator.gt, ast.GtE: operator.ge}
_EQUALITY = {ast.Eq: operator.eq, ast.NotEq: operator.ne}
_KINDS = {"f": "numbers", "b": "yes/no", "U": "text"}


@dataclass(frozen=True)
class Verdict:
    """keep: (n,) rows for which the expression is true. unknown: (n,) rows in which a column it reads is empty.

    values: what the expression read, by name as written, (n,) each.
    """

    keep: NDArray[np.bool_]
    unknown: NDArray[np.bool_]
    values: dict[str, NDArray[Any]]

    def reason(self, row: int, expression: str) -> str:
        """Why one row is out, with the values that decided it."""
        read = ", ".join(f"{name} {_shown(values[row])}" for name, values in list(self.values.items())[:3])
        return f"--keep {expression}: {'cannot be decided' if self.unknown[row] else 'not met'} ({read})"


def decide(expression: str, frame: pd.DataFrame, symbols: Mapping[str, str]) -> Verdict:
    """Evaluate over the rows of ``frame``. symbols: symbol -> column.

    Raises ``TableError`` for text that is not such an expression, an unknown name (the columns are listed), a mix of
    numbers and text, or a result that is not one yes/no per row.
    """
    tree, written = _parse(expression)
    called = {id(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    identifiers = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and id(node) not in called}
    columns = {name: _lookup(written.get(name, name), frame, symbols, expression) for name in sorted(identifiers)}
    values = {name: _typed(column) for name, column in columns.items()}
    try:
        with np.errstate(all="ignore"):
            result = _Expression(expression, values).value(tree)
    except RecursionError as error:
        raise TableError(f"--keep {expression!r} is nested too deeply; write it in fewer levels") from error
    if np.ndim(result) != 1 or np.asarray(result).dtype.kind != "b":
        raise TableError(f"--keep {expression!r} is not a yes/no for every row; write a comparison, such as loss < 5.0")
    empty = [column.isna().to_numpy() | _is_nan(values[name]) for name, column in columns.items()]
    unknown = np.logical_or.reduce(empty)
    return Verdict(result & ~unknown, unknown, {written.get(name, name): v for name, v in values.items()})


def _parse(expression: str) -> tuple[ast.expr, dict[str, str]]:
    """The tree, and the columns that stood in backticks by the identifier that took their place."""
    if len(expression) > MAX_LENGTH:
        raise TableError(f"--keep has {len(expression)} characters; at most {MAX_LENGTH} are read")
    written: dict[str, str] = {}

    def placeholder(match: re.Match[str]) -> str:
        written[f"_quoted_{len(written)}"] = match[1]
        return f"_quoted_{len(written) - 1}"

    try:
        return ast.parse(re.sub(r"`([^`]*)`", placeholder, expression).strip(), mode="eval").body, written
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise TableError(
            f"--keep {expression!r} cannot be read ({error}); an example: loss < 5.0 and D/N > 0.4"
        ) from error


def _lookup(name: str, frame: pd.DataFrame, symbols: Mapping[str, str], expression: str) -> pd.Series:
    if name in frame.columns:
        return frame[name]
    if name in symbols:
        return frame[symbols[name]]
    short = ", ".join(s for s in symbols if s not in frame.columns)
    also = f"; short for columns named on the command line: {short}" if short else ""
    raise TableError(f"--keep {expression!r}: no column {name!r}; {listing(frame.columns, name)}{also}")


def _typed(column: pd.Series) -> NDArray[Any]:
    """(n,) float64, bool or str; an empty cell of a text column is an empty text."""
    filled = column.dropna()
    if len(filled) and all(isinstance(value, (bool, np.bool_)) for value in filled):
        return np.array([value is True or value is np.True_ for value in column.astype(object)], dtype=bool)
    if pd.api.types.is_numeric_dtype(column.dtype) or not any(isinstance(value, str) for value in filled):
        return numbers(column)
    return np.array(["" if missing else str(v) for v, missing in zip(column, column.isna(), strict=True)], dtype=str)


def _is_nan(values: NDArray[Any]) -> NDArray[np.bool_]:
    return np.isnan(values) if values.dtype.kind == "f" else np.zeros(len(values), dtype=bool)


def _shown(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


@dataclass(frozen=True)
class _Expression:
    """Walks one tree. Values are numpy: (n,) or scalar, of kind f, b or U."""

    text: str
    names: Mapping[str, NDArray[Any]]

    def value(self, node: ast.expr) -> Any:
        match node:
            case ast.Name(id=name):
                return self.names[name]
            case ast.Constant(value=bool() as constant):
                return np.bool_(constant)
            case ast.Constant(value=int() | float() as constant):
                return np.float64(constant)
            case ast.Constant(value=str() as constant):
                return np.str_(constant)
            case ast.BoolOp(op=op, values=parts):
                combine = np.logical_and if isinstance(op, ast.And) else np.logical_or
                return combine.reduce(np.broadcast_arrays(*(self.of_kind("b", part) for part in parts)))
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                return ~self.of_kind("b", operand)
            case ast.UnaryOp(op=ast.USub() | ast.UAdd() as op, operand=operand):
                inner = self.of_kind("f", operand)
                return -inner if isinstance(op, ast.USub) else inner
            case ast.BinOp(left=left, op=op, right=right) if type(op) in _ARITHMETIC:
                return _ARITHMETIC[type(op)](self.of_kind("f", left), self.of_kind("f", right))
            case ast.Compare(left=left, ops=ops, comparators=others):
                pairs = zip([left, *others], ops, others, strict=False)
                return np.logical_and.reduce(np.broadcast_arrays(*(self.compare(*pair) for pair in pairs)))
            case ast.Call(func=ast.Name(id=name), args=args, keywords=[]) if name in _FUNCTIONS:
                return self.call(name, args)
        raise self.refused(node)

    def compare(self, left: ast.expr, op: ast.cmpop, right: ast.expr) -> Any:
        if isinstance(op, (ast.In, ast.NotIn)) and isinstance(right, (ast.Tuple, ast.List, ast.Set)):
            found = [self.compare(left, ast.Eq(), choice) for choice in right.elts]
            inside = np.logical_or.reduce([np.zeros_like(self.value(left), dtype=bool), *found])
            return inside if isinstance(op, ast.In) else ~inside
        if type(op) in _ORDER:
            return _ORDER[type(op)](self.of_kind("f", left), self.of_kind("f", right))
        if type(op) in _EQUALITY:
            first, second = self.value(left), self.value(right)
            if first.dtype.kind != second.dtype.kind:
                kinds = f"{_KINDS[first.dtype.kind]} with {_KINDS[second.dtype.kind]}"
                raise TableError(f"--keep {self.text!r}: {self.source(left)} == {self.source(right)} compares {kinds}")
            return _EQUALITY[type(op)](first, second)
        raise self.refused(right)

    def call(self, name: str, args: list[ast.expr]) -> Any:
        values = [self.of_kind("f", arg) for arg in args]
        match name, values:
            case "log", [x]:
                return np.log(x)
            case "rank", [x] if np.ndim(x) == 1:
                return _rank(x)
            case "quantile", [x, q] if np.ndim(x) == 1 and np.ndim(q) == 0 and 0 <= q <= 1:
                return np.float64(np.nanquantile(x, q)) if np.isfinite(x).any() else np.float64(np.nan)
            case (("max" | "min"), [x]) if np.ndim(x) == 1:
                over_rows = np.fmax.reduce if name == "max" else np.fmin.reduce
                return np.float64(over_rows(x))
            case (("max" | "min"), [_, _, *_]):
                each_row = np.maximum if name == "max" else np.minimum
                return each_row.reduce(np.broadcast_arrays(*values))
        raise TableError(
            f"--keep {self.text!r}: {name} is used as rank(x), quantile(x, q) with q in [0, 1], max(x), min(x), "
            "max(x, y), min(x, y) or log(x), x a column"
        )

    def of_kind(self, kind: str, node: ast.expr) -> Any:
        found = self.value(node)
        if found.dtype.kind == kind:
            return found
        raise TableError(
            f"--keep {self.text!r}: {self.source(node)} is {_KINDS[found.dtype.kind]} where {_KINDS[kind]} are needed"
        )

    def source(self, node: ast.expr) -> str:
        return ast.unparse(node)

    def refused(self, node: ast.AST) -> TableError:
        return TableError(
            f"--keep {self.text!r}: {ast.unparse(node)!r} is not allowed; there are columns, numbers, quoted texts, "
            f"+ - * / ** %, comparisons, in (...), and, or, not, and {', '.join(_FUNCTIONS)}"
        )


def _rank(values: Array) -> Array:
    """1 + how many are larger; NaN stays NaN."""
    ordered = np.sort(values[~np.isnan(values)])
    return np.where(np.isnan(values), np.nan, len(ordered) - np.searchsorted(ordered, values, side="right") + 1.0)
