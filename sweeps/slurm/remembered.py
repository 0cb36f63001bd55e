"""DIR/launcher/slurm/options.json: the slurm.* keys of the last launch, so that launching again needs none of them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from nmm.record import RecordError, read_json, write_json
from sweeps.slurm.submissions import FOLDER

FILE = FOLDER / "options.json"
ONCE = ("dry_run",)  # asked for one launch only


def recall(directory: Path) -> dict[str, str]:
    """The keys (without "slurm.") and values as they were typed; none before the first launch.

    Raises ``RecordError`` for a file that is not ours.
    """
    path = directory / FILE
    if not path.exists():
        return {}
    found = read_json(path)
    if not isinstance(found, dict) or not all(isinstance(value, str) for value in found.values()):
        raise RecordError(f"{path} does not hold the options of a launch; delete it and give them again")
    return found


def remember(directory: Path, given: Mapping[str, str]) -> None:
    """For the next launch. A key without a value (``slurm.mem=``) is forgotten."""
    write_json(directory / FILE, {key: value for key, value in given.items() if value and key not in ONCE})
