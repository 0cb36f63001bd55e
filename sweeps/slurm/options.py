"""What `nmm sweep launch DIR launcher=slurm` can be told: slurm.* keys, checked before anything is submitted."""

from __future__ import annotations

import dataclasses
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from nmm.config import ConfigError

DEFAULT_ENV = Path("slurm") / "env.sh"
UNITS = {"s": 1, "sec": 1, "min": 60, "m": 60, "h": 3600, "d": 86400}
# What finding, stopping and resuming tasks hangs on. sbatch takes shortened names too, and -a0-3 as -a 0-3.
LAUNCHERS_OWN = (
    "--array", "--job-name", "--output", "--wrap", "--parsable", "--dependency", "--signal", "--requeue",
    "--no-requeue", "--open-mode",
)  # fmt: skip
LAUNCHERS_OWN_SHORT = re.compile(r"-[hHIkOQuvVW]*[aJod]")  # after letters that take no value
SAVE_SHARE = 5 / 6  # of the time between the signal and the end; the rest is for leaving and asking for the task again


@dataclass(frozen=True)
class SlurmOptions:
    """Seconds are wall time of one task. "" and 0: SLURM's own default, or for ``cpus`` what the runs' threads need."""

    partition: str = ""
    account: str = ""
    time: str = ""
    max_parallel: int = 0
    chunk_seconds: float = 1800.0
    cpus: int = 0
    gres: str = ""
    mem: str = ""
    extra: tuple[str, ...] = ()
    workers: int = 1
    attempts: int = 3
    requeues: int = 20
    signal_seconds: int = 180
    env: str = ""
    dry_run: bool = False

    @property
    def useful_seconds(self) -> float | None:
        """What a task's time limit leaves for work before the signal; None without a limit of ours."""
        return time_limit(self.time) - self.signal_seconds if self.time else None


KEYS = (
    "partition", "account", "time", "max_parallel", "chunk", "cpus", "gres", "mem", "extra", "workers", "attempts",
    "requeues", "signal_seconds", "env", "dry_run",
)  # fmt: skip
LEAST = {"max_parallel": 1, "cpus": 1, "workers": 1, "attempts": 1, "requeues": 0, "signal_seconds": 1}
TIME_FORMS = r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?"


def parse_options(given: Mapping[str, str], here: Path) -> SlurmOptions:
    """``given``: slurm.* keys without their prefix. Relative paths count from ``here``.

    Raises ``ConfigError`` for an unknown key or a value that cannot be.
    """
    unknown = [key for key in given if key not in KEYS]
    if unknown:
        names = ", ".join(f"slurm.{key}" for key in unknown)
        raise ConfigError(f"unknown option {names}; allowed: {', '.join(f'slurm.{key}' for key in KEYS)}")
    values: dict[str, object] = {key: given[key] for key in ("partition", "account", "gres", "mem") if key in given}
    values |= {key: whole(f"slurm.{key}", given[key], least) for key, least in LEAST.items() if key in given}
    if "chunk" in given:
        values["chunk_seconds"] = duration_seconds("slurm.chunk", given["chunk"])
    if "extra" in given:
        values["extra"] = _extra(given["extra"])
    options = SlurmOptions(time=given.get("time", ""), env=_environment(given.get("env"), here), **values)  # type: ignore[arg-type]
    useful = options.useful_seconds
    if useful is not None and useful <= 0:
        raise ConfigError(
            f"slurm.time={options.time} is over before work begins: the signal comes {options.signal_seconds} s ahead "
            "of the end; give more time, or a smaller slurm.signal_seconds"
        )
    return dataclasses.replace(options, dry_run=yes_or_no("slurm.dry_run", given.get("dry_run", "no")))


def whole(key: str, text: str, least: int) -> int:
    """A whole number of at least ``least``, else ``ConfigError``."""
    if not text.isdecimal() or int(text) < least:
        raise ConfigError(f"{key}={text} must be a whole number of at least {least}")
    return int(text)


def yes_or_no(key: str, text: str) -> bool:
    """yes | no, else ``ConfigError``."""
    if text not in ("yes", "no"):
        raise ConfigError(f"{key}={text} is not one of yes, no")
    return text == "yes"


def duration_seconds(key: str, text: str) -> float:
    """Such as "90s", "30min", "2h" or "1d" as seconds, else ``ConfigError``."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([a-z]+)", text)
    if not found or found[2] not in UNITS or not float(found[1]):
        raise ConfigError(f"{key}={text} is not a duration; allowed: a number and {', '.join(UNITS)}, as in 30min")
    return float(found[1]) * UNITS[found[2]]


def time_limit(text: str) -> float:
    """sbatch's ways to write a time limit, as seconds: 30 (minutes), 30:00, 4:00:00, 2-0, 2-12:00, 2-12:00:00.

    Raises ``ConfigError`` for anything else.
    """
    found = re.fullmatch(TIME_FORMS, text)
    if not found:
        raise ConfigError(f"slurm.time={text} is not a time limit; allowed: minutes, M:S, H:M:S, D-H, D-H:M, D-H:M:S")
    days, *rest = found.groups()
    fields = [int(field) for field in rest if field is not None]
    if days is not None:
        hours, minutes, seconds = [*fields, 0, 0][:3]
        return int(days) * 86400 + hours * 3600 + minutes * 60 + seconds
    hours, minutes, seconds = {1: [0, *fields, 0], 2: [0, *fields], 3: fields}[len(fields)]
    return hours * 3600 + minutes * 60 + seconds


def _extra(text: str) -> tuple[str, ...]:
    try:
        words = tuple(shlex.split(text))
    except ValueError as error:
        raise ConfigError(f"slurm.extra={text!r} cannot be split into words ({error})") from None
    for word in words:
        long = word.startswith("--") and any(own.startswith(word.partition("=")[0]) for own in LAUNCHERS_OWN)
        if long or LAUNCHERS_OWN_SHORT.match(word):
            raise ConfigError(f"slurm.extra={text!r}: {word} is set by the launcher itself")
    return words


def _environment(given: str | None, here: Path) -> str:
    """The file that tasks source first; without one asked for, slurm/env.sh where there is one."""
    path = here / (given or DEFAULT_ENV)
    if path.is_file():
        return str(path)
    if given:
        raise ConfigError(f"slurm.env={given}: there is no such file ({path}); copy slurm/env.example.sh and adapt it")
    return ""
