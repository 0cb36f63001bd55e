"""`nmm`: a thin dispatcher. Each command's code is imported only when the command is called."""

from __future__ import annotations

import os
import sys
from importlib import import_module

from nmm.config import ConfigError
from nmm.record import RecordError

HELP = """usage: nmm COMMAND [ARGUMENTS]        (nmm COMMAND --help explains one)

  shards     render a data source into WebDataset tars      nmm shards data=world out=outputs/shards/world
  index      make ready the shards that you have            nmm index 'laion/*.tar' --tokenizer bytes
  data       what training data is made of and looks like   nmm data stats; nmm data view --out rows.html
  train      one run, or several with -m                    nmm train arch=early size=d32 budget.tokens=1000000
  describe   parameters, FLOPs, memory, hours; no training  nmm describe arch=early size=932m
  export     weights of a run as safetensors + config       nmm export RUN --out outputs/early_d32
  generate   what a run says to pictures and words          nmm generate RUN --source caption --count 4
  filter     keep samples that a run finds least surprising nmm filter data=DIR reference=RUN keep=0.2 out=DIR2
  sweep      plan, launch, status, table of many runs       nmm sweep plan sweep=demo out=outputs/demo/runs
  exam       mark answers of models, guided ones, votes     nmm exam plan=PLAN.json out=MARKS.jsonl
  guide      a large run guided by two small ones          nmm guide base=BIG expert=TUNED amateur=SMALL alpha=0.5
  recaption  tell pictures anew with a captioning run       nmm recaption data=DIR model=RUN merge=fuse out=DIR2
  rft        tune what a run answers, by rewards            nmm rft run=RUN out=outputs/rft/d16 steps=200
  soup       the mean of models tuned from one checkpoint   nmm soup RUN RUN data=SHARDS out=outputs/soup
  intervention  what a recipe is worth: study, then page    nmm intervention filter out=outputs/filter scale=tiny
  fit        laws with intervals from finished runs         nmm fit outputs/demo/runs --out outputs/demo/fits.json
  predict    loss of runs nobody trained, and was it tested nmm predict fits.json --n 7e9 --d 2e12
  allocate   best N and D for a budget                      nmm allocate fits.json --c 1e22
  compare    two groups at equal loss                       nmm compare fits.json --groups early,late
  design     which runs to add next                         nmm design fits.json --quantity beta --budget 1e21
  simulate   a table of runs from a known law               nmm simulate --truth early --paper-design --out runs.csv
  report     the page: verdicts, plots, tables              nmm report outputs/demo/runs --fits outputs/demo/fits.json
"""

# command -> its file in nmm/interventions
METHODS = {
    "exam": "exam",
    "filter": "filter_command",
    "guide": "guide_command",
    "recaption": "recaption_command",
    "rft": "rft",
    "soup": "soup_command",
}


def main(argv: list[str] | None = None) -> int:
    """Run one command; a user's mistake ends in one line on stderr and exit code 2."""
    argv = sys.argv[1:] if argv is None else argv
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(HELP, end="")
        return 0
    command, rest = argv[0], argv[1:]
    try:
        return _dispatch(command, rest)
    except (ConfigError, RecordError, ValueError, FileNotFoundError) as error:
        print(f"nmm {command}: {error}", file=sys.stderr)
        return 2


def _dispatch(command: str, rest: list[str]) -> int:
    match command:
        case "train":
            # a process of its own: ranks of a multi-process run re-run exactly this command line
            os.execv(sys.executable, [sys.executable, "-m", "nmm.train", *rest])
        case "shards":
            from nmm.commands import shards_main

            return shards_main(rest)
        case "data":
            from nmm.data_command import data_main

            return data_main(rest)
        case "index":
            from nmm.index_command import index_main

            return index_main(rest)
        case "describe":
            from nmm.describe import describe_main

            return describe_main(rest)
        case "export":
            from nmm.export import export_main

            return export_main(rest)
        case "generate":
            from nmm.generate_command import generate_main

            return generate_main(rest)
        case command if command in METHODS:
            module = import_module(f"nmm.interventions.{METHODS[command]}")
            return int(getattr(module, f"{command}_main")(rest))
        case "sweep":
            from sweeps.commands import main as sweep_main

            return sweep_main(rest)
        case "intervention":
            return _intervention(rest)
        case "fit" | "predict" | "allocate" | "compare" | "design" | "simulate" | "report":
            module = import_module(f"analysis.commands.{command}")
            return int(getattr(module, f"{command}_main")(rest))
        case _:
            raise ConfigError(f"unknown command\n\n{HELP}")


def _intervention(rest: list[str]) -> int:
    """`nmm intervention`: a study, or with "page" only the drawing of its results."""
    if rest[:1] == ["page"]:
        from analysis.commands.intervention import page_main

        return page_main(rest[1:])
    from sweeps.interventions.command import intervention_main

    return intervention_main(rest)


if __name__ == "__main__":
    sys.exit(main())
