"""A SLURM of a few shell scripts: sbatch writes down what it is asked, squeue says what the test has written."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


class FakeSlurm:
    """Its tools lie first on PATH; ``folder`` holds their logs."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        tools = folder / "tools"
        tools.mkdir()
        monkeypatch.setenv("PATH", f"{tools}{os.pathsep}{os.environ['PATH']}")
        (folder / "queue").touch()
        self.set("sbatch", f'echo "$@" >> {folder}/sbatch.log; expr 3999 + $(wc -l < {folder}/sbatch.log)')
        self.set("squeue", f'echo "$@" >> {folder}/squeue.log; cat {folder}/queue')
        self.set("scancel", f'echo "$@" >> {folder}/scancel.log; : > {folder}/queue')
        self.set("scontrol", f"echo \"$@\" >> {folder}/scontrol.log; echo 'MaxArraySize            = 1001'")

    def set(self, name: str, body: str) -> None:
        script = self.folder / "tools" / name
        script.write_text(f"#!/bin/sh\n{body}\n")
        script.chmod(0o755)

    def down(self) -> None:
        """The controller does not answer."""
        for name in ("sbatch", "squeue", "scancel"):
            self.set(name, "echo 'Unable to contact slurm controller (connect failure)' >&2; exit 1")

    def queue(self, *tasks: tuple[str, str, str], reason: str = "None") -> None:
        """(job name, "4000_3", state) of each live task."""
        lines = []
        for name, task, state in tasks:
            job, index = task.split("_")
            fields = [name, job, index, state, "n1" if state == "RUNNING" else "", reason, "0"]
            lines.append("".join(f"{field:200}|" for field in fields))
        (self.folder / "queue").write_text("".join(line + "\n" for line in lines))

    def asked(self, tool: str) -> list[str]:
        """The arguments of every call of a tool."""
        log = self.folder / f"{tool}.log"
        return log.read_text().splitlines() if log.exists() else []
