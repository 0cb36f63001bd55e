"""srun as far as ranks see it: so many processes on so many "nodes", the variables of a step, USR1 handed on.

Told TERM it kills the tasks at once, as the real one does (22.05). Its own arguments go to $FAKE_SRUN_LOG.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from types import FrameType


def step_variables(nodes: int, each: int) -> list[dict[str, str]]:
    """The environment of every task of a step of ``each`` tasks on each of ``nodes``."""
    tasks = nodes * each
    step = {"SLURM_STEP_ID": "0", "SLURM_NTASKS": str(tasks), "SLURM_STEP_NUM_TASKS": str(tasks)}
    step |= {"SLURM_NNODES": str(nodes), "SLURM_STEP_NUM_NODES": str(nodes), "SLURM_NODELIST": "127.0.0.1"}
    return [
        step | {"SLURM_PROCID": str(i), "SLURM_LOCALID": str(i % each), "SLURM_NODEID": str(i // each)}
        for i in range(tasks)
    ]


def install(folder: Path) -> Path:
    """Put an executable ``srun`` into ``folder``."""
    folder.mkdir(exist_ok=True)
    script = folder / "srun"
    script.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{__file__}" "$@"\n')
    script.chmod(0o755)
    return script


def main(argv: list[str]) -> int:
    options = dict(word.removeprefix("--").split("=", 1) for word in argv if word.startswith("--") and "=" in word)
    program = argv[next(i for i, word in enumerate(argv) if not word.startswith("--")) :]
    with open(os.environ["FAKE_SRUN_LOG"], "a", encoding="utf-8") as log:
        log.write(" ".join(argv) + "\n")
    nodes, each = int(options["nodes"]), int(options["ntasks-per-node"])
    assert int(options["ntasks"]) == nodes * each
    tasks: list[subprocess.Popen[bytes]] = []
    waiting: list[int] = []

    def hand_on(signum: int, frame: FrameType | None) -> None:
        if len(tasks) < nodes * each:
            return waiting.append(signum)
        for task in tasks:
            task.send_signal(signal.SIGUSR1 if signum == signal.SIGUSR1 else signal.SIGKILL)

    for number in (signal.SIGUSR1, signal.SIGTERM):  # before any task can be seen at work
        signal.signal(number, hand_on)
    for variables in step_variables(nodes, each):
        tasks.append(subprocess.Popen(program, env=os.environ | variables))
    for number in waiting:
        hand_on(number, None)
    return max(code if code >= 0 else 128 - code for code in [task.wait() for task in tasks])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
