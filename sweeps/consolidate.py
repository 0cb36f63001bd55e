"""``nmm sweep table``: the records of one or several directories as one table; a second call reads what changed.

Beside OUT lies .OUT.cache: what every record held and the stamp it had, one JSON line each. A record whose stamp is
another one is read again, a run that is gone is gone from the table, and the whole cache counts only while it was made
by this very code. Deleting it costs one slower call.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from nmm.config import ConfigError
from nmm.record import RECORD_SCHEMA, RecordError, Scan, Seen, flatten, scan, write_atomic

SUFFIXES = (".parquet", ".csv")
DESCRIPTION = """One row for every finished point of the law in one or several sweep directories.

Trunks, tuned and diverged runs are no points; the closing lines count them. A record that is half-written, foreign or
of a newer nmm is listed on stderr and left out; the table is written all the same and the exit status is 0, or 1 with
--strict. Beside OUT a cache is kept: the next call reads only what changed.
"""


@dataclass(frozen=True)
class Written:
    """What came of it. unread: (path of a record, why it is not in the table). left_out: kind of run -> how many.
    alarms: files of runs that finished twice with different results; the table has the record, which came first.
    """

    out: Path
    rows: int
    columns: int
    num_read: int
    num_kept: int
    left_out: Counter[str]
    unread: tuple[tuple[str, str], ...]
    alarms: tuple[str, ...] = ()

    def lines(self) -> list[str]:
        """The closing lines."""
        found = [
            f"wrote {self.rows} rows x {self.columns} columns to {self.out} ({self.num_read} records read, "
            f"{self.num_kept} unchanged since the last call)"
        ]
        if self.left_out:
            kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(self.left_out.items()))
            found.append(f"no rows: {kinds}")
        return found

    def warnings(self) -> list[str]:
        """One line about alarms, and one for every record that could not be used, after one that counts them."""
        found = []
        if self.alarms:
            first, runs = self.alarms[0], {os.path.dirname(path) for path in self.alarms}
            ask = f"nmm sweep status {shown(str(Path(first).parents[1]))}"
            found.append(
                f"warning: {len(runs)} runs finished again with another result than their record has, e.g. "
                f"{shown(first)}; do not trust their rows before you know why (`{ask}`)"
            )
        if self.unread:
            found.append(f"warning: {len(self.unread)} records are not in the table:")
            found += [f"  {shown(path)}: {shown(reason)}" for path, reason in self.unread]
        return found


def shown(text: str) -> str:
    """``text`` for a terminal: what is not printable (a name that is not Unicode, escapes) as its code."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text)


def table_main(argv: Sequence[str]) -> int:
    """``nmm sweep table DIR... --out runs.parquet``. Returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="nmm sweep table", description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("dirs", type=Path, nargs="+", metavar="DIR", help="a sweep's directory, e.g. outputs/demo/runs")
    parser.add_argument("--out", type=Path, required=True, help="runs.parquet or runs.csv")
    parser.add_argument("--strict", action="store_true", help="exit status 1 when a record could not be used")
    arguments = parser.parse_args(argv)
    written = write_table(arguments.dirs, arguments.out)
    print("\n".join(written.lines()))
    for line in written.warnings():
        print(line, file=sys.stderr)
    return 1 if arguments.strict and written.unread else 0


def write_table(directories: Sequence[Path], out: Path) -> Written:
    """Write the flat table of finished points as .parquet or .csv, whole or not at all.

    A run that lies in two directories is one row, of the first. Raises ``ConfigError`` for another suffix and
    ``RecordError`` for a directory that is none, when no point is finished, or when ``out`` cannot be written.
    """
    if out.suffix not in SUFFIXES:
        raise ConfigError(f"--out {out}: the name must end in {' or '.join(SUFFIXES)}")
    cache = out.with_name(f".{out.name}.cache")
    known = read_cache(cache)
    scans = [scan(os.path.abspath(directory), known) for directory in directories]
    rows, twice, unread = _joined(scans)
    if not rows:
        listed = "".join(f"\n  {shown(path)}: {shown(reason)}" for path, reason in unread[:20])
        where = ", ".join(map(str, directories))
        raise RecordError(f"{where} holds no finished point yet; see `nmm sweep status {directories[0]}`{listed}")
    try:
        num_columns = _write_rows(rows, out)
        if any(found.num_read for found in scans) or len(known) != sum(len(found.seen) for found in scans):
            write_cache(cache, scans)
    except OSError as error:
        raise RecordError(f"--out {out} cannot be written: {error.strerror or error}") from error
    num_read = sum(found.num_read for found in scans)
    total = sum(len(found.seen) + len(found.unread) for found in scans)
    left_out = sum((found.left_out for found in scans), Counter({"there twice": twice} if twice else {}))
    return Written(out, len(rows), num_columns, num_read, total - num_read, left_out, tuple(unread), _alarms(scans))


def _alarms(scans: Sequence[Scan]) -> tuple[str, ...]:
    found: list[str] = []
    for run in (os.path.dirname(path) for one in scans for path in one.seen):
        with contextlib.suppress(FileNotFoundError), os.scandir(run) as entries:
            found += sorted(e.path for e in entries if e.name.startswith("alarm-") and e.name.endswith(".json"))
    return tuple(found)


def _joined(scans: Sequence[Scan]) -> tuple[list[dict[str, Any]], int, list[tuple[str, str]]]:
    """Rows by run id, how many came a second time, and what could not be used."""
    rows: dict[str, tuple[str, dict[str, Any]]] = {}
    twice, unread = 0, [bad for found in scans for bad in found.unread]
    for path, seen in ((path, seen) for found in scans for path, seen in found.seen.items()):
        if seen.row is None:
            continue
        first_path, first = rows.setdefault(seen.row["run_id"], (path, seen.row))
        if first_path == path:
            continue
        if _result(first) == _result(seen.row):
            twice += 1
        else:
            unread.append((path, f"another result than {first_path} has for the same run; find out which one is right"))
    return [rows[run][1] for run in sorted(rows)], twice, unread


def _result(row: dict[str, Any]) -> str:
    return repr([(name, row[name]) for name in sorted(row) if name.startswith("loss_") or name == "order_hash"])


def _write_rows(rows: list[dict[str, Any]], out: Path) -> int:
    import pandas  # 0.5 s, and only this command needs it

    frame = pandas.DataFrame(rows)

    def writer(file: BinaryIO) -> None:
        frame.to_parquet(file, index=False) if out.suffix == ".parquet" else frame.to_csv(file, index=False)

    write_atomic(out, writer)
    return len(frame.columns)


# ---------------------------------------------------------------------------------------------------------------------
# the cache


def cache_key() -> str:
    """Changes with every change of what reads a record and makes a row of it, so that nobody has to remember it."""
    digest = hashlib.sha256(f"{RECORD_SCHEMA}".encode())
    for function in (scan, flatten, cache_key):
        digest.update(Path(function.__code__.co_filename).read_bytes())
    return digest.hexdigest()


def read_cache(path: Path) -> dict[str, Seen]:
    """What an earlier call saw, by path of the record; {} when there is none, or it is damaged or of other code."""
    known: dict[str, Seen] = {}
    try:
        with open(path, encoding="utf-8") as file:
            if json.loads(file.readline() or "null") != {"made_by": cache_key()}:
                return {}
            for line in file:
                name, stamp, why, row = json.loads(line)
                known[name] = Seen(tuple(stamp), why, row)
    except (FileNotFoundError, ValueError, TypeError):
        return {}
    return known


def write_cache(path: Path, scans: Iterable[Scan]) -> None:
    """Replace the cache; of two calls at once the last one wins, and both are right."""

    def writer(file: BinaryIO) -> None:
        file.write(json.dumps({"made_by": cache_key()}).encode() + b"\n")
        for found in scans:
            for name, seen in found.seen.items():
                file.write(json.dumps([name, *seen]).encode() + b"\n")

    write_atomic(path, writer)
