"""SIGTERM and USR1 at any moment: saved at the step boundary, exit status never 0 unless the run is done."""

from __future__ import annotations

import functools
import signal

import drill_faults as faults
import pytest
from drill_processes import Processes
from drill_runs import STEPS, Calm, how_it_ended, last_step, lines_of
from lab import run_directory

from nmm.config import RunConfig
from nmm.record import attempts, newest_checkpoint, read_record


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGUSR1])
@pytest.mark.parametrize("moment", faults.PREEMPTIONS)
def test_preempted(processes: Processes, calm: Calm, disturbed: RunConfig, moment: str, signum: signal.Signals) -> None:
    code = processes.run(disturbed, functools.partial(faults.signalled, moment, signum))
    finished = read_record(run_directory(disturbed)) is not None
    assert code == (0 if finished else 128 + signum)
    assert how_it_ended(disturbed)[0] == ("done" if finished else "interrupted")
    assert finished is False or moment == "after the last step"
    found = newest_checkpoint(run_directory(disturbed))
    if moment == "before step 1":
        assert found is None and last_step(disturbed) == 0
    else:
        assert found is not None and found[0] == last_step(disturbed), "work was lost"
    calm.check(processes, disturbed)


def test_preempted_again_and_again(processes: Processes, calm: Calm, disturbed: RunConfig) -> None:
    """Twice in a row, one step apart; then with a second signal on the heels of the first. No step is made twice."""
    for step, signals in [
        (5, [signal.SIGTERM]),
        (6, [signal.SIGUSR1]),
        (9, [signal.SIGTERM, signal.SIGUSR1]),
        (10, [signal.SIGUSR1, signal.SIGUSR1, signal.SIGTERM]),
    ]:
        code = processes.run(disturbed, functools.partial(faults.signalled, f"step {step}", *signals))
        assert code in [128 + signum for signum in signals]
        assert how_it_ended(disturbed)[0] == "interrupted"
        assert newest_checkpoint(run_directory(disturbed))[0] == last_step(disturbed) == step  # type: ignore[index]
    calm.check(processes, disturbed)
    made = [row["step"] for folder in attempts(run_directory(disturbed)) for row in lines_of(folder) if "lr" in row]
    assert made == list(range(1, STEPS + 1))
