from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from nmm.record import CAUSES, begin_attempt, publish
from sweeps.manifest import Entry, ManifestError
from sweeps.status import Reader
from sweeps.status.command import status_main
from sweeps.status.planned import read_planned
from sweeps.status.report import make_report

Made = Callable[..., Any]


def finish(directory: Path, entry: Entry, status: str = "done") -> None:
    config, run = entry.config, directory / entry.run_id
    attempt = begin_attempt(run)
    record = {
        "run_id": entry.run_id, "status": status, "steps": config.total_steps, "arch": config.arch.name,
        "size": config.size.name, "tokens_per_second": 1e6, "result": {"loss": {"avg": 2.0}},
    }  # fmt: skip
    publish(run, attempt, record)
    attempt.end(status)


def shown(directory: Path) -> tuple[int, str]:
    with mock.patch.dict(os.environ, COLUMNS="200"), contextlib.redirect_stdout(io.StringIO()) as said:
        return status_main([str(directory)]), said.getvalue()


def test_the_short_reading_of_a_manifest_agrees_with_the_whole(plan: Made) -> None:
    made = plan()
    for planned, entry in zip(read_planned(made.path.parent), made.entries, strict=True):
        assert planned.run_id == entry.run_id and planned.parent_id == entry.parent_id
        assert planned.shape == entry.shape and planned.role == entry.role
        assert planned.total_steps == entry.config.total_steps
        assert planned.own_steps == entry.config.total_steps - entry.config.parent.step
        assert planned.tokens_per_step == entry.config.tokens_per_step
        assert (planned.flops, planned.seconds) == (entry.estimate.flops, entry.estimate.seconds)


@pytest.mark.parametrize(
    ("content", "message"), [("", "is empty"), ("{}\n", "manifest.jsonl:1 is not a line"), ("x", "is not a line")]
)
def test_a_damaged_manifest_is_an_error(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "manifest.jsonl").write_text(content)
    with pytest.raises(ManifestError, match=message):
        read_planned(tmp_path)


def test_counts_come_from_the_files(plan: Made) -> None:
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
    assert "1 failed (1 exit)" in shown(directory)[1]


def test_when_everything_is_done_it_says_what_comes_next(plan: Made) -> None:
    made = plan()
    for entry in made.entries:
        finish(made.path.parent, entry)
    code, text = shown(made.path.parent)
    assert code == 0
    assert "6 done of 6 runs, 100% of the FLOPs" in text
    assert "nmm sweep table" in text


def test_an_alarm_stands_first_and_spoils_the_exit_status(plan: Made) -> None:
    made = plan()
    for entry in made.entries:
        finish(made.path.parent, entry)
    (made.path.parent / made.entries[3].run_id / "alarm-0002.json").write_text("{}")
    code, text = shown(made.path.parent)
    assert code == 1
    assert text.startswith(f"ALARM: {made.entries[3].run_id}: two attempts finished with different results")


def test_a_failure_shows_the_line_that_names_the_error_and_what_to_do(plan: Made) -> None:
    made = plan()
    directory, trunk = made.path.parent, made.entries[0]
    begin_attempt(directory / trunk.run_id).end(
        "failed", "Traceback (most recent call last):\n  File x\nKeyError: 'a'\n", "error"
    )
    code, text = shown(directory)
    assert code == 1
    assert "1 failed (1 error)" in text and "2 blocked" in text
    assert f"failed (error): {trunk.run_id}: KeyError: 'a'" in text
    assert f"nmm sweep logs {trunk.run_id} --dir {directory}" in text


@pytest.mark.parametrize("cause", CAUSES)
def test_every_cause_has_a_command_that_can_be_pasted(plan: Made, cause: str) -> None:
    made = plan()
    directory, trunk = made.path.parent, made.entries[0]
    begin_attempt(directory / trunk.run_id).end("failed", f"Error: {cause} went wrong", cause)
    problem = Reader(directory).read().problems[0]
    assert (problem.kind, problem.runs, problem.error) == (cause, [trunk.run_id], f"Error: {cause} went wrong")
    commands = problem.fix.split("`")[1::2]
    assert commands and all(command.startswith(("nmm ", "df ")) for command in commands)
    assert any(str(directory) in command or "out=NEW_DIR" in command for command in commands)


def test_out_of_memory_names_the_sizes(plan: Made) -> None:
    made = plan()
    for entry in made.entries:
        if entry.role == "trunk":
            begin_attempt(made.path.parent / entry.run_id).end("failed", "MemoryError", "oom")
    (problem,) = Reader(made.path.parent).read().problems
    assert len(problem.runs) == 2
    assert "d16 of early, d32 of early" in problem.fix and "'sizes=[d16,d32]'" in problem.fix


def test_what_was_handed_to_slurm_goes_on_there(plan: Made) -> None:
    made = plan()
    directory, trunk = made.path.parent, made.entries[0]
    begin_attempt(directory / trunk.run_id).end("failed", "OSError: [Errno 28] No space left on device", "disk")
    problems = make_report(directory, Reader(directory).read().states, [], slurm=True).problems
    assert f"`nmm sweep launch {directory} launcher=slurm retry=all`" in problems[0].fix


def test_time_left_shrinks_with_what_is_done(plan: Made) -> None:
    made = plan()
    directory = made.path.parent
    before = Reader(directory).read()
    attempt = begin_attempt(directory / made.entries[0].run_id)
    attempt.log_metrics({"step": made.entries[0].config.total_steps // 2})
    half = Reader(directory).read()
    assert half.seconds_left == pytest.approx(before.seconds_left - made.entries[0].estimate.seconds / 2)
    attempt.close()


def test_what_finished_runs_needed_corrects_the_time_left(plan: Made) -> None:
    made = plan()
    before = Reader(made.path.parent).read().seconds_left
    done = made.entries[0]
    finish(made.path.parent, done)
    real = (done.config.total_steps - done.config.parent.step) * done.config.tokens_per_step / 1e6
    after = Reader(made.path.parent).read().seconds_left
    assert after == pytest.approx((before - done.estimate.seconds) * real / done.estimate.seconds)


def test_lost_work_counts_as_spent_but_not_as_done(plan: Made) -> None:
    made = plan()
    entry = made.entries[0]
    run, per_step = made.path.parent / entry.run_id, entry.estimate.flops / entry.config.total_steps
    log_every = entry.config.trainer.log_every_steps
    first = begin_attempt(run)
    for step in range(log_every, 5 * log_every, log_every):
        first.log_metrics({"step": step})
    first.close()
    second = begin_attempt(run)
    for step in range(3 * log_every, 6 * log_every, log_every):
        second.log_metrics({"step": step})
    report = Reader(made.path.parent).read()
    assert report.flops_useful == pytest.approx(5 * log_every * per_step)
    assert report.flops_spent == pytest.approx((4 + 3) * log_every * per_step)
    assert (report.attempts, report.most_attempts) == (2, [(entry.run_id, 2)])
    second.close()


def test_the_json_holds_the_same_numbers(plan: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import json

    made = plan()
    finish(made.path.parent, made.entries[0])
    out = tmp_path / "deep" / "status.json"
    assert status_main([str(made.path.parent), "--json", str(out)]) == 1
    assert f"wrote {out}" in capsys.readouterr().out
    values = json.loads(out.read_text())
    assert values["counts"] == {"done": 1, "pending": 5}
    assert [run["state"] for run in values["runs"]].count("done") == 1
    assert values["flops"]["spent"] == pytest.approx(made.entries[0].estimate.flops)
