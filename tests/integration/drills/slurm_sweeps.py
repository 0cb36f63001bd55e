"""A sweep on the private cluster: launched, looked at, disturbed, finished, compared with one that nobody disturbed."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from drill_runs import lines_of
from fake_sweep import RUNNER
from lab import ROOT, child_environment
from slurm_lab import Cluster, until

from nmm.record import attempts, ended, read_record
from sweeps import manifest
from sweeps.slurm.submissions import log_of, read_submissions

CHECKPOINT_EVERY = 20
# A trunk of 300 steps, about 5 seconds, and a branch of 100.
TRAINING = (
    "tokens=[204800]",
    "trainer.compile=off",
    f"trainer.checkpoint_every_steps={CHECKPOINT_EVERY}",
    "trainer.log_every_steps=1",
)
LAUNCH = ("launcher=slurm", "slurm.time=1:00:00", "slurm.chunk=0.01s")  # a chunk for every run
LIMIT_SECONDS = 300.0


def nmm(environment: dict[str, str], *arguments: str) -> tuple[int, str]:
    """An `nmm` command: its exit status and everything it printed."""
    path = {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests" / "integration")])}
    done = subprocess.run(
        [sys.executable, "-m", "nmm.cli", *arguments],
        env=environment | path | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=LIMIT_SECONDS,
    )
    return done.returncode, done.stdout + done.stderr


def plan_training(directory: Path, shards: Path) -> None:
    """One trunk and one branch of real training in ``directory``."""
    where = (f"out={directory}", f"data.path={shards}")
    code, text = nmm(child_environment(), "sweep", "plan", "sweep=tiny", *where, *TRAINING)
    assert code == 0, text


@dataclass(frozen=True)
class Sweep:
    """A planned directory and the cluster it runs on. ``options``: what every launch of it is given."""

    slurm: Cluster
    directory: Path
    options: tuple[str, ...] = LAUNCH

    @property
    def runs(self) -> list[str]:
        """Ids in the order of the manifest: trunks first."""
        return [entry.run_id for entry in manifest.read(self.directory)]

    def launch(self, *options: str) -> tuple[int, str]:
        """`nmm sweep launch DIR launcher=slurm`: its exit status and everything it printed."""
        return nmm(self.slurm.env, "sweep", "launch", str(self.directory), *self.options, *options)

    def start(self, *options: str) -> None:
        """A launch that must submit something."""
        before = len(read_submissions(self.directory))
        code, text = self.launch(*options)
        assert code == 0 and len(read_submissions(self.directory)) > before, text

    def task_of(self, run: str) -> str:
        """The newest task that was submitted for a run, like ``"4_3"``."""
        for submission in reversed(read_submissions(self.directory)):
            for index, chunk in enumerate(submission.chunks):
                if run in chunk:
                    return f"{submission.job}_{index}"
        raise AssertionError(f"{run} was never submitted")

    def state(self, run: str) -> str:
        """SLURM's word for the task of a run."""
        return self.slurm.state(self.task_of(run))

    def node(self, run: str) -> str:
        """Where the task of a run is."""
        return self.slurm.ask("squeue", "-h", "-t", "all", "-j", self.task_of(run), "-o", "%N")

    def attempts(self, run: str) -> list[Path]:
        """Attempt directories of a run."""
        return attempts(self.directory / run)

    def endings(self, run: str) -> list[str]:
        """How each attempt says it ended; "" for one that said nothing."""
        return [(ended(path) or {"status": ""})["status"] for path in self.attempts(run)]

    def last_step(self, run: str, attempt: int = -1) -> int:
        """Last step that an attempt of a run has logged, the newest by default; 0 for none."""
        made = self.attempts(run)
        rows = [row for row in lines_of(made[attempt]) if "train_loss" in row or "step" in row] if made else []
        return rows[-1]["step"] if rows else 0

    def wait_for_step(self, run: str, step: int, attempt: int) -> None:
        """Until attempt number ``attempt`` (from 1) of a run has logged ``step``."""

        def reached() -> bool:
            return len(self.attempts(run)) >= attempt and self.last_step(run, attempt - 1) >= step

        self.until(reached, f"step {step} of attempt {attempt} of {run}")

    def until(self, condition: Callable[[], Any], what: str, seconds: float = LIMIT_SECONDS) -> Any:
        """Poll; at the limit the test fails with the queue and the logs of the tasks."""
        return until(condition, what, seconds, self.story)

    def finish(self, *runs: str) -> None:
        """Launch again whenever the queue is empty, as a person would, until these runs (all) have their record."""

        def all_done() -> bool:
            if all((self.directory / run / "record.json").exists() for run in runs or self.runs):
                return True
            self.slurm.repair()
            names = ",".join(submission.name for submission in read_submissions(self.directory))
            if not names or not self.slurm.ask("squeue", "-h", f"--name={names}"):
                self.launch()
            return False

        self.until(all_done, f"{', '.join(runs) or 'every run'} to be done")

    def cancel(self) -> None:
        """Take everything of this sweep out of the queue, for the sake of the next test."""
        for submission in read_submissions(self.directory):
            self.slurm.ask("scancel", f"--name={submission.name}")

    def story(self) -> str:
        """The queue and what every task printed, for a test that failed."""
        logs = [
            log_of(self.directory, s, index) for s in read_submissions(self.directory) for index in range(len(s.chunks))
        ]
        texts = [f"--- {log.name}\n{log.read_text()[-1500:]}" for log in logs if log.exists()]
        return "\n".join([self.slurm.run("squeue", "-t", "all", "-r").stdout, *texts])

    def check(self, calm: dict[str, Any], *runs: str) -> None:
        """Finish these runs (all) and cancel the rest; results must be those of the calm sweep, without an alarm."""
        self.finish(*runs)
        self.cancel()
        found = results_of(self.directory)
        assert {run: found[run] for run in runs or self.runs} == {run: calm[run] for run in runs or self.runs}


def results_of(directory: Path) -> dict[str, Any]:
    """Run id -> result of its record, of all that have one; no alarm may have been raised."""
    records = {entry.run_id: read_record(directory / entry.run_id) for entry in manifest.read(directory)}
    assert list(directory.glob("*/alarm-*.json")) == []
    return {run: record["result"] for run, record in records.items() if record is not None}


def fake(slurm: Cluster, directory: Path, *options: str) -> Sweep:
    """A sweep of runs that train nothing (see ``fake_sweep``), which must have been planned."""
    return Sweep(slurm, directory, (*LAUNCH, f"runner={RUNNER}", *options))
