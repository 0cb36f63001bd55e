"""Every record of a directory: read what changed, and say of each that is no row of the table why not. Stdlib only."""

from __future__ import annotations

import json
import os
import stat
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from nmm.record.files import RecordError
from nmm.record.flat import BOOL_COLUMNS, RECORD_SCHEMA, TEXT_COLUMNS, flatten

MAX_BYTES = 16 << 20  # of one record: real ones have a few kB, and a foreign file must not fill the memory
STATES = ("done", "diverged")


class Seen(NamedTuple):
    """What one record.json was when it was read.

    stamp: (mtime in ns, ctime in ns, bytes, inode). why: "" for a point of the law, else what kind of run it is that is
    left out. row: the point as ``flatten`` makes it.
    """

    stamp: tuple[int, ...]
    why: str
    row: dict[str, Any] | None


@dataclass
class Scan:
    """seen: path of record.json -> what it holds, by run id. unread: (path, reason). left_out: kind -> how many."""

    seen: dict[str, Seen] = field(default_factory=dict)
    unread: list[tuple[str, str]] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)
    num_read: int = 0

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The points."""
        return [entry.row for entry in self.seen.values() if entry.row is not None]


class Unusable(ValueError):
    """This one record cannot be a row; the message says why."""


def scan(directory: Path | str, known: Mapping[str, Seen] | None = None) -> Scan:
    """Every record.json of the run directories in ``directory``; those that ``known`` has unchanged are not opened.

    A half-written or foreign record is listed in ``unread``, whatever is in it. Raises ``RecordError`` when
    ``directory`` is none.
    """
    found, known = Scan(), known or {}
    for name in _run_names(directory):
        path = os.path.join(directory, name, "record.json")
        try:
            entry = known.get(path)
            if entry is None or entry.stamp != stamp_of(os.stat(path)):
                entry = read_entry(path, name)
                found.num_read += 1
        except FileNotFoundError:
            if os.path.exists(os.path.join(directory, name, "config.json")):
                found.left_out["not finished"] += 1
            continue
        except (OSError, Unusable) as error:
            found.num_read += 1
            found.unread.append((path, error.strerror or str(error) if isinstance(error, OSError) else str(error)))
            continue
        found.seen[path] = entry
        if entry.why:
            found.left_out[entry.why] += 1
    return found


def load_table(directory: Path | str) -> list[dict[str, Any]]:
    """One flat row per finished run that is a point of the law: no trunks, which are lineage, and no tuned runs.

    Records that cannot be read are left out; ``scan`` lists them.
    """
    return scan(directory).rows


def _run_names(directory: Path | str) -> Iterator[str]:
    try:
        with os.scandir(directory) as entries:
            yield from sorted(entry.name for entry in entries if entry.is_dir())
    except (FileNotFoundError, NotADirectoryError) as error:
        raise RecordError(f"{directory} is not a directory; give the folder that holds the run directories") from error


def stamp_of(status: os.stat_result) -> tuple[int, ...]:
    """What changes when a file is written, replaced or swapped for another."""
    return status.st_mtime_ns, status.st_ctime_ns, status.st_size, status.st_ino


def read_entry(path: str, name: str) -> Seen:
    """Read the record of the run directory ``name``. Raises ``OSError`` and ``Unusable``."""
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # a named pipe would wait for a writer
    with open(handle, "rb") as file:
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode):
            raise Unusable("not a regular file")
        if status.st_size > MAX_BYTES:
            raise Unusable(f"{status.st_size} bytes; a record has a few thousand, never more than {MAX_BYTES}")
        data = file.read(MAX_BYTES)
    record = _parsed(data)
    _check_record(record, name)
    why = _why_left_out(record)
    return Seen(stamp_of(status), why, None if why else _row(record))


def _parsed(data: bytes) -> dict[str, Any]:
    if not data.strip():
        raise Unusable("empty")
    try:
        record = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise Unusable(f"not JSON, half-written? ({error})") from error
    if not isinstance(record, dict):
        raise Unusable(f"a JSON {type(record).__name__}, a record is an object")
    return record


def _check_record(record: dict[str, Any], name: str) -> None:
    if absent := [key for key in ("run_id", "status", "role", "result") if key not in record]:
        raise Unusable(f"not a record of nmm: it has no {', '.join(absent)}")
    schema = record.get("schema", 1)
    if not isinstance(schema, int) or isinstance(schema, bool) or schema < 1:
        raise Unusable(f"schema {schema!r} is none of 1..{RECORD_SCHEMA}")
    if schema > RECORD_SCHEMA:
        raise Unusable(f"schema {schema} is of a newer nmm, this one reads 1..{RECORD_SCHEMA}; update nmm")
    if record["run_id"] != name:
        raise Unusable(f"run_id {record['run_id']!r} is not the name of its directory; copied or renamed?")
    if record["status"] not in STATES:
        raise Unusable(f"status {record['status']!r} is none of {', '.join(STATES)}")


def _why_left_out(record: dict[str, Any]) -> str:
    if record["status"] != "done":
        return "diverged"
    if record["role"] == "trunk":
        return "trunk"
    return "" if record.get("stage", "pretrain") == "pretrain" else "tuned"


def _row(record: dict[str, Any]) -> dict[str, Any]:
    try:
        row = flatten(record)
    except KeyError as error:
        raise Unusable(f"not a record of nmm: it has no {error.args[0]}") from error
    except (TypeError, ValueError, AttributeError, OverflowError) as error:
        raise Unusable(f"not a record of nmm: {error}") from error
    for name, value in row.items():
        if not _fits(name, value):
            raise Unusable(f"{name} is {value!r}, not {_kind(name)}")
    try:
        "".join([*row, *(row[name] for name in TEXT_COLUMNS)]).encode()
    except UnicodeEncodeError as error:
        raise Unusable(f"a text in it is not Unicode: {error.object!r}") from error
    return row


def _kind(name: str) -> str:
    return "text" if name in TEXT_COLUMNS else "true or false" if name in BOOL_COLUMNS else "a number"


def _fits(name: str, value: Any) -> bool:
    """A column of mixed kinds could not be written, or would be read as text."""
    if name in TEXT_COLUMNS:
        return isinstance(value, str)
    if name in BOOL_COLUMNS:
        return isinstance(value, bool)
    if isinstance(value, float):
        return True
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 1 << 63
