"""config.json, the one record of a run, and what state the run is in."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from nmm.record.attempt import Attempt, attempts, is_alive
from nmm.record.files import RecordError, read_json, sync_directory, write_json


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
        sync_directory(run)
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
