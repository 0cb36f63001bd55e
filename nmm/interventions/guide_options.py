"""The options of `nmm guide`. No torch."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nmm.config import ConfigError
from nmm.interventions.options import read_options

CONTROLS = ("none", "random", "permuted", "other_pictures")
PARALLEL = ("none", "threads", "processes")
TEXTS = ("base", "expert", "amateur", "source", "prompt", "shards", "ids", "logits", "json")
YES = {"yes": "true", "no": "false"}
PLAIN = re.compile(r"[\w./@-]+")


@dataclass(frozen=True)
class GuideOptions:
    """conf/guide.yaml explains every field. Raises ConfigError for values that are not possible."""

    base: str = ""
    expert: str = ""
    amateur: str = ""
    alpha: float = 0.5
    source: str = ""
    split: str = "val"
    count: int = 4
    prompt: str = ""
    shards: str = ""
    ids: str = ""
    max_new_tokens: int | None = None
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    batch_rows: int = 64
    control: str = "none"
    device: str = "cpu"
    parallel: str = "none"
    processes: int = 3
    timeout: float = 600.0
    nll: tuple[float, ...] = ()
    nll_rows: int = 64
    stats: bool = False
    logits: str = ""
    json: str = ""

    def __post_init__(self) -> None:
        for name, allowed in (("control", CONTROLS), ("parallel", PARALLEL), ("processes", (2, 3))):
            if getattr(self, name) not in allowed:
                said = ", ".join(map(str, allowed))
                raise ConfigError(f"{name}={getattr(self, name)} is not one of {said}")
        wrong = [alpha for alpha in (self.alpha, *self.nll) if not math.isfinite(alpha)]
        if wrong:
            raise ConfigError(f"alpha={wrong[0]} must be a finite number; 0 is the base alone")
        if self.count < 0 or (self.count == 0 and not self.nll):
            raise ConfigError(f"count={self.count} must be at least 1, or 0 with alphas to measure, as nll=[0,0.5]")
        if self.nll_rows < 1:
            raise ConfigError(f"nll_rows={self.nll_rows} must be at least 1")
        if self.timeout <= 0:
            raise ConfigError(f"timeout={self.timeout} must be a positive number of seconds")
        if not self.base:
            raise ConfigError("give base=RUN, the large model that is to be guided")
        if not (self.expert or self.amateur):
            raise ConfigError("give expert=RUN, amateur=RUN or both; `nmm generate` is what a run says unguided")
        if self.control != "none" and not self.expert:
            raise ConfigError(f"control={self.control} changes what the expert adds; give expert=RUN")
        if self.parallel == "processes":
            self._check_processes()

    def _check_processes(self) -> None:
        if self.nll:
            raise ConfigError("nll is measured in one process; leave out parallel=processes or nll")
        if self.processes == 3 and not (self.expert and self.amateur):
            raise ConfigError("processes=3 is a base, an expert and an amateur; with one guide give processes=2")

    @property
    def guides(self) -> dict[str, Path]:
        """Run directories of the guides that there are."""
        given = {"expert": self.expert, "amateur": self.amateur}
        return {name: Path(path) for name, path in given.items() if path}


def guide_options(argv: Sequence[str]) -> GuideOptions:
    """From the command line. Paths and words may hold what Hydra would take for its own grammar."""
    return read_options(
        GuideOptions, "guide", [_quoted(argument) for argument in argv], runs=("base", "expert", "amateur")
    )


def _quoted(argument: str) -> str:
    key, sign, value = argument.partition("=")
    if key == "stats":
        return f"{key}{sign}{YES.get(value, value)}"
    if key not in TEXTS or not value or PLAIN.fullmatch(value) or value[0] in "'\"":
        return argument
    escaped = value.replace("\\", "\\\\").replace("'", "\\'")
    return f"{key}{sign}'{escaped}'"
