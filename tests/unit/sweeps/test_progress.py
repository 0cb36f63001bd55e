from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from nmm.record import begin_attempt
from sweeps.progress import Display, Tracker, last_step
from sweeps.schedule import Schedule


def append(attempt: Path, text: str) -> None:
    with open(attempt / "metrics.jsonl", "a", encoding="utf-8") as file:
        file.write(text)


def test_the_last_step_survives_torn_lines_and_new_empty_attempts(tmp_path: Path) -> None:
    assert last_step(tmp_path) is None
    first = begin_attempt(tmp_path)
    assert last_step(tmp_path) is None
    first.log_metrics({"step": 10})
    first.log_metrics({"step": 20, "padding": "x" * 9000})
    first.log_metrics({"loss": 1.0})
    append(first.path, '{"step": 3')
    assert last_step(tmp_path) is None  # the only line in the tail with a step is torn
    first.log_metrics({})
    append(first.path, '\n{"step": 30}\n{"st')
    assert last_step(tmp_path) == 30
    begin_attempt(tmp_path)
    assert last_step(tmp_path) == 30


@pytest.fixture
def launch(plan) -> tuple[Tracker, Schedule, Path]:
    made = plan(sizes=["d16"])
    schedule = Schedule(made.entries, {e.run_id: "pending" for e in made.entries}, retries=1)
    return Tracker(made.path.parent, workers=1, began=0.0), schedule, made.path.parent


def test_progress_inside_a_run_counts(launch) -> None:
    tracker, schedule, directory = launch
    before = tracker.seconds_left(schedule)
    entry = schedule.take(0)
    tracker.started(0, entry)
    attempt = begin_attempt(directory / entry.run_id)
    attempt.log_metrics({"step": entry.config.total_steps // 2})
    tracker.refresh()
    assert tracker.seconds_left(schedule) == pytest.approx(before - entry.estimate.seconds / 2)
    assert tracker.tokens_per_second() > 0
    assert "0 done, 1 running of 3 runs" in Display(Console(file=io.StringIO()), tracker, schedule).summary()
    attempt.close()


def test_finished_runs_correct_the_estimates(launch) -> None:
    tracker, schedule, _ = launch
    entry = schedule.take(0)
    tracker.started(0, entry)
    tracker.running[0].began -= 10 * entry.estimate.seconds  # it took ten times as long as estimated
    tracker.ended(0, finished=True)
    schedule.finish(entry.run_id, "done")
    waiting = sum(e.estimate.seconds for e in schedule.waiting.values())
    assert tracker.seconds_left(schedule) == pytest.approx(10 * waiting, rel=0.01)


def test_a_crash_teaches_nothing(launch) -> None:
    tracker, schedule, _ = launch
    tracker.started(0, schedule.take(0))
    tracker.ended(0, finished=False)
    assert (tracker.estimated, tracker.tokens_done) == (0.0, 0)


def test_a_terminal_sees_a_line_per_worker(launch) -> None:
    tracker, schedule, _ = launch
    tracker.started(0, schedule.take(0))
    screen = io.StringIO()
    display = Display(Console(file=screen, force_terminal=True, width=100), tracker, schedule)
    with display:
        display.update()
    text = screen.getvalue()
    assert "worker 0" in text and "early d16 seed 0, trunk" in text and "step 0/" in text


def test_a_log_sees_no_line_before_its_time(launch) -> None:
    tracker, schedule, _ = launch
    log = io.StringIO()
    display = Display(Console(file=log), tracker, schedule)
    display.update()
    assert log.getvalue() == ""
    display._next_line = 0.0
    display.update()
    assert "of 3 runs" in log.getvalue()
