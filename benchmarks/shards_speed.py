"""Training rows read from indexed tars: against plain WebDataset, after a resume, and how full they are.

    python benchmarks/shards_speed.py                      # all three, some minutes
    python benchmarks/shards_speed.py --mode throughput --side 512 --augment

throughput  Positions a second that hold text bytes or image patches, of ours and of what a user writes with WebDataset
            (_plain_webdataset.py): shuffled shards and a shuffle buffer, decoded and resized pictures, bytes as tokens,
            documents appended to rows. The same tars, batch shape and number of worker processes; rounds alternate,
            medians of their ratios count. CPU time is that of workers and main process together.
resume      Seconds from nothing open to the first batch, at the beginning and after 90 % of an epoch, in new processes.
packing     The filled share of the rows of the 45-45-10 mix.
"""

from __future__ import annotations

import argparse
import itertools
import json
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import tokenizers
from _plain_webdataset import Shape, plain_batches
from _shards import WORDS, captioned, interleaved, texts, write_shards

from nmm.data.indexing import index_shards
from nmm.data.loader import TrainLoader
from nmm.data.opening import open_data, row_source
from nmm.data.packing import WINDOW_ROWS
from nmm.data.source import RowSource
from nmm.groups import Data

ROWS, CONTEXT, IMAGE_SIZE, PATCH_SIZE = 8, 1024, 224, 14  # arXiv 2504.07951
SHAPE = Shape(ROWS, CONTEXT, IMAGE_SIZE, (IMAGE_SIZE // PATCH_SIZE) ** 2)
WARM_UP_BATCHES = 4
AUGMENTED = {"crop_scale": 0.4, "flip": 0.5}
RESUME_SAMPLES, RESUME_SIDE, RESUME_AT = 50_000, 32, 0.9
PACKED = {"caption": 20_000, "interleaved": 10_000, "text": 20_000}
MIXTURE = {"caption": 0.45, "interleaved": 0.45, "text": 0.10}
PACKED_WINDOWS, PACKED_PATCH_SIZES = 12, (14, 28, 56)


class Speed(NamedTuple):
    """Of one round."""

    tokens: float  # filled positions a second
    samples: float  # a second
    cpu_tokens: float  # filled positions a second of CPU time


def main() -> None:
    modes: dict[str, Callable[[Path, argparse.Namespace], None]]
    modes = {"throughput": throughput, "resume": resume, "packing": packing}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mode", choices=(*modes, "all"), default="all", help="what to measure (%(default)s)")
    parser.add_argument("--side", type=int, default=256, help="pixels of the stored pictures (%(default)s)")
    parser.add_argument("--samples", type=int, default=4000, help="captions read by throughput (%(default)s)")
    parser.add_argument("--workers", type=int, default=2, help="processes of each side (%(default)s)")
    parser.add_argument("--augment", action="store_true", help="random crops and mirroring on both sides")
    parser.add_argument("--seconds", type=float, default=4.0, help="length of a round (%(default)s)")
    parser.add_argument("--rounds", type=int, default=8, help="rounds of each side or place (%(default)s)")
    parser.add_argument("--first-batch", help=argparse.SUPPRESS)  # how resume runs this file in a new process
    options = parser.parse_args()
    if options.first_batch:
        print(first_batch(**json.loads(options.first_batch)))
        return
    with tempfile.TemporaryDirectory() as folder:
        for mode, measure in modes.items():
            if options.mode in (mode, "all"):
                measure(Path(folder) / mode, options)


def opened(folder: Path, mixture: dict[str, float], **values: Any) -> RowSource:
    """The training rows of the indexed tars in ``folder``/SOURCE, as a run with data=shards opens them."""
    sources = {name: name for name in mixture}
    values = {"image_size": IMAGE_SIZE, "patch_size": PATCH_SIZE, "context_length": CONTEXT, **values}
    values = {"tokenizer": "bytes", **values}
    data = Data(path=str(folder), sources=sources, mixture=mixture, **values)
    return row_source(open_data(data), data, seed=0)


def indexed(folder: Path, names: list[str], tokenizer: str = "bytes") -> None:
    """Index every source of ``folder``."""
    index_shards([str(folder / name) for name in names], tokenizer, progress=False)


# ---------------------------------------------------------------------------------------------------------------------
# throughput


def throughput(folder: Path, options: argparse.Namespace) -> None:
    """Print the speed of both sides and their ratio."""
    tars = write_shards(folder / "caption", captioned(options.samples, options.side), options.samples // 8)
    size = sum(tar.stat().st_size for tar in tars) / 1e6
    indexed(folder, ["caption"])
    augmentation = AUGMENTED if options.augment else {}
    rows = opened(folder, {"caption": 1.0}, **augmentation)
    print(f"throughput: {options.samples:,} captions, JPEG of {options.side} px, {size:.0f} MB in {len(tars)} tars")
    sides: dict[str, Callable[[], Iterator[tuple[int, int]]]] = {
        "ours": lambda: our_batches(rows, options.workers),
        "plain webdataset": lambda: their_batches(tars, options.workers, augmentation),
    }
    rounds: dict[str, list[Speed]] = {name: [] for name in sides}
    for number in range(options.rounds):
        for name in list(sides)[:: -1 if number % 2 else 1]:  # a slow minute shall not hit the same side first
            rounds[name].append(speed(sides[name](), options.seconds))
    for name, speeds in rounds.items():
        print(f"  {name:17}{_spread('tokens/s', [each.tokens for each in speeds])}", end="")
        print(f"  {_spread('samples/s', [each.samples for each in speeds])}", end="")
        print(f"  {_spread('tokens/CPU s', [each.cpu_tokens for each in speeds])}")
    pairs = list(zip(*rounds.values(), strict=True))
    _print_ratio("wall clock", [a.tokens / b.tokens for a, b in pairs])
    _print_ratio("CPU time", [a.cpu_tokens / b.cpu_tokens for a, b in pairs])


def our_batches(rows: RowSource, workers: int) -> Iterator[tuple[int, int]]:
    """(filled positions, samples) of one batch after the other."""
    for batch in TrainLoader(rows, ROWS, total_steps=1 << 40, num_workers=workers):
        yield int((batch.document >= 0).sum()), int((batch.document.max(dim=1).values + 1).sum())


def their_batches(tars: list[Path], workers: int, augmentation: dict[str, float]) -> Iterator[tuple[int, int]]:
    """The same of plain WebDataset."""
    for tokens, images in plain_batches(tars, SHAPE, workers, **augmentation):
        yield int((tokens > 0).sum()), len(images)


def speed(batches: Iterator[tuple[int, int]], seconds: float) -> Speed:
    """Of a new loader, once its workers have filled what they keep. Ends the loader."""
    others = set(multiprocessing.active_children())
    for _ in range(WARM_UP_BATCHES):
        next(batches)
    workers = [child.pid for child in multiprocessing.active_children() if child not in others and child.pid]
    start, used, tokens, samples = time.perf_counter(), _cpu_seconds(workers), 0, 0
    while time.perf_counter() - start < seconds:
        more_tokens, more_samples = next(batches)
        tokens, samples = tokens + more_tokens, samples + more_samples
    wall, cpu = time.perf_counter() - start, _cpu_seconds(workers) - used
    return Speed(tokens / wall, samples / wall, tokens / cpu)


def _cpu_seconds(workers: list[int]) -> float:
    """CPU time of this process and of its workers so far."""
    total = time.process_time()
    for worker in workers:
        fields = Path(f"/proc/{worker}/stat").read_text().rpartition(")")[2].split()
        total += sum(map(int, fields[11:13])) / os.sysconf("SC_CLK_TCK")
    return total


def _spread(unit: str, values: list[float]) -> str:
    return f"{statistics.median(values):10,.0f} {unit} ({min(values):,.0f} to {max(values):,.0f})"


def _print_ratio(title: str, ratios: list[float]) -> None:
    middle, low, high = statistics.median(ratios), min(ratios), max(ratios)
    print(f"  ours / plain webdataset, {title}: {middle:.2f} (rounds {low:.2f} to {high:.2f}); the goal is 1.0 or more")


# ---------------------------------------------------------------------------------------------------------------------
# resume and packing


def resume(folder: Path, options: argparse.Namespace) -> None:
    """Print how long the first batch takes at the beginning, at 90 %, and there without the saved window."""
    write_shards(folder / "caption", captioned(RESUME_SAMPLES, RESUME_SIDE), 5000)
    indexed(folder, ["caption"])
    loader = TrainLoader(opened(folder, {"caption": 1.0}), ROWS, total_steps=1 << 40)
    windows = loader.rows.streams["caption"].tokens / (WINDOW_ROWS * CONTEXT)
    late = int(RESUME_AT * windows * WINDOW_ROWS) // ROWS * ROWS
    places = {"0 %": loader.state_dict(0), f"{RESUME_AT:.0%}": loader.state_dict(late)}
    places[f"{RESUME_AT:.0%}, row number only"] = {**loader.state_dict(late), "anchor": [0, 0]}
    seconds: dict[str, list[float]] = {place: [] for place in places}
    for _ in range(options.rounds):
        for place, state in places.items():
            request = json.dumps({"folder": str(folder), "state": state})
            command = [sys.executable, __file__, "--first-batch", request]
            seconds[place].append(float(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
    print(f"resume: first batch of {RESUME_SAMPLES:,} captions, in a new process, without the time of imports")
    for place, times in seconds.items():
        print(f"  at {place:22} {statistics.median(times):6.2f} s ({min(times):.2f} to {max(times):.2f})")
    first, at_90, *_ = (statistics.median(times) for times in seconds.values())
    print(f"  {at_90 - first:+.2f} s at {RESUME_AT:.0%}; the goal is 1 s or less")


def first_batch(folder: str, state: dict[str, Any]) -> float:
    """Seconds from nothing open to the first batch after ``state``."""
    start = time.perf_counter()
    loader = TrainLoader(opened(Path(folder), {"caption": 1.0}), ROWS, total_steps=1 << 40)
    loader.load_state_dict(state)
    next(iter(loader))
    return time.perf_counter() - start


def packing(folder: Path, options: argparse.Namespace) -> None:
    """Print the filled share of the first windows' rows: texts whole or cut, many tokens a word or one, and images of
    several sizes.

    Byte tokens make captions of about 110 tokens, a token a word makes them 18; subword tokenizers lie between.
    """
    write_shards(folder / "caption", captioned(PACKED["caption"], RESUME_SIDE))
    write_shards(folder / "interleaved", interleaved(PACKED["interleaved"], RESUME_SIDE))
    write_shards(folder / "text", texts(PACKED["text"]), 20)
    number = PACKED_WINDOWS * WINDOW_ROWS
    print(f"packing: the first {number:,} rows of {CONTEXT} positions of the 45-45-10 mix; the goal is 98 % or more")
    for tokenizer in ("bytes", _words_tokenizer(folder)):
        indexed(folder, list(MIXTURE), tokenizer)
        for patch_size, cut_text in itertools.product(PACKED_PATCH_SIZES, (True, False)):
            rows = opened(folder, MIXTURE, patch_size=patch_size, cut_text=cut_text, tokenizer=tokenizer)
            start = time.process_time()
            counts, filled = rows.counts(number), rows.efficiency(number)
            seconds = time.process_time() - start
            mean = ", ".join(f"{name} {count['tokens'] / count['samples']:.0f}" for name, count in counts.items())
            what = f"{'bytes' if tokenizer == 'bytes' else 'words'}, {rows.patches_per_image:3} patches an image"
            print(
                f"  {what}, texts {'cut  ' if cut_text else 'whole'}: {filled:.2%} filled, in {seconds:.1f} s", end=""
            )
            print(f" (mean lengths: {mean})")


def _words_tokenizer(folder: Path) -> str:
    """A tokenizer.json in which every word of the benchmark's texts is one token."""
    model = tokenizers.models.WordLevel(
        {"?": 0, **{word: n for n, word in enumerate(WORDS.tolist(), 1)}}, unk_token="?"
    )
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    tokenizer.save(str(folder / "words.json"))
    return str(folder / "words.json")


if __name__ == "__main__":
    main()
