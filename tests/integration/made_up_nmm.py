"""`nmm` with a made-up study in the place of the method pieces, and its page; every other command is the real one.

A study's steps are processes, so they are started through this file as well. The treatment learns ten times as fast.
At scale cpu nobody renders shards, so that it fails.
"""

from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nmm.cli import main
from sweeps.interventions import process
from sweeps.interventions.building import records, row_of, sweep_steps
from sweeps.interventions.protocol import WORKERS, Arm, Metric, Step, Study

if TYPE_CHECKING:  # seconds to import, in every process of the study
    from analysis.interventions.blocks import Block
    from analysis.interventions.rows import Data

GRID = {
    "name": "made_up",
    "archs": ["early"],
    "sizes": ["d16"],
    "trunks": False,
    "steps": [4],
    "seeds": [0],
    "overrides": ["schedule.warmup_steps=1", "data.eval_rows=2", "trainer.log_every_steps=2", "trainer.compile=off"],
}


def study(out: Path, scale: str) -> Study:
    shards = out / "shards"
    rendered = ("shards", "data=world", f"out={shards}", "train_tokens=2000", "eval_samples=30", "sheet=false")
    manifest = shards / "manifest.json"

    def spec() -> dict[str, Any]:
        spent = manifest.stat().st_size if scale == "tiny" else 0  # known once an earlier step is done
        arms = {"plain": [], "fast": ["optim.lr=0.05", f"intervention.charged_flops={spent}"]}
        return {**GRID, "overrides": [*GRID["overrides"], f"data.path={shards}"], "arms": arms}

    return Study(
        method="pieces",
        title="A made-up study",
        acts_on="architecture",
        claim="Ten times the learning rate is better (nobody, 2026).",
        control="plain",
        arms=(Arm("plain", "control", "as it is"), Arm("fast", "treatment", "ten times the learning rate")),
        metrics=(Metric("loss", "loss (nats / token)", "lower"),),
        measured_on="a world of a few hundred documents",
        steps=(
            *([Step("shards", (*rendered, f"workers={WORKERS}"), manifest)] if scale == "tiny" else []),
            *sweep_steps(out, "runs", spec),
        ),
        collect=lambda place: [row_of(r, loss=r["result"]["loss"]["avg"]) for r in records(place / "runs")],
    )


def blocks(data: Data) -> list[Block]:
    from analysis.interventions import tables

    return [tables.arms_table(data), tables.means_table(data)]


if __name__ == "__main__":
    for name, attribute, value in (
        ("sweeps.interventions.pieces", "study", study),
        ("analysis.interventions.pieces", "blocks", blocks),
    ):
        module = types.ModuleType(name)
        setattr(module, attribute, value)
        sys.modules[name] = module
    process.PROGRAM = (sys.executable, __file__)
    sys.exit(main())
