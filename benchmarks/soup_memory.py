"""Memory of a greedy soup in models, and how much of its time is not spent on scoring.

    python benchmarks/soup_memory.py [--members 8] [--width 512] [--depth 8] [--rows 16]

Members are exports of about 100 MB, an initial model moved by noise. Every measurement is a process of its own; memory
is its largest resident set beyond what it has once everything is imported and the questions are read, in units of one
model's fp32 weights. Pages of a mapped file that are resident count. Scoring one member alone (one model, the file it
is read from, activations) is printed beside it.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

MEMBERS_NAME = "member-{}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("members", 8), ("width", 512), ("depth", 8), ("rows", 16)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--child", nargs="*", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(*options.child)
        return
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        size = write(root, options.members, options.width, options.depth)
        print(f"{options.members} members of {size / 1e6:.0f} MB (fp32), {options.rows} rows of each split and source")
        for label, method, count in (
            ("one member scored", "uniform", 1),
            ("uniform soup", "uniform", options.members),
            ("greedy soup", "greedy", options.members),
        ):
            found = call(root, method, count, options.rows)
            models = found["bytes"] / size
            print(
                f"{label:18} {models:.2f} models; {found['passes']} passes, {found['seconds']:.1f} s, of which not "
                f"scoring {found['other']:.1f} s = {found['other'] / found['seconds']:.0%}; kept {found['kept']}"
            )


def write(root: Path, members: int, width: int, depth: int) -> int:
    """Shards and members; returns the bytes of one model's weights."""
    import torch
    from lab import SOURCES, tiny_config_on
    from soup_lab import fine_tuned, moved, write_member

    from nmm.data.shards import write_shards
    from nmm.data.world import WorldConfig

    world = WorldConfig(num_entities=150, name_words=16)
    counts = {source: {"train": 600, "val": 600} for source in SOURCES}
    write_shards(world, root / "shards", counts, 1024, progress=False)
    size = {"width": width, "depth": depth, "num_heads": width // 64, "name": f"w{width}"}
    config = fine_tuned(tiny_config_on(root / "shards", "early", "d64", size=size))
    config = dataclasses.replace(config, out=str(root))
    torch.set_num_threads(1)
    for number in range(members):
        write_member(root / MEMBERS_NAME.format(number), config, moved(config, number, 0.002))
    return (root / MEMBERS_NAME.format(0) / "model.safetensors").stat().st_size


def call(root: Path, method: str, count: int, rows: int) -> dict[str, float]:
    """What one process measured."""
    command = [sys.executable, __file__, "--child", str(root), method, str(count), str(rows)]
    env = os.environ | {"OMP_NUM_THREADS": "1", "MALLOC_TRIM_THRESHOLD_": "65536"}
    done = subprocess.run(command, capture_output=True, text=True, env=env)
    if done.returncode:
        sys.exit(done.stderr)
    measured: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return measured


def child(folder: str, method: str, count: str, rows: str) -> None:
    """One soup in this process; prints what it took as JSON."""
    from nmm.interventions import soup
    from nmm.interventions.soup_options import SoupOptions, check
    from nmm.interventions.soup_score import Paper

    root = Path(folder)
    scoring: list[float] = []
    mark, pot = Paper.mark, soup.Pot
    before: list[int] = []

    def timed(paper: Paper, model: object) -> object:
        began = time.perf_counter()
        marks = mark(paper, model)  # type: ignore[arg-type]
        scoring.append(time.perf_counter() - began)
        return marks

    def noted(*members: object) -> object:
        before.append(resident())
        return pot(*members)  # type: ignore[arg-type]

    Paper.mark, soup.Pot = timed, noted  # type: ignore[method-assign,assignment,misc]
    began = time.perf_counter()
    runs = tuple(str(root / MEMBERS_NAME.format(i)) for i in range(int(count)))
    made = soup.make_soup(
        check(
            SoupOptions(
                runs=runs,
                method=method,
                metric="loss",
                shards=str(root / "shards"),
                report="train",
                rows=int(rows),
                kinds=("colour", "count"),
                out=str(root / f"{method}-{count}"),
            )
        )
    )
    seconds = time.perf_counter() - began
    measured = {
        "bytes": resident("VmHWM") - before[0],
        "passes": len(scoring),
        "seconds": seconds,
        "other": seconds - sum(scoring),
        "kept": len(made["chosen"]),
    }
    print(json.dumps(measured))


def resident(what: str = "VmRSS") -> int:
    """Bytes of this process that are in memory now, or (VmHWM) were at most."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(status.split(f"{what}:")[1].split()[0]) * 1024


if __name__ == "__main__":
    main()
