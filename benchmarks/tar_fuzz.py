"""Damage thousands of small shards of every format, before and after indexing: no hang, no crash, nothing twice.

    python benchmarks/tar_fuzz.py [--tars 2000] [--seed 0] [--seconds 0] [--only NUMBER]

Every second shard is damaged before it is indexed: `nmm index` must refuse it with an error that names it, or every
document of what it accepts is read for an epoch, none twice, none of a key that was not there (unless a damaged name
explains it). The others are damaged after they were indexed: every document must be the one that was indexed, or its
shard must be called changed. Anything else, or more than a few seconds for one shard, is a failure: exit code 1.
"""

from __future__ import annotations

import argparse
import faulthandler
import os
import random
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from _damage import AFTER, BEFORE, RENAMES, Original, originals

from nmm.batch import Skipped
from nmm.data import reading
from nmm.data.index_file import read_index
from nmm.data.indexed import IndexedCorpus, IndexedSources, open_indexed
from nmm.data.indexing import index_shards
from nmm.data.reading import ShardError
from nmm.data.source import RowSource
from nmm.groups import Data

LIMIT_SECONDS = 20  # for one shard of a few kilobytes, however busy the machine is
MEMORY_BYTES = 6 << 30  # of address space: a bomb that goes off is a failure
LONGEST_MESSAGE = 2000
CONTEXT, PATCH, SIDE = 128, 8, 16
SOURCE = "fuzz"


class Hang(BaseException):
    """A shard took too long."""


class Wrong(Exception):
    """A promise was broken; the message says which."""


@dataclass(frozen=True)
class Case:
    """One shard to be damaged."""

    number: int
    original: Original
    damages: tuple[Any, ...]
    before: bool

    def data(self, rng: random.Random) -> bytes:
        data = self.original.data
        for damage in self.damages:
            data = damage(rng, self.original, data)
        return data


def main() -> int:
    args = _arguments()
    reading.PAUSES = ()  # a changed shard does not change back
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    counts: dict[tuple[bool, str], Counter[str]] = defaultdict(Counter)
    failures, start, slowest, done = [], time.monotonic(), 0.0, 0
    sound = originals()
    numbers = range(args.tars) if args.only is None else [args.only]
    with tempfile.TemporaryDirectory() as folder:
        for number in numbers:
            case, rng = _case(args.seed, number, sound)
            begun = time.monotonic()
            found, failure = _examined(case, rng, Path(folder))
            slowest, done = max(slowest, time.monotonic() - begun), done + 1
            for damage in {d.__name__ for d in case.damages}:
                counts[case.before, damage].update(found)
            counts[case.before, "all"].update(found)
            if failure:
                failures.append(failure)
                print(f"shard {number} ({case.original.name}; {_names(case)}):\n{failure}", file=sys.stderr)
            if args.seconds and time.monotonic() - start > args.seconds:
                break
        left = sorted(os.listdir(folder))
    if left:
        failures.append(f"files that nobody asked for: {left}")
    print(_table(counts))
    print(f"{done:,} shards in {time.monotonic() - start:.0f} s, the slowest {slowest:.2f} s: {len(failures)} failures")
    print("\n".join(failure for failure in failures if "\n" not in failure), file=sys.stderr, end="")
    return 1 if failures or done < len(numbers) and not args.seconds else 0


def _case(seed: int, number: int, sound: list[Original]) -> tuple[Case, random.Random]:
    """The same shard and damage for the same numbers, on every machine."""
    rng = random.Random(f"{seed} {number}")
    before = number % 2 == 0
    kinds = BEFORE if before else AFTER
    damages = (kinds[number // 2 % len(kinds)], *rng.choices(kinds, k=rng.choice((0, 0, 1, 2))))
    return Case(number, rng.choice(sound), damages, before), rng


def _examined(case: Case, rng: random.Random, folder: Path) -> tuple[Counter[str], str]:
    """Counts of one shard, and what went wrong, if anything."""
    folder = folder / "in" / "here"  # room for a name with .. to escape to
    folder.mkdir(parents=True)
    shard = folder / case.original.name.replace(" ", "-")
    try:
        with _in_time():
            found = _before(case, shard, rng) if case.before else _after(case, shard, rng)
            return Counter({"shards": 1}) + found, ""
    except (Exception, Hang):
        return Counter({"shards": 1, "failures": 1}), traceback.format_exc()
    finally:
        for file in folder.iterdir():
            file.unlink()
        folder.rmdir()
        folder.parent.rmdir()  # fails when there is anything else


@contextmanager
def _in_time() -> Iterator[None]:
    def stop(signum: int, frame: Any) -> None:
        raise Hang(f"more than {LIMIT_SECONDS} s")

    signal.signal(signal.SIGALRM, stop)
    signal.alarm(LIMIT_SECONDS)
    faulthandler.dump_traceback_later(3 * LIMIT_SECONDS, exit=True)  # for a hang outside of Python
    try:
        yield
    finally:
        signal.alarm(0)
        faulthandler.cancel_dump_traceback_later()


# ---------------------------------------------------------------------------------------------------------------------
# damaged, then indexed


def _before(case: Case, shard: Path, rng: random.Random) -> Counter[str]:
    """Raises Wrong, or whatever escapes."""
    data = case.data(rng)
    shard.write_bytes(data)
    if data == case.original.data:
        return Counter(unchanged=1)
    (report,) = index_shards([shard], "bytes", workers=1, max_bad=1.0, progress=False).shards
    if report.outcome == "refused":
        if str(shard) not in report.error or len(report.error) > LONGEST_MESSAGE:
            raise Wrong(f"an error that is no help: {report.error[:LONGEST_MESSAGE]}")
        return Counter(refused=1)
    opened = _opened(shard)
    _check_keys(case, opened)
    bad = sum(report.bad.values())
    if report.samples == bad:
        return Counter(accepted=1, bad_samples=bad)
    return Counter(accepted=1, bad_samples=bad) + _epoch(opened, report.samples - bad)


def _opened(shard: Path) -> IndexedSources:
    data = Data(
        sources={SOURCE: str(shard)}, tokenizer="bytes", image_size=SIDE, patch_size=PATCH, context_length=CONTEXT
    )
    return open_indexed(data)


def _check_keys(case: Case, opened: IndexedSources) -> None:
    """Names may only be new where a damage could write one: names too long for a header have no checksum."""
    long_names = " names" in case.original.name
    if long_names or any(damage.__name__ in RENAMES for damage in case.damages):
        return
    index = read_index(opened.sources[SOURCE][0].index)
    new = {key for i in range(len(index.samples)) if (key := _stem(index.key(i))) not in _known(case.original)}
    if new:
        raise Wrong(f"keys that were not there: {sorted(new)[:5]}")


def _known(original: Original) -> set[str]:
    if not original.spans:
        return {original.name}
    names = (original.data[start : start + 100].rstrip(b"\0").decode() for start, _ in original.spans)
    return {name if ".jsonl" in name else name.partition(".")[0] for name in names}


def _stem(key: str) -> str:
    """Of a line: its member. A damaged line may be two lines."""
    return key.rpartition(":")[0] if ".jsonl" in key else key


def _epoch(opened: IndexedSources, usable: int) -> Counter[str]:
    """Every document once, in order and shuffled."""
    rows = RowSource(opened, {SOURCE: 1.0}, CONTEXT, PATCH, seed=0, once_in_order=True)
    number = rows.rows_available()
    ids = [int(document["id"]) for row in range(number) for document in rows.documents(row)]
    skipped: Counter[str] = Counter()
    for row in range(0, number, 4):
        batch = rows.rows_at(row, min(4, number - row))
        skipped.update(one.reason for one in batch.skipped)
    if len(ids) != usable or len(set(ids)) != usable:
        raise Wrong(f"{len(ids)} documents delivered, {len(set(ids))} different ones, of {usable} in the index")
    if set(skipped) - {"bad_image"}:
        raise Wrong(f"what indexing should have found: {skipped}")
    stream = RowSource(opened, {SOURCE: 1.0}, CONTEXT, PATCH, seed=0).streams[SOURCE]
    if sorted(stream.documents(0, usable).tolist()) != list(range(usable)):
        raise Wrong("a shuffled epoch is no permutation")
    return Counter(delivered=usable - skipped.total(), blanked=skipped.total())


# ---------------------------------------------------------------------------------------------------------------------
# indexed, then damaged


def _after(case: Case, shard: Path, rng: random.Random) -> Counter[str]:
    """Raises Wrong, or whatever escapes."""
    shard.write_bytes(case.original.data)
    index_shards([shard], "bytes", workers=1, progress=False)
    opened = _opened(shard)  # as a run that has begun, and read nothing yet
    right = _contents(IndexedCorpus(_opened(shard), SOURCE, "train", CONTEXT, PATCH, None))
    data = case.data(rng)
    shard.write_bytes(data)
    if data == case.original.data:
        return Counter(unchanged=1)
    if len(data) != len(case.original.data):
        _check_refused_at_start(shard)
    found = _contents(IndexedCorpus(opened, SOURCE, "train", CONTEXT, PATCH, None))
    counts: Counter[str] = Counter()
    for place, (now, then) in enumerate(zip(found, right, strict=True)):
        if isinstance(now, str):
            if str(shard) not in now or "run again" not in now and "a new run" not in now:
                raise Wrong(f"an error that is no help: {now[:LONGEST_MESSAGE]}")
            counts["refused_documents"] += 1
        elif all(np.array_equal(a, b) for a, b in zip(now, then, strict=True)):
            counts["delivered"] += 1
        else:
            raise Wrong(f"document {place} is not the one that was indexed")
    return counts


def _check_refused_at_start(shard: Path) -> None:
    try:
        _opened(shard)
    except ValueError as error:
        if str(shard) in str(error):
            return
    raise Wrong("a shard of another size was opened")


def _contents(corpus: IndexedCorpus) -> list[Any]:
    """Content of every document, or the message of its ShardError."""
    found: list[Any] = []
    for document in corpus.records(np.arange(int(corpus.units.sum()))):
        try:
            content = corpus.read(document)
        except ShardError as error:
            found.append(str(error))
            continue
        if isinstance(content, Skipped):
            raise Wrong(f"left out instead of refused: {content}")
        found.append(content)
    return found


# ---------------------------------------------------------------------------------------------------------------------
# what is printed

COLUMNS = {
    "shards": "shards",
    "unchanged": "unchanged",
    "refused": "refused",
    "accepted": "accepted",
    "bad_samples": "bad",  # samples that the index leaves out
    "delivered": "delivered",  # documents
    "blanked": "blanked",  # documents with pictures that only decoding finds damaged
    "refused_documents": "changed",  # documents whose shard was called changed or unreadable
    "failures": "failures",
}


def _table(counts: dict[tuple[bool, str], Counter[str]]) -> str:
    lines = []
    for before in (True, False):
        names = sorted(name for when, name in counts if when == before)
        when = "damaged, then indexed" if before else "indexed, then damaged"
        lines.append(f"{when:22}" + "".join(f"{title:>10}" for title in COLUMNS.values()))
        lines += [f"  {n:20}" + "".join(f"{counts[before, n][c]:10,}" for c in COLUMNS) for n in names]
    return "\n".join(lines)


def _names(case: Case) -> str:
    return ", ".join(damage.__name__ for damage in case.damages)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tars", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=0, help="stop after this long; 0: never")
    parser.add_argument("--only", type=int, help="one shard, by its number")
    return parser.parse_args()


if __name__ == "__main__":
    raise SystemExit(main())
