"""What millions of indexed samples cost: opening them, the first rows, rows far into training, memory all the way.

    python benchmarks/index_scale.py [--samples 1000000 10000000] [--folder DIR]

Indexes are made up (shards of 10,000 captions of 20 to 400 tokens; the shards are empty files of the right size), so
everything up to the layout of rows is measured, and nothing that reads a tar. Every line is a fresh process; its
imports are not in the time but in the memory. Memory is the most it ever held, mapped pages of indexes included.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from nmm.data.counter_rng import CounterStream
from nmm.data.formats import RULES
from nmm.data.index_file import IMAGE_SEGMENT, MEMBER, SAMPLE_ROW, index_path, write_index
from nmm.data.indexed import IndexedSources
from nmm.data.opening import open_data, row_source
from nmm.data.order import EpochOrder
from nmm.data.packing import WINDOW_ROWS
from nmm.data.shares import mixture_shares
from nmm.data.source import RowSource
from nmm.data.tokenizer import open_tokenizer
from nmm.groups import Data

SHARD_SAMPLES, IMAGE_BYTES = 10_000, 20_000
PLACES = {"start": 0.0, "50 %": 0.5, "90 %": 0.9, "epoch 4": 3.5}


def make_shard(folder: Path, number: int) -> None:
    """The index of one shard, and an empty file in the shard's place."""
    n = np.arange(SHARD_SAMPLES)
    bits = CounterStream(0, "scale", str(number)).bits(n, np.arange(3))
    tokens = 20 + (bits[:, 2] % np.uint64(381)).astype(np.int64)
    samples, members = np.zeros(SHARD_SAMPLES, SAMPLE_ROW), np.zeros(2 * SHARD_SAMPLES, MEMBER)
    samples["id"], samples["key_hash"], samples["digest"] = bits[:, 0], bits[:, 1], bits[:, 2]
    samples["images"], samples["segments"], samples["members"] = 1, 2, 2
    samples["text_bytes"] = samples["text_tokens"] = tokens
    samples["first_segment"] = samples["first_member"] = 2 * n
    sizes = np.stack([np.full(SHARD_SAMPLES, IMAGE_BYTES), tokens], axis=1).reshape(-1)
    members["name"], members["size"], members["length"] = np.tile([0, 1], SHARD_SAMPLES), sizes, sizes
    members["offset"] = np.cumsum(sizes) - sizes
    segments = np.stack([np.full(SHARD_SAMPLES, IMAGE_SEGMENT), tokens], axis=1).reshape(-1).astype("<i4")
    shard, size = folder / f"{number:05d}.tar", int(sizes.sum())
    with open(shard, "wb") as out:
        out.truncate(size)
    tokenizer = open_tokenizer("bytes").fingerprint
    header = {
        "shard": shard.name,
        "bytes": size,
        "sha256": f"{number:064x}",
        "tokenizer": tokenizer,
        "caption_field": "caption",
        "rules": RULES,
        "samples": SHARD_SAMPLES,
        "units": [SHARD_SAMPLES],
        "names": ["jpg", "txt"],
        "refused": "",
    }
    arrays = {"samples": samples, "segments": segments, "members": members}
    write_index(index_path(shard, tokenizer), header, arrays, [f"{number:05d}{place:04d}" for place in range(len(n))])


def config(folder: Path) -> Data:
    """Training on one source at 224 pixels and 1024 positions."""
    return Data(
        path=str(folder),
        sources={"caption": "."},
        tokenizer="bytes",
        val_fraction=0.01,
        image_size=224,
        patch_size=14,
        context_length=1024,
        mixture={"caption": 1.0},
    )


def opened_rows(folder: Path) -> tuple[IndexedSources, RowSource]:
    opened = open_data(config(folder))
    assert isinstance(opened, IndexedSources)
    return opened, row_source(opened, config(folder), seed=0)


def measure_open(folder: Path) -> dict[str, Any]:
    """Find the shards, open and check every index."""
    return timed("open", lambda: open_data(config(folder)))


def measure_rows(folder: Path) -> dict[str, Any]:
    """What `nmm train` does up to the first row: shares of the mixture for the config, then rows."""
    opened = open_data(config(folder))
    assert isinstance(opened, IndexedSources)
    shares = timed("shares", lambda: mixture_shares(opened, config(folder)))
    return shares | timed("first row", lambda: row_source(opened, config(folder), seed=0).documents(0))


def measure_place(folder: Path, epochs: float) -> dict[str, Any]:
    """Going on so far into training from a saved position, and counting what was delivered there."""
    _, rows = opened_rows(folder)
    window = int(epochs * rows.streams["caption"].tokens) // (rows.draws["caption"].tokens or 1)
    first = window * WINDOW_ROWS  # about: what a checkpoint keeps is exact, and costs the same

    def go_on() -> None:
        rows.table.anchor(window, first)
        rows.documents(first)

    return timed("resume", go_on) | timed("counts", lambda: rows.counts(first))


def measure_walk(folder: Path) -> dict[str, Any]:
    """The layouts of a whole epoch; memory at its tenths."""
    _, rows = opened_rows(folder)
    windows = rows.streams["caption"].tokens // (rows.draws["caption"].tokens or 1)
    memory: list[int] = []

    def walk() -> None:
        for window in range(windows):
            rows._layout(window)
            if window % max(1, windows // 10) == 0:
                memory.append(peak())

    return timed(f"{windows} windows", walk) | {"MB at tenths": memory}


def measure_order(folder: Path) -> dict[str, Any]:
    """What the order function holds at most, by tracemalloc, while it delivers an epoch."""
    shards = len(list(folder.glob("*.tar")))
    tracemalloc.start()
    order = EpochOrder(np.full(shards, SHARD_SAMPLES), 0, "caption", 0)
    delivered = sum(len(order.block(number)) for number in range(len(order.ends)))
    return {"samples": delivered, "order peak MB": round(tracemalloc.get_traced_memory()[1] / 1e6, 2)}


def timed(name: str, work: Callable[[], object]) -> dict[str, Any]:
    start = time.perf_counter()
    work()
    return {f"{name} s": round(time.perf_counter() - start, 3)}


def peak() -> int:
    """MB."""
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def child(step: str, folder: Path) -> dict[str, Any]:
    before = peak()
    match step.split(":"):
        case ["import"]:
            found: dict[str, Any] = {}
        case ["open"]:
            found = measure_open(folder)
        case ["rows"]:
            found = measure_rows(folder)
        case ["place", name]:
            found = measure_place(folder, PLACES[name])
        case ["walk"]:
            found = measure_walk(folder)
        case _:
            found = measure_order(folder)
    return {**found, "MB imports": before, "MB peak": peak()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, nargs="+", default=[1_000_000, 10_000_000])
    parser.add_argument("--folder", help="where to make the indexes, 0.14 GB a million samples; default: temporary")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(child(options.child[0], Path(options.child[1]))))
        return
    with tempfile.TemporaryDirectory(dir=options.folder) as temporary:
        for samples in options.samples:
            folder = Path(temporary) / str(samples)
            folder.mkdir()
            start = time.perf_counter()
            for number in range(samples // SHARD_SAMPLES):
                make_shard(folder, number)
            seconds = time.perf_counter() - start
            print(f"{samples:,} samples in {samples // SHARD_SAMPLES} shards (made in {seconds:.0f} s)")
            for step in ("import", "open", "rows", *(f"place:{name}" for name in PLACES), "walk", "order"):
                command = [sys.executable, __file__, "--child", step, str(folder)]
                done = subprocess.run(command, check=True, capture_output=True, text=True, env=os.environ)
                print(f"  {step:14}", ", ".join(f"{k} {v}" for k, v in json.loads(done.stdout).items()))


if __name__ == "__main__":
    main()
