"""Checkpoints on disk: written and verified, which are there, and the newest that matches its checksum.

A checkpoint is step-NNNNNNNNN.pt and, beside it, .json with its size and sha256. The checksum is written first, under a
temporary name, then both are renamed: a .pt with neither .json nor temporary .json has lost it and is refused, one with
the temporary name was being written when its process was killed, and does not count.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from nmm.record.files import CheckpointError, file_sha256, staged, sync_directory
from nmm.record.made import attempts

LOOK_AGAIN = 5  # times, when the checkpoints changed while they were being verified
LOOK_AGAIN_SECONDS = 0.2

_STEP = re.compile(r"step-(\d+)\.(pt|json)")
_UNFINISHED = re.compile(r"\.step-(\d+)\.json\..*\.tmp")

Say = Callable[[str], None]


def write_checkpoint(folder: Path, step: int, writer: Callable[[Any], Any]) -> Path:
    """Write one checkpoint, synced, and read it back; when it is not what was written, it never gets its name.

    Raises OSError (EIO for what came back different); then nothing has changed and no temporary file is left.
    """
    path, given = checkpoint_file(folder, step), Digesting()
    side_path = path.with_suffix(".json")
    with staged(path, lambda file: given.fill(file, writer)) as temporary:
        _forget_cached(temporary)
        if file_sha256(temporary) != given.hexdigest():
            raise OSError(errno.EIO, "what came back from the disk is not what was written", str(path))
        side = json.dumps({"step": step, "bytes": given.bytes, "sha256": given.hexdigest()}).encode()
        with staged(side_path, lambda file: file.write(side)) as temporary_side:
            os.replace(temporary, path)
            try:
                os.replace(temporary_side, side_path)
            except OSError:
                path.unlink()
                raise
    sync_directory(folder)
    return path


class Digesting:
    """A file to write to that counts and digests what it was given, and remembers why it could not write it."""

    def __init__(self) -> None:
        self._file: BinaryIO | None = None
        self._digest = hashlib.sha256()
        self.bytes = 0
        self.error: OSError | None = None

    def fill(self, file: BinaryIO, writer: Callable[[Any], Any]) -> None:
        """Let ``writer`` write into ``file`` through this."""
        self._file = file
        try:
            writer(self)
        except Exception:
            if self.error is not None:
                raise self.error from None
            raise

    def write(self, data: Any) -> int:
        """Write all of ``data`` (bytes or a buffer)."""
        assert self._file is not None
        try:
            self._file.write(data)
        except OSError as error:
            self.error = error  # torch reports it as a RuntimeError that has lost the reason
            raise
        self._digest.update(data)
        size = memoryview(data).nbytes
        self.bytes += size
        return size

    def flush(self) -> None:
        """Pass it on."""
        assert self._file is not None
        self._file.flush()

    def hexdigest(self) -> str:
        """sha256 of all that was to be written."""
        return self._digest.hexdigest()


def checkpoint_file(folder: Path, step: int) -> Path:
    """Its name in a checkpoints/ folder."""
    return folder / f"step-{step:09d}.pt"


def remove_checkpoint(folder: Path, step: int) -> None:
    """Delete one checkpoint; another process may be doing the same."""
    path = checkpoint_file(folder, step)
    path.unlink(missing_ok=True)
    path.with_suffix(".json").unlink(missing_ok=True)


def checkpoint_steps(folder: Path) -> list[int]:
    """Steps of the checkpoints in a checkpoints/ folder, ascending, whether they verify or not."""
    names = _names(folder)
    found = [match for name in names if (match := _STEP.fullmatch(name))]
    with_checksum = {int(match[1]) for match in found if match[2] == "json"}
    return sorted(with_checksum | ({int(match[1]) for match in found} - _unfinished(names)))


def remove_unfinished(folder: Path) -> list[str]:
    """Delete what a killed process left of a save, in a folder that nobody writes to any more. Returns the names.

    That is: temporary files; a file whose checksum was not in place yet; and one that has lost its checksum, if another
    checkpoint in the folder verifies (else it stays, as an error for whoever wants to go on from it).
    """
    names = _names(folder)
    found = [match for name in names if (match := _STEP.fullmatch(name))]
    with_checksum = {int(match[1]) for match in found if match[2] == "json"}
    bare = {int(match[1]) for match in found} - with_checksum
    if not any(refusal(checkpoint_file(folder, step)) == "" for step in sorted(with_checksum, reverse=True)):
        bare &= _unfinished(names)
    # a file goes before the temporary checksum that marks it as unfinished
    stale = [checkpoint_file(folder, step).name for step in sorted(bare)]
    stale += [name for name in names if name.endswith(".tmp")]
    for name in stale:
        (folder / name).unlink(missing_ok=True)
    return stale


def _names(folder: Path) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except FileNotFoundError:
        return []


def _unfinished(names: list[str]) -> set[int]:
    return {int(match[1]) for name in names if (match := _UNFINISHED.fullmatch(name))}


def _forget_cached(path: Path) -> None:
    """Let the next read come from the disk, where the system can do that: the cache always agrees."""
    if hasattr(os, "posix_fadvise"):
        handle = os.open(path, os.O_RDONLY)
        try:
            os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(handle)


def refusal(path: Path) -> str:
    """Why a checkpoint cannot be used; "" for one that matches its checksum."""
    try:
        expected = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        size, digest = expected["bytes"], expected["sha256"]
    except FileNotFoundError:
        return "its checksum is missing"
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"its checksum cannot be read ({type(error).__name__}: {error})"
    try:
        found = path.stat().st_size
        if found != size:
            return f"it has {found} bytes instead of {size}"
        return "" if file_sha256(path) == digest else "its bytes do not match its checksum"
    except FileNotFoundError:
        return "it is missing, only its checksum is there"
    except OSError as error:
        return f"it cannot be read ({error})"


def checkpoints(run: Path) -> list[tuple[int, Path]]:
    """Every (step, file) of every attempt: highest step first, newest attempt first within a step."""
    found = [
        (step, attempt.name, checkpoint_file(attempt / "checkpoints", step))
        for attempt in attempts(run)
        for step in checkpoint_steps(attempt / "checkpoints")
    ]
    return [(step, path) for step, _, path in sorted(found, key=lambda f: (f[0], f[1]), reverse=True)]


def newest_checkpoint(run: Path, say: Say | None = None) -> tuple[int, Path] | None:
    """The newest checkpoint that verifies; None when the run has none at all. ``say`` hears of every refused one.

    Raises ``CheckpointError`` when files exist but none verifies.
    """
    for _ in range(LOOK_AGAIN):
        found = checkpoints(run)
        for step, path in found:
            reason = refusal(path)
            if not reason:
                return step, path
            if say is not None:
                say(f"checkpoint {path} refused: {reason}")
        if checkpoints(run) == found:
            break
        time.sleep(LOOK_AGAIN_SECONDS)  # another attempt saves and deletes: what was looked at is no longer there
    if not found:
        return None
    reasons = "; ".join(f"{path.parent.parent.name}/{path.name}: {refusal(path)}" for _, path in found[:4])
    raise CheckpointError(
        f"{run}: {len(found)} checkpoints, none matches its checksum ({reasons}). Restore one from a backup, or delete "
        f"{run}/attempts to start this run again from step 0"
    )


def checkpoint_at(run: Path, step: int, say: Say | None = None) -> Path:
    """The verified checkpoint of one step (a branch point). Raises ``CheckpointError`` if there is none."""
    for found, path in checkpoints(run):
        if found == step:
            reason = refusal(path)
            if not reason:
                return path
            if say is not None:
                say(f"checkpoint {path} refused: {reason}")
    have = sorted({s for s, _ in checkpoints(run)})
    raise CheckpointError(
        f"{run} has no verified checkpoint at step {step} (steps on disk: {have}); run the trunk first"
    )
