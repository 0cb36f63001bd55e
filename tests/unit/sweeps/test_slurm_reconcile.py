"""What a launch submits, seen through an sbatch and a squeue that only write down what they are asked."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from rich.console import Console
from slurm_tools import FakeSlurm

from nmm.record import RecordError, begin_attempt, publish
from sweeps.lock import LaunchError, only_launcher
from sweeps.manifest import Entry, SweepError
from sweeps.slurm.cancel import cancel_main, cancel_tasks
from sweeps.slurm.options import SlurmOptions
from sweeps.slurm.queue import runs_in_queue
from sweeps.slurm.reconcile import launch_slurm
from sweeps.slurm.submissions import FOLDER, is_cancelled, path_of, read_submissions
from sweeps.slurm.submit import SCRIPT, Way
from sweeps.status import note_failure

ONE_EACH = SlurmOptions(chunk_seconds=0.01)
Launch = Callable[..., tuple[int, str]]


@pytest.fixture
def directory(plan, slurm: FakeSlurm) -> Path:
    """Two trunks with two branches each."""
    return plan().path.parent


@pytest.fixture
def launch(directory: Path) -> Launch:
    def launched(options: SlurmOptions = ONE_EACH, retry_all: bool = False) -> tuple[int, str]:
        said = io.StringIO()
        code = launch_slurm(directory, options, Way("a:b", retry_all), Console(file=said, width=100))
        return code, said.getvalue()

    return launched


def finish(directory: Path, entries: Sequence[Entry], status: str = "done") -> None:
    for entry in entries:
        attempt = begin_attempt(directory / entry.run_id)
        publish(directory / entry.run_id, attempt, {"run_id": entry.run_id, "status": status, "result": {}})
        attempt.end(status)


def fail(directory: Path, entry: Entry, cause: str, times: int = 1, status: str = "failed") -> None:
    for _ in range(times):
        begin_attempt(directory / entry.run_id).end(status, cause=cause)


def test_an_array_for_the_trunks_and_one_for_the_branches_after_it(
    directory: Path, entries: list[Entry], launch: Launch, slurm: FakeSlurm
) -> None:
    code, text = launch()
    assert code == 0
    assert text.startswith(
        "submitted 2 arrays (job 4000 of trunks, job 4001 of branches): 6 tasks, 6 runs, 0 done of 6 "
    )
    assert "`nmm sweep cancel" in text and text.count("\n") == 1
    first, second = read_submissions(directory)
    assert (first.level, first.job, second.level, second.job) == ("trunk", "4000", "branch", "4001")
    assert first.name != second.name
    assert sorted([*first.runs, *second.runs]) == sorted(entry.run_id for entry in entries)
    trunks, branches = slurm.asked("sbatch")
    assert f"--job-name={first.name} --array=0-1 --output={directory / FOLDER}/0001-%a.log" in trunks
    assert "--requeue --open-mode=append --signal=B:USR1@180 --nodes=1 --ntasks-per-node=1 --cpus-per-task=1" in trunks
    assert trunks.partition(str(SCRIPT))[2].startswith(f" {directory} 0001 step 20 ")
    assert "--dependency" not in trunks
    assert "--array=0-3 " in branches and "--dependency=afterany:4000 --kill-on-invalid-dep=yes" in branches


def test_what_is_in_the_queue_is_not_submitted_again(directory: Path, launch: Launch, slurm: FakeSlurm) -> None:
    launch()
    first, second = read_submissions(directory)
    waiting = [(second.name, f"4001_{index}", "PENDING") for index in range(4)]
    slurm.queue((first.name, "4000_0", "RUNNING"), (first.name, "4000_1", "PENDING"), *waiting)
    code, text = launch()
    assert code == 0
    assert "nothing to submit, 6 runs in the queue already (5 pending, 1 running tasks), 0 done of 6 runs" in text
    assert len(slurm.asked("sbatch")) == 2
    assert runs_in_queue(directory)[first.chunks[0][0]].task == "4000_0"


@pytest.mark.parametrize(
    ("reason", "let_go"),
    [("launch failed requeued held", True), ("job_requeued_in_held_state", False), ("JobHeldUser", False)],
)
def test_a_task_that_slurm_holds_after_a_failed_start_is_let_go(
    directory: Path, launch: Launch, slurm: FakeSlurm, reason: str, let_go: bool
) -> None:
    launch()
    first, second = read_submissions(directory)
    waiting = [(second.name, f"4001_{index}", "PENDING") for index in range(len(second.chunks))]
    slurm.queue((first.name, "4000_0", "RUNNING"), (first.name, "4000_1", "PENDING"), *waiting, reason=reason)
    _, text = launch(SlurmOptions(dry_run=True))
    assert "release 4000_1" not in slurm.asked("scontrol")
    code, text = launch()
    assert code == 0
    assert ("release 4000_1" in slurm.asked("scontrol")) == let_go
    assert ("held them after a failed start: 4000_1" in text.replace("\n", " ")) == let_go


def test_only_what_left_the_queue_without_a_record_is_submitted(
    directory: Path, entries: list[Entry], launch: Launch, slurm: FakeSlurm
) -> None:
    launch()
    first, second = read_submissions(directory)
    trunks = [entry for entry in entries if entry.role == "trunk"]
    finish(directory, [e for e in trunks if e.run_id == first.chunks[0][0]])
    slurm.queue(*((second.name, f"4001_{index}", "PENDING") for index in range(4)))
    code, text = launch()
    assert code == 0
    assert text.startswith(
        "submitted 1 arrays (job 4002 of trunks): 1 tasks, 1 runs, 4 runs in the queue already (4 pending"
    )
    assert read_submissions(directory)[-1].runs == [first.chunks[1][0]]


def test_branches_whose_trunk_is_done_wait_for_nothing(
    directory: Path, entries: list[Entry], launch: Launch, slurm: FakeSlurm
) -> None:
    done = entries[0]
    finish(directory, [done])
    launch()
    ready, rest = [s for s in read_submissions(directory) if s.level == "branch"]
    assert {e.run_id for e in entries if e.parent_id == done.run_id} == set(ready.runs)
    commands = slurm.asked("sbatch")
    assert ["--dependency=afterany:4000" in command for command in commands] == [False, False, True]
    assert len(rest.runs) == 2


def test_branches_wait_for_a_trunk_that_is_in_the_queue_already(
    directory: Path, launch: Launch, slurm: FakeSlurm
) -> None:
    launch()
    trunks = read_submissions(directory)[0]
    slurm.queue(*((trunks.name, f"4000_{index}", "RUNNING") for index in range(2)))
    launch()
    assert "--dependency=afterany:4000 " in slurm.asked("sbatch")[2]


def test_everything_done_asks_slurm_nothing(
    directory: Path, entries: list[Entry], launch: Launch, slurm: FakeSlurm
) -> None:
    launch()
    finish(directory, entries)
    slurm.down()
    code, text = launch()
    assert code == 0
    assert text.startswith("all 6 runs are done; next: `nmm sweep table")
    assert runs_in_queue(directory) == {}


def test_a_failed_run_is_submitted_again_up_to_its_cap(
    directory: Path, entries: list[Entry], launch: Launch, slurm: FakeSlurm
) -> None:
    bad, other = entries[0], entries[1]
    fail(directory, bad, "error", times=3)
    fail(directory, other, "error", times=2)
    fail(directory, other, "", times=5, status="interrupted")
    code, text = launch()
    assert code == 1
    assert "2 blocked, 1 over slurm.attempts=3, 0 done of 6 runs; retry=all tries those again too" in text
    assert bad.run_id not in (run for s in read_submissions(directory) for run in s.runs)
    assert other.run_id in read_submissions(directory)[0].runs
    code, text = launch(dataclasses.replace(ONE_EACH, attempts=4))
    assert code == 0 and "over slurm" not in text


@pytest.mark.parametrize("cause", ["oom", "config", "data", "disk"])
def test_what_would_only_fail_again_is_not_tried_unless_asked_for(
    directory: Path, entries: list[Entry], launch: Launch, cause: str
) -> None:
    fail(directory, entries[-1], cause)
    code, text = launch()
    assert code == 1
    assert f"1 not retried unchanged ({cause}), 0 done of 6 runs; retry=all tries those again too" in text
    code, text = launch(retry_all=True)
    assert code == 0
    assert read_submissions(directory)[-1].options["forgiven"][entries[-1].run_id] == 1


def test_a_diverged_trunk_blocks_its_branches_only(directory: Path, entries: list[Entry], launch: Launch) -> None:
    finish(directory, [entries[0]], "diverged")
    code, text = launch()
    assert code == 1
    assert "submitted 2 arrays" in text and "2 blocked, 1 diverged, 0 done of 6 runs" in text


def test_a_run_that_another_process_holds_is_left_to_it(directory: Path, entries: list[Entry], launch: Launch) -> None:
    held = begin_attempt(directory / entries[0].run_id)
    _, text = launch()
    held.close()
    assert "3 tasks, 3 runs, 1 running outside SLURM's tasks" in text


def test_a_failure_before_any_attempt_counts_too(directory: Path, entries: list[Entry], launch: Launch) -> None:
    note_failure(directory, entries[-1].run_id, "ConfigError: no shards", Path("log"), 1)
    assert "1 not retried unchanged (config)" in launch()[1]


def test_a_damaged_attempt_is_named_not_submitted(directory: Path, entries: list[Entry], launch: Launch) -> None:
    fail(directory, entries[-1], "error")
    (directory / entries[-1].run_id / "attempts" / "0001" / "ended.json").write_text('{"sta')
    code, text = launch()
    assert code == 1 and "1 unreadable" in text


def test_a_controller_that_is_down_loses_nothing(directory: Path, launch: Launch, slurm: FakeSlurm) -> None:
    slurm.down()
    with pytest.raises(SweepError, match="sbatch failed with status 1: Unable to contact slurm controller"):
        launch()
    (stranded,) = read_submissions(directory)
    assert stranded.job == ""
    with pytest.raises(SweepError, match="squeue failed with status 1: Unable to contact slurm controller"):
        launch()
    slurm.set("sbatch", "echo 4000")
    slurm.set("squeue", "")
    assert "6 tasks, 6 runs" in launch()[1]


def test_a_job_whose_id_nobody_heard_is_found_by_its_name(directory: Path, launch: Launch, slurm: FakeSlurm) -> None:
    slurm.set("sbatch", "kill -9 $$")
    with pytest.raises(SweepError, match="sbatch failed with status -9"):
        launch()
    (unheard,) = read_submissions(directory)
    slurm.queue(*((unheard.name, f"77_{index}", "PENDING") for index in range(2)))
    slurm.set("sbatch", f'echo "$@" >> {slurm.folder}/sbatch.log; echo 78')
    _, text = launch()
    assert "submitted 1 arrays (job 78 of branches): 4 tasks, 4 runs, 2 runs in the queue already" in text
    assert read_submissions(directory)[0].job == "77"
    assert "--dependency=afterany:77 " in slurm.asked("sbatch")[0]


def test_a_dry_run_shows_the_commands_and_leaves_nothing(directory: Path, launch: Launch, slurm: FakeSlurm) -> None:
    options = dataclasses.replace(
        ONE_EACH, dry_run=True, partition="gpu", account="me", time="1:00:00", mem="8G", gres="gpu:{devices}",
        extra=("--qos=low",), max_parallel=4, cpus=6,
    )  # fmt: skip
    code, text = launch(options)
    assert code == 0
    assert text.count("sbatch --parsable") == 2 and "Nothing was submitted" in text
    for word in ("--partition=gpu", "--account=me", "--time=1:00:00", "--mem=8G", "--gres=gpu:1", "--qos=low", "0-1%4"):
        assert word in text
    assert "--cpus-per-task=6" in text and "would submit 2 arrays" in text
    assert slurm.asked("sbatch") == [] and read_submissions(directory) == []


def test_many_tasks_are_split_by_what_the_cluster_allows(directory: Path, launch: Launch, slurm: FakeSlurm) -> None:
    slurm.set("scontrol", "echo 'MaxArraySize            = 2'")
    launch()
    assert [len(s.chunks) for s in read_submissions(directory)] == [2, 2, 2]
    slurm.set("scontrol", "echo 'MaxArraySize            = 0'")
    with pytest.raises(SweepError, match="allows no job arrays"):
        launch()


def test_two_launches_at_once(directory: Path, launch: Launch) -> None:
    with only_launcher(directory), pytest.raises(LaunchError, match="another `nmm sweep launch` is at work"):
        launch()


def test_without_slurm_the_message_says_so(directory: Path, launch: Launch, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(SweepError, match="scontrol is not installed here; launcher=slurm needs a machine of the clu"):
        launch()


def test_a_submission_file_that_is_none_is_named(directory: Path, launch: Launch) -> None:
    launch()
    path_of(directory, 1).write_text('{"name": "x"}')
    with pytest.raises(RecordError, match=r"0001.json is not a submission .* move it away and launch again"):
        launch()


def test_cancel_takes_tasks_by_name_and_marks_their_submission(
    directory: Path, launch: Launch, slurm: FakeSlurm, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    assert cancel_tasks(directory, now=False) == "nothing was submitted to SLURM from this directory"
    monkeypatch.setattr("sweeps.slurm.cancel.PAUSE_SECONDS", 0.0)
    launch()
    first, second = read_submissions(directory)
    slurm.queue((first.name, "4000_0", "RUNNING"), (first.name, "4000_1", "PENDING"))
    assert cancel_main([str(directory)]) == 0
    said = capsys.readouterr().out
    assert "no launcher is at work" in said and "1 waiting tasks left the queue, 1 running ones were asked" in said
    assert slurm.asked("scancel") == [
        "--state=PENDING 4000_1",
        "--batch --signal=USR1 4000_0",
    ]
    assert is_cancelled(directory, first) and not is_cancelled(directory, second)
    slurm.queue((second.name, "4001_0", "RUNNING"))
    assert cancel_main([str(directory), "--now"]) == 0
    assert slurm.asked("scancel")[-1] == "4001_0"
    assert "no task of this directory is in the queue" in cancel_tasks(directory, now=False)


def test_a_task_that_starts_while_it_is_cancelled_is_asked_to_stop_instead(
    directory: Path, launch: Launch, slurm: FakeSlurm, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sweeps.slurm.cancel.PAUSE_SECONDS", 0.0)
    launch()
    name = read_submissions(directory)[0].name
    slurm.queue((name, "4000_0", "RUNNING"))
    started = (slurm.folder / "queue").read_text()
    slurm.queue((name, "4000_0", "PENDING"))
    (slurm.folder / "started").write_text(started)
    log, queue = slurm.folder / "scancel.log", slurm.folder / "queue"
    refuse = f"cp {slurm.folder}/started {queue}; echo no longer pending >&2; exit 1"
    slurm.set("scancel", f'echo "$@" >> {log}\ncase "$1" in --state*) {refuse};; *) : > {queue};; esac')
    assert (
        cancel_tasks(directory, False) == "0 waiting tasks left the queue, 1 running ones were asked to save and stop"
    )
    slurm.queue((name, "4000_1", "PENDING"))
    slurm.set("scancel", "echo access denied >&2; exit 1")
    with pytest.raises(SweepError, match="access denied; what still waits will begin nothing"):
        cancel_tasks(directory, False)
