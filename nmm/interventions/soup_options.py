"""What one soup is: conf/soup.yaml as a value, checked. No torch."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nmm.config import ConfigError, group_from_dict

METHODS = ("uniform", "greedy", "individual_select", "maximum", "model_stock")
METRICS = ("accuracy", "loss")
_CHOICES = {
    "method": METHODS,
    "metric": METRICS,
    "different_starts": ("refuse", "accept"),
    "vocabulary": ("check", "trust"),
}


@dataclass(frozen=True)
class SoupOptions:
    """Every key of conf/soup.yaml. ``shards`` is written data= on the command line."""

    runs: tuple[str, ...] = ()
    method: str = "greedy"
    best: int = 2
    metric: str = "accuracy"
    shards: str = ""
    sources: tuple[str, ...] = ()
    kinds: tuple[str, ...] = ()
    select: str = "val"
    report: str = "test"
    rows: int = 64
    start: str = ""
    different_starts: str = "refuse"
    vocabulary: str = "check"
    scores: str = ""
    list: str = ""
    out: str = ""

    @property
    def is_higher_better(self) -> bool:
        """Accuracies are to be high, losses low."""
        return self.metric == "accuracy"


def check(options: SoupOptions) -> SoupOptions:
    """The same options. Raises ``ConfigError`` with the field, its value and what is allowed."""
    for name, allowed in _CHOICES.items():
        value = getattr(options, name)
        if value not in allowed:
            raise ConfigError(f"{name}={value} is not one of {', '.join(allowed)}")
    for name, what in (("shards", "data=SHARDS, the folder whose questions are asked"), ("out", "out=DIR")):
        if not getattr(options, name):
            raise ConfigError(f"a soup needs {what}; see nmm soup --help")
    if not options.runs:
        raise ConfigError(
            "a soup needs members: give run directories or exports, e.g. nmm soup RUN RUN data=SHARDS ..."
        )
    if len(set(options.runs)) < len(options.runs):
        twice = next(run for run in options.runs if options.runs.count(run) > 1)
        raise ConfigError(f"runs names {twice} twice; a member counts once")
    if options.select == options.report:
        raise ConfigError(
            f"select={options.select} is also report: numbers of the split that chose the members say too much good of "
            "them; use another split"
        )
    if options.rows < 0:
        raise ConfigError(f"rows={options.rows} must be at least 1, or 0 for all there are")
    if options.method == "maximum" and not 1 <= options.best <= len(options.runs):
        raise ConfigError(f"best={options.best} must lie in 1..{len(options.runs)}, the number of members")
    if "caption" in options.kinds and options.metric == "accuracy":
        raise ConfigError("kinds=[caption] has no accuracy, a picture can be told in many ways; use metric=loss")
    return options


def soups_of(options: SoupOptions) -> list[SoupOptions]:
    """The one soup that ``options`` describe, or those of the file ``options.list``, a line each.

    Raises ``ConfigError`` naming file and line.
    """
    if not options.list:
        return [check(options)]
    file = Path(options.list)
    if not file.is_file():
        raise ConfigError(f"list={options.list}: no such file")
    common = {k: v for k, v in dataclasses.asdict(options).items() if k != "list"}
    soups = []
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1):
        if line.strip():
            try:
                soups.append(check(group_from_dict(SoupOptions, {**common, **_mapping(line)})))
            except (ConfigError, json.JSONDecodeError) as error:
                raise ConfigError(f"{file}, line {number}: {error}") from error
    outs = [soup.out for soup in soups]
    if twice := sorted({out for out in outs if outs.count(out) > 1}):
        raise ConfigError(f"{file}: two soups are to be written to {twice[0]}")
    return soups


def _mapping(line: str) -> Mapping[str, Any]:
    values = json.loads(line)
    if not isinstance(values, dict):
        raise ConfigError(f"{line[:60]!r} is not an object with keys of conf/soup.yaml")
    return values
