"""One shard from front to end: what its index will say about every sample.

Shape legend: n samples of the shard, S segments and m members of all of them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from nmm.data.formats import RULES, Parsed, Picture, UnknownFormat, line_format, parse, used_members
from nmm.data.forward import ForwardFile
from nmm.data.images import check_header, decode_picture
from nmm.data.index_file import IMAGE_SEGMENT, KINDS, MEMBER, SAMPLE_ROW, content_digest, text_digest
from nmm.data.picture_sizes import SIZE
from nmm.data.reasons import REASONS, BadSample
from nmm.data.tar import Member, stream_samples, walk_tar
from nmm.data.tokenizer import ByteTokenizer, TextTokenizer
from nmm.data.unpack import MAX_UNPACKED, lines, unpack

MAX_NAMES = MAX_IMAGES = (1 << 16) - 1
MAX_TEXT = (1 << 31) - 1
MAX_MEMBER = 1 << 29  # bytes of a sample's member: nothing that is a sample is larger
KEPT_LAYOUTS = 1 << 10
DECODED_SIDE = 224  # pixels; any size shows whether an image can be decoded


@dataclass(frozen=True)
class Rules:
    """What decides an index besides the bytes of its shard."""

    tokenizer: TextTokenizer
    caption_field: str = "caption"
    decode: bool = False


@dataclass(frozen=True)
class Scan:
    """A shard's index before it is written, as ``write_index`` takes it.

    ``examples``: reason -> the first bad sample, for a person.
    """

    header: Mapping[str, Any]
    arrays: Mapping[str, np.ndarray]
    keys: list[str]
    examples: Mapping[str, str] = field(default_factory=dict)
    sizes: np.ndarray | None = None  # (k, 2) of its pictures; None where they were not looked at


def scan_shard(shard: Path, rules: Rules) -> Scan:
    """Read a tar or jsonl shard once.

    Raises ValueError for a shard that cannot be used as a whole: damaged, changed while it was read, with links or
    unsafe names, of an unknown format, empty, or with other samples than its statistics say; OSError when it cannot be
    read.
    """
    with ForwardFile(shard) as data:
        table = _Table(rules)
        if form := line_format(shard.name):
            member = Member(shard.name, 0, len(data))
            table.add_lines(shard, member, form, data)
        else:
            for key, members in stream_samples(walk_tar(data, str(shard)), str(shard)):
                _add_sample(table, shard, data, key, members)
        scan = table.close(shard, data)
    if not scan.keys:
        raise ValueError(f"shard {shard} holds no samples")
    check_statistics(shard, len(scan.keys))
    return scan


def check_statistics(shard: Path, samples: int) -> None:
    """Compare with NAME_stats.json, which img2dataset writes beside NAME.tar once it is complete, if there is one.

    Raises ValueError when it counts other successes than there are samples.
    """
    file = shard.with_name(shard.name.removesuffix(".tar") + "_stats.json")
    if not shard.name.endswith(".tar") or not file.exists():
        return
    try:
        statistics = json.loads(file.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file} is not JSON ({error}): download {shard.name} again, or remove {file.name}") from error
    successes = statistics.get("successes") if isinstance(statistics, dict) else None
    if successes is not None and successes != samples:
        raise ValueError(
            f"shard {shard} has {samples} samples, {file.name} counts {successes} successes: the shard is incomplete "
            f"or another one. Download it again, or remove {file.name} if the shard is as you want it"
        )


def refused_scan(shard: Path, rules: Rules, why: str) -> Scan:
    """An index of no samples for a shard that is left out. Raises OSError for a shard that cannot be read at all."""
    try:
        with ForwardFile(shard) as data:
            empty = _Table(rules).close(shard, data)
    except ValueError as error:
        raise OSError(f"shard {shard}: {error}") from error
    return Scan({**empty.header, "refused": why}, empty.arrays, empty.keys)


class _Table:
    """Collects rows; samples come in the order of the shard."""

    def __init__(self, rules: Rules) -> None:
        self.rules = rules
        self.keys: list[str] = []
        self.rows: list[tuple[int, ...]] = []
        self.segments: list[int] = []
        self.sizes: list[tuple[int, int]] = []
        self.members: list[tuple[int, int, int, int, int]] = []
        self.names: dict[str, int] = {}
        self.layouts: dict[tuple[str, ...], list[str]] = {}
        self.units: list[int] = []
        self.within_lines = True  # the next sample that is no line begins a unit
        self.examples: dict[str, str] = {}

    def name(self, name: str) -> int:
        """Its place in the header's ``names``."""
        place = self.names.setdefault(name, len(self.names))
        if place >= MAX_NAMES:
            raise UnknownFormat(f"there are more than {MAX_NAMES:,} different member names, {name!r} the last of them")
        return place

    def used(self, names: tuple[str, ...]) -> list[str]:
        """``used_members``, asked once: a shard has few layouts, but an interleaved one may have many."""
        if names not in self.layouts:
            if len(self.layouts) >= KEPT_LAYOUTS:
                self.layouts.clear()
            self.layouts[names] = used_members(names)
        return self.layouts[names]

    def add(self, key: str, members: Sequence[tuple[int, int, int, int, int]], parts: Mapping[str, bytes]) -> None:
        """One sample: its MEMBER rows and the bytes of its used members."""
        first, segments, found = len(self.members), len(self.segments), Parsed("caption", ())
        sizes = len(self.sizes)
        images = text_bytes = text_tokens = digest = reason = 0
        try:
            if len(members) > MAX_NAMES or len(parts) < len(members):
                raise BadSample("too_long", f"{len(members):,} members, or one of more than {MAX_MEMBER:,} bytes")
            found = parse(parts, self.rules.caption_field)
            images, text_bytes, text_tokens = self._measure(found)
            digest = content_digest(list(parts.values()))
            self.members += members
            self.units[-1] += 1
        except BadSample as bad:
            del self.segments[segments:], self.sizes[sizes:]
            reason = 1 + REASONS.index(bad.reason)
            self.examples.setdefault(bad.reason, f"sample {key!r}: {bad}")
        count, used = len(self.segments) - segments, len(self.members) - first
        kind = KINDS.index(found.kind)
        self.keys.append(key)
        self.rows.append((digest, reason, kind, images, text_bytes, text_tokens, segments, count, first, used))

    def add_lines(self, shard: Path, member: Member, form: str, data: ForwardFile) -> None:
        """The samples of a jsonl member, a line each: a unit of their own."""
        try:
            if member.size > MAX_UNPACKED:
                raise ValueError(f"it has {member.size:,} bytes, at most {MAX_UNPACKED:,} are read: split it")
            unpacked = unpack(data[member.offset : member.offset + member.size], form)
        except ValueError as error:
            raise ValueError(f"shard {shard}, member {member.name!r}: {error}") from error
        self.units.append(0)
        self.within_lines = True
        name = self.name(form)
        for number, start, length in lines(unpacked):
            row = (name, member.offset, member.size, start, length)
            self.add(f"{member.name}:{number}", [row], {"jsonl": unpacked[start : start + length]})

    def _measure(self, found: Parsed) -> tuple[int, int, int]:
        """Images, bytes and tokens of text; appends the segments. Raises BadSample."""
        images = text_bytes = text_tokens = 0
        for segment in found.segments:
            if isinstance(segment, Picture):
                self.sizes.append(check_header(segment.data, segment.extension))
                if self.rules.decode:
                    decode_picture(segment.data, segment.extension, DECODED_SIDE)
                images += 1
                self.segments.append(IMAGE_SEGMENT)
            else:
                size, tokens = _text_size(segment, self.rules.tokenizer)
                text_bytes += size
                text_tokens += tokens
                self.segments.append(tokens)
        if images > MAX_IMAGES or text_bytes > MAX_TEXT or text_tokens > MAX_TEXT:
            raise BadSample("too_long", f"{images:,} images and {text_bytes:,} bytes of text")
        if not text_tokens:
            raise BadSample("empty_text", "the tokenizer makes no tokens of its text")
        return images, text_bytes, text_tokens

    def close(self, shard: Path, data: ForwardFile) -> Scan:
        """Header and arrays, once all of the shard is read."""
        sha256 = data.finish()
        samples = np.zeros(len(self.rows), SAMPLE_ROW)
        columns = zip(*self.rows, strict=True) if self.rows else ()
        for name, column in zip(SAMPLE_ROW.names[2:], columns, strict=bool(self.rows)):  # type: ignore[index]
            samples[name] = column
        samples["id"] = [text_digest(sha256, key) for key in self.keys]
        samples["key_hash"] = [text_digest(key) for key in self.keys]
        header = {
            "shard": shard.name,
            "bytes": len(data),
            "mtime_ns": data.before.st_mtime_ns,
            "sha256": sha256,
            "tokenizer": self.rules.tokenizer.fingerprint,
            "caption_field": self.rules.caption_field,
            "rules": RULES,
            "decoded": self.rules.decode,
            "samples": len(self.keys),
            "units": self.units,
            "names": list(self.names),
            "refused": "",
        }
        arrays = {
            "samples": samples,
            "segments": np.array(self.segments, "<i4"),
            "members": np.array(self.members, MEMBER),
        }
        return Scan(header, arrays, self.keys, self.examples, np.array(self.sizes, SIZE).reshape(-1, 2))


def _text_size(text: str, tokenizer: TextTokenizer) -> tuple[int, int]:
    """Bytes and tokens. Raises BadSample for text that spells a special word or that the tokenizer cannot write."""
    size = len(text) if text.isascii() else len(text.encode())
    if isinstance(tokenizer, ByteTokenizer):
        return size, size  # what ``encode`` would give, without making it
    ids = tokenizer.encode(text)
    if ids and min(ids) <= 2:
        place = next(place for place, i in enumerate(ids) if i <= 2)
        raise BadSample("reserved_token", f"token {place} of its text is {tokenizer.decode(ids[place : place + 1])!r}")
    return size, len(ids)


def _add_sample(table: _Table, shard: Path, data: ForwardFile, key: str, members: Mapping[str, Member]) -> None:
    try:
        used = table.used(tuple(members))
    except UnknownFormat as error:
        raise ValueError(f"shard {shard}, sample {key!r}: {error}") from error
    if line_format(used[0]):
        for name in used:
            table.add_lines(shard, members[name], line_format(name), data)
        return
    if table.within_lines:
        table.units.append(0)
        table.within_lines = False
    rows, parts = [], {}
    for name in used:
        member = members[name]
        rows.append((table.name(name), member.offset, member.size, 0, member.size))
        if member.size <= MAX_MEMBER:
            parts[name] = data[member.offset : member.offset + member.size]
    table.add(key, rows, parts)
