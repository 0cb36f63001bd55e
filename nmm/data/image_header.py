"""What an image file says about itself before a pixel is decoded: format, size and how it is turned.

The formats are read from the bytes, never from a file name. Ordinary headers are read here, which takes microseconds;
unusual ones are left to Pillow.
"""

from __future__ import annotations

import io
import re
import struct
import warnings
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

from PIL import Image

from nmm.data.reasons import BadSample

MAX_PIXELS = 1 << 26  # of one image: 64 Mpx, more than any camera in common use; beyond are bombs
MAX_ASPECT = 20.0  # longer side over shorter side: beyond are strips and banners that no crop can show
MAX_SCANS = 256  # of a progressive JPEG, where about ten are usual
MAX_SCANNED = 16 * MAX_PIXELS  # pixels times scans of a JPEG, as every scan costs a pass over all pixels

PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
ORIENTATION_TAG = 0x0112
JPEG_MARKER = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")  # neither a stuffed byte, a restart nor padding

# What Pillow's plugins raise for bytes that are no image, seen in fuzzing and in its sources. Not MemoryError: that
# says something about the machine.
PLUGIN_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    AttributeError,
    AssertionError,
    LookupError,
    EOFError,
    ArithmeticError,
    RuntimeError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)


@dataclass(frozen=True)
class Header:
    """``kind`` is Pillow's name of the format; ``width`` and ``height`` in pixels as stored, before any rotation.

    ``orientation`` is EXIF's, 1 to 8: from 5 on, the sides of the upright image are swapped.
    """

    kind: str
    width: int
    height: int
    orientation: int = 1

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) of the upright image."""
        return (self.height, self.width) if self.orientation >= 5 else (self.width, self.height)


def check_header(data: bytes, extension: str) -> tuple[int, int]:
    """(width, height) of the upright image, read from its header alone.

    ``extension`` is what the file was called; only errors use it. Raises BadSample: "bad_image_header" for anything
    but a JPEG, PNG or WebP header, "too_many_pixels" and "aspect_ratio" beyond MAX_PIXELS and MAX_ASPECT.
    """
    return read_header(data, extension).size


def read_header(data: bytes, extension: str) -> Header:
    """The checked header, see ``check_header``."""
    try:
        header = _parse(data)
    except (struct.error, IndexError, ValueError):
        header = None
    header = header or _ask_pillow(data, extension)
    width, height = header.width, header.height
    if width < 1 or height < 1:
        raise BadSample("bad_image_header", f"the {extension} image says it is {width} x {height} pixels")
    if width * height > MAX_PIXELS:
        raise BadSample("too_many_pixels", f"{width} x {height} pixels; allowed are {MAX_PIXELS:,} in all")
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise BadSample("aspect_ratio", f"{width} x {height} pixels; sides may differ by {MAX_ASPECT:g} times")
    return header


def png_chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """(name, start, end) of the chunks of a PNG, ``data[start:end]`` being their content, up to and with IEND.

    Raises struct.error or ValueError where the file ends before IEND does.
    """
    at, name = 8, b""
    while name != b"IEND":
        size, name = struct.unpack_from(">I4s", data, at)
        if at + 12 + size > len(data):
            raise ValueError(f"the file ends within chunk {name!r}")
        yield name, at + 8, at + 8 + size
        at += 12 + size


def jpeg_scans(data: bytes) -> int:
    """How many scans a JPEG has: starts of scans up to its end, not counting what is inside other segments."""
    at, scans = 2, 0
    while (found := JPEG_MARKER.search(data, at)) and found[0] != b"\xff\xd9":
        scans += found[0] == b"\xff\xda"
        at = found.end() + int.from_bytes(data[found.end() : found.end() + 2])
    return scans


def _parse(data: bytes) -> Header | None:
    """None, or a struct.error, IndexError or ValueError: no ordinary header."""
    if data.startswith(b"\xff\xd8\xff"):
        return _jpeg(data)
    if data.startswith(PNG_MAGIC):
        return _png(data)
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return _webp(data)
    return None


def _jpeg(data: bytes) -> Header | None:
    at, orientation = 2, 1
    while True:
        mark, kind, size = struct.unpack_from(">BBH", data, at)
        if mark != 0xFF or size < 2 or not (0xC0 <= kind <= 0xCF or 0xDB <= kind <= 0xEF or kind == 0xFE):
            return None
        if kind == 0xE1 and data[at + 4 : at + 10] == b"Exif\0\0":
            orientation = _orientation(data[at + 4 : at + 2 + size])
        if 0xC0 <= kind <= 0xCF and kind not in (0xC4, 0xC8, 0xCC):
            bits, height, width, channels = struct.unpack_from(">BHHB", data, at + 4)
            return Header("JPEG", width, height, orientation) if bits == 8 and channels in (1, 3, 4) else None
        at += 2 + size


def _png(data: bytes) -> Header | None:
    header = None
    for name, start, end in png_chunks(data):
        if header is None:
            if name != b"IHDR" or zlib.crc32(data[start - 4 : end]) != int.from_bytes(data[end : end + 4]):
                return None
            header = Header("PNG", *struct.unpack_from(">II", data, start))
        elif name == b"eXIf":
            return Header("PNG", header.width, header.height, _orientation(data[start:end]))
        elif name == b"IDAT":
            return header
    return None


def _webp(data: bytes) -> Header | None:
    name = data[12:16]
    if name == b"VP8 " and data[23:26] == b"\x9d\x01\x2a":
        width, height = struct.unpack_from("<HH", data, 26)
        return Header("WEBP", width & 0x3FFF, height & 0x3FFF)
    if name == b"VP8L" and data[20] == 0x2F:
        bits = int.from_bytes(data[21:25], "little")
        return Header("WEBP", (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1)
    if name == b"VP8X" and len(data) >= 30:
        width, height = (int.from_bytes(data[at : at + 3], "little") + 1 for at in (24, 27))
        return Header("WEBP", width, height, _webp_orientation(data) if data[20] & 8 else 1)
    return None


def _webp_orientation(data: bytes) -> int:
    at = 12
    while at + 8 <= len(data):
        name, size = struct.unpack_from("<4sI", data, at)
        if name == b"EXIF":
            return _orientation(data[at + 8 : at + 8 + size])
        at += 8 + size + size % 2
    return 1


def _orientation(tiff: bytes) -> int:
    """EXIF's orientation; 1 where there is none or the block is damaged: the pixels are worth having all the same."""
    tiff = tiff.removeprefix(b"Exif\0\0")
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(tiff[:4])
    if order is None:
        return 1
    try:
        (at,) = struct.unpack_from(order + "I", tiff, 4)
        (entries,) = struct.unpack_from(order + "H", tiff, at)
        for entry in range(at + 2, at + 2 + 12 * entries, 12):
            tag, kind, count = struct.unpack_from(order + "HHI", tiff, entry)
            if tag == ORIENTATION_TAG and kind in (3, 4) and count == 1:
                (value,) = struct.unpack_from(order + ("H" if kind == 3 else "I"), tiff, entry + 8)
                return value if 1 <= value <= 8 else 1
    except struct.error:
        return 1
    return 1


def _ask_pillow(data: bytes, extension: str) -> Header:
    """The header of a file that is not built as usual, as Pillow reads it. Raises BadSample."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            with Image.open(io.BytesIO(data), formats=("JPEG", "PNG", "WEBP")) as image:
                kind = "JPEG" if image.format == "MPO" else image.format or ""
                return Header(kind, image.width, image.height, _orientation(image.info.get("exif", b"")))
        except PLUGIN_ERRORS as error:
            message = f"not a readable JPEG, PNG or WebP header in {len(data):,} bytes called {extension!r}: {error}"
            raise BadSample("bad_image_header", message) from error
