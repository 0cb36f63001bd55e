"""Tars of the tests, with members as given and images as small as they get; their indexes, opened."""

from __future__ import annotations

import functools
import io
import tarfile
from pathlib import Path
from typing import Any

from PIL import Image

from nmm.data.index_file import ShardIndex, check_index, index_path, read_index
from nmm.data.indexing import Summary, index_shards
from nmm.data.tokenizer import ByteTokenizer
from nmm.data.unpack import unpack


def write_tar(file: Path, members: list[tuple[str, bytes]]) -> Path:
    """A tar of ``members`` (name, bytes) in this order; the same bytes every time."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(tar_bytes(members))
    return file


def tar_bytes(members: list[tuple[str, bytes]]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


@functools.cache
def image(extension: str = "jpg", shade: int = 0, side: int = 16) -> bytes:
    """A small image; another ``shade``, other bytes."""
    out = io.BytesIO()
    kind = {"jpg": "JPEG", "jpeg": "JPEG", "png": "PNG", "webp": "WEBP"}[extension]
    Image.new("RGB", (side, side), (shade % 256, shade // 256, 90)).save(out, kind)
    return out.getvalue()


def captions(first: int, count: int, extension: str = "jpg") -> list[tuple[str, bytes]]:
    """Members of ``count`` samples as img2dataset writes them; no two samples are alike."""
    return [
        (f"{number:09d}.{name}", data)
        for number in range(first, first + count)
        for name, data in (
            (extension, image(extension, number)),
            ("json", b'{"caption": "thing %d", "key": "%09d"}' % (number, number)),
            ("txt", b"thing %d" % number),
        )
    ]


def indexed(*paths: Path, **options: Any) -> Summary:
    """``index_shards`` with bytes as tokens, in this process."""
    return index_shards(paths, "bytes", workers=1, progress=False, **options)


def opened(shard: Path, into: Path | None = None) -> ShardIndex:
    """The index of a shard, every byte of it checked."""
    found = read_index(index_path(shard, ByteTokenizer().fingerprint, into))
    check_index(found)
    return found


def parts_of(found: ShardIndex, shard: Path, sample: int) -> dict[str, bytes]:
    """The bytes of a sample, by offset alone."""
    row, data, parts = found.samples[sample], shard.read_bytes(), {}
    for name, offset, size, start, length in found.members[row["first_member"] :][: row["members"]].tolist():
        form, member = found.header["names"][name], data[offset : offset + size]
        if form.startswith("jsonl"):
            parts["jsonl"] = unpack(member, form)[start : start + length]
        else:
            parts[form] = member
    return parts
