"""manifest.jsonl: the frozen plan, one fully resolved run a line. Once written, conf/ no longer matters.

A line is {"run_id", "role", "parent": {"run_id", "step"} | null, "config", "estimate": {"flops", "seconds",
"memory_bytes"}}; lines that ``nmm sweep next`` added also have "generation", the number of their note in DIR/next.
Lines are only ever added at the end, so the numbers of SLURM chunks stay valid.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from nmm.config import ConfigError, RunConfig, from_dict, run_id, to_dict
from nmm.record import write_atomic

FILE_NAME = "manifest.jsonl"
LOCK_NAME = ".manifest.lock"


class SweepError(RuntimeError):
    """A sweep cannot go on; the message says why and what to do."""


class ManifestError(SweepError):
    """The manifest is missing, damaged or at odds with what is asked; the message says which and what to do."""


@dataclass(frozen=True)
class Estimate:
    """What executing one line costs (a branch: its cooldown only). Seconds are of one worker."""

    flops: float
    seconds: float
    memory_bytes: float


@dataclass(frozen=True)
class Entry:
    """One line. generation: 0 of the sweep as planned, else the number of the `nmm sweep next` that added it."""

    config: RunConfig
    estimate: Estimate
    generation: int = 0

    @cached_property
    def run_id(self) -> str:
        """Content hash of the config, computed once."""
        return run_id(self.config)

    @property
    def role(self) -> str:
        """trunk | branch | run."""
        return self.config.role

    @property
    def parent_id(self) -> str:
        """The trunk of a branch, else an empty string."""
        return self.config.parent.run_id

    @property
    def arm(self) -> str:
        """Of a comparison of recipes; empty without one."""
        return self.config.intervention.arm

    @property
    def shape(self) -> tuple[str, str]:
        """(arch, size): runs of one shape share compiled code."""
        return self.config.arch.name, self.config.size.name


def _line(entry: Entry) -> str:
    parent = dataclasses.asdict(entry.config.parent) if entry.parent_id else None
    values = {
        "run_id": entry.run_id,
        "role": entry.role,
        "parent": parent,
        "config": to_dict(entry.config),
        "estimate": dataclasses.asdict(entry.estimate),
    } | ({"generation": entry.generation} if entry.generation else {})
    return json.dumps(values, sort_keys=True, allow_nan=False)


@contextlib.contextmanager
def alone(directory: Path) -> Iterator[None]:
    """Wait until no other process reads and then writes the manifest: else of two that add lines one would be lost."""
    directory.mkdir(parents=True, exist_ok=True)
    with open(directory / LOCK_NAME, "w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def write(directory: Path, entries: Sequence[Entry]) -> Path:
    """Write the manifest atomically; returns its path."""
    data = as_text(entries).encode()
    path = directory / FILE_NAME
    write_atomic(path, lambda file: file.write(data))
    return path


def as_text(entries: Sequence[Entry]) -> str:
    """A manifest as it is written. Raises ``ManifestError`` for a run that is there twice or has no trunk."""
    _check_parents(entries, "the plan")
    return "".join(_line(entry) + "\n" for entry in entries)


def append(directory: Path, entries: Sequence[Entry]) -> Path:
    """Add lines at the end, atomically; what is there stays as it is, byte by byte. Raises ``ManifestError``."""
    path = directory / FILE_NAME
    with alone(directory):
        _check_parents([*read(directory), *entries], str(path))
        before = path.read_bytes()
        data = b"" if before.endswith(b"\n") else b"\n"
        data += "".join(_line(entry) + "\n" for entry in entries).encode()
        write_atomic(path, lambda file: file.write(before + data))
    return path


def read(directory: Path) -> list[Entry]:
    """Read and check every line. Raises ``ManifestError`` for a missing, edited or damaged manifest."""
    path = directory / FILE_NAME
    if not path.exists():
        raise ManifestError(f"{directory} holds no {FILE_NAME}; run `nmm sweep plan sweep=demo out={directory}` first")
    lines = path.read_text(encoding="utf-8").splitlines()
    entries = [_parse(line, f"{path}:{number}") for number, line in enumerate(lines, start=1)]
    if not entries:
        raise ManifestError(f"{path} is empty; delete it and plan again")
    _check_parents(entries, str(path))
    return entries


def _parse(line: str, where: str) -> Entry:
    try:
        values: dict[str, Any] = json.loads(line)
        entry = Entry(from_dict(values["config"]), Estimate(**values["estimate"]), int(values.get("generation", 0)))
        named, role = values["run_id"], values["role"]
    except ConfigError as error:
        raise ManifestError(f"{where} was edited by hand or made by another version: {error}") from error
    except (KeyError, TypeError, ValueError) as error:
        raise ManifestError(
            f"{where} is not a line of a manifest ({error!r}); plan again into a new directory"
        ) from error
    if named != entry.run_id or role != entry.role:
        raise ManifestError(
            f"{where}: run_id {named} does not belong to its config (that is {entry.run_id}): edited by hand or made "
            "by another version of nmm. Plan again into a new directory"
        )
    return entry


def _check_parents(entries: Sequence[Entry], where: str) -> None:
    ids = [entry.run_id for entry in entries]
    known = set(ids)
    if len(known) != len(ids):
        twice = sorted({name for name in known if ids.count(name) > 1})
        raise ManifestError(f"{where} names a run twice: {', '.join(twice)}")
    for entry in entries:
        if entry.parent_id and entry.parent_id not in known:
            raise ManifestError(f"{where}: {entry.run_id} branches from {entry.parent_id}, which is not in it")


def merge(old: Sequence[Entry], new: Sequence[Entry]) -> list[Entry]:
    """The lines to write when ``new`` is planned over ``old``: the old ones as they stand, then what ``new`` adds.

    What ``nmm sweep next`` added need not be in ``new``. Raises ``ManifestError`` when ``new`` drops or changes another
    line of ``old``.
    """
    planned = {entry.run_id: entry for entry in new}
    gone = [entry.run_id for entry in old if entry.run_id not in planned and not entry.generation]
    if gone:
        raise ManifestError(
            f"another plan is already there: {len(gone)} of its {len(old)} runs are not in this one (first: {gone[0]})."
            " A plan may only grow; plan into another directory, or delete the old manifest.jsonl (finished runs stay)."
            " A new token count changes its trunk, so it needs a new directory too"
        )
    for entry in (e for e in old if e.run_id in planned):
        changed = _differences(to_dict(entry.config), to_dict(planned[entry.run_id].config))
        if changed:
            raise ManifestError(
                f"another plan is already there: {entry.run_id} would change {', '.join(changed)}; plan into another "
                "directory, or delete the old manifest.jsonl (finished runs stay)"
            )
    known = {entry.run_id for entry in old}
    return [*old, *(entry for entry in new if entry.run_id not in known)]


def _differences(old: Any, new: Any, prefix: str = "") -> list[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        keys = sorted(old.keys() | new.keys())
        return [name for key in keys for name in _differences(old.get(key), new.get(key), f"{prefix}{key}.")]
    return [] if old == new else [f"{prefix.removesuffix('.')} ({old!r} -> {new!r})"]
