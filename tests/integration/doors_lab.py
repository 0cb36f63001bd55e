"""Lists of short runs through `nmm train -m`: start them, look at what is there, and kill or watch their processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lab import child_environment, nmm

from nmm.record import read_json

LIMIT = 600.0  # seconds; it only keeps a broken test from hanging
FEW = ("size=d16", "data.eval_rows=4", "trainer.compile=off", "trainer.log_every_steps=2", "schedule.warmup_steps=2")
SHORT = (*FEW, "budget.steps=4")
LONG = (*FEW, "budget.steps=400")

# Imported by every Python process that has its folder on PYTHONPATH. A process that begins an attempt takes its lock.
KILLER = """\
import os, signal, sys
def look(event, arguments):
    if event == "open" and arguments[1] == "w":
        path = str(arguments[0])
        if {victim!r} in path and path.endswith("/lock"):
            os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(look)
"""
WITNESS = """\
import atexit, json, os, sys
def write():
    heavy = [name for name in ("torch", "lightning", "wandb", "matplotlib") if name in sys.modules]
    with open(os.path.join({folder!r}, f"{{os.getpid()}}.json"), "w") as file:
        json.dump({{"argv": sys.orig_argv, "heavy": heavy}}, file)
atexit.register(write)
"""


def everywhere(folder: Path, code: str) -> dict[str, str]:
    """Environment in which every Python process runs ``code`` when it starts."""
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(code)
    return {"PYTHONPATH": os.pathsep.join([str(folder), child_environment()["PYTHONPATH"]])}


def runs(out: Path) -> dict[str, dict[str, Any]]:
    """run id -> identity and result, of every run that has a record."""
    found = {}
    for record in sorted(out.glob("*/record.json")):
        found[record.parent.name] = {
            "identity": read_json(record.parent / "config.json")["identity"],
            "result": read_json(record)["result"],
        }
    return found


def files(out: Path) -> dict[str, int]:
    """Every file and folder of the run directories, and when it was changed last (ns)."""
    return {str(path): path.lstat().st_mtime_ns for run in out.glob("*-*") for path in [run, *run.rglob("*")]}


def start(*arguments: str, cwd: Path, env: dict[str, str] | None = None) -> subprocess.Popen[str]:
    """`nmm train ...` in the background."""
    command = [sys.executable, "-m", "nmm.cli", "train", *arguments]
    pipe = subprocess.PIPE
    environment = child_environment() | (env or {})
    return subprocess.Popen(command, cwd=cwd, env=environment, stdout=pipe, stderr=pipe, text=True)


def until(condition: Callable[[], Any], what: str, seconds: float = LIMIT) -> Any:
    """Poll until ``condition()`` is true and return it."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        value = condition()
        if value:
            return value
        time.sleep(0.05)
    raise AssertionError(f"waited {seconds} s for {what}")


def logging(out: Path, count: int = 1) -> list[Path]:
    """Attempts that have logged a step, once there are ``count`` of them."""

    def found() -> list[Path]:
        rows = [path for path in sorted(out.glob("*/attempts/*/metrics.jsonl")) if path.stat().st_size]
        return [path.parent for path in rows] if len(rows) >= count else []

    attempts: list[Path] = until(found, f"{count} runs to log a step")
    return attempts


def ends(out: Path) -> dict[str, list[str]]:
    """run id -> how each of its attempts ended."""
    return {
        run.name: [json.loads(path.read_text())["status"] for path in sorted(run.glob("attempts/*/ended.json"))]
        for run in sorted(out.glob("*-*"))
    }


def plain(shards: Path, out: Path, *settings: str) -> dict[str, dict[str, Any]]:
    """The same runs, seeds 0 and 1, by two plain `nmm train`."""
    for seed in (0, 1):
        done = nmm("train", f"seed={seed}", *settings, f"data.path={shards}", f"out={out}", cwd=out.parent)
        assert done.returncode == 0, done.stderr
    return runs(out)
