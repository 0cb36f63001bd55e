"""What a step costs by width, precision and compilation: where `precision: auto` and `compile: auto` come from.

    python benchmarks/step_speed.py [--archs early moe] [--sizes d32 d64] [--steps 30]

Prints milliseconds a step (median) and the ratio against plain eager fp32, measured in turn in the same process.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import tempfile
import time
from pathlib import Path

import torch

from nmm.batch import Batch
from nmm.compose import compose
from nmm.config import RunConfig
from nmm.data.shards import write_shards
from nmm.data.world import WorldConfig
from nmm.model.build import build
from nmm.model.loss import balance_loss, target_losses
from nmm.resolve import finalize
from nmm.training.numerics import compile_blocks, prepare_process
from nmm.training.optim import build_optimizer
from nmm.training.run import rows_of, shards_of

VARIANTS = (("fp32", False), ("fp32", True), ("bf16", False), ("bf16", True))


def batches(config: RunConfig, count: int) -> list[Batch]:
    """The first ``count`` real training batches."""
    from nmm.data.loader import to_torch

    rows, n = rows_of(shards_of(config), config), config.trainer.rows_per_step
    return [to_torch(rows.rows_at(i * n, n)) for i in range(count)]


def step_milliseconds(config: RunConfig, precision: str, compiled: bool, data: list[Batch]) -> float:
    """Median milliseconds of forward, backward and update after five steps of warming up."""
    model = build(config)
    optimizer = build_optimizer(model, config)
    if compiled:
        compile_blocks(model)
    times = []
    for batch in data:
        start = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            output = model(batch)
        loss = target_losses(output, batch).sum() / batch.weights.sum() + 0.01 * balance_loss(output) / len(
            batch.tokens
        )
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        times.append(time.perf_counter() - start)
    return 1e3 * statistics.median(times[5:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--archs", nargs="+", default=["early", "late", "moe"])
    parser.add_argument("--sizes", nargs="+", default=["d16", "d32", "d64", "d128"])
    parser.add_argument("--steps", type=int, default=30)
    args = parser.parse_args()
    prepare_process(1)
    with tempfile.TemporaryDirectory() as folder:
        shards = Path(folder) / "shards"
        counts = {"caption": {"train": 600}, "interleaved": {"train": 300}, "text": {"train": 200}}
        write_shards(WorldConfig(), shards, counts, progress=False)
        print(f"{'arch':6} {'size':5} " + " ".join(f"{p}{'+compile' if c else '':8}".rjust(22) for p, c in VARIANTS))
        for arch in args.archs:
            for size in args.sizes:
                config = compose([f"arch={arch}", f"size={size}", f"data.path={shards}", "budget.steps=100"])
                config = finalize(dataclasses.replace(config, out=folder))
                data = batches(config, args.steps + 5)
                times = [step_milliseconds(config, p, c, data) for p, c in VARIANTS]
                cells = [f"{t:8.1f} ms {times[0] / t:6.2f}x" for t in times]
                print(f"{arch:6} {size:5} " + " ".join(cell.rjust(22) for cell in cells), flush=True)


if __name__ == "__main__":
    main()
