"""How often a run has failed: what counts against its cap, and what would only fail again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nmm.record import attempts, ended, has_saved, is_alive, owner
from sweeps.schedule import SAME_AGAIN
from sweeps.slurm.early import Early
from sweeps.slurm.submissions import Submission
from sweeps.status.failures import read_note, slurm_failure


@dataclass(frozen=True)
class Tally:
    """Failed attempts, and the cause of the newest attempt's failure ("" when that one did not fail).

    ``early``: tasks that ended before any attempt, as ``early_ends`` counts them.
    """

    failed: int = 0
    cause: str = ""
    early: Early = Early()

    @property
    def hopeless(self) -> bool:
        """Whether trying again unchanged makes no sense."""
        return self.cause in SAME_AGAIN


def tally(
    directory: Path,
    run: str,
    submissions: Sequence[Submission] = (),
    forgiven: int | None = None,
    present: Mapping[str, Any] | None = None,
) -> Tally:
    """Count failed attempts with a number above ``forgiven`` (0: all attempts count, what failed before the first one
    does not). ``present``: the SLURM task that asks, if one does.

    What failed after the newest attempt without making another counts too. An attempt that a signal stopped does not.
    One that ended without a word counts unless it had saved something of its own, or its whole task was lost and came
    back. Raises ``RecordError`` for damaged files.
    """
    made = attempts(directory / run)
    note = read_note(directory, run)
    if not made:
        tries = int(note["tries"]) if note is not None and note["attempt"] == "" and forgiven is None else 0
        return Tally(tries, str(note.get("cause") or "error")) if note is not None and tries else Tally()
    failed, cause = 0, ""
    for attempt, later in zip(made, [*made[1:], None], strict=True):
        after = ((owner(later) or {}).get("slurm") if later is not None else present) or {}
        cause = _cause(attempt, after)
        if later is None:
            cause = _newest_cause(directory, run, attempt, cause, note, submissions)
        failed += bool(cause) and int(attempt.name) > (forgiven or 0)
    if int(made[-1].name) <= (forgiven or 0):
        return Tally(failed)
    again = int(note.get("again", 0)) if note is not None and note["attempt"] == made[-1].name else 0
    return Tally(failed + again, str((again and note and note.get("cause")) or cause))


def _cause(attempt: Path, after: Mapping[str, Any]) -> str:
    """Why an attempt failed; "" when it did not. ``after``: the SLURM task of the attempt that followed."""
    end = ended(attempt)
    if end is not None:
        return (end["cause"] or "error") if end["status"] == "failed" else ""
    if is_alive(attempt) or has_saved(attempt):
        return ""
    mine = (owner(attempt) or {}).get("slurm") or {}
    restarted = mine and mine["task"] == after.get("task") and mine["restart"] < after["restart"]
    return "" if restarted else "exit"


def _newest_cause(
    directory: Path,
    run: str,
    attempt: Path,
    cause: str,
    note: Mapping[str, Any] | None,
    submissions: Sequence[Submission],
) -> str:
    """What its launcher and SLURM saw of the newest attempt is more than a killed process could say itself."""
    if ended(attempt) is not None or is_alive(attempt):
        return cause
    if note is not None and note["attempt"] == attempt.name:
        return str(note.get("cause") or "exit")
    seen = slurm_failure(directory, run, attempt, list(submissions))
    return cause if seen is None else seen.cause
