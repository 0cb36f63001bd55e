"""Headers are read right, quickly and from the bytes alone; what is no picture, or too much of one, is refused."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from nmm.data import image_header
from nmm.data.image_header import MAX_PIXELS, check_header, read_header
from nmm.data.reasons import BadSample

KINDS = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp"}


def file(kind: str, size: tuple[int, int] = (37, 23), mode: str = "RGB", **options: object) -> bytes:
    noise = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    image, buffer = Image.fromarray(noise).convert(mode), io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def exif(orientation: int, order: str = "<", kind: int = 3) -> bytes:
    """A TIFF block that holds an orientation, behind another entry, in either byte order."""
    value = struct.pack(order + ("HH" if kind == 3 else "I"), *([orientation, 0] if kind == 3 else [orientation]))
    entries = struct.pack(order + "HHIHH", 0x0100, 3, 1, 7, 0) + struct.pack(order + "HHI", 0x0112, kind, 1) + value
    start = b"II*\0" if order == "<" else b"MM\0*"
    return b"Exif\0\0" + start + struct.pack(order + "IH", 8, 2) + entries + bytes(4)


def png(width: int, height: int, *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG that says it has so many pixels, 8-bit grey, and holds ``chunks``."""
    parts = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)), *chunks, (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(b)) + k + b + struct.pack(">I", zlib.crc32(k + b)) for k, b in parts
    )


def jpeg_of(width: int, height: int) -> bytes:
    """A JPEG of 8 x 8 pixels whose frame header says otherwise."""
    data = file("JPEG", (8, 8))
    at = data.index(b"\xff\xc0") + 5
    return data[:at] + struct.pack(">HH", height, width) + data[at + 4 :]


ORDINARY = {
    **{f"png {mode}": file("PNG", mode=mode) for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")},
    "png animated": file("PNG", save_all=True, append_images=[Image.new("RGB", (37, 23))]),
    "jpeg": file("JPEG"),
    "jpeg grey": file("JPEG", mode="L"),
    "jpeg cmyk": file("JPEG", mode="CMYK"),
    "jpeg progressive": file("JPEG", progressive=True),
    "jpeg restarts": file("JPEG", restart_marker_blocks=2, comment=b"\xff\xc0 is no frame here"),
    "jpeg profile": file("JPEG", icc_profile=b"\xff\xd9\xff\xc0" * 30_000, exif=exif(1)),
    "webp": file("WEBP"),
    "webp lossless": file("WEBP", lossless=True),
    "webp alpha": file("WEBP", mode="RGBA"),
    "webp animated": file("WEBP", save_all=True, append_images=[Image.new("RGB", (37, 23))]),
    "webp exif": file("WEBP", exif=exif(1), icc_profile=b"123"),
}


@pytest.mark.parametrize("name", ORDINARY)
def test_ordinary_headers_need_no_pillow(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_header, "_ask_pillow", None)
    assert check_header(ORDINARY[name], "x") == (37, 23)
    assert read_header(ORDINARY[name], "x").kind == name.split()[0].upper()


@pytest.mark.parametrize("size", [(1, 1), (1, 20), (255, 256), (256, 255), (16_383, 1_000)])
@pytest.mark.parametrize("kind", KINDS)
def test_sizes_are_those_that_pillow_reads(kind: str, size: tuple[int, int]) -> None:
    for mode in ("RGB", "RGBA") if kind == "WEBP" and size[0] < 1000 else ("RGB",):
        buffer = io.BytesIO()
        Image.new(mode, size).save(buffer, kind, lossless=True)
        assert check_header(buffer.getvalue(), KINDS[kind]) == size == Image.open(buffer).size


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", KINDS)
def test_orientation_swaps_the_sides_from_five_on(kind: str, orientation: int, order: str) -> None:
    for number in (3, 4):
        data = file(kind, exif=exif(orientation, order, number))
        assert Image.open(io.BytesIO(data)).getexif()[0x0112] == orientation
        assert read_header(data, "x").orientation == orientation
        assert check_header(data, "x") == ((23, 37) if orientation >= 5 else (37, 23))


@pytest.mark.parametrize(
    "block", [exif(0), exif(9), exif(6, kind=4)[:20], b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0??"]
)
@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_exif_block_turns_nothing(kind: str, block: bytes) -> None:
    assert read_header(file(kind, exif=block), "x").orientation == 1


def test_unusual_but_readable_headers_are_left_to_pillow() -> None:
    data = file("JPEG", exif=exif(6))
    frame = data.index(b"\xff\xc0")
    odd = data[:frame] + b"\xff\xff" + data[frame:]  # padding before a marker
    assert image_header._parse(odd) is None
    assert check_header(odd, "jpg") == (23, 37)


def test_the_name_does_not_matter() -> None:
    for kind in KINDS:
        assert check_header(file(kind), "gif") == (37, 23)


@pytest.mark.parametrize("kind", ["GIF", "BMP", "TIFF", "ICO", "PPM", "JPEG2000", "TGA", "PDF", "EPS"])
def test_other_formats_are_never_opened(kind: str) -> None:
    with pytest.raises(BadSample, match=r"JPEG, PNG or WebP header in [\d,]+ bytes called 'jpg'") as caught:
        check_header(file(kind, (32, 32)), "jpg")
    assert caught.value.reason == "bad_image_header"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff\xd8\xff",
        b"\xff\xd8\xff\xe0\x00\x00",
        b"\xff\xd8" + b"\xff" * 300,
        b"\x89PNG\r\n\x1a\n",
        b"RIFF\x10\0\0\0WEBP",
        b"RIFF\x10\0\0\0WEBPVP8X",
        b"RIFF\x10\0\0\0WAVEfmt ",
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        b"<!DOCTYPE html><title>404</title>",
        file("PNG")[:30],
        file("JPEG")[:100],
        bytes(1000),
        png(0, 5),
        png(5, 0),
        jpeg_of(0, 8),
        jpeg_of(8, 0),
    ],
)
def test_what_is_no_header_is_refused(data: bytes) -> None:
    with pytest.raises(BadSample) as caught:
        check_header(data, "jpg")
    assert caught.value.reason == "bad_image_header"


def test_a_wrong_checksum_of_the_header_is_seen() -> None:
    data = bytearray(file("PNG"))
    data[19] ^= 4
    with pytest.raises(BadSample) as caught:
        check_header(bytes(data), "png")
    assert caught.value.reason == "bad_image_header"


@pytest.mark.parametrize("make", [jpeg_of, lambda w, h: png(w, h, (b"IDAT", b""))])
def test_bombs_and_strips_are_refused_by_what_they_say(make) -> None:
    for (width, height), reason in {
        (60_000, 60_000): "too_many_pixels",
        (MAX_PIXELS // 8_192 + 1, 8_192): "too_many_pixels",
        (2_001, 100): "aspect_ratio",
        (100, 2_001): "aspect_ratio",
    }.items():
        with pytest.raises(BadSample, match=rf"{width} x {height} pixels.*(20 times|67,108,864)") as caught:
            check_header(make(width, height), "x")
        assert caught.value.reason == reason
    assert check_header(make(2_000, 100), "x") == (2_000, 100)
    assert check_header(make(8_192, 8_192), "x") == (8_192, 8_192)


def test_a_huge_webp_canvas_is_refused() -> None:
    body = b"VP8X" + struct.pack("<IB3x", 10, 0) + (16_777_214).to_bytes(3, "little") * 2
    with pytest.raises(BadSample) as caught:
        check_header(b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body, "webp")
    assert caught.value.reason == "too_many_pixels"


def test_turned_images_are_measured_upright() -> None:
    assert check_header(file("JPEG", (40, 2), exif=exif(6)), "jpg") == (2, 40)
