"""What the next runs are for, and everything else that `nmm sweep next` is asked."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from nmm.config import ConfigError

MAX_RUNS = 64
BEYOND = 4.0
QUANTITIES = "a parameter of the law (E, A, alpha, B, beta), a, b, N*(C), D*(C), loss(C) or loss(N=..., D=...)"
_GOAL = re.compile(r"\s*interval\s+of\s+(?P<quantity>\S.*?)\s+for\s+(?P<group>\S+)\s*")


@dataclass(frozen=True)
class Goal:
    """A quantity of the law of one architecture, of which the interval shall shrink."""

    quantity: str
    group: str

    def __str__(self) -> str:
        return f"interval of {self.quantity} for {self.group}"


@dataclass(frozen=True)
class Ask:
    """One request. budget: FLOPs of all new lines together; max_runs: lines of the manifest, trunks included.

    sizes, tokens: names and further token counts to offer; empty: sizes of the sweep and its family up to ``beyond``
    times the tested N, token counts of the sweep. fits: what ``nmm fit`` wrote, None to fit now. design_options,
    fit_options: further arguments of those commands, as they are.
    """

    goal: Goal
    budget: float
    max_runs: int = MAX_RUNS
    sizes: tuple[str, ...] = ()
    tokens: tuple[int, ...] = ()
    beyond: float = BEYOND
    fits: Path | None = None
    design_options: tuple[str, ...] = ()
    fit_options: tuple[str, ...] = ()


def parse_goal(text: str, groups: Collection[str]) -> Goal:
    """Read 'interval of alpha for early'. groups: the architectures of the sweep. Raises ``ConfigError``."""
    found = _GOAL.fullmatch(text)
    if found is None:
        raise ConfigError(
            f"--goal {text!r} must read 'interval of QUANTITY for GROUP', as in 'interval of alpha for early'; "
            f"QUANTITY is {QUANTITIES}; GROUP is one of {', '.join(sorted(groups))}"
        )
    goal = Goal(" ".join(found["quantity"].split()), found["group"])
    if goal.group not in groups:
        raise ConfigError(f"--goal {text!r}: the sweep has no {goal.group!r}, only {', '.join(sorted(groups))}")
    return goal
