"""For tar_fuzz: small sound shards of every format, and what storage, networks and people do to them."""

from __future__ import annotations

import gzip
import io
import json
import random
import tarfile
from collections.abc import Callable
from dataclasses import dataclass

import zstandard
from PIL import Image

BLOCK = 512
Members = list[tuple[str, bytes]]
Span = tuple[int, int]  # first and last byte of a member with its header, last one excluded


@dataclass(frozen=True)
class Original:
    """A sound shard; ``spans`` are those of its members, names of long ones included (empty without a tar)."""

    name: str
    data: bytes
    spans: tuple[Span, ...]


def originals() -> list[Original]:
    """One of every format that `nmm index` knows, a few samples each."""
    found = [
        _tar("jpg", _captions("jpg")),
        _tar("png", _captions("png")),
        _tar("webp", _captions("webp")),
        _tar("json caption", [member for member in _captions("jpg") if not member[0].endswith("txt")]),
        _tar("obelics", _interleaved(listed=False)),
        _tar("segments", _interleaved(listed=True)),
        _tar("txt", [(f"t{n}.txt", _text(n)) for n in range(8)]),
        _tar("json", [(f"j{n}.json", json.dumps({"text": _text(n).decode()}).encode()) for n in range(8)]),
        _tar("jsonl", [(f"part{n}.jsonl", _lines(n)) for n in range(2)]),
        _tar("jsonl.gz", [(f"part{n}.jsonl.gz", gzip.compress(_lines(n), mtime=0)) for n in range(2)]),
        _tar("jsonl.zst", [(f"part{n}.jsonl.zst", zstandard.compress(_lines(n))) for n in range(2)]),
        _tar("gnu names", _deep(_captions("jpg")), tarfile.GNU_FORMAT),
        _tar("pax names", _deep(_captions("jpg")), tarfile.PAX_FORMAT),
    ]
    bare = [("bare.jsonl", _lines(5)), ("bare.jsonl.gz", gzip.compress(_lines(6), mtime=0))]
    return [*found, *(Original(name, data, ()) for name, data in bare)]


def _text(number: int) -> bytes:
    rng = random.Random(number)
    return " ".join([*rng.choices(("red", "fox", "grüße", "seven", "birds", "old"), k=6), str(number)]).encode()


def _lines(number: int) -> bytes:
    return b"".join(json.dumps({"text": _text(100 * number + n).decode()}).encode() + b"\n" for n in range(6))


def _picture(number: int, kind: str) -> bytes:
    out = io.BytesIO()
    noise = random.Random(number).randbytes(3 * 18 * 20)
    Image.frombytes("RGB", (18, 20), noise).save(out, {"jpg": "JPEG"}.get(kind, kind.upper()))
    return out.getvalue()


def _captions(kind: str) -> Members:
    return [
        member
        for n in range(5)
        for member in (
            (f"{n:05d}.{kind}", _picture(n, kind)),
            (f"{n:05d}.json", json.dumps({"caption": _text(n).decode()}).encode()),
            (f"{n:05d}.txt", _text(n)),
        )
    ]


def _interleaved(listed: bool) -> Members:
    found: Members = []
    for n in range(4):
        texts = [_text(10 * n).decode(), _text(10 * n + 1).decode()]
        if listed:
            record = {"segments": [{"text": texts[0]}, {"image": "0.png"}, {"text": texts[1]}, {"image": "1.png"}]}
        else:
            record = {"texts": [texts[0], None, texts[1], None], "images": [None, "http://x/0", None, "http://x/1"]}
        found.append((f"d{n}.json", json.dumps(record).encode()))
        found += [(f"d{n}.{i}.png", _picture(50 + 10 * n + i, "png")) for i in range(2)]
    return found


def _deep(members: Members) -> Members:
    """Names too long for a plain header."""
    return [("folder/" * 20 + name, data) for name, data in members]


def _tar(name: str, members: Members, form: int = tarfile.USTAR_FORMAT) -> Original:
    out, spans = io.BytesIO(), []
    with tarfile.open(fileobj=out, mode="w", format=form) as tar:
        for member, data in members:
            info = tarfile.TarInfo(member)
            info.size = len(data)
            start = out.tell()
            tar.addfile(info, io.BytesIO(data))
            spans.append((start, out.tell()))
    return Original(f"{name}.tar", out.getvalue(), tuple(spans))


# ---------------------------------------------------------------------------------------------------------------------
# damage: (random numbers, shard, bytes as they are by now) -> bytes

Damage = Callable[[random.Random, Original, bytes], bytes]


def flipped_bytes(rng: random.Random, shard: Original, data: bytes) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 8, 64)) if data else 0):
        changed[rng.randrange(len(data))] ^= rng.randrange(1, 256)
    return bytes(changed)


def flipped_in_a_body(rng: random.Random, shard: Original, data: bytes) -> bytes:
    """Of a member: headers stay sound."""
    first, last = _span(rng, shard, data)
    changed = bytearray(data)
    for _ in range(rng.choice((1, 2, 16))):
        if first + BLOCK < min(last, len(data)):
            changed[rng.randrange(first + BLOCK, min(last, len(data)))] ^= rng.randrange(1, 256)
    return bytes(changed)


def flipped_in_a_header(rng: random.Random, shard: Original, data: bytes) -> bytes:
    """Of a member: in the name, the size or the checksum, mostly. Its checksum must give it away."""
    start = _span(rng, shard, data)[0]
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2))):
        first, last = rng.choice(((0, 10), (0, 100), (124, 136), (148, 157), (0, BLOCK)))
        place = start + rng.randrange(first, last)
        if place < len(data):
            changed[place] ^= rng.randrange(1, 256)
    return bytes(changed)


def zeroed_range(rng: random.Random, shard: Original, data: bytes) -> bytes:
    start = rng.randrange(len(data) + 1)
    size = min(rng.choice((1, 16, 200, BLOCK, 4096)), len(data) - start)
    return data[:start] + bytes(size) + data[start + size :]


def zeroed_blocks(rng: random.Random, shard: Original, data: bytes) -> bytes:
    start, stop = _blocks(rng, data)
    return data[:start] + bytes(stop - start) + data[stop:]


def swapped_blocks(rng: random.Random, shard: Original, data: bytes) -> bytes:
    (a, b), (c, d) = sorted((_blocks(rng, data), _blocks(rng, data)))
    if b > c:
        return data
    return data[:a] + data[c:d] + data[b:c] + data[a:b] + data[d:]


def doubled_blocks(rng: random.Random, shard: Original, data: bytes) -> bytes:
    start, stop = _blocks(rng, data)
    return data[:stop] + data[start:]


def lost_blocks(rng: random.Random, shard: Original, data: bytes) -> bytes:
    start, stop = _blocks(rng, data)
    return data[:start] + data[stop:]


def cut(rng: random.Random, shard: Original, data: bytes) -> bytes:
    return data[: rng.randrange(len(data) + 1)]


def cut_between_members(rng: random.Random, shard: Original, data: bytes) -> bytes:
    """Sometimes with an end put there, as a careless repair would."""
    end = _span(rng, shard, data)[1]
    return data[:end] + bytes(rng.choice((0, 2 * BLOCK, 10240)))


def more_at_the_end(rng: random.Random, shard: Original, data: bytes) -> bytes:
    return data + rng.choice((rng.randbytes(700), bytes(5000), data, b"\0" * 511 + b"x"))


def doubled_member(rng: random.Random, shard: Original, data: bytes) -> bytes:
    first, last = _span(rng, shard, data)
    place = _span(rng, shard, data)[1]
    return data[:place] + data[first:last] + data[place:]


def swapped_members(rng: random.Random, shard: Original, data: bytes) -> bytes:
    (a, b), (c, d) = sorted((_span(rng, shard, data), _span(rng, shard, data)))
    return data[:a] + data[c:d] + data[b:c] + data[a:b] + data[d:] if b <= c else data


def lost_member(rng: random.Random, shard: Original, data: bytes) -> bytes:
    first, last = _span(rng, shard, data)
    return data[:first] + data[last:]


NAMES = (b"../../escaped.txt", b"/etc/escaped.txt", b"a/../../x.jpg", b"..", b".", b"", b"\xff\xfe.txt", b"new.jpg")
NAMES += (b"00001.txt", b"00000.pkl", b"00000.pyd", b"d1.json", b"new.json", b"new.jsonl.gz", b"x.tar", b".hidden")
NAMES += (b"00000.JPG", b"00000.2.jpg", b"part0.jsonl", b"a" * 100, b"new" + b"\xc3\xbc" * 40)


def renamed_member(rng: random.Random, shard: Original, data: bytes) -> bytes:
    """With the checksum of its header put right."""
    return _header(data, _span(rng, shard, data)[0], 0, rng.choice(NAMES).ljust(100, b"\0"))


def resized_member(rng: random.Random, shard: Original, data: bytes) -> bytes:
    """A header that is sound and lies about its member's size."""
    sizes = [b"%011o\0" % rng.choice((0, 1, 511, 512, 513, 5000, 8**11 - 1)), b"-0000001000\0", b"+0000000777\0"]
    sizes += [b"\x80" + bytes(3) + rng.randbytes(8), b"\xff" * 12, b" " * 12, b"99999999999\0", b"1_0        \0"]
    return _header(data, _span(rng, shard, data)[0], 124, rng.choice(sizes))


def retyped_member(rng: random.Random, shard: Original, data: bytes) -> bytes:
    """A link, a device, a folder, a record of names, something unknown."""
    return _header(
        data,
        _span(rng, shard, data)[0],
        156,
        rng.choice((b"1", b"2", b"3", b"5", b"6", b"x", b"g", b"L", b"S", b"\0", b"7", b"Z")),
    )


BEFORE = (
    flipped_bytes,
    flipped_in_a_body,
    flipped_in_a_header,
    zeroed_range,
    zeroed_blocks,
    swapped_blocks,
    doubled_blocks,
    lost_blocks,
    cut,
    cut_between_members,
    more_at_the_end,
    doubled_member,
    swapped_members,
    lost_member,
    renamed_member,
    resized_member,
    retyped_member,
)
AFTER = (flipped_bytes, flipped_in_a_body, zeroed_range, zeroed_blocks, swapped_blocks, swapped_members, cut)
RENAMES = ("renamed_member",)


def _span(rng: random.Random, shard: Original, data: bytes) -> Span:
    return rng.choice(shard.spans) if shard.spans else (0, len(data))


def _blocks(rng: random.Random, data: bytes) -> Span:
    """One to four whole blocks."""
    number = max(1, len(data) // BLOCK)
    start = rng.randrange(number)
    return start * BLOCK, min(start + rng.randrange(1, 5), number) * BLOCK


def _header(data: bytes, start: int, place: int, value: bytes) -> bytes:
    """A field of a header changed, and its checksum with it."""
    header = bytearray(data[start : start + BLOCK])
    if len(header) < BLOCK:
        return data
    header[place : place + len(value)] = value
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return data[:start] + bytes(header) + data[start + BLOCK :]
