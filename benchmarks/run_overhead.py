"""What a run costs beyond its training steps, in a process that has imported everything, as a launcher's worker has.

    python benchmarks/run_overhead.py [--shards DIR] [--archs early late moe] [--size d16] [--steps 50] [--repeats 5]

The steps alone: forward, backward, clipping and update on batches that are already there, without Lightning, loader,
logging or checkpoints. Everything else a run does (data order, model, Trainer, loop, batches, metrics, checkpoint,
evaluation, record) is "beyond". Prints medians over the repeats, of wall time and (in brackets) of processor time,
which a busy machine does not stretch. Without --shards a small world is rendered first.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path

import torch
from _steps import Seconds, bare_module, clocks, since

from nmm.compose import compose
from nmm.config import RunConfig, run_id
from nmm.data.loader import to_torch
from nmm.data.shards import samples_for_tokens, write_shards
from nmm.data.world import WorldConfig
from nmm.resolve import finalize
from nmm.training.module import TrainingModule
from nmm.training.numerics import Numerics
from nmm.training.run import _evaluate, execute, rows_of, shards_of

TRAIN_TOKENS = 600_000
EVAL_SAMPLES = 3_000


def make_config(arguments: argparse.Namespace, folder: Path, arch: str, seed: int) -> RunConfig:
    """One run as the launcher would make it, eager."""
    settings = [f"arch={arch}", f"size={arguments.size}", f"seed={seed}", f"budget.steps={arguments.steps}"]
    quiet = ["trainer.compile=off", "trainer.progress=false", f"out={folder / 'runs'}"]
    return finalize(compose([*settings, *quiet, f"data.path={arguments.shards or folder / 'shards'}"]))


def render(folder: Path) -> None:
    """Shards of about 600,000 training tokens."""
    world = WorldConfig()
    mixture = {"caption": 0.45, "interleaved": 0.45, "text": 0.10}
    train = samples_for_tokens(world, TRAIN_TOKENS, mixture)
    counts = {source: {"train": count, "val": EVAL_SAMPLES} for source, count in train.items()}
    write_shards(world, folder / "shards", counts)


def alone(config: RunConfig) -> TrainingModule:
    """A module without Lightning's loop around it, eager."""
    return bare_module(config, torch.device("cpu"), Numerics("fp32", False))


def seconds_of_steps(config: RunConfig) -> Seconds:
    """The run's steps and nothing else."""
    rows, n = rows_of(shards_of(config), config), config.trainer.rows_per_step
    batches = [to_torch(rows.rows_at(step * n, n)) for step in range(config.total_steps)]
    module, start = alone(config), clocks()
    for step, batch in enumerate(batches):
        module.training_step(batch, step)
    return since(start)


def seconds_of_evaluation(config: RunConfig) -> Seconds:
    """The final evaluation."""
    module, start = alone(config), clocks()
    _evaluate(config, module)
    return since(start)


def seconds_of_run(config: RunConfig) -> Seconds:
    """The whole run, from config to record."""
    start = clocks()
    execute(config, Path(config.out) / run_id(config))
    return since(start)


def median(values: list[Seconds]) -> str:
    """ "0.50 s (0.45 s)"."""
    wall, processor = (statistics.median(v) for v in zip(*values, strict=True))
    return f"{wall:.2f} s ({processor:.2f} s)"


def main() -> None:
    """Measure in turn, so that a busy machine slows all parts alike, and print one line for each architecture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", default="")
    parser.add_argument("--archs", nargs="+", default=["early", "late", "moe"])
    parser.add_argument("--size", default="d16")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if not arguments.shards:
            render(folder)
        for arch in arguments.archs:
            seconds_of_run(make_config(arguments, folder, arch, seed=1000))  # decodes the shards, warms the process
            steps, runs, evaluations = [], [], []
            for seed in range(arguments.repeats):
                config = make_config(arguments, folder, arch, seed)
                steps.append(seconds_of_steps(config))
                runs.append(seconds_of_run(config))
                evaluations.append(seconds_of_evaluation(config))
            beyond = [(r[0] - s[0], r[1] - s[1]) for r, s in zip(runs, steps, strict=True)]
            print(
                f"{arch} {arguments.size}, {arguments.steps} steps: run {median(runs)}, steps alone {median(steps)}, "
                f"beyond {median(beyond)}, of which evaluation {median(evaluations)}",
                flush=True,
            )


if __name__ == "__main__":
    main()
