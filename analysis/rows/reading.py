"""Rows from wherever they are: a sweep directory, a file, a frame, a list of dicts, a dict of arrays."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pandas as pd

from analysis.rows.columns import TableError
from nmm.record import scan

Source: TypeAlias = str | Path | pd.DataFrame | Mapping[str, Any] | Iterable[Mapping[str, Any]]
MAX_LISTED = 20  # of records that cannot be read
FORMATS = ".parquet, .csv, .jsonl or .json (the last three also with .gz)"


def read_rows(source: Source) -> pd.DataFrame:
    """A frame of its own (the source is never written), with text column names and rows numbered from 0.

    source: sweep directory; .parquet, .csv, .jsonl, .json file (a JSON array of rows, or an object of columns); frame;
    list of dicts; dict of arrays. A named index becomes a column. Records of a sweep directory that cannot be read are
    left out and listed in ``frame.attrs["notes"]``.
    Raises ``TableError`` for a missing path, an unknown suffix, a file that does not parse, columns of unequal length,
    a column name that occurs twice, or an empty table.
    """
    frame = _read_path(Path(source)) if isinstance(source, (str, Path)) else _to_frame(source, describe(source))
    if any(name is not None and name not in frame.columns for name in frame.index.names):
        frame = frame.reset_index()
    frame.columns = pd.Index([str(name).strip() for name in frame.columns])
    if repeated := list(frame.columns[frame.columns.duplicated()]):
        raise TableError(f"{describe(source)}: column {repeated[0]!r} is there twice; rename one of the two")
    if frame.empty:
        raise TableError(f"no finished run in {describe(source)}; run the sweep first, then fit")
    return frame.reset_index(drop=True)


def describe(source: object) -> str:
    """The path, or words for rows that came from memory."""
    return str(source) if isinstance(source, (str, Path)) else "the given rows"


def _read_path(path: Path) -> pd.DataFrame:
    if path.is_dir():
        return _read_directory(path)
    if not path.is_file():
        raise TableError(f"{path} does not exist; give a sweep directory or a table: {FORMATS}")
    suffix = Path(path.name.lower().removesuffix(".gz")).suffix
    try:
        match suffix:
            case ".parquet":
                return pd.read_parquet(path)
            case ".csv":
                # The default parser of numbers is fast and off by one unit in the last place now and then.
                return pd.read_csv(path, float_precision="round_trip", low_memory=False)
            case ".jsonl":
                return _to_frame(_json_lines(path), str(path))
            case ".json":
                return _to_frame(json.loads(_text(path)), str(path))
    except TableError:
        raise
    except (ValueError, EOFError, zlib.error) as error:
        raise TableError(f"{path} cannot be read as {suffix}: {error}") from error
    raise TableError(f"{path}: cannot read a {suffix or 'suffixless'} file; use {FORMATS}")


def _read_directory(path: Path) -> pd.DataFrame:
    found = scan(path)
    frame = pd.DataFrame(found.rows)
    listed = "; ".join(f"{record}: {reason}" for record, reason in found.unread[:MAX_LISTED])
    if len(found.unread) > MAX_LISTED:
        listed += f"; and {len(found.unread) - MAX_LISTED} more (`nmm sweep table` lists them all)"
    if frame.empty and listed:
        raise TableError(f"no finished run in {path}; {len(found.unread)} records cannot be read: {listed}")
    if listed:
        frame.attrs["notes"] = (f"{len(found.unread)} records cannot be read and are left out: {listed}",)
    return frame


def _text(path: Path) -> str:
    data = path.read_bytes()
    return (gzip.decompress(data) if path.name.lower().endswith(".gz") else data).decode("utf-8-sig")


def _json_lines(path: Path) -> list[Any]:
    rows = []
    for number, line in enumerate(_text(path).split("\n"), start=1):
        if line.strip():
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError as error:
                raise TableError(f"{path}, line {number}: not JSON ({error})") from error
    return rows


def _to_frame(source: Any, where: str) -> pd.DataFrame:
    if isinstance(source, pd.DataFrame):
        return source.copy()
    if isinstance(source, Mapping):
        return _from_arrays(source, where)
    if isinstance(source, (str, bytes)) or not isinstance(source, Iterable):
        raise TableError(f"{where}: a list of rows or an object of columns is needed, not {type(source).__name__}")
    rows = list(source)
    for number, row in enumerate(rows):
        if not isinstance(row, Mapping):
            raise TableError(f"{where}: row {number} is a {type(row).__name__}, not a mapping from column to value")
    return pd.DataFrame(rows)


def _from_arrays(source: Mapping[str, Any], where: str) -> pd.DataFrame:
    """Copies, so that read-only or shared memory is never handed on; by position, whatever index a Series has."""
    columns = {}
    for name, values in source.items():
        if (
            isinstance(values, (str, bytes, Mapping))
            or not isinstance(values, Iterable)
            or getattr(values, "ndim", 1) != 1
        ):
            raise TableError(f"{where}: column {name!r} is not a flat list of values")
        columns[str(name)] = values.copy() if isinstance(values, np.ndarray) else list(values)
    lengths = {name: len(values) for name, values in columns.items()}
    if len(set(lengths.values())) > 1:
        text = ", ".join(f"{name} {length}" for name, length in lengths.items())
        raise TableError(f"{where}: the columns differ in length: {text}")
    return pd.DataFrame(columns)
