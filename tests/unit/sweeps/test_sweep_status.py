from __future__ import annotations

import io
from pathlib import Path

import pandas
import pytest
from rich.console import Console

from nmm.config import ConfigError
from nmm.record import RecordError, begin_attempt, publish
from sweeps.manifest import Entry
from sweeps.status import error_line, note_failure, run_status, show_status, sweep_status, write_table

KEYS = ["total", "non_embedding", "active", "active_non_embedding", "decoder_non_embedding", "vision"]


def finish(directory: Path, entry: Entry, status: str = "done") -> None:
    config, run = entry.config, directory / entry.run_id
    attempt = begin_attempt(run)
    record = {
        "run_id": entry.run_id, "sweep": config.sweep, "arch": config.arch.name, "size": config.size.name,
        "seed": config.seed, "status": status, "steps": config.total_steps, "role": config.role,
        "lineage": {"trunk_id": config.parent.run_id or entry.run_id},
        "params": dict.fromkeys(KEYS, 1), "tokens": {"total": 1, "text": 1, "image": 0},
        "flops": {"6nd": 1.0, "total": 1.0}, "on_plateau": False, "wall_seconds": 1.0, "tokens_per_second": 1e6,
        "result": {"loss": {"avg": 2.0}, "entropy": {"avg": None}, "class_excess": {}, "order_hash": "0"},
    }  # fmt: skip
    publish(run, attempt, record)
    attempt.end(status)


def shown(directory: Path) -> tuple[int, str]:
    console = Console(width=200, file=io.StringIO())
    code = show_status(directory, console)
    return code, console.file.getvalue()


def test_counts_come_from_the_files(plan) -> None:
    made = plan()
    directory, entries = made.path.parent, made.entries
    finish(directory, entries[0])
    finish(directory, entries[1], "diverged")
    alive = begin_attempt(directory / entries[2].run_id)
    code, text = shown(directory)
    assert code == 1
    assert "1 done, 1 running, 1 pending, 2 blocked, 1 diverged of 6 runs" in text
    assert "running now" in text
    alive.close()
    assert "1 interrupted" in shown(directory)[1]


def test_when_everything_is_done_it_says_what_comes_next(plan) -> None:
    made = plan()
    for entry in made.entries:
        finish(made.path.parent, entry)
    code, text = shown(made.path.parent)
    assert code == 0
    assert "6 done of 6 runs, 100% of the FLOPs" in text
    assert "nmm sweep table" in text


def test_a_failure_shows_the_line_that_names_the_error(plan) -> None:
    made = plan()
    directory, trunk = made.path.parent, made.entries[0]
    begin_attempt(directory / trunk.run_id).end(
        "failed", "Traceback (most recent call last):\n  File x\nKeyError: 'a'\n"
    )
    code, text = shown(directory)
    assert code == 1
    assert "1 failed" in text and "2 blocked" in text
    assert f"failed: {trunk.run_id}: KeyError: 'a'" in text


def test_the_launchers_note_speaks_for_a_killed_attempt_until_a_newer_one(plan) -> None:
    made = plan()
    directory, entry = made.path.parent, made.entries[0]
    begin_attempt(directory / entry.run_id).close()
    assert sweep_status(directory, made.entries).states[entry.run_id] == "interrupted"
    note_failure(directory, entry.run_id, "ended by SIGKILL", Path("log"), 2)
    found = sweep_status(directory, made.entries)
    assert found.states[entry.run_id] == "failed"
    assert "ended by SIGKILL (tried 2 times; log log)" in found.causes[entry.run_id]
    begin_attempt(directory / entry.run_id).close()
    assert sweep_status(directory, made.entries).states[entry.run_id] == "interrupted"


def test_a_damaged_record_is_listed_not_fatal(plan) -> None:
    made = plan()
    directory = made.path.parent
    finish(directory, made.entries[0])
    (directory / made.entries[0].run_id / "record.json").write_text('{"status": "do')
    assert run_status(directory / made.entries[0].run_id) == "unreadable"
    assert "1 unreadable" in shown(directory)[1]


def test_time_left_shrinks_with_what_is_done(plan) -> None:
    made = plan()
    directory = made.path.parent
    before = sweep_status(directory, made.entries)
    attempt = begin_attempt(directory / made.entries[0].run_id)
    attempt.log_metrics({"step": made.entries[0].config.total_steps // 2})
    half = sweep_status(directory, made.entries)
    assert half.seconds_left == pytest.approx(before.seconds_left - made.entries[0].estimate.seconds / 2)
    attempt.close()


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_the_table_has_a_row_for_every_finished_point(plan, tmp_path: Path, suffix: str) -> None:
    made = plan()
    for entry in made.entries[:4]:
        finish(made.path.parent, entry)
    out = tmp_path / f"runs{suffix}"
    line = write_table(made.path.parent, out)
    frame = pandas.read_csv(out) if suffix == ".csv" else pandas.read_parquet(out)
    assert sorted(frame["run_id"]) == sorted(e.run_id for e in made.entries[:4] if e.role == "branch")
    assert line.startswith(f"wrote {len(frame)} rows") and str(out) in line
    assert frame["entropy_avg"].isna().all()


def test_a_table_of_nothing_or_of_an_unknown_kind_is_an_error(plan, tmp_path: Path) -> None:
    directory = plan().path.parent
    with pytest.raises(RecordError, match="no finished point yet"):
        write_table(directory, tmp_path / "runs.csv")
    with pytest.raises(ConfigError, match=r"\.parquet or \.csv"):
        write_table(directory, tmp_path / "runs.xlsx")
    assert not (tmp_path / "runs.csv").exists()


def test_error_line_finds_the_exception_that_ended_a_chain() -> None:
    chain = "Traceback (most\n  File a\nKeyError: 1\n\nThe above\n\nTraceback (most\n  File b\nValueError: two\nmore\n"
    assert error_line(chain) == "ValueError: two"
    assert error_line("plain words\nmore") == "plain words"
    assert error_line("\n") == ""
