"""A made-up study whose commands are a fake `nmm`: a script that writes what it is told and counts its calls."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from sweeps.interventions import process
from sweeps.interventions.protocol import Arm, Metric, Step, Study

FAKE_NMM = """
import os, pathlib, signal, sys, time
command, *rest = sys.argv[1:]
folder = pathlib.Path(sys.argv[0]).parent
with open(folder / "calls.txt", "a") as file:
    file.write(" ".join(sys.argv[1:]) + "\\n")
print("working on", command)
if command == "intervention":
    page = pathlib.Path(rest[1]) / "page"
    page.mkdir(exist_ok=True)
    (page / "index.html").write_text("<html>")
elif command == "write":
    pathlib.Path(rest[0]).write_text("made")
elif command == "fail" and not (folder / "mended").exists():
    print("it is broken")
    sys.exit(3)
elif command == "fail":
    pathlib.Path(rest[0]).write_text("made")
elif command == "die":
    os.kill(os.getpid(), signal.SIGKILL)
elif command == "wait":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    (folder / "waiting").write_text(str(os.getppid()))
    time.sleep(60)
"""


@dataclass
class Lab:
    """Where a study runs, what the fake `nmm` was called with, and what was said."""

    out: Path
    console: Console

    @property
    def calls(self) -> list[str]:
        path = self.out.parent / "calls.txt"
        return [line.replace(str(self.out), "OUT") for line in path.read_text().splitlines()] if path.exists() else []

    @property
    def said(self) -> str:
        assert isinstance(self.console.file, io.StringIO)
        return self.console.file.getvalue()

    def step(self, name: str, command: str = "write", **more: Any) -> Step:
        done = self.out / f"{name}.txt"
        return Step(name, (command, str(done)), done, **more)


def made_up(steps: tuple[Step, ...], rows: Callable[[Path], list[dict[str, Any]]] | None = None, **more: Any) -> Study:
    study = Study(
        method="soup",
        title="A made-up study",
        acts_on="weights",
        claim="nothing (nobody, 2026)",
        control="plain",
        arms=(Arm("plain", "control", "as it is"), Arm("mean", "treatment", "averaged")),
        metrics=(Metric("loss", "loss (nats / token)", "lower"),),
        measured_on="nothing",
        steps=steps,
        collect=rows or (lambda out: [row("plain"), row("mean", loss=1.5)]),
    )
    return replace(study, **more)


def row(arm: str, **more: Any) -> dict[str, Any]:
    return {"arm": arm, "seed": 0, "n": 10, "d": None, "flops": 1e6, "charged": 0.0, "loss": 2.0, **more}


def lab_in(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Lab:
    script = folder / "fake_nmm.py"
    script.write_text(FAKE_NMM)
    monkeypatch.setattr(process, "PROGRAM", (sys.executable, str(script)))
    monkeypatch.setattr(process, "REFRESH_SECONDS", 0.05)
    out = folder / "out"
    out.mkdir()
    return Lab(out, Console(width=200, file=io.StringIO()))
