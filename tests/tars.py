"""Tars of the tests: members as given, images as small as they get."""

from __future__ import annotations

import functools
import io
import tarfile
from pathlib import Path

from PIL import Image


def write_tar(file: Path, members: list[tuple[str, bytes]]) -> Path:
    """A tar of ``members`` (name, bytes) in this order; the same bytes every time."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(file, "w") as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return file


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
