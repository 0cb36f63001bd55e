"""Index many shards: what is indexed already is kept, what is bad is refused and listed, the rest goes on.

Shape legend: n usable samples of all shards.
"""

from __future__ import annotations

import glob
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field, replace
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from nmm.data.byte_bar import ByteBar
from nmm.data.duplicates import Repeats, count_repeats
from nmm.data.formats import RULES, SHARD_SUFFIXES
from nmm.data.index_file import check_index, index_path, left_out, read_index, write_index
from nmm.data.picture_sizes import read_sizes, sizes_path, write_sizes
from nmm.data.scan import Rules, Scan, check_statistics, refused_scan, scan_shard
from nmm.data.tokenizer import open_tokenizer
from nmm.record import file_sha256


@dataclass(frozen=True)
class ShardReport:
    """What became of one shard: "indexed", "kept", or "refused" with the ``error``; ``bad``: reason -> samples."""

    path: Path
    outcome: str
    bytes: int = 0
    samples: int = 0
    text_tokens: int = 0
    images: int = 0
    bad: Mapping[str, int] = field(default_factory=dict)
    examples: Mapping[str, str] = field(default_factory=dict)
    error: str = ""


@dataclass(frozen=True)
class Summary:
    """Of all shards, sorted by path, and of the samples that repeat another one's bytes."""

    shards: tuple[ShardReport, ...]
    repeats: Repeats
    seconds: float

    @property
    def refused(self) -> list[ShardReport]:
        """The shards that cannot be used."""
        return [shard for shard in self.shards if shard.outcome == "refused"]


@dataclass(frozen=True)
class _Job:
    """How shards are judged and where their indexes go."""

    rules: Rules
    into: Path | None
    max_bad: float
    quarantine: bool

    def file(self, shard: Path) -> Path:
        return index_path(shard, self.rules.tokenizer.fingerprint, self.into)


@dataclass(frozen=True)
class _Held:
    """A shard with an index as it should be; one with another time than it had must still have the ``sha256``.

    ``mtime_ns`` is the time that was found; ``sha256`` is empty if it is the one in the index.
    """

    report: ShardReport
    sha256: str
    mtime_ns: int


def index_shards(
    paths: Sequence[str | Path],
    tokenizer_spec: str,
    into: str | Path | None = None,
    caption_field: str = "caption",
    workers: int = 2,
    max_bad: float = 0.05,
    decode: bool = False,
    quarantine: bool = False,
    force: bool = False,
    val_fraction: float = 0.01,
    progress: bool = True,
) -> Summary:
    """Write the index of every shard.

    Args:
        paths: Folders, globs and files.
        tokenizer_spec: "bytes" or a tokenizer.json.
        into: Folder for the indexes; None: beside the shards.
        caption_field: Of the json that holds a caption without txt.
        workers: Processes; 1 stays in this one.
        max_bad: A shard with a larger share of bad samples is refused.
        decode: Decode every image, too.
        quarantine: Give refused shards an empty index, so that training goes on without them.
        force: Scan shards that are indexed already, too.
        val_fraction: Share that a run will hold out (data.val_fraction), to count repeats across.
        progress: Show a bar.

    Raises ValueError for paths without shards, a tokenizer that cannot be read and an index that cannot be written.
    """
    start = time.monotonic()
    if workers < 1 or not 0 <= max_bad <= 1:
        raise ValueError(f"workers={workers} must be at least 1, max_bad={max_bad} a share from 0 to 1")
    rules = Rules(open_tokenizer(tokenizer_spec), caption_field, decode)
    job = _Job(rules, Path(into) if into else None, max_bad, quarantine)
    shards = find_shards(paths)
    held = {} if force else {path: found for path in shards if (found := _held(job, path))}
    reports = {path: found.report for path, found in held.items() if not found.sha256}
    todo = {path: held[path].sha256 if path in held else "" for path in shards if path not in reports}
    with ByteBar("indexing", len(todo), sum(map(_size, todo)), progress) as bar:
        for path, outcome in _scanned(todo, job.rules, workers):
            reports[path] = _settle(job, path, outcome) if outcome else _still_good(job, held[path])
            bar.advance(_size(path))
    files = [(path, job.file(path)) for path in shards if reports[path].outcome != "refused"]
    repeats = count_repeats(files, val_fraction)
    return Summary(tuple(reports[path] for path in shards), repeats, time.monotonic() - start)


def find_shards(paths: Sequence[str | Path]) -> list[Path]:
    """The shards that folders, globs and files name, sorted, each once. Raises ValueError for a path without any."""
    found: set[Path] = set()
    for text in (part for path in paths for part in str(path).split("::")):
        path = Path(text)
        files = path.rglob("*") if path.is_dir() else map(Path, glob.glob(text, recursive=True))
        shards = [file for file in files if file.name.endswith(SHARD_SUFFIXES) and file.is_file()]
        if not shards:
            what = "is no shard" if path.is_file() else "names no shards"
            raise ValueError(f"{text} {what}: they are files that end in {', '.join(SHARD_SUFFIXES)}")
        found.update(shards)
    return sorted(found)


def _size(path: Path) -> int:
    """Bytes, for the bar; 0 for a shard that is gone, which the scan will report."""
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _held(job: _Job, path: Path) -> _Held | None:
    """A shard whose index is there and as this job would make it, else None."""
    try:
        index = read_index(job.file(path))
        check_index(index)
        header, state = index.header, path.stat()
        asked = {"caption_field": job.rules.caption_field, "rules": RULES, "refused": "", "bytes": state.st_size}
        if any(header.get(name) != value for name, value in asked.items()) or job.rules.decode > header["decoded"]:
            return None
        check_statistics(path, header["samples"])
        read_sizes(index)  # an index from before they were kept is made again, byte for byte
        sha256 = "" if header["mtime_ns"] == state.st_mtime_ns else header["sha256"]
    except (OSError, ValueError, KeyError, TypeError):
        return None  # what is wrong with the shard, the scan says better; an index is never worth more than a scan
    report = _report(path, "kept", header, index.samples, {})
    return None if _too_bad(job, report) else _Held(report, sha256, state.st_mtime_ns)


def _still_good(job: _Job, held: _Held) -> ShardReport:
    """Write an index again with its shard's new time, so that the shard is not hashed the next time."""
    index = read_index(job.file(held.report.path))
    keys = [index.key(sample) for sample in range(len(index.samples))]
    arrays = {"samples": index.samples, "segments": index.segments, "members": index.members}
    own = ("arrays", "format", "left_out", "body_sha256", "body_bytes")
    header = {name: value for name, value in index.header.items() if name not in own}
    _write(Scan({**header, "mtime_ns": held.mtime_ns}, arrays, keys), index.file)
    return held.report


def _scanned(shards: Mapping[Path, str], rules: Rules, workers: int) -> Iterator[tuple[Path, Scan | str | None]]:
    """Every shard with its scan, why it is refused, or None if it has the sha256 in ``shards``; as they come in."""
    if workers == 1 or len(shards) < 2:
        for path, sha256 in shards.items():
            yield path, _scan_or_error(path, sha256, rules)
        return
    waiting, running = iter(shards.items()), dict[Future[Scan | str | None], Path]()
    with ProcessPoolExecutor(
        min(workers, len(shards)), mp_context=get_context("spawn"), initializer=_start_worker, initargs=(rules,)
    ) as pool:
        try:
            while True:
                for path, sha256 in islice(waiting, 2 * workers - len(running)):
                    running[pool.submit(_scan_in_worker, path, sha256)] = path
                if not running:
                    return
                done, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    result = future.result()
                    yield running.pop(future), result
        except BrokenProcessPool as error:
            raise ValueError(
                f"a process that scanned one of {', '.join(map(str, running.values()))} died, perhaps for want of "
                "memory: run it again with fewer --workers; finished shards are kept"
            ) from error
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


_worker_rules: Rules | None = None


def _start_worker(rules: Rules) -> None:
    """The tokenizer comes once a process. Ctrl-C ends a worker at once and silently: what it did is not written yet."""
    global _worker_rules
    _worker_rules = rules
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def _scan_in_worker(path: Path, sha256: str) -> Scan | str | None:
    assert _worker_rules is not None
    return _scan_or_error(path, sha256, _worker_rules)


def _scan_or_error(path: Path, sha256: str, rules: Rules) -> Scan | str | None:
    try:
        if sha256 and file_sha256(path) == sha256:
            return None
        return scan_shard(path, rules)
    except (ValueError, OSError) as error:
        message = str(error)
        return message if str(path) in message else f"shard {path}: {message}"


def _settle(job: _Job, path: Path, outcome: Scan | str) -> ShardReport:
    """Write the index, or refuse the shard; an index of what the shard was before must not stay in its place."""
    if isinstance(outcome, Scan):
        report = _report(path, "indexed", outcome.header, outcome.arrays["samples"], outcome.examples)
        error = _too_bad(job, report)
    else:
        report, error = ShardReport(path, "indexed"), outcome
    if error:
        report = replace(report, outcome="refused", error=error)
        outcome = _empty(job, path, error) if job.quarantine else error
    if isinstance(outcome, Scan):
        _write(outcome, job.file(path))
    else:
        job.file(path).unlink(missing_ok=True)
        sizes_path(job.file(path)).unlink(missing_ok=True)
    return report


def _write(found: Scan, file: Path) -> None:
    try:
        if found.sizes is not None and len(found.sizes):
            write_sizes(file, found.sizes, found.header["sha256"])
        write_index(file, found.header, found.arrays, found.keys)
    except OSError as error:
        raise ValueError(f"{file} cannot be written ({error}): name another folder with --into") from error


def _empty(job: _Job, path: Path, why: str) -> Scan | str:
    """What stands for a shard that is left out; the error itself if not even its bytes can be read."""
    try:
        return refused_scan(path, job.rules, why)
    except (OSError, ValueError):
        return why


def _too_bad(job: _Job, report: ShardReport) -> str:
    """Why a shard with so many bad samples is refused; empty if it is not."""
    bad = sum(report.bad.values())
    if bad <= job.max_bad * report.samples:
        return ""
    reasons = ", ".join(f"{reason} {count:,}" for reason, count in report.bad.items())
    examples = "; ".join(report.examples.values())
    return (
        f"shard {report.path}: {bad:,} of {report.samples:,} samples are bad, more than --max-bad {job.max_bad:g} "
        f"allows: {reasons}" + (f". The first: {examples}" if examples else "")
    )


def _report(
    path: Path, outcome: str, header: Mapping[str, Any], samples: np.ndarray, examples: Mapping[str, str]
) -> ShardReport:
    return ShardReport(
        path,
        outcome,
        bytes=header["bytes"],
        samples=len(samples),
        text_tokens=int(samples["text_tokens"].sum()),
        images=int(samples["images"].sum()),
        bad=left_out(samples),
        examples=examples,
    )
