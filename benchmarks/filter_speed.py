"""What a filter pass costs beside the forward passes it is made of: tokens a second of both, on the same rows.

    python benchmarks/filter_speed.py [--sizes d32 d64 d128] [--rows 16] [--samples 4096]

Forward only: the model on batches that lie ready in memory. The pass: packing, rows, forward, losses, sums by sample,
as `nmm filter` scores a tar whose samples are decoded. Both in turn in one process, the fastest of each counts; on a
CPU in processor time of the one thread (and its helper), so that neighbours count less. Weights are random, which
changes no time. Decoding happens once for all passes over a folder, training included; its speed is printed beside.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch

from nmm.batch import SOURCES, Batch
from nmm.compose import compose
from nmm.data.decoded import open_decoded
from nmm.data.manifest import open_shards
from nmm.data.shards import write_shards
from nmm.data.world import WorldConfig
from nmm.interventions.filter_score import Scorer
from nmm.model.build import build
from nmm.resolve import finalize


def fastest(work: Callable[[], object], seconds: list[float], device: str) -> None:
    """Time one call; a GPU is waited for."""
    clock = time.process_time if device == "cpu" else time.perf_counter
    began = clock()
    work()
    if device != "cpu":
        torch.cuda.synchronize()
    seconds.append(clock() - began)


def forward(scorer: Scorer, ready: Sequence[Batch]) -> None:
    """The model alone."""
    with torch.inference_mode():
        for batch in ready:
            scorer.model(batch)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", default=["d32", "d64", "d128"])
    parser.add_argument("--rows", nargs="+", type=int, default=[16])
    parser.add_argument("--samples", type=int, default=4096, help="captions to score")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        write_shards(WorldConfig(), Path(folder), {"caption": {"train": args.samples, "val": 512}}, args.samples, False)
        shards, began = open_shards(folder), time.process_time()
        shard = open_decoded(shards, "caption", "train", 8)[0]
        print(
            f"{args.device}, torch {torch.__version__}; decoding {args.samples / (time.process_time() - began):,.0f}/s"
        )
        print(f"{'size':6} {'rows':>4} {'forward only':>16} {'filter pass':>16} {'ratio':>6}")
        for size in args.sizes:
            given = [f"size={size}", f"data.path={folder}", "~data.mixture.interleaved", "~data.mixture.text"]
            config = finalize(compose([*given, "budget.steps=1", "data.eval_rows=8"]))
            for rows in args.rows:
                scorer = Scorer(build(config), "image", rows, args.device)
                documents, layout = scorer.packed(shard, SOURCES.index("caption"))
                ready = [batch.to(args.device) for batch, _ in scorer.batches(shard, documents, layout)]
                times: dict[str, list[float]] = {"forward": [], "pass": []}
                for _ in range(args.repeats):
                    fastest(partial(forward, scorer, ready), times["forward"], args.device)
                    fastest(partial(scorer.score, shard, SOURCES.index("caption")), times["pass"], args.device)
                positions = layout.rows * config.data.context_length
                alone, whole = (positions / min(times[name]) for name in ("forward", "pass"))
                print(f"{size:6} {rows:4} {alone:12,.0f} t/s {whole:12,.0f} t/s {whole / alone:6.0%}", flush=True)


if __name__ == "__main__":
    main()
