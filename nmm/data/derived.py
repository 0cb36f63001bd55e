"""A shard folder made from a rendered one: chosen samples, perhaps with other words; everything else as it was.

Only the training split of one source changes, tar by tar; its other splits and sources are carried over unchanged, as
hard links where the file system can. The manifest is one of ``nmm.data.shards`` with ``derived``, the parent's
fingerprint and what was asked of it: equal work has an equal fingerprint, wherever it lies. Where the parent was and
which command ran is in ``provenance.json``.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from nmm.config import canonical_json
from nmm.data.manifest import ShardInfo, Shards, index_shard
from nmm.data.out_folder import claim, only_writer, progress_bar, refuse_strangers
from nmm.data.records import ShardStats, write_atomically
from nmm.data.shards import finished, seal, split_summary
from nmm.data.tar import open_bytes
from nmm.data.tar_writer import TarWriter
from nmm.data.words import IMAGE

SPLIT = "train"


@dataclass(frozen=True)
class Sample:
    """One sample of a tar: its key and the bytes of its members by extension, in the order of the tar."""

    key: str
    members: Mapping[str, bytes]

    @property
    def text(self) -> str:
        """All tokens of a rendered sample, "<image>" standing for a picture."""
        return self.members["txt"].decode()

    @property
    def facts(self) -> dict[str, Any]:
        """What its json says."""
        content: dict[str, Any] = json.loads(self.members["json"])
        return content


Transform = Callable[[int, int, Sample], Sample | None]


def samples_of(shards: Shards, info: ShardInfo) -> Iterator[Sample]:
    """The samples of one tar, checked against its manifest entry. Raises as ``nmm.data.manifest.index_shard``."""
    index = index_shard(shards.root, info)
    with open_bytes(shards.root / info.path) as data:
        for key, members in zip(index.keys, index.members, strict=True):
            yield Sample(key, {kind: data[m.offset : m.offset + m.size] for kind, m in members.items()})


def retold(sample: Sample, text: str, classes: str | None = None, **facts: Any) -> Sample:
    """A sample with other words: ``text`` holds as many "<image>" as before and is split at spaces.

    Nobody knows the log-probabilities of such words, so the json has none; its ``classes`` (a letter a text token) are
    the ones given, or none. Questions are left out. ``facts`` are added to the json. Raises ValueError for another
    number of images.
    """
    old = sample.facts
    images = [segment["image"] for segment in old["segments"] if "image" in segment]
    pieces = text.split(IMAGE)
    if len(pieces) != len(images) + 1:
        raise ValueError(f"sample {sample.key}: {len(images)} images, but {IMAGE} stands {len(pieces) - 1} times in it")
    segments: list[dict[str, str]] = []
    for number, piece in enumerate(pieces):
        segments += [{"image": images[number - 1]}] if number else []
        segments += [{"text": piece.strip()}] if piece.strip() else []
    kept = {name: value for name, value in old.items() if name not in ("logprobs", "classes")}
    new = {**kept, "segments": segments, "questions": [], **facts} | ({} if classes is None else {"classes": classes})
    changed = {"txt": text.encode(), "json": json.dumps(new, separators=(",", ":")).encode()}
    return replace(sample, members={**sample.members, **changed})


def derive(
    parent: Shards,
    out: str | Path,
    source: str,
    transform: Transform,
    made_by: Mapping[str, Any],
    command: Sequence[str] = (),
    progress: bool = True,
) -> dict[str, Any]:
    """Write the folder ``out`` from ``parent`` and return its manifest.

    Args:
        parent: An opened rendered folder.
        out: Folder to write; made if missing. Tars finished earlier by the same call are kept.
        source: Whose training split changes.
        transform: Of (number of the tar in the split, number of the sample in it, sample): what stands for it, or None
            to leave it out. A pure function of these and ``made_by``.
        made_by: Plain JSON, everything that decides ``transform``: part of the fingerprint, so no paths.
        command: Arguments of the command, for provenance.json.
        progress: Show a bar.

    Raises:
        ValueError: for a source without a training split, an ``out`` made for something else, words that are not in the
            vocabulary, or when nothing is left.
    """
    out = Path(out)
    infos = parent.split(source, SPLIT).shards
    if out.resolve() == parent.root.resolve():
        raise ValueError(f"{out} is the folder to read from; write to another one")
    refuse_strangers(out)
    out.mkdir(parents=True, exist_ok=True)
    derived = {"parent": parent.fingerprint, "source": source, **made_by}
    with only_writer(out):
        claim(out, {"format": 1, "derived": derived})
        origin = {"parent": str(parent.root.resolve()), "command": list(command)}
        write_atomically(out / "provenance.json", json.dumps(origin, indent=1).encode() + b"\n")
        written = _write_tars(parent, out, infos, transform, source if progress else "")
        kept = [stats for stats in written if stats.samples]
        if not kept:
            raise ValueError(f"nothing of {source} {SPLIT} is left for {out}")
        sources = _carried_over(parent, out, source)
        sources[source] = {SPLIT: split_summary(kept), **sources.get(source, {})}
        write_atomically(out / "tokenizer.json", (parent.root / "tokenizer.json").read_bytes())
        same = {name: value for name, value in parent.manifest.items() if name not in ("fingerprint", "sources")}
        return seal(out, {**same, "sources": sources, "derived": derived})


def _write_tars(
    parent: Shards, out: Path, infos: Sequence[ShardInfo], transform: Transform, label: str
) -> list[ShardStats]:
    """One tar for every tar of the parent; finished ones are left as they are."""
    stats = []
    with progress_bar(bool(label)) as bar:
        task = bar.add_task(f"writing {label}", total=sum(info.samples for info in infos))
        for number, info in enumerate(infos):
            done = finished(out, info.path)
            stats.append(done or _write_tar(parent, out, info, number, transform))
            bar.advance(task, info.samples)
    return stats


def _write_tar(parent: Shards, out: Path, info: ShardInfo, number: int, transform: Transform) -> ShardStats:
    """Write one tar, then its statistics, each under a temporary name that is renamed when the bytes are on disk."""
    tar = out / info.path
    tar.parent.mkdir(parents=True, exist_ok=True)
    temporary = tar.with_name(f".{tar.name}.tmp-{os.getpid()}")
    stats = ShardStats(path=info.path, first_index=info.first_index, logprob_sum=None)
    with temporary.open("wb") as file:
        writer = TarWriter(file)
        for place, sample in enumerate(samples_of(parent, info)):
            if (new := transform(number, place, sample)) is not None:
                _add(writer, parent, new, stats)
        stats.bytes, stats.sha256 = writer.close()
        file.flush()
        os.fsync(file.fileno())
    temporary.rename(tar)
    write_atomically(tar.with_suffix(".json"), canonical_json(asdict(stats)).encode())
    return stats


def _add(writer: TarWriter, parent: Shards, sample: Sample, stats: ShardStats) -> None:
    try:
        tokens = len(parent.tokenizer.encode(sample.text))
    except ValueError as error:
        raise ValueError(f"sample {sample.key}: {error}") from error
    images = sample.text.split().count(IMAGE)
    for kind, body in sample.members.items():
        writer.add(f"{sample.key}.{kind}", body)
    stats.samples += 1
    stats.images += images
    stats.text_tokens += tokens - images


def _carried_over(parent: Shards, out: Path, changed: str) -> dict[str, dict[str, Any]]:
    """Link or copy every tar but those of the changed split; returns their entries of the parent's manifest."""
    entries: dict[str, dict[str, Any]] = {}
    for source, splits in parent.manifest["sources"].items():
        for split, entry in splits.items():
            if (source, split) == (changed, SPLIT):
                continue
            entries.setdefault(source, {})[split] = entry
            for shard in entry["shards"]:
                _link(parent.root / shard["path"], out / shard["path"])
    return entries


def _link(old: Path, new: Path) -> None:
    if new.exists():
        return
    new.parent.mkdir(parents=True, exist_ok=True)
    temporary = new.with_name(f".{new.name}.tmp-{os.getpid()}")
    try:
        os.link(old, temporary)
    except OSError:
        shutil.copyfile(old, temporary)
    temporary.rename(new)
