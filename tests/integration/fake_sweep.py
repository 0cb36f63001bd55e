"""A runner that trains nothing, and a sweep for it. What a run does at each attempt is read from DIR/behaviour.json.

{"<run_id>": ["kill", "ok"]}     the first attempt is killed by SIGKILL, the second succeeds; the last word repeats
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nmm.config import Arch, Data, RunConfig, Schedule, Size, Trainer, identity, run_id, to_dict
from nmm.record import attempts, begin_attempt, newest_checkpoint, publish, read_record, write_config
from sweeps.manifest import Entry
from sweeps.plan import make_plan
from sweeps.spec import spec_from_dict

ROOT = Path(__file__).resolve().parents[2]
RUNNER = "fake_sweep:execute"
KEYS = ["total", "non_embedding", "active", "active_non_embedding", "decoder_non_embedding", "vision"]


def execute(config: RunConfig, directory: Path) -> dict[str, Any]:
    """Same contract as the real one: safe to repeat, raises on failure, publishes a record."""
    done = read_record(directory)
    if done is not None:
        return done
    write_config(directory, {"run_id": run_id(config), "identity": identity(config), "settings": to_dict(config)})
    resumed = newest_checkpoint(directory)
    attempt = begin_attempt(directory)
    note(directory.parent, {"run_id": run_id(config), "resumed_at": resumed[0] if resumed else None})
    try:
        behave(config, directory, attempt)
    except BaseException as error:
        stopped = isinstance(error, SystemExit)
        attempt.end("interrupted" if stopped else "failed", f"{type(error).__name__}: {error}")
        raise
    status = "diverged" if behaviour(directory) == "diverge" else "done"
    if behaviour(directory) == "no_record":
        return {"status": "done"}
    published = publish(directory, attempt, make_record(config, status))
    if behaviour(directory) == "die_late":
        os.kill(os.getpid(), signal.SIGKILL)
    attempt.end(status)
    return published


def behaviour(directory: Path) -> str:
    path = directory.parent / "behaviour.json"
    words = (json.loads(path.read_text()) if path.exists() else {}).get(directory.name, ["ok"])
    return words[min(len(attempts(directory)), len(words)) - 1]


def behave(config: RunConfig, directory: Path, attempt: Any) -> None:
    print("a print must not disturb the protocol")
    match behaviour(directory):
        case "raise":
            raise ValueError(f"attempt {attempt.path.name} was told to fail")
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "exit":
            os._exit(3)
        case "oom":
            raise MemoryError("could not allocate 1 TiB")
        case "full":
            fill_disk(directory.parent.parent)
            attempt.save_checkpoint(1, lambda file: file.write(bytes(1 << 16)))
        case "sleep":
            sleep(config, attempt)


def fill_disk(disk: Path) -> None:
    """Use up the last byte of a small disk."""
    with open(disk / "filler", "ab", buffering=0) as file:
        for size in (1 << 16, 1 << 10, 1):
            with contextlib.suppress(OSError):
                while file.write(bytes(size)):
                    pass


def sleep(config: RunConfig, attempt: Any) -> None:
    """A minute of small steps, the third of which is checkpointed; SIGTERM ends it."""
    first = config.parent.step
    for step in range(first + 1, first + 1200):
        attempt.log_metrics({"step": min(step, config.total_steps)})
        if step == first + 3:
            attempt.save_checkpoint(step, lambda file: file.write(b"state"))
        time.sleep(0.05)


def make_record(config: RunConfig, status: str) -> dict[str, Any]:
    return {
        "run_id": run_id(config), "sweep": config.sweep, "arch": config.arch.name, "size": config.size.name,
        "seed": config.seed, "status": status, "steps": config.total_steps, "role": config.role,
        "lineage": {"trunk_id": config.parent.run_id or run_id(config)},
        "params": dict.fromkeys(KEYS, 1), "tokens": {"total": 1, "text": 1, "image": 0},
        "flops": {"6nd": 1.0, "total": 1.0}, "on_plateau": False, "wall_seconds": 1.0, "tokens_per_second": 1e6,
        "result": {"loss": {"avg": 2.0}, "entropy": {"avg": 1.0}, "class_excess": {"colour": 0.1}, "order_hash": "0"},
    }  # fmt: skip


def note(directory: Path, values: dict[str, Any]) -> None:
    """One short line in one write: appended whole even by several processes on one machine."""
    values |= {"pid": os.getpid(), "cores": sorted(os.sched_getaffinity(0)), "threads": os.environ["OMP_NUM_THREADS"]}
    with open(directory / "executed.jsonl", "a", encoding="utf-8") as file:
        file.write(json.dumps(values) + "\n")


# ---------------------------------------------------------------------------------------------------------------------
# for the tests

STARTED: list[subprocess.Popen[str]] = []


def plan_sweep(directory: Path, **changes: Any) -> list[Entry]:
    """Plan a sweep of fake runs in ``directory``; by default 2 trunks with 2 branches each."""
    shards = directory.parent / "shards"
    shards.mkdir(exist_ok=True)
    if not (shards / "manifest.json").exists():  # several plans may be made at once
        (shards / "manifest.json").write_text(json.dumps({"fingerprint": "f" * 64, "vocab_size": 300}))

    def compose(overrides: Sequence[str]) -> RunConfig:
        chosen = dict(override.split("=", 1) for override in overrides)
        return RunConfig(
            arch=Arch(name=chosen["arch"]),
            size=Size(name=chosen["size"], width=int(chosen["size"][1:]), num_heads=1),
            data=Data(path=str(shards)),
            schedule=Schedule(warmup_steps=int(chosen.get("schedule.warmup_steps", 4))),
            trainer=Trainer(rows_per_step=2),
        )

    values = {"name": "fake", "archs": ["early"], "sizes": ["d16", "d32"], "tokens": [51_200, 102_400], "seeds": [0]}
    return make_plan(spec_from_dict({**values, **changes}), directory, compose).entries


def behave_as(directory: Path, words: dict[str, list[str]]) -> None:
    (directory / "behaviour.json").write_text(json.dumps(words))


def executed(directory: Path) -> list[dict[str, Any]]:
    """One entry for every attempt any worker made."""
    path = directory / "executed.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(Path(__file__).parent)])}


def start(directory: Path, *options: str) -> subprocess.Popen[str]:
    """``nmm sweep launch`` in a process of its own."""
    command = [
        sys.executable,
        "-m",
        "sweeps.commands",
        "launch",
        str(directory),
        f"runner={RUNNER}",
        "pin=off",
        *options,
    ]
    pipe = subprocess.PIPE
    STARTED.append(subprocess.Popen(command, env=environment(), cwd=ROOT, stdout=pipe, stderr=pipe, text=True))
    return STARTED[-1]


def end_started() -> None:
    """After each test: a failed one must not leave a launcher behind."""
    while STARTED:
        process = STARTED.pop()
        if process.poll() is None:
            process.kill()
        process.communicate(timeout=60)


def launch(directory: Path, *options: str) -> tuple[int, str]:
    """Launch and wait: exit status, and everything it printed."""
    process = start(directory, *(options or ("workers=2",)))
    out, errors = process.communicate(timeout=120)
    return process.returncode, out + errors


def run_command(*arguments: str) -> tuple[int, str]:
    """``nmm sweep ...``: exit status, and everything it printed."""
    command = [sys.executable, "-m", "sweeps.commands", *arguments]
    done = subprocess.run(command, env=environment(), cwd=ROOT, capture_output=True, text=True, timeout=120)
    return done.returncode, done.stdout + done.stderr


def wait_for(condition: Any, what: str, seconds: float = 60.0) -> Any:
    """Poll until ``condition()`` is true; the limit only keeps a broken test from hanging."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        value = condition()
        if value:
            return value
        time.sleep(0.02)
    raise AssertionError(f"waited {seconds} s for {what}")


def is_running(pid: int) -> bool:
    """True while the process exists and is not a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
