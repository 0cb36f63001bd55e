from __future__ import annotations

import io

from rich.console import Console
from status_lab import Lab

from sweeps.lock import only_launcher
from sweeps.status import Reader, Report
from sweeps.status.watch import watch


def watched(sweep: Lab, steps: list, terminal: bool = False, height: int = 40) -> tuple[Report, str, list[Report]]:
    """``steps``: what happens between two looks; the watching must end after the last of them."""
    console = Console(width=200, height=height, file=io.StringIO(), force_terminal=terminal)
    kept: list[Report] = []
    left = iter(steps)

    def sleep(seconds: float) -> None:
        next(left)()  # StopIteration: the watching goes on although nothing runs

    report = watch(Reader(sweep.directory), console, kept.append, sleep)
    return report, console.file.getvalue(), kept


def nothing() -> None:
    pass


def test_it_ends_when_nothing_runs_any_more(sweep: Lab) -> None:
    made = sweep.attempt(0, range(1, 4))
    report, text, kept = watched(sweep, [nothing, lambda: made.end("interrupted"), nothing])
    assert report.counts == {"pending": 5, "interrupted": 1}
    assert [r.counts.get("running", 0) for r in kept] == [1, 1, 0, 0]
    assert text.splitlines()[-1].endswith(f"go on with `nmm sweep launch {sweep.directory}`")


def test_a_finished_sweep_ends_it_at_once(sweep: Lab) -> None:
    for number in range(len(sweep.entries)):
        sweep.finish(number)
    report, text, _ = watched(sweep, [])
    assert report.all_done and "all done" in text


def test_a_launch_between_two_runs_is_waited_for(sweep: Lab) -> None:
    with only_launcher(sweep.directory):
        looks = [nothing, nothing, nothing, lambda: sweep.finish(0), lambda: [sweep.finish(n) for n in range(1, 6)]]
        report, _, kept = watched(sweep, looks)
    assert report.all_done and len(kept) == 6


def test_ctrl_c_ends_it_with_the_whole_report(sweep: Lab) -> None:
    sweep.attempt(0, range(1, 4))

    def interrupt() -> None:
        raise KeyboardInterrupt

    report, text, _ = watched(sweep, [nothing, interrupt])
    assert report.counts["running"] == 1
    assert "running now" in text.splitlines()[-1]


def test_a_log_gets_a_line_now_and_then_only(sweep: Lab, monkeypatch) -> None:
    monkeypatch.setattr("sweeps.status.watch.LINE_SECONDS", 1e9)
    made = sweep.attempt(0, range(1, 4))
    steps = [nothing] * 5 + [lambda: made.end("interrupted"), nothing]
    _, text, _ = watched(sweep, steps)
    assert sum("1 running" in line for line in text.splitlines()) == 1


def test_a_low_terminal_shows_the_first_lines_and_the_last(sweep: Lab) -> None:
    for number in range(4):
        sweep.failed(number, ["oom", "disk", "data", "error"][number], "Error: x")
    sweep.attempt(4, range(1, 3))
    made = sweep.attempt(5, range(1, 3))
    _, text, _ = watched(sweep, [lambda: [a.end("interrupted") for a in (made, sweep.held[4])], nothing], True, 9)
    assert "more lines" in text and "Ctrl-C" in text
