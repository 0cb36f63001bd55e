"""Training steps of the mixture of experts (8 experts, top-1) against the dense model of the same active size.

    python benchmarks/moe_speed.py [--sizes d64 d128] [--rows 4 16] [--turns 9]

Both in one process, a step of one and a step of the other in turn, eager and compiled: the median over the turns of the
ratio of processor times (one thread), with its range. The goal is 70 % of the dense model's tokens a second.
"""

from __future__ import annotations

import argparse
import statistics

import torch
from _steps import bare_module, checked, clocks, made_up_rows, since

from nmm.batch import Batch
from nmm.compose import compose
from nmm.training.module import TrainingModule
from nmm.training.numerics import Numerics, prepare_process


def make(arch: str, size: str, rows: int, compiled: bool) -> tuple[TrainingModule, Batch]:
    """A module and the rows of its steps."""
    settings = [f"arch={arch}", f"size={size}", f"trainer.rows_per_step={rows}", "budget.steps=100000"]
    config = checked(compose([*settings, "data.vocab_size=600"]))
    module = bare_module(config, torch.device("cpu"), Numerics("fp32", compiled))
    return module, made_up_rows(config, rows)


def turn(module: TrainingModule, batch: Batch, steps: int) -> float:
    """Processor seconds a step."""
    start = clocks()
    for step in range(steps):
        module.training_step(batch, step)
    return since(start)[1] / steps


def main() -> None:
    """One line for each size, number of rows and way of running."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", default=["d64", "d128"])
    parser.add_argument("--rows", nargs="+", type=int, default=[4, 16])
    parser.add_argument("--turns", type=int, default=9)
    parser.add_argument("--steps", type=int, default=4, help="of each model in a turn")
    options = parser.parse_args()
    prepare_process(1)
    for size in options.sizes:
        for rows in options.rows:
            for compiled in (False, True):
                pair = [make(arch, size, rows, compiled) for arch in ("early", "moe")]
                for module, batch in pair:
                    turn(module, batch, 3)
                ratios = []
                for _ in range(options.turns):
                    dense, sparse = (turn(module, batch, options.steps) for module, batch in pair)
                    ratios.append(dense / sparse)
                way = "compiled" if compiled else "eager   "
                spread = f"{min(ratios):.2f}-{max(ratios):.2f} in {options.turns} turns"
                print(
                    f"{size:5} {rows * 128:5} tokens, {way}: moe has {statistics.median(ratios):.2f} of dense tokens/s "
                    f"({spread}; dense {dense * 1e3:.1f} ms a step)",
                    flush=True,
                )


if __name__ == "__main__":
    main()
