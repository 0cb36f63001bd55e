"""`nmm sweep status` and `logs` of runs that a real controller holds and lets go."""

from __future__ import annotations

from pathlib import Path

import pytest
from fake_sweep import RUNNER, behave_as, environment, plan_sweep, wait_for
from slurm_lab import Cluster

from sweeps.commands import main
from sweeps.status import Reader

pytestmark = pytest.mark.slurm
OPTIONS = ("launcher=slurm", f"runner={RUNNER}", "slurm.chunk=0.01s", "slurm.signal_seconds=30")


def test_a_run_is_followed_through_the_queue_and_out_of_it(
    slurm: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in slurm.env.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PYTHONPATH", environment()["PYTHONPATH"])
    directory = tmp_path / "runs"
    entries = plan_sweep(directory)
    behave_as(directory, {entry.run_id: ["sleep"] for entry in entries})
    assert main(["launch", str(directory), *OPTIONS]) == 0
    reader, first = Reader(directory), entries[0].run_id
    wait_for(lambda: reader.read().states[0].step > 0, f"{first} to log a step", 120)
    state = reader.read().states[0]
    assert state.state == "running" and state.where.startswith("task ")
    assert {s.state for s in reader.read().states if s.run.role == "branch"} == {"queued"}
    capsys.readouterr()
    assert main(["cancel", str(directory)]) == 0
    wait_for(lambda: not reader.read().moving, "everything to leave the queue", 120)
    assert reader.read().states[0].state == "interrupted"
    assert reader.read().next_command == f"nmm sweep launch {directory} launcher=slurm"
    capsys.readouterr()
    assert main(["logs", first, "--dir", str(directory)]) == 1
    text = capsys.readouterr().out
    assert "SLURM task " in text and "array.sbatch: task" in text and "launcher=slurm" in text
