"""The run directory: attempts, checkpoints on disk, the one record, and the flat table of many records. Stdlib only.

<run>/config.json               resolved, canonical
<run>/attempts/NNNN/            made with mkdir: the number is a fencing token; only its maker writes inside
    metrics.jsonl  log.txt  lock  ended.json  checkpoints/step-000000123.pt + .json (size, sha256)
<run>/record.json               published last, by link: the first finisher wins, a second one must agree
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import math
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, BinaryIO

RECORD_SCHEMA = 3  # 2: stage, result.routing, result.sft; 3: data, skipped_samples, unique tokens; tables read all
KEEP_CHECKPOINTS = 2


class RecordError(RuntimeError):
    """The run directory holds something that must not be there; the message says what and what to do."""


class CheckpointError(RecordError):
    """Checkpoints exist but none verifies: never a silent restart."""


# ---------------------------------------------------------------------------------------------------------------------
# files


def write_atomic(path: Path, writer: Callable[[BinaryIO], Any]) -> None:
    """Write through a temporary name in the same directory: synced, then renamed, then the directory synced."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            writer(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    _sync_directory(path.parent)


def _sync_directory(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_json(path: Path, value: Any) -> None:
    """Atomic JSON; NaN and infinities are refused (use None)."""
    data = json.dumps(value, indent=1, sort_keys=True, allow_nan=False).encode()
    write_atomic(path, lambda file: file.write(data))


def read_json(path: Path) -> Any:
    """Parse one JSON file; a half-written or foreign file raises ``RecordError`` naming it."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise RecordError(f"{path} is not valid JSON ({error}); move it away and run again") from error


def file_sha256(path: Path) -> str:
    """Hex sha256 of a file, read in 1 MiB pieces."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


# ---------------------------------------------------------------------------------------------------------------------
# attempts


@dataclass
class Attempt:
    """One process working on one run. Everything it writes lies in its own directory."""

    path: Path
    _lock: IO[str]
    _metrics: IO[str]

    def log_metrics(self, values: dict[str, Any]) -> None:
        """Append one line to metrics.jsonl and flush it."""
        self._metrics.write(json.dumps(values, allow_nan=False) + "\n")
        self._metrics.flush()

    def log(self, text: str) -> None:
        """Append one line with the time (UTC) to log.txt."""
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        with open(self.path / "log.txt", "a", encoding="utf-8") as file:
            file.write(f"{now} {text}\n")

    def save_checkpoint(self, step: int, writer: Callable[[BinaryIO], Any], pinned: tuple[int, ...] = ()) -> Path:
        """Write, checksum and rename a checkpoint; keep the newest two and every ``pinned`` step."""
        folder = self.path / "checkpoints"
        path = folder / f"step-{step:09d}.pt"
        write_atomic(path, writer)
        write_json(path.with_suffix(".json"), {"step": step, "bytes": path.stat().st_size, "sha256": file_sha256(path)})
        old = [s for s in _checkpoint_steps(folder) if s not in pinned][:-KEEP_CHECKPOINTS]
        for stale in old:
            (folder / f"step-{stale:09d}.json").unlink()
            (folder / f"step-{stale:09d}.pt").unlink(missing_ok=True)
        return path

    def end(self, status: str, detail: str = "") -> None:
        """Say how the attempt ended, then let go of its lock."""
        self.log(f"ended: {status}")
        write_json(self.path / "ended.json", {"status": status, "detail": detail})
        self.close()

    def close(self) -> None:
        """Close files and release the lock."""
        self._metrics.close()
        self._lock.close()


def begin_attempt(run: Path) -> Attempt:
    """Take the next free attempt number with mkdir; the number can never be taken twice."""
    folder = run / "attempts"
    folder.mkdir(parents=True, exist_ok=True)
    number = 1 + max((int(p.name) for p in folder.iterdir() if p.name.isdigit()), default=0)
    while True:
        path = folder / f"{number:04d}"
        try:
            path.mkdir()
            break
        except FileExistsError:
            number += 1
    lock = open(path / "lock", "w", encoding="utf-8")  # noqa: SIM115 - held open for the life of the attempt
    fcntl.flock(lock, fcntl.LOCK_EX)
    lock.write(str(os.getpid()))
    lock.flush()
    return Attempt(path, lock, open(path / "metrics.jsonl", "a", encoding="utf-8"))  # noqa: SIM115


def attempts(run: Path) -> list[Path]:
    """Attempt directories, oldest first."""
    folder = run / "attempts"
    if not folder.is_dir():
        return []
    return sorted(p for p in folder.iterdir() if p.name.isdigit())


def is_alive(attempt: Path) -> bool:
    """True while the process that made the attempt holds its lock (this machine or a lock-aware shared disk)."""
    with contextlib.suppress(FileNotFoundError), open(attempt / "lock", encoding="utf-8") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


# ---------------------------------------------------------------------------------------------------------------------
# checkpoints


def _checkpoint_steps(folder: Path) -> list[int]:
    return sorted(int(p.stem.split("-")[1]) for p in folder.glob("step-*.json"))


def _verifies(path: Path) -> bool:
    try:
        expected = json.loads(path.with_suffix(".json").read_text())
        return path.stat().st_size == expected["bytes"] and file_sha256(path) == expected["sha256"]
    except (OSError, ValueError, KeyError, TypeError):
        return False


def checkpoints(run: Path) -> list[tuple[int, Path]]:
    """Every (step, file) of every attempt: highest step first, newest attempt first within a step."""
    found = [
        (step, attempt.name, attempt / "checkpoints" / f"step-{step:09d}.pt")
        for attempt in attempts(run)
        for step in _checkpoint_steps(attempt / "checkpoints")
    ]
    return [(step, path) for step, _, path in sorted(found, key=lambda f: (f[0], f[1]), reverse=True)]


def newest_checkpoint(run: Path) -> tuple[int, Path] | None:
    """The newest checkpoint that verifies; None when the run has none at all.

    Raises ``CheckpointError`` when files exist but none verifies.
    """
    found = checkpoints(run)
    for step, path in found:
        if _verifies(path):
            return step, path
    if found:
        raise CheckpointError(
            f"{run}: {len(found)} checkpoints, none matches its checksum. Restore one from a backup, or delete "
            f"{run}/attempts to start this run again from step 0"
        )
    return None


def checkpoint_at(run: Path, step: int) -> Path:
    """The verified checkpoint of one step (a branch point). Raises ``CheckpointError`` if there is none."""
    for found, path in checkpoints(run):
        if found == step and _verifies(path):
            return path
    have = sorted({s for s, _ in checkpoints(run)})
    raise CheckpointError(
        f"{run} has no verified checkpoint at step {step} (steps on disk: {have}); run the trunk first"
    )


# ---------------------------------------------------------------------------------------------------------------------
# the record


def write_config(run: Path, config: dict[str, Any]) -> None:
    """Write config.json once: {"run_id", "identity", "settings"}. Another identity in the same directory is refused."""
    path = run / "config.json"
    if path.exists():
        if read_json(path)["identity"] != config["identity"]:
            raise RecordError(f"{path} holds another configuration than this run; give the run another directory")
        return
    write_json(path, config)


def publish(run: Path, attempt: Attempt, record: dict[str, Any]) -> dict[str, Any]:
    """Publish ``record`` as record.json by link: the first wins.

    A second finisher whose ``result`` agrees gets the published record back; one that disagrees leaves an
    ``alarm-NNNN.json`` and raises ``RecordError``.
    """
    staged = attempt.path / "record.json"
    write_json(staged, record)
    try:
        os.link(staged, run / "record.json")
        _sync_directory(run)
        return record
    except FileExistsError:
        published = read_json(run / "record.json")
    if published.get("result") != record.get("result"):
        write_json(
            run / f"alarm-{attempt.path.name}.json", {"published": published["result"], "this": record["result"]}
        )
        raise RecordError(f"{run}: attempt {attempt.path.name} finished with another result than the published record")
    return published


def read_record(run: Path) -> dict[str, Any] | None:
    """The published record, or None."""
    path = run / "record.json"
    return read_json(path) if path.exists() else None


def status(run: Path) -> str:
    """done | diverged | running | failed | interrupted | pending, from files alone."""
    record = read_record(run)
    if record is not None:
        return str(record["status"])
    made = attempts(run)
    if not made:
        return "pending"
    if any(is_alive(a) for a in made):
        return "running"
    ended = made[-1] / "ended.json"
    return str(read_json(ended)["status"]) if ended.exists() else "interrupted"


# ---------------------------------------------------------------------------------------------------------------------
# the table


def iter_records(directory: Path) -> Iterator[dict[str, Any]]:
    """Published records of a sweep directory, ordered by run id."""
    if not directory.is_dir():
        raise RecordError(f"{directory} is not a directory; give the folder that holds the run directories")
    for path in sorted(directory.glob("*/record.json")):
        yield read_json(path)


def load_table(directory: Path | str) -> list[dict[str, Any]]:
    """One flat row per finished run that is a point of the law: no trunks, which are lineage, and no tuned runs."""
    done = (r for r in iter_records(Path(directory)) if r["status"] == "done")
    return [flatten(r) for r in done if r["role"] != "trunk" and r.get("stage", "pretrain") == "pretrain"]


def flatten(record: dict[str, Any]) -> dict[str, Any]:
    """The columns of the table; unknown entropies become NaN."""
    params, tokens, flops, result = record["params"], record["tokens"], record["flops"], record["result"]
    row: dict[str, Any] = {key: record[key] for key in ("run_id", "sweep", "arch", "size", "seed", "status", "steps")}
    row |= {"trunk_id": record["lineage"]["trunk_id"], "tokens": tokens["total"]}
    row |= {"text_tokens": tokens["text"], "image_tokens": tokens["image"]}
    row |= {"unique_tokens": _number(tokens.get("unique"))}  # unknown before schema 3
    row |= {
        "n_total": params["total"],
        "n_non_embedding": params["non_embedding"],
        "n_active": params["active"],
        "n_active_non_embedding": params["active_non_embedding"],
        "n_decoder_non_embedding": params["decoder_non_embedding"],
        "n_vision": params["vision"],
        "flops_6nd": flops["6nd"],
        "flops_exact": flops["total"],
    }
    for kind in ("loss", "entropy"):
        row |= {f"{kind}_{name}": _number(value) for name, value in result[kind].items()}
    row |= {"colour_excess": _number(result["class_excess"].get("colour")), "on_plateau": record["on_plateau"]}
    row |= {key: record[key] for key in ("wall_seconds", "tokens_per_second")}
    return row | {"order_hash": result["order_hash"]}


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)
