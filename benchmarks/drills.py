"""The drill table: every fault the project promises to survive, whether it did just now, and how long that took.

    python benchmarks/drills.py [--only disk] [--without-slurm] [--list]

Runs the tests named below with pytest and adds up their results by drill. A drill passes when it has tests and all of
them pass; a skipped one is shown with its reason and counts as missing. Tests of the drills folder that no drill names
have a row of their own. Ends with exit code 1 unless every drill passed.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parents[1]
FOLDER = "tests/integration/drills"
HERE, INTEGRATION = f"{FOLDER}/test_drill", "tests/integration/test"
SLURM = f"{FOLDER}/test_slurm"


@dataclass(frozen=True)
class Drill:
    """A row: what goes wrong, and the tests of it, each "file.py::function" with "[parameter" if only some count."""

    name: str
    tests: tuple[str, ...]


DRILLS = (
    Drill("kill -9 at random steps, x20", (f"{HERE}_kills.py::test_killed_at_twenty_random_steps",)),
    Drill(
        "kill -9 in a checkpoint",
        (
            f"{HERE}_kills.py::test_killed_inside_a_checkpoint",
            f"{HERE}_kills.py::test_killed_twenty_times_in_a_loop_of_saves",
        ),
    ),
    *(
        Drill(
            f"disk full in {what}",
            (f"{HERE}_full_disk.py::test_full[{what}", f"{HERE}_full_disk.py::test_files_may_not_grow[{what}"),
        )
        for what in ("checkpoint", "metrics", "record", "wandb")
    ),
    Drill("disk full before a run begins", (f"{HERE}_full_disk.py::test_full_before_it_begins",)),
    Drill("disk full under a sweep", (f"{HERE}_sweeps.py::test_the_disk_is_full",)),
    *(
        Drill(
            f"checkpoint {what}",
            (
                f"{HERE}_damaged_checkpoints.py::test_the_newest_is_damaged[{how}",
                f"{HERE}_damaged_checkpoints.py::test_all_are_damaged[{how}",
            ),
        )
        for what, how in (("truncated", "truncated"), ("bit-flipped", "one bit"), ("empty", "empty"))
    ),
    Drill("NaN", (f"{HERE}_errors.py::test_a_weight_becomes_nan",)),
    Drill(
        "out of memory in one size",
        (f"{HERE}_sweeps.py::test_out_of_memory_in_one_size", f"{HERE}_errors.py::test_out_of_memory_in_the_middle"),
    ),
    Drill(
        "the same run launched twice",
        (
            f"{HERE}_twice.py::test_launched_twice_at_once",
            f"{SLURM}_two_arrays.py::test_two_launches_at_once_submit_every_run_once",
            f"{SLURM}_two_arrays.py::test_every_task_twice_at_once",
        ),
    ),
    Drill(
        "zombie writer: requeued while the old one lives",
        (
            f"{HERE}_twice.py::test_the_old_process_of_a_requeued_run_still_lives",
            f"{SLURM}_failures.py::test_a_node_that_only_seems_dead_leaves_two_writers",
        ),
    ),
    Drill(
        "controller killed and restarted",
        (f"{SLURM}_failures.py::test_controller_killed_and_restarted_launches_running_tasks_again",),
    ),
    Drill("node death", (f"{SLURM}_failures.py::test_a_dead_node",)),
    Drill(
        "preemption by SIGTERM and USR1, at any moment",
        (f"{HERE}_preemption.py::test_preempted[",),
    ),
    Drill(
        "preemption twice in a row",
        (
            f"{HERE}_preemption.py::test_preempted_again_and_again",
            f"{SLURM}_preemption.py::test_preempted_twice_in_a_row",
            f"{SLURM}_requeue.py::test_requeued_twice_in_a_row",
        ),
    ),
    Drill("time limit", (f"{SLURM}_requeue.py::test_the_end_of_its_time_stops_a_task",)),
    Drill("last array element requeued", (f"{SLURM}_requeue.py::test_the_last_task_requeued",)),
    Drill(
        "finished run relaunched",
        (f"{HERE}_twice.py::test_a_finished_run_is_left_alone", f"{SLURM}_requeue.py::test_a_finished_run"),
    ),
    Drill(
        "read-only directory",
        (f"{HERE}_directories.py::test_read_only", f"{HERE}_directories.py::test_a_file_is_in_the_way"),
    ),
    Drill("clock stepped", (f"{HERE}_changes.py::test_the_clock_is_stepped",)),
    Drill(
        "two sweeps in one second",
        (
            f"{HERE}_twice.py::test_four_plans_of_one_sweep",
            f"{HERE}_twice.py::test_four_growing_plans",
            f"{HERE}_twice.py::test_a_run_directory_is_named_by_content",
            f"{INTEGRATION}_sweep_launcher.py::test_a_second_launcher_on_the_same_directory_is_refused",
        ),
    ),
    *(
        Drill(f"data worker {how}", (f"{HERE}_errors.py::test_a_data_worker[{how}", also))
        for how, also in (
            ("killed", f"{INTEGRATION}_bad_shards.py::test_a_killed_worker_ends_the_attempt"),
            ("hung", "tests/unit/data/test_worker_faults.py::test_a_worker_that_hangs"),
        )
    ),
    Drill(
        "code or config changed between attempts",
        (
            f"{HERE}_changes.py::test_the_config_on_disk_is_another",
            f"{HERE}_changes.py::test_the_code_is_another",
            f"{HERE}_changes.py::test_other_code_is_accepted",
        ),
    ),
    Drill(
        "half-written record",
        (
            f"{HERE}_sweeps.py::test_a_record_is_half_written",
            "tests/unit/sweeps/test_consolidate.py::test_a_record_that_is_none_is_listed",
        ),
    ),
    Drill("metrics torn in the last line", (f"{HERE}_changes.py::test_a_torn_last_line_of_metrics",)),
    Drill(
        "launcher killed",
        (f"{INTEGRATION}_sweep_launcher.py::test_a_killed_launcher_leaves_no_worker_behind",),
    ),
    Drill(
        "shard lost, cut or changed under a run",
        (f"{INTEGRATION}_bad_shards.py::test_a_shard_is_lost_in_the_middle_and_put_back",),
    ),
    Drill("10,000 runs", ("tests/unit/sweeps/test_consolidate.py::test_ten_thousand_runs",)),
    Drill("chaos, small", (f"{SLURM}_chaos.py::",)),
)
OTHERS = "(in the folder, not named above)"


@dataclass
class Row:
    """What became of a drill's tests. ``problems``: first lines of failures and reasons of skips."""

    tests: int = 0
    failed: int = 0
    skipped: int = 0
    seconds: float = 0.0
    problems: list[str] = field(default_factory=list)

    @property
    def verdict(self) -> str:
        """pass | FAIL | skipped | no tests."""
        if not self.tests:
            return "no tests"
        return "FAIL" if self.failed else "skipped" if self.skipped else "pass"


def run(drills: Sequence[Drill], report: Path, whole_folder: bool) -> None:
    """Run their tests once each with pytest, which writes ``report``; of the drills folder all of them if asked to."""
    named = tuple(test for drill in drills for test in drill.tests if not (whole_folder and test.startswith(FOLDER)))
    files = sorted({test.partition("::")[0] for test in named})
    listed = _pytest("--collect-only", "-q", *files, quiet=True).splitlines() if files else []
    chosen = [line for line in listed if line.startswith(named)]
    missing = [test for test in named if not any(line.startswith(test) for line in chosen)]
    if missing:
        raise SystemExit(f"the table names tests that are not there: {', '.join(missing)}")
    folder = [FOLDER] if whole_folder else []
    _pytest("-q", "--no-header", "-o", "junit_family=xunit1", f"--junitxml={report}", *folder, *chosen, quiet=False)


def _pytest(*arguments: str, quiet: bool) -> str:
    command = [sys.executable, "-m", "pytest", "-o", "addopts=--strict-markers", *arguments]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE if quiet else None, text=True, check=False)
    return done.stdout or ""


def rows_of(report: Path, drills: Sequence[Drill]) -> dict[str, Row]:
    """Results by drill, in the order of the table."""
    rows = {drill.name: Row() for drill in drills} | {OTHERS: Row()}
    for case in ElementTree.parse(report).iter("testcase"):
        node = f"{case.get('file')}::{case.get('name')}"
        names = [drill.name for drill in drills if any(node.startswith(test) for test in drill.tests)]
        for name in names or ([OTHERS] if node.startswith(FOLDER) else []):
            _count(rows[name], case)
    if not rows[OTHERS].tests:
        del rows[OTHERS]
    return rows


def _count(row: Row, case: ElementTree.Element) -> None:
    row.tests += 1
    row.seconds += float(case.get("time", 0.0))
    for kind in ("failure", "error", "skipped"):
        for found in case.findall(kind):
            if kind == "skipped":
                row.skipped += 1
            else:
                row.failed += 1
            row.problems.append(f"{case.get('name')}: {(found.get('message') or kind).splitlines()[0][:160]}")


def show(rows: dict[str, Row]) -> None:
    """The table, and below each row that did not pass, why."""
    width = max(map(len, rows))
    print(f"\n{'drill':{width}}  {'result':8}  tests  seconds")
    for name, row in rows.items():
        print(f"{name:{width}}  {row.verdict:8}  {row.tests:5}  {row.seconds:7.1f}")
        for problem in row.problems:
            print(f"    {problem}")
    passed, seconds = sum(row.verdict == "pass" for row in rows.values()), sum(row.seconds for row in rows.values())
    print(f"\n{passed} of {len(rows)} drills passed, {sum(r.tests for r in rows.values())} tests, {seconds:.0f} s")


def main() -> int:
    """Choose, run, show."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="drills whose name contains this")
    parser.add_argument("--without-slurm", action="store_true", help="leave out what needs a SLURM controller")
    parser.add_argument("--list", action="store_true", help="print the drills and their tests, run nothing")
    arguments = parser.parse_args()
    drills = [drill for drill in DRILLS if arguments.only in drill.name]
    if arguments.without_slurm:
        drills = [Drill(d.name, tuple(t for t in d.tests if not t.startswith(SLURM))) for d in drills]
        drills = [drill for drill in drills if drill.tests]
    if arguments.list:
        for drill in drills:
            print(drill.name, *drill.tests, sep="\n    ")
        return 0
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        run(drills, report, whole_folder=not (arguments.only or arguments.without_slurm))
        rows = rows_of(report, drills)
    show(rows)
    return int(any(row.verdict != "pass" for row in rows.values()))


if __name__ == "__main__":
    sys.exit(main())
