"""The same grid of runs through `nmm sweep launch` and through Hydra's `nmm train -m`: wall time and the ratio.

    python benchmarks/sweep_throughput.py [--archs early] [--sizes d24 d32] [--tokens 100000 ...] [--workers 2]

Both start from the same shards, with an empty cache of compiled code each, and end with the same points (N, D).
The launcher gains from sharing trunks between token counts, from its workers, and from paying imports once a worker.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

NMM = [sys.executable, "-m", "nmm.cli"]


def seconds(arguments: list[str], folder: Path, name: str) -> float:
    """Wall time of one command with its own compile cache; raises with its output if it fails."""
    environment = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": str(folder / f"compiled-{name}")}
    start = time.monotonic()
    done = subprocess.run(arguments, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(arguments)} failed:\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}")
    return time.monotonic() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--archs", nargs="+", default=["early"])
    parser.add_argument("--sizes", nargs="+", default=["d24", "d32"])
    parser.add_argument("--tokens", nargs="+", type=int, default=[200_000, 252_000, 317_000, 400_000, 504_000])
    parser.add_argument("--workers", type=int, default=2)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shards, tokens = folder / "shards", ",".join(map(str, args.tokens))
        render = ["shards", "data=world", f"out={shards}", f"train_tokens={max(args.tokens)}", "sheet=false"]
        seconds([*NMM, *render], folder, "none")
        common = [f"data.path={shards}", "trainer.compile=on"]
        warm = ["train", "size=d16", "budget.steps=2", f"out={folder / 'warm'}", f"data.path={shards}"]
        seconds([*NMM, *warm, "trainer.compile=off"], folder, "none")  # decodes the shards for both
        grid = [f"archs=[{','.join(args.archs)}]", f"sizes=[{','.join(args.sizes)}]", f"tokens=[{tokens}]"]
        seconds([*NMM, "sweep", "plan", "sweep=demo", f"out={folder / 'sweep'}", *grid, *common], folder, "none")
        launch = [*NMM, "sweep", "launch", str(folder / "sweep"), f"workers={args.workers}"]
        swept = seconds(launch, folder, "sweep")
        product = [f"arch={','.join(args.archs)}", f"size={','.join(args.sizes)}", f"budget.tokens={tokens}"]
        multirun = seconds([*NMM, "train", "-m", *product, f"out={folder / 'multirun'}", *common], folder, "multirun")
    points = len(args.archs) * len(args.sizes) * len(args.tokens)
    print(f"{points} points: sweep launch ({args.workers} workers) {swept:.0f} s, train -m {multirun:.0f} s, "
          f"ratio {multirun / swept:.2f}x")  # fmt: skip


if __name__ == "__main__":
    main()
