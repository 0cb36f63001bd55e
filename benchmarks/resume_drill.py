"""Kill a run at random moments with SIGKILL, start it again each time, and compare it with a run nobody disturbed.

    python benchmarks/resume_drill.py [--kills 5] [--archs early late moe] [--steps 60] [--seed 0] [--cold] [--compile]

Every attempt is a process of its own: forked from this one, which has imported everything and computed nothing, or
with --cold a fresh interpreter. Every second kill waits for the moment a checkpoint is being written. Runs accumulate
over two micro-batches. Compared bit for bit: final weights, held-out losses, entropies, order of samples, and every row
of metrics that any attempt has logged. Ends with exit code 1 if anything differs.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import multiprocessing
import os
import random
import sys
import tempfile
import time
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from nmm.compose import compose
from nmm.config import RunConfig, from_dict, run_id, to_dict
from nmm.data.shards import write_shards
from nmm.data.world import WorldConfig
from nmm.record import attempts, read_record
from nmm.resolve import finalize

LEFT_AT_THE_END = 8  # no kill in the last steps, or the run would be over before it
PATIENCE_SECONDS = 300.0


@dataclass(frozen=True)
class Drill:
    """What one drill found. ``differing`` names everything that is not bit-equal; empty is what it should be."""

    arch: str
    killed_at: list[int]
    while_writing: int
    steps: int
    steps_made: int
    rows: int
    weights: str
    differing: list[str]


def make_config(folder: Path, arch: str, steps: int, compiled: bool) -> RunConfig:
    """The smallest model of ``arch``, two micro-batches a step, a checkpoint every third step, every step logged."""
    return finalize(
        compose(
            [
                f"arch={arch}",
                "size=d16",
                f"data.path={folder / 'shards'}",
                "data.eval_rows=6",
                f"budget.steps={steps}",
                "schedule.warmup_steps=10",
                "trainer.micro_batches=2",
                "trainer.checkpoint_every_steps=3",
                "trainer.log_every_steps=1",
                f"trainer.compile={'on' if compiled else 'off'}",
                "trainer.progress=false",
                f"out={folder / 'disturbed'}",
            ]
        )
    )


def attempt(values: dict[str, Any]) -> None:
    """One process, one attempt."""
    from nmm.training.run import execute

    config = from_dict(values)
    execute(config, directory_of(config))


def directory_of(config: RunConfig) -> Path:
    """The run directory."""
    return Path(config.out) / run_id(config)


def start(config: RunConfig, method: str) -> BaseProcess:
    """Start an attempt in a process of its own."""
    context: Any = multiprocessing.get_context(method)
    process: BaseProcess = context.Process(target=attempt, args=(to_dict(config),))
    process.start()
    return process


def finish(config: RunConfig, method: str) -> None:
    """Run to the end, undisturbed."""
    process = start(config, method)
    process.join()
    if process.exitcode != 0:
        raise RuntimeError(f"{directory_of(config)}: the last attempt ended with exit code {process.exitcode}")


def kill_at(config: RunConfig, method: str, step: int, writing: bool, pause: float) -> tuple[int, bool]:
    """Start an attempt and kill it after ``step``; returns the last step it logged and whether it was writing then."""
    folder = directory_of(config) / "attempts" / f"{len(attempts(directory_of(config))) + 1:04d}"
    process, began = start(config, method), time.monotonic()
    while last_step(folder) < step or (writing and not half_written(folder)):
        if not process.is_alive():
            raise RuntimeError(
                f"{folder} ended by itself (exit code {process.exitcode}) before the kill at step {step}"
            )
        if time.monotonic() - began > PATIENCE_SECONDS:
            process.kill()
            raise RuntimeError(f"{folder} did not reach step {step} in {PATIENCE_SECONDS:.0f} s")
        time.sleep(0.0 if writing else 0.001)
    time.sleep(0.0 if writing else pause)
    process.kill()
    process.join()
    if process.exitcode != -9:
        raise RuntimeError(f"{folder} was over before the kill at step {step}; give it more --steps")
    return last_step(folder), half_written(folder)


def last_step(folder: Path) -> int:
    """The last step an attempt has logged."""
    rows = metric_rows(folder)
    return rows[-1]["step"] if rows else 0


def half_written(folder: Path) -> bool:
    """True while a checkpoint stands under its temporary name."""
    checkpoints = folder / "checkpoints"
    return checkpoints.is_dir() and any(name.endswith(".tmp") for name in os.listdir(checkpoints))


def metric_rows(folder: Path) -> list[dict[str, Any]]:
    """Whole lines of an attempt's metrics, without speeds."""
    file = folder / "metrics.jsonl"
    lines = file.read_text().split("\n")[:-1] if file.exists() else []
    return [{k: v for k, v in json.loads(line).items() if not k.endswith("_per_second")} for line in lines]


def compare(undisturbed: RunConfig, disturbed: RunConfig) -> tuple[list[str], int]:
    """Everything in which the two runs differ, and the number of rows of metrics compared."""
    one, other = (read_record(directory_of(config)) for config in (undisturbed, disturbed))
    assert one is not None and other is not None
    differing = [name for name in one["result"] if one["result"][name] != other["result"].get(name)]
    expected = {row_key(row): row for row in metric_rows(attempts(directory_of(undisturbed))[0])}
    seen = set()
    for folder in attempts(directory_of(disturbed)):
        for row in metric_rows(folder):
            seen.add(row_key(row))
            if row != expected.get(row_key(row)):
                differing.append(f"metrics of step {row['step']} in attempt {folder.name}")
    differing += [f"metrics of step {key[0]} are missing" for key in sorted(expected.keys() - seen)]
    return differing, len(expected)


def row_key(row: dict[str, Any]) -> tuple[int, bool]:
    """Step, and whether the row is of training or of evaluation."""
    return row["step"], "train_loss" in row


def drill(config: RunConfig, kills: int, rng: random.Random, method: str) -> Drill:
    """Kill ``kills`` times, finish, compare."""
    undisturbed = dataclasses.replace(config, out=str(Path(config.out).with_name("undisturbed")))
    finish(undisturbed, method)
    targets = sorted(rng.sample(range(1, config.total_steps - LEFT_AT_THE_END), kills))
    killed = [kill_at(config, method, step, i % 2 == 1, rng.uniform(0, 0.03)) for i, step in enumerate(targets)]
    finish(config, method)
    differing, rows = compare(undisturbed, config)
    made = sum(len({r["step"] for r in metric_rows(folder)}) for folder in attempts(directory_of(config)))
    record = read_record(directory_of(config))
    assert record is not None
    return Drill(
        arch=config.arch.name,
        killed_at=[step for step, _ in killed],
        while_writing=sum(writing for _, writing in killed),
        steps=config.total_steps,
        steps_made=made,
        rows=rows,
        weights=record["result"]["weights_sha256"],
        differing=differing,
    )


def show(found: Drill) -> None:
    """One line of the table."""
    verdict = "bit-equal" if not found.differing else "DIFFERS: " + ", ".join(found.differing[:5])
    killed = " ".join(str(step) for step in found.killed_at)
    print(
        f"{found.arch:6} killed after step {killed} of {found.steps}, {found.while_writing} times while writing a "
        f"checkpoint; {found.steps_made - found.steps} steps made twice; {found.rows} rows of metrics; "
        f"weights {found.weights[:12]}: {verdict}",
        flush=True,
    )


def main() -> int:
    """Drill every architecture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--archs", nargs="+", default=["early", "late", "moe"])
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0, help="decides the moments")
    parser.add_argument("--cold", action="store_true", help="a fresh interpreter for every attempt")
    parser.add_argument(
        "--compile", action="store_true", help="compiled steps; every attempt compiles or finds them cached"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON line for each architecture instead")
    arguments = parser.parse_args()
    if not arguments.cold:
        import nmm.training.run  # noqa: F401 - the children inherit it
    rng, failed = random.Random(arguments.seed), False
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        world = WorldConfig(num_entities=150, name_words=16)
        counts = {s: {"train": 300, "val": 60} for s in ("caption", "interleaved", "text")}
        write_shards(world, folder / "shards", counts, progress=False)
        for arch in arguments.archs:
            config = make_config(folder, arch, arguments.steps, arguments.compile)
            found = drill(config, arguments.kills, rng, "spawn" if arguments.cold else "fork")
            failed |= bool(found.differing)
            if arguments.json:
                print(json.dumps(dataclasses.asdict(found)), flush=True)
            else:
                show(found)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
