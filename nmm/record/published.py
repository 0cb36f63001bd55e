"""config.json, the one record of a run, and what state the run is in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nmm.record.attempt import Attempt
from nmm.record.ending import ended
from nmm.record.files import RecordError, place_once, read_json, write_json
from nmm.record.made import attempts, is_alive


def write_config(run: Path, config: dict[str, Any]) -> None:
    """Write config.json once: {"run_id", "identity", "settings"}. Another identity in the same directory is refused."""
    path = run / "config.json"
    if run.is_symlink():
        raise RecordError(f"{run} is a link; a run writes in its own directory only: put the real one there")
    is_there = path.exists() or not place_once(path, config)
    if is_there and read_json(path)["identity"] != config["identity"]:
        raise RecordError(f"{path} holds another configuration than this run; give the run another directory")


def publish(run: Path, attempt: Attempt, record: dict[str, Any]) -> dict[str, Any]:
    """Publish ``record`` as record.json: the first wins, and it appears whole.

    A second finisher whose ``result`` agrees gets the published record back; one that disagrees leaves an
    ``alarm-NNNN.json`` and raises ``RecordError``.
    """
    write_json(attempt.path / "record.json", record)
    if place_once(run / "record.json", record):
        return record
    published = read_json(run / "record.json")
    result = read_json(attempt.path / "record.json").get("result")  # as JSON has it, like the other
    if published.get("result") != result:
        write_json(run / f"alarm-{attempt.path.name}.json", {"published": published.get("result"), "this": result})
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
    last = ended(made[-1])
    return str(last["status"]) if last is not None else "interrupted"
