"""Every door leads to the same room: `nmm train`, and `nmm train -m` with Hydra's own launcher, joblib and submitit."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from doors_lab import KILLER, LIMIT, LONG, SHORT, WITNESS, ends, everywhere, files, logging, plain, runs, start
from lab import child_environment, nmm

DOORS = {"joblib": ("hydra/launcher=joblib", "hydra.launcher.n_jobs=2"), "submitit": ("hydra/launcher=submitit_local",)}


@pytest.fixture(scope="module")
def plainly(tiny_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seeds 0 and 1 by plain `nmm train`: where the runs lie."""
    out = tmp_path_factory.mktemp("plain") / "runs"
    plain(tiny_shards, out, *SHORT)
    return out


@pytest.mark.parametrize("door", DOORS)
def test_the_same_runs_through_every_door_and_again_nothing(
    tiny_shards: Path, tmp_path: Path, plainly: Path, door: str
) -> None:
    """With a relative ``out``; the second time nothing is launched."""
    command = ["train", "-m", *DOORS[door], "seed=0,1", *SHORT, f"data.path={tiny_shards}", "out=deep/runs"]
    done = nmm(*command, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    out = tmp_path / "deep" / "runs"
    made = runs(out)
    assert made == runs(plainly)
    assert len(made) == 2
    assert sorted(line.split(" -> ")[1] for line in done.stdout.splitlines()) == [
        str(out / run / "record.json") for run in made
    ]
    assert {path.name for path in out.iterdir()} - {".submitit"} == set(made)
    before = files(out)
    again, loaded = watched([sys.executable, "-m", "nmm.cli", *command], tmp_path)
    assert again.returncode == 0, again.stderr
    assert sorted(again.stdout.splitlines()) == sorted(done.stdout.splitlines())
    assert files(out) == before
    assert loaded == [[]]  # one process, and it has loaded neither torch nor lightning
    if door == "submitit":
        a_job_that_finds_its_run_finished(tmp_path, out)


def a_job_that_finds_its_run_finished(folder: Path, out: Path) -> None:
    """The other side of the door: SLURM starts a job a second time after a node came back."""
    job = next(path for path in (out / ".submitit").iterdir() if path.name.isdigit())
    before = files(out)
    env = {"SUBMITIT_EXECUTOR": "local", "SUBMITIT_LOCAL_JOB_ID": job.name}
    done, loaded = watched([sys.executable, "-m", "submitit.core._submit", str(job)], folder, env)
    assert done.returncode == 0, done.stderr
    assert "done: 4 steps" in done.stdout
    assert files(out) == before
    assert loaded == [[]]


def test_a_plain_run_that_is_finished_loads_no_torch(tiny_shards: Path, tmp_path: Path, plainly: Path) -> None:
    before = files(plainly)
    command = ["-m", "nmm.cli", "train", "seed=0", *SHORT, f"data.path={tiny_shards}", f"out={plainly}"]
    again, loaded = watched([sys.executable, *command], tmp_path)
    assert again.returncode == 0, again.stderr
    assert again.stdout.startswith("done: 4 steps, loss caption ")
    assert files(plainly) == before
    assert loaded == [[]]


def watched(
    command: list[str], cwd: Path, env: dict[str, str] | None = None
) -> tuple[subprocess.CompletedProcess[str], list[list[str]]]:
    """Run a command; for each process of it, the heavy libraries that it had loaded at its end."""
    folder = Path(tempfile.mkdtemp(dir=cwd))
    watch = child_environment() | (env or {}) | everywhere(folder / "on", WITNESS.format(folder=str(folder)))
    done = subprocess.run(command, cwd=cwd, env=watch, capture_output=True, text=True, timeout=LIMIT)
    return done, [json.loads(path.read_text())["heavy"] for path in folder.glob("*.json")]


def test_a_diverged_run_does_not_end_the_list(tiny_shards: Path, tmp_path: Path) -> None:
    widths = "optim.lr_width=1e38,0.25"
    done = nmm("train", "-m", widths, *SHORT, f"data.path={tiny_shards}", "out=runs", cwd=tmp_path)
    assert done.returncode == 3
    (diverged,) = [run for run, how in ends(tmp_path / "runs").items() if how == ["diverged"]]
    assert done.stderr.startswith("nmm train: 1 of 2 runs are done; not done:\n  diverged: " + diverged + ": nan_")
    assert [line.split(":")[0] for line in done.stdout.splitlines()] == ["diverged", "done"]


def test_a_killed_worker_of_joblib_costs_the_others_nothing(tiny_shards: Path, tmp_path: Path) -> None:
    """The run of seed 1 kills whatever process touches it, as one that is too large for the memory does."""
    env = everywhere(tmp_path / "killer", KILLER.format(victim="-s1-"))
    command = ("train", "-m", *DOORS["joblib"], "seed=0,1,2", *SHORT, f"data.path={tiny_shards}", "out=runs")
    done = nmm(*command, cwd=tmp_path, env=env)
    assert done.returncode == 1
    assert sorted(run.split("-")[3] for run in runs(tmp_path / "runs")) == ["s0", "s2"]
    assert "nmm train: 2 of 3 runs are done; not done:\n  interrupted: early-d16-run-s1-4-" in done.stderr
    assert "the same command again runs what is neither done nor diverged" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_mistake_in_one_run_is_found_before_the_first_starts(tiny_shards: Path, tmp_path: Path) -> None:
    wrong = ("trainer.rows_per_step=4,0", *SHORT, f"data.path={tiny_shards}", "out=runs")
    for door in ((), DOORS["joblib"], DOORS["submitit"]):
        done = nmm("train", "-m", *door, *wrong, cwd=tmp_path)
        assert done.returncode == 2
        assert done.stderr == "nmm train: trainer.rows_per_step=0 must be greater than 0\n"
        assert not list(tmp_path.glob("runs/*-*"))


def test_sigterm_ends_a_list_and_the_same_command_goes_on(tiny_shards: Path, tmp_path: Path) -> None:
    command = ("-m", "seed=0,1", *LONG, f"data.path={tiny_shards}", "out=runs")
    process = start(*command, cwd=tmp_path)
    logging(tmp_path / "runs")
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=LIMIT)
    assert process.returncode == 128 + signal.SIGTERM
    assert "nmm train: 0 of 2 runs are done; not done:\n  interrupted: " in errors
    assert "\n  pending: " in errors
    done = nmm("train", *command, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert list(ends(tmp_path / "runs").values()) == [["interrupted", "done"], ["done"]]


def test_sigterm_reaches_the_workers_of_joblib_and_they_save(tiny_shards: Path, tmp_path: Path) -> None:
    command = ("-m", *DOORS["joblib"], "seed=0,1,2", *LONG, f"data.path={tiny_shards}", "out=runs")
    process = start(*command, cwd=tmp_path)
    begun = logging(tmp_path / "runs", count=2)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=LIMIT)
    assert process.returncode == 128 + signal.SIGTERM, errors
    assert "nmm train: 0 of 3 runs are done; not done:" in errors
    assert errors.count("stopped by SIGTERM") >= 2
    assert len(ends(tmp_path / "runs")) == 2  # the third was not begun
    for attempt in begun:
        assert json.loads((attempt / "ended.json").read_text())["status"] == "interrupted"
        assert list((attempt / "checkpoints").glob("step-*.pt"))


def test_usr2_makes_a_job_of_submitit_save_and_come_back(tiny_shards: Path, tmp_path: Path) -> None:
    command = ("-m", *DOORS["submitit"], "seed=0", *LONG, f"data.path={tiny_shards}", "out=runs")
    process = start(*command, cwd=tmp_path)
    (attempt,) = logging(tmp_path / "runs")
    os.kill(int((attempt / "lock").read_text()), signal.SIGUSR2)
    out, errors = process.communicate(timeout=LIMIT)
    assert process.returncode == 0, errors
    assert out.startswith("done: 400 steps")
    assert list(ends(tmp_path / "runs").values()) == [["interrupted", "done"]]
    log = (attempt.parent / "0002" / "log.txt").read_text()
    assert "attempts/0001/checkpoints/step-" in log  # gone on from what the first one saved


def test_a_launcher_without_a_list_is_refused(tiny_shards: Path, tmp_path: Path) -> None:
    """Hydra would leave the launcher aside and train here and now."""
    done = nmm("train", "hydra/launcher=submitit_slurm", *SHORT, f"data.path={tiny_shards}", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr == (
        "nmm train: hydra/launcher=submitit_slurm is for lists of runs and would do nothing here; add -m\n"
    )
    assert list(tmp_path.iterdir()) == []


def test_sweep_is_a_field_like_any_other(tmp_path: Path) -> None:
    done = nmm("train", "sweep=my_name", "budget.steps=4", "--cfg", "job", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "sweep: my_name\n" in done.stdout
