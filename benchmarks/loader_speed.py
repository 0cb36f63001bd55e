"""Training rows against plain WebDataset decoding of the same shards, in tokens per second and as a ratio.

    nmm shards data=world out=outputs/shards
    python benchmarks/loader_speed.py outputs/shards

Both sides run in this process without workers and count the same thing, filled positions (text tokens and image
patches). WebDataset decodes images and JSON but neither tokenizes, mixes nor packs; ours delivers finished batches from
the decoded cache (the time to fill it, once per shard folder, is printed too). Time is CPU time of this process, so
neighbours on the machine do not count. Rounds alternate, medians are compared.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time

import webdataset

from nmm.data.loader import TrainLoader
from nmm.data.manifest import Shards, open_shards
from nmm.data.source import RowSource

MIXTURE = {"caption": 45.0, "interleaved": 45.0, "text": 10.0}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "shards", nargs="?", default="outputs/demo/shards", help="what `nmm shards` wrote (%(default)s)"
    )
    parser.add_argument("--context-length", type=int, default=256, help="positions a row (%(default)s)")
    parser.add_argument("--patch-size", type=int, default=8, help="side of a patch in pixels (%(default)s)")
    parser.add_argument("--rows-per-step", type=int, default=8, help="rows a batch (%(default)s)")
    parser.add_argument("--seconds", type=float, default=3.0, help="length of one round of each side (%(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of each side (%(default)s)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as cache:
        shards = open_shards(options.shards, cache=cache)
        start = time.process_time()
        rows = RowSource(shards, MIXTURE, options.context_length, options.patch_size, seed=0)
        seconds = time.process_time() - start
        samples = sum(stream.samples for stream in rows.streams.values())
        print(f"first opening (checksums, decoding, cache): {samples / seconds:,.0f} samples/s")
        ours, theirs = [], []
        for _ in range(options.rounds):
            ours.append(train_rows(rows, options.rows_per_step, options.seconds))
            theirs.append(plain_webdataset(shards, rows.patches_per_image, options.seconds))
    fast, plain = statistics.median(ours), statistics.median(theirs)
    print(f"train rows       {fast:12,.0f} tokens/s  (rounds {min(ours):,.0f} to {max(ours):,.0f})")
    print(f"plain webdataset {plain:12,.0f} tokens/s  (rounds {min(theirs):,.0f} to {max(theirs):,.0f})")
    print(f"ratio            {fast / plain:12.1f}")


def train_rows(rows: RowSource, rows_per_step: int, seconds: float) -> float:
    """Filled positions per second of a TrainLoader without workers."""
    loader = TrainLoader(rows, rows_per_step, total_steps=1 << 60)
    tokens, start = 0, time.process_time()
    for batch in loader:
        tokens += int((batch.document >= 0).sum())
        if time.process_time() - start > seconds:
            break
    return tokens / (time.process_time() - start)


def plain_webdataset(shards: Shards, patches_per_image: int, seconds: float) -> float:
    """The same count for WebDataset's own reader and decoder over the training tars of all sources."""
    tars = [str(shards.root / shard.path) for splits in shards.sources.values() for shard in splits["train"].shards]
    tokens, start = 0, time.process_time()
    while True:
        for sample in webdataset.WebDataset(tars, shardshuffle=False, empty_check=False).decode("rgb8"):
            words = sample["txt"].split()
            images = words.count("<image>")
            tokens += len(words) + images * (patches_per_image - 1)
            if time.process_time() - start > seconds:
                return tokens / (time.process_time() - start)


if __name__ == "__main__":
    main()
