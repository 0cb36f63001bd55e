"""How an attempt ended, as it said itself: ended.json."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nmm.record.files import RecordError, read_json

# exit: ended without a word (killed, crashed, node lost); error: any exception not named here; nan: diverged
CAUSES = ("exit", "error", "oom", "nan", "disk", "data", "timeout", "config")


def ended(attempt: Path) -> dict[str, Any] | None:
    """{"status", "cause", "detail"} of an attempt directory; None when it has not ended, or could not say so.

    Raises ``RecordError`` when the file is damaged.
    """
    path = attempt / "ended.json"
    if not path.exists():
        return None
    found = read_json(path)
    if not isinstance(found, dict) or "status" not in found:
        raise RecordError(f"{path} does not say how the attempt ended; move it away and run again")
    return {"cause": "", "detail": "", **found}
