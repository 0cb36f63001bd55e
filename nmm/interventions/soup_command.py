"""`nmm soup`: average models that were fine-tuned from one checkpoint."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nmm.config import ConfigError
from nmm.interventions.options import read_options
from nmm.interventions.soup_options import SoupOptions, soups_of

HELP = """usage: nmm soup RUN RUN ... data=SHARDS out=DIR [KEY=VALUE ...]

Average the weights of models that were fine-tuned from one checkpoint, in fp32. What is kept is decided by held-out
questions of one split, the numbers of the result are those of another. OUT is an export: nmm generate OUT,
nmm train start=run start.path=OUT, nmm export OUT. Run it again to go on where it was stopped.

  method=greedy             from the best member on, keep each next one that does not make the soup worse
         uniform            all                               maximum   the best=2 by their own scores
         individual_select  add the most useful member as long as the soup gets better
         model_stock        between the mean and the common start, tensor by tensor
  metric=accuracy|loss      of held-out answers, mean over the kinds of question (kinds=[count,colour]: of these)
  select=val report=test    the splits; rows=64 packed rows of each source (0: all)
  different_starts=accept   average models of different origin all the same (the result is usually no model)
  list=FILE                 many soups, a line each: {"runs": ["A", "B"], "method": "uniform", "out": "DIR"}

Every key: conf/soup.yaml.

examples: nmm soup outputs/ft/after outputs/ft/same data=outputs/shards/world out=outputs/soup
          nmm soup outputs/ft/lr_1 outputs/ft/lr_2 method=uniform data=outputs/shards/world out=outputs/mean
"""


def soup_main(argv: Sequence[str]) -> int:
    """Parse the command line, make the soup (or those of a list), say what was made."""
    if not argv or any(a in ("-h", "--help") for a in argv):
        print(HELP, end="")
        return 0 if argv else 2
    runs = tuple(word for word in argv if "=" not in word)
    options = read_options(SoupOptions, "soup", [word for word in argv if "=" in word], {"data": "shards"})
    if runs and options.runs:
        raise ConfigError(f"runs={list(options.runs)} and the words {' '.join(runs)}: give the members once")
    soups = soups_of(dataclasses.replace(options, runs=runs) if runs else options)
    from nmm.interventions.soup import make_soup  # torch only once the options are known to be right

    for soup in soups:
        print(_line(make_soup(soup), soup), flush=True)
    if options.list:
        print(f"{len(soups)} soups of {options.list} are made")
    return 0


def _line(made: dict[str, Any], soup: SoupOptions) -> str:
    """What was made, in one line."""
    mine, best = (marks[soup.report][soup.metric]["avg"] for marks in (made["marks"], made["best_single"]["marks"]))
    chosen = ", ".join(Path(made["members"][i]["path"]).name for i in made["chosen"])
    return (
        f"{soup.method} of {len(made['chosen'])} of {len(made['members'])} members ({chosen}): {soup.report} "
        f"{soup.metric} {mine:.4f}, best single {best:.4f}, {made['evaluations'][soup.select]} passes over "
        f"{soup.select} to choose: {soup.out}"
    )
