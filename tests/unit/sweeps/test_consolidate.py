"""The table of many records: what is in it, what is listed instead, and that only what changed is read again."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas
import pytest
from lab import child_environment
from run_records import REAL, write_record, write_records

from nmm.config import ConfigError
from nmm.record import RECORD_SCHEMA, RecordError, load_table
from sweeps import consolidate
from sweeps.consolidate import table_main, write_table


def frame_of(out: Path) -> pandas.DataFrame:
    return pandas.read_csv(out) if out.suffix == ".csv" else pandas.read_parquet(out)


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_row_for_every_finished_point(tmp_path: Path, suffix: str) -> None:
    runs = tmp_path / "runs"
    names = write_records(runs, 5)
    write_record(runs, "t", role="trunk")
    write_record(runs, "d", status="diverged", result={"error": "nan", "skipped_steps": {}})
    write_record(runs, "s", stage="sft")
    (runs / "unfinished").mkdir()
    (runs / "unfinished" / "config.json").write_text("{}")
    (runs / "launcher").mkdir()
    out = tmp_path / f"runs{suffix}"
    written = write_table([runs], out)
    frame = frame_of(out)
    assert list(frame["run_id"]) == names
    assert frame["loss_avg"].nunique() == 5
    assert dict(written.left_out) == {"trunk": 1, "diverged": 1, "tuned": 1, "not finished": 1}
    assert written.lines() == [
        f"wrote 5 rows x {len(frame.columns)} columns to {out} (8 records read, 0 unchanged since the last call)",
        "no rows: 1 diverged, 1 not finished, 1 trunk, 1 tuned",
    ]
    assert written.warnings() == []


def test_a_table_of_nothing_or_of_an_unknown_kind_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    with pytest.raises(RecordError, match="no finished point yet"):
        write_table([tmp_path / "runs"], tmp_path / "runs.csv")
    with pytest.raises(RecordError, match="is not a directory"):
        write_table([tmp_path / "nowhere"], tmp_path / "runs.csv")
    with pytest.raises(ConfigError, match=r"\.parquet or \.csv"):
        write_table([tmp_path / "runs"], tmp_path / "runs.xlsx")
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]


def test_a_run_that_finished_twice_differently_is_a_row_with_a_warning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs, out = tmp_path / "runs", tmp_path / "runs.csv"
    names = write_records(runs, 3)
    alarm = runs / names[1] / "alarm-0002.json"
    alarm.write_text("{}")
    for _ in range(2):  # a record that is not read again is warned of as well
        assert table_main([str(runs), "--out", str(out)]) == 0
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("warning: 1 runs finished again with another result") and str(alarm) in line
        assert f"`nmm sweep status {runs}`" in line
    assert list(frame_of(out)["run_id"]) == names


# ------------------------------------------------------------------------------------------------- damaged and foreign


def changed(**changes: Any) -> bytes:
    return json.dumps({**REAL, "run_id": "bad", **changes}).encode()


def without(*path: str) -> bytes:
    record = {**copy.deepcopy(REAL), "run_id": "bad"}
    inner = record
    for key in path[:-1]:
        inner = inner[key]
    del inner[path[-1]]
    return json.dumps(record).encode()


BAD = {
    "half-written": (changed()[:900], "not JSON, half-written"),
    "empty": (b"", "empty"),
    "zeros": (bytes(4096), "not JSON"),
    "not text": (b"\xff\xfe\x00{", "not JSON"),
    "nested": (b"[" * 100_000, "not JSON"),
    "a list": (b"[1, 2]", "a JSON list, a record is an object"),
    "foreign": (b'{"accuracy": 1}', "not a record of nmm: it has no run_id, status, role, result"),
    "future": (changed(schema=RECORD_SCHEMA + 1), "is of a newer nmm"),
    "odd schema": (changed(schema="three"), "schema 'three' is none of 1.."),
    "odd status": (changed(status="finished"), "status 'finished' is none of done, diverged"),
    "another run": (changed(run_id="other"), "run_id 'other' is not the name of its directory"),
    "without losses": (without("result", "loss"), "it has no loss"),
    "without params": (without("params", "vision"), "it has no vision"),
    "text for a number": (changed(tokens_per_second="fast"), "tokens_per_second is 'fast', not a number"),
    "number for text": (changed(arch=3), "arch is 3, not text"),
    "too large": (changed(steps=1 << 70), "not a number"),
    "text for a group": (changed(params="many"), "not a record of nmm"),
    "loss of text": (changed(result={**REAL["result"], "loss": {"avg": "low"}}), "could not convert"),
    "no Unicode": (changed(arch="\ud800"), "not Unicode"),
}


@pytest.mark.parametrize("how", BAD)
def test_a_record_that_is_none_is_listed_not_fatal(
    tmp_path: Path, how: str, capsys: pytest.CaptureFixture[str]
) -> None:
    data, reason = BAD[how]
    names = write_records(tmp_path / "runs", 3)
    bad = tmp_path / "runs" / "bad" / "record.json"
    bad.parent.mkdir()
    bad.write_bytes(data)
    arguments = [str(tmp_path / "runs"), "--out", str(tmp_path / "runs.parquet")]
    assert (table_main(arguments), table_main([*arguments, "--strict"])) == (0, 1)
    warned = capsys.readouterr().err.splitlines()
    assert warned[0] == "warning: 1 records are not in the table:"
    assert warned[1].startswith(f"  {bad}: ") and reason in warned[1]
    assert list(frame_of(tmp_path / "runs.parquet")["run_id"]) == names
    assert [row["run_id"] for row in load_table(tmp_path / "runs")] == names


def test_what_is_no_file_is_listed_and_nothing_waits_for_a_pipe(tmp_path: Path) -> None:
    names = write_records(tmp_path / "runs", 2)
    for name in ("folder", "huge", "loop", "pipe"):
        (tmp_path / "runs" / name).mkdir()
    (tmp_path / "runs" / "folder" / "record.json").mkdir()
    os.mkfifo(tmp_path / "runs" / "pipe" / "record.json")
    (tmp_path / "runs" / "loop" / "record.json").symlink_to("record.json")
    with open(tmp_path / "runs" / "huge" / "record.json", "wb") as file:
        file.truncate(1 << 40)
    written = write_table([tmp_path / "runs"], tmp_path / "runs.parquet")
    assert list(frame_of(tmp_path / "runs.parquet")["run_id"]) == names
    reasons = {Path(path).parent.name: reason for path, reason in written.unread}
    assert sorted(reasons) == ["folder", "huge", "loop", "pipe"]
    assert reasons["pipe"] == "not a regular file"
    assert "1099511627776 bytes" in reasons["huge"]


def test_a_name_that_cannot_be_printed_is_printed_as_codes(tmp_path: Path) -> None:
    write_records(tmp_path / "runs", 1)
    odd = os.path.join(os.fsencode(tmp_path / "runs"), b"odd\x1b[31m\xff")
    os.mkdir(odd)
    with open(os.path.join(odd, b"record.json"), "w") as file:
        file.write("{")
    (_, line) = write_table([tmp_path / "runs"], tmp_path / "runs.parquet").warnings()
    assert "odd\\x1b[31m\\udcff" in line
    assert line.isascii() and line.isprintable()


# --------------------------------------------------------------------------------------------------------- increments


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the runs whose records were opened."""
    import nmm.record.table as table

    names: list[str] = []
    read = table.read_entry

    def noted(path: str, name: str) -> Any:
        names.append(name)
        return read(path, name)

    monkeypatch.setattr(table, "read_entry", noted)
    return names


def test_a_second_call_reads_only_what_changed(tmp_path: Path, opened: list[str]) -> None:
    runs, out = tmp_path / "runs", tmp_path / "runs.parquet"
    names = write_records(runs, 6)
    write_record(runs, "trunk", role="trunk")
    write_table([runs], out)
    assert sorted(opened) == sorted([*names, "trunk"])
    first = frame_of(out)
    opened.clear()
    written = write_table([runs], out)
    assert opened == []
    assert (written.num_read, written.num_kept, dict(written.left_out)) == (0, 7, {"trunk": 1})
    pandas.testing.assert_frame_equal(frame_of(out), first)

    write_record(runs, names[2], wall_seconds=123.0)
    write_record(runs, "zz-new")
    (runs / names[0] / "record.json").unlink()
    opened.clear()
    write_table([runs], out)
    assert opened == [names[2], "zz-new"]
    frame = frame_of(out)
    assert list(frame["run_id"]) == [*names[1:], "zz-new"]
    assert frame.set_index("run_id")["wall_seconds"][names[2]] == 123.0


def test_a_record_swapped_for_one_of_the_same_size_and_time_is_noticed(tmp_path: Path, opened: list[str]) -> None:
    runs, out = tmp_path / "runs", tmp_path / "runs.parquet"
    (name,) = write_records(runs, 1)
    path = runs / name / "record.json"
    write_table([runs], out)
    before, old = path.stat(), path.read_bytes()
    path.write_bytes(old.replace(b'"seed": 0', b'"seed": 7'))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_size == before.st_size and path.read_bytes() != old
    write_table([runs], out)
    assert opened == [name, name]
    assert list(frame_of(out)["seed"]) == [7]


def test_what_could_not_be_read_is_tried_again(tmp_path: Path) -> None:
    runs, out = tmp_path / "runs", tmp_path / "runs.parquet"
    write_records(runs, 2)
    path = runs / "bad" / "record.json"
    write_record(runs, "bad")
    whole = path.read_bytes()
    path.write_bytes(whole[:100])
    for _ in range(2):
        assert [bad for bad, _ in write_table([runs], out).unread] == [str(path)]
    path.write_bytes(whole)
    assert write_table([runs], out).rows == 3


@pytest.mark.parametrize("how", ["cut", "foreign", "other code", "empty", "not text"])
def test_a_cache_that_is_damaged_or_of_other_code_is_dropped(tmp_path: Path, opened: list[str], how: str) -> None:
    runs, out = tmp_path / "runs", tmp_path / "runs.csv"
    names = write_records(runs, 4)
    write_table([runs], out)
    first, cache = out.read_bytes(), tmp_path / ".runs.csv.cache"
    data = cache.read_bytes()
    match how:
        case "cut":
            cache.write_bytes(data[:-100])
        case "foreign":
            cache.write_bytes(data.splitlines(keepends=True)[0] + b'{"a": 1}\n')
        case "other code":
            cache.write_bytes(data.replace(b'"made_by": "', b'"made_by": "0').replace(b'"seed": 0', b'"seed": 5'))
        case "empty":
            cache.write_bytes(b"")
        case "not text":
            cache.write_bytes(b"\xff" * 100)
    opened.clear()
    write_table([runs], out)
    assert sorted(opened) == names
    assert out.read_bytes() == first


def test_the_key_of_the_cache_follows_the_code(monkeypatch: pytest.MonkeyPatch) -> None:
    before = consolidate.cache_key()
    monkeypatch.setattr(consolidate, "RECORD_SCHEMA", RECORD_SCHEMA + 1)
    assert consolidate.cache_key() != before
    monkeypatch.undo()
    assert consolidate.cache_key() == before
    monkeypatch.setattr(consolidate, "flatten", json.dumps)  # of another file
    assert consolidate.cache_key() != before


# -------------------------------------------------------------------------------------------------- several directories


def test_a_run_in_two_directories_is_one_row_if_both_agree(tmp_path: Path) -> None:
    first, second, out = tmp_path / "a", tmp_path / "b", tmp_path / "runs.parquet"
    names = write_records(first, 3)
    write_record(second, names[0])
    write_record(second, names[1], result={**REAL["result"], "order_hash": "another"})
    write_record(second, "more")
    written = write_table([first, second], out)
    assert list(frame_of(out)["run_id"]) == sorted([*names, "more"])
    assert dict(written.left_out) == {"there twice": 1}
    ((path, reason),) = written.unread
    assert path == str(second / names[1] / "record.json") and f"another result than {first / names[1]}" in reason


def test_two_at_once_are_both_right(tmp_path: Path) -> None:
    runs, out = tmp_path / "runs", tmp_path / "runs.parquet"
    names = write_records(runs, 200)
    code = "import sys; from sweeps.consolidate import table_main; [table_main(sys.argv[1:]) for _ in range(8)]"
    command = [sys.executable, "-c", code, str(runs), "--out", str(out)]
    both = [subprocess.Popen(command, env=child_environment(), stdout=subprocess.PIPE, text=True) for _ in range(2)]
    for process in both:
        lines = process.communicate(timeout=120)[0].splitlines()
        assert process.returncode == 0
        assert [line.split(" (")[0] for line in lines] == [lines[0].split(" (")[0]] * 8
    assert list(frame_of(out)["run_id"]) == names
    assert sorted(p.name for p in tmp_path.iterdir()) == [".runs.parquet.cache", "runs", "runs.parquet"]


# --------------------------------------------------------------------------------------------------------- 10,000 runs

MEASURED = """
import pathlib, sys
from sweeps.consolidate import table_main
status = table_main(sys.argv[1:])
# not ru_maxrss: a child begins with its parent's, which is that of every test before
print(int(pathlib.Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) // 1024)
raise SystemExit(status)
"""


def test_ten_thousand_runs_in_bounded_memory(tmp_path: Path) -> None:
    """The two half-written and the foreign one among them are listed; a second call reads 3 records."""
    runs, out = tmp_path / "runs", tmp_path / "runs.parquet"
    names = write_records(runs, 10_000)
    for name in names[:2]:
        path = runs / name / "record.json"
        path.write_bytes(path.read_bytes()[:1500])
    (runs / names[2] / "record.json").write_text('{"score": 1}')
    command = [sys.executable, "-c", MEASURED, str(runs), "--out", str(out)]
    for read in (10_000, 3):
        done = subprocess.run(command, env=child_environment(), capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        line, megabytes = done.stdout.splitlines()
        assert line.startswith("wrote 9997 rows") and f"({read} records read" in line
        assert int(megabytes) <= 500
        assert [row.split("/")[-2] for row in done.stderr.splitlines()[1:]] == names[:3]
    frame = frame_of(out)
    assert list(frame["run_id"]) == names[3:]
    assert frame["loss_avg"].nunique() == 9_997
