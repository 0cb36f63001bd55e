"""``nmm intervention METHOD``: read arguments, import the one method that was asked for, run its study."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console

from nmm.config import ConfigError
from nmm.record import RecordError
from sweeps.interventions.protocol import METHODS, SCALES, Study
from sweeps.interventions.steps import STOPPED, run_study, workplace
from sweeps.manifest import SweepError

USAGE = """\
usage: nmm intervention METHOD out=DIR [scale=cpu|tiny] [workers=N]
       nmm intervention page DIR [--out FOLDER]

Runs a whole study: control and treatments on the same data, sizes and seeds, everything charged, then a page with the
verdict. Stop it whenever you like; the same command goes on.

  filter   acts on data: keep the documents that a reference model finds likely (perplexity filtering)
  soup     acts on weights: average fine-tuned models (weight soups)
  pieces   acts on the architecture: dual encoder, tiles with a thumbnail, pixel shuffle
  bridge   acts on the initialisation: random labels on pictures between language and vision
  guide    acts on decoding: a small expert tuned by rewards guides a larger model

  out=DIR      where everything lies: DIR/page/index.html, DIR/study.json, DIR/results.jsonl, DIR/logs
  scale=cpu    the study as it is meant, on two cores (up to an hour); tiny: minutes, to look at the machinery
  workers=1    processes at a time of what can run side by side

  page DIR     draw the page again from DIR/study.json and DIR/results.jsonl

example:
  nmm intervention filter out=outputs/interventions/filter_tiny scale=tiny
"""
KEYS = ("out", "scale", "workers")


def intervention_main(argv: Sequence[str]) -> int:
    """Dispatch ``nmm intervention METHOD ...``. Returns the exit status; a mistake or a failed step is 2."""
    if not argv or "-h" in argv or "--help" in argv:
        print(USAGE, end="")
        return 0 if argv else 2
    try:
        return _run(argv[0], _arguments(argv[1:]))
    except (ConfigError, SweepError, RecordError) as error:
        print(f"nmm intervention {argv[0]}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:  # between two steps; a step's command is told by itself
        print("stopped; the same command goes on from there", file=sys.stderr)
        return STOPPED + signal.SIGINT


def _run(method: str, given: dict[str, str]) -> int:
    make = study_of(method)
    if not given.get("out"):
        raise ConfigError(f"out= is missing; e.g. nmm intervention {method} out=outputs/interventions/{method}")
    scale, workers = given.get("scale", "cpu"), given.get("workers", "1")
    if scale not in SCALES:
        raise ConfigError(f"scale={scale} is not one of {', '.join(SCALES)}")
    if not workers.isdecimal() or int(workers) < 1:
        raise ConfigError(f"workers={workers} is not a whole number of at least 1")
    out = Path(given["out"]).absolute()
    with workplace(out, method, scale):
        return run_study(make(out, scale), out, int(workers), Console())


def study_of(method: str) -> Callable[[Path, str], Study]:
    """The function that describes the study of ``method``. Raises ``ConfigError`` for a name that is none."""
    match method:
        case "filter":
            from sweeps.interventions.filter import study
        case "soup":
            from sweeps.interventions.soup import study
        case "pieces":
            from sweeps.interventions.pieces import study
        case "bridge":
            from sweeps.interventions.bridge import study
        case "guide":
            from sweeps.interventions.guide import study
        case _:
            raise ConfigError(f"there is no intervention {method!r}; there are {', '.join(METHODS)}, and page DIR")
    return study


def _arguments(argv: Sequence[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for argument in argv:
        key, sign, value = argument.partition("=")
        if not sign or key not in KEYS:
            raise ConfigError(f"{argument!r}: give key=value with a key of {', '.join(KEYS)}; see --help")
        found[key] = value
    return found
