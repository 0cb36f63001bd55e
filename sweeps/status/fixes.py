"""The command that repairs a kind of failure, or shows more of it."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Sequence
from pathlib import Path

from sweeps.status.states import RunState

PLAN = "nmm sweep plan sweep=... out=NEW_DIR"


def go_on(directory: Path, slurm: bool) -> str:
    """The command that runs what is not done."""
    return f"nmm sweep launch {quoted(directory)}{' launcher=slurm' if slurm else ''}"


def quoted(path: Path | str) -> str:
    """For a shell, from wherever a person reads it."""
    return shlex.quote(str(Path(path).absolute()))


def fix(kind: str, runs: Sequence[RunState], directory: Path, slurm: bool) -> str:
    """What to do about runs that stand still for one reason: a cause of ``nmm.record``, "stale", "unreadable", "alarm".

    Commands in it stand between backticks.
    """
    again, mended = f"`{go_on(directory, slurm)}`", f"`{_mended(directory, slurm)}`"
    logs = f"`nmm sweep logs {runs[0].run.run_id} --dir {quoted(directory)}`"
    match kind:
        case "exit":
            return f"they go on from their last checkpoints: {again}"
        case "error":
            return f"read it with {logs}, mend what it names, then {mended}"
        case "oom":
            return _oom(runs, directory, slurm)
        case "disk":
            return f"{_free(directory)}; make room (`df -h {quoted(directory)}`), then {mended}"
        case "data":
            return f"look at the shard it names ({logs}), restore or index it again with `nmm index`, then {mended}"
        case "timeout" if slurm:
            longer = f"`{go_on(directory, slurm)} slurm.time=HH:MM:SS`"
            return f"their progress is kept; go on, with more time if need be: {longer}"
        case "timeout":
            return f"something was waited for too long, see {logs}; then {again}"
        case "config":
            return _config(runs, directory, slurm)
        case "nan":
            return (
                f"final, and left out of fits; see where it began with {logs}; for a lower peak plan into a new "
                f"directory: `{PLAN} optim.lr_width=LOWER`"
            )
        case "stale":
            return f"it holds its run but writes nothing: {_stop(runs[0])}, then {again}"
        case "unreadable":
            return f"the message names the file; move it away or restore it, then {again}"
        case _:
            return "compare the two results in the file, and find out which code or data differed before you use either"


def _mended(directory: Path, slurm: bool) -> str:
    """Run also what would have failed the same way before: job arrays leave that out unless told."""
    return go_on(directory, slurm) + (" retry=all" if slurm else "")


def _config(runs: Sequence[RunState], directory: Path, slurm: bool) -> str:
    if any("changed_code" in state.error for state in runs):
        again = _mended(directory, slurm)
        return f"put back the code that began them, then `{again}`; or go on with this: `{again} changed_code=accept`"
    logs = f"`nmm sweep logs {runs[0].run.run_id} --dir {quoted(directory)}`"
    return f"the message names the field ({logs}); plan again with it mended: `{PLAN}`"


def _oom(runs: Sequence[RunState], directory: Path, slurm: bool) -> str:
    shapes = sorted({f"{state.run.size} of {state.run.arch}" for state in runs})
    sizes = ",".join(sorted({state.run.size for state in runs}))
    more = "slurm.mem=MORE" if slurm else "workers=1"
    return (
        f"too large: {', '.join(shapes)}. More room: `{_mended(directory, slurm)} {more}`; or smaller micro-batches, "
        f"into a new directory: `{PLAN} 'sizes=[{sizes}]' trainer.micro_batches=4`"
    )


def _free(directory: Path) -> str:
    return f"{shutil.disk_usage(directory).free / 1e9:.1f} GB are free where the runs lie"


def _stop(state: RunState) -> str:
    kind, _, rest = state.where.partition(" ")
    name, _, host = rest.partition(" on ")
    match kind:
        case "task":
            return f"`scancel {name}`"
        case "process":
            return f"on {host} `kill {name}` (`kill -9 {name}` if it does not hear)"
        case _:
            return f"end the process that holds {Path(state.log).parent / 'lock'}"
