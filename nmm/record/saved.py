"""Checkpoints on disk: which are there, and the newest that matches its checksum."""

from __future__ import annotations

import json
from pathlib import Path

from nmm.record.attempt import attempts, checkpoint_steps
from nmm.record.files import CheckpointError, file_sha256


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
        for step in checkpoint_steps(attempt / "checkpoints")
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
