"""Whatever the bytes are, the outcome is a square of pixels or a BadSample, soon and with nothing left open."""

from __future__ import annotations

import io
import os
import struct
import time
import warnings
import zlib
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFile

from nmm.data.image_header import MAX_SCANS, check_header, jpeg_scans
from nmm.data.images import CROP_UNIFORMS, Crop, decode_picture
from nmm.data.reasons import BadSample

SIDE = 8
REASONS = {"bad_image", "bad_image_header", "too_many_pixels", "aspect_ratio"}
CROP = Crop(0.4, np.random.default_rng(0).random(CROP_UNIFORMS), 0.5)


def file(kind: str, mode: str = "RGB", size: tuple[int, int] = (24, 20), **options: object) -> bytes:
    noise = np.random.default_rng(0).integers(0, 256, (3, 5, 3), dtype=np.uint8)
    image, buffer = Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC).convert(mode), io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def rotated() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "a description"
    return exif


GOOD = {
    "png": file("PNG"),
    "png palette": file("PNG", "P", transparency=bytes(range(50)), exif=rotated()),
    "png deep": file("PNG", "I;16"),
    "png animated": file("PNG", save_all=True, append_images=[Image.new("RGB", (24, 20))]),
    "jpeg": file("JPEG", exif=rotated()),
    "jpeg large": file("JPEG", size=(130, 70)),
    "jpeg progressive": file("JPEG", progressive=True, icc_profile=b"profile"),
    "jpeg cmyk": file("JPEG", "CMYK"),
    "mpo": file("MPO", save_all=True, append_images=[Image.new("RGB", (24, 20))]),
    "webp": file("WEBP", exif=rotated()),
    "webp lossless": file("WEBP", "RGBA", lossless=True),
    "webp animated": file("WEBP", save_all=True, append_images=[Image.new("RGB", (24, 20))]),
}


def outcome(data: bytes) -> str:
    """ "fine", or the reason of the BadSample; any other exception is a failed test."""
    try:
        check_header(data, "jpg")
        decoded = decode_picture(data, "jpg", SIDE, CROP)
    except BadSample as error:
        assert error.reason in REASONS
        assert str(error)
        return error.reason
    assert (decoded.shape, decoded.dtype) == ((SIDE, SIDE, 3), np.uint8)
    return "fine"


def damaged(data: bytes, draw: np.random.Generator) -> bytes:
    """Cut, with bytes flipped, overwritten, removed, doubled or inserted; most of it where headers are."""
    broken = bytearray(data)
    for _ in range(draw.integers(1, 4)):
        reach = len(broken) if draw.random() < 0.4 else min(len(broken), 120)
        at, much = int(draw.integers(0, max(1, reach))), int(draw.integers(1, 9))
        match int(draw.integers(0, 6)):
            case 0:
                broken[at : at + 1] = bytes([broken[at] ^ (1 << int(draw.integers(0, 8)))] if at < len(broken) else [])
            case 1:
                broken[at : at + much] = draw.bytes(much)
            case 2:
                del broken[at : at + much]
            case 3:
                broken[at:at] = broken[at : at + much * 8]
            case 4:
                broken[at : at + 4] = [b"\xff\xff\xff\xff", b"\0\0\0\0", b"\x7f\xff\xff\xff", b"\x80\0\0\0"][much % 4]
            case _:
                del broken[int(draw.integers(0, len(broken) + 1)) :]
    return bytes(broken)


@pytest.mark.parametrize("name", GOOD)
def test_damaged_bytes_are_pixels_or_bad_samples(name: str) -> None:
    assert outcome(GOOD[name]) == "fine"
    draw = np.random.default_rng(len(GOOD[name]))
    counts = Counter(outcome(damaged(GOOD[name], draw)) for _ in range(600))
    assert counts["bad_image_header"] > 20
    assert counts["bad_image"] > 20


def test_a_flipped_bit_in_a_png_never_becomes_other_pixels() -> None:
    data = file("PNG", size=(8, 8))
    expected, inside = decode_picture(data, "png", 8), data.index(b"IDAT") - 4
    kept = 0
    for at in range(inside, len(data) - 12):
        for bit in range(8):
            broken = data[:at] + bytes([data[at] ^ 1 << bit]) + data[at + 1 :]
            if outcome(broken) == "fine":
                assert np.array_equal(decode_picture(broken, "png", 8), expected)
                kept += 1
    assert kept == 0


@pytest.mark.parametrize("name", GOOD)
def test_what_is_cut_off_is_bad_not_grey(name: str) -> None:
    data = GOOD[name]
    assert not ImageFile.LOAD_TRUNCATED_IMAGES
    whole = len(data) if "animated" not in name and name != "mpo" else len(data) // 3
    for cut in range(0, whole * 9 // 10, max(1, whole // 60)):
        assert outcome(data[:cut]) in ("bad_image", "bad_image_header"), cut


def test_a_missing_end_of_a_png_is_seen() -> None:
    assert outcome(GOOD["png"][:-12]) == "bad_image"


def test_odd_metadata_costs_no_picture_and_no_warning() -> None:
    for block in (b"Exif\0\0II*\0\x08\0\0\0\xff\xff" + bytes(30), b"Exif\0\0", b"Exif\0\0MM\0*\0\0\0\x08\0\1\x01\x12"):
        for kind in ("JPEG", "PNG", "WEBP"):
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                assert outcome(file(kind, exif=block)) == "fine", (kind, block)


def jpeg_with_two_frames() -> bytes:
    """A small frame header in front of one that says 7,000 x 7,000."""
    data = file("JPEG", size=(16, 16))
    at = data.index(b"\xff\xc0")
    frame = data[at : at + 2 + int.from_bytes(data[at + 2 : at + 4])]
    return data[:at] + frame + frame[:5] + struct.pack(">HH", 7_000, 7_000) + frame[9:] + data[at + len(frame) :]


def png_with_two_headers() -> bytes:
    """A small header in front of one that says 7,000 x 7,000."""
    data = file("PNG", size=(16, 16))
    other = b"IHDR" + struct.pack(">II", 7_000, 7_000) + data[24:29]
    return data[:33] + struct.pack(">I", 13) + other + struct.pack(">I", zlib.crc32(other)) + data[33:]


def bomb() -> bytes:
    """A PNG of 16 x 16 pixels with 50 MB of zeros for them."""
    packed = zlib.compress(bytes(50_000_000), 9)
    data = file("PNG", size=(16, 16))
    at, end = data.index(b"IDAT") - 4, data.index(b"IEND") - 4
    chunk = b"IDAT" + packed
    return data[:at] + struct.pack(">I", len(packed)) + chunk + struct.pack(">I", zlib.crc32(chunk)) + data[end:]


def with_scans(count: int) -> bytes:
    """A progressive JPEG whose last scan comes again until there are ``count``."""
    data = file("JPEG", size=(64, 64), progressive=True)
    last = data.rindex(b"\xff\xda")
    return data[:last] + data[last:-2] * (1 + count - jpeg_scans(data)) + data[-2:]


def resized(data: bytes, width: int, height: int) -> bytes:
    """A progressive JPEG that says it has other sides."""
    at = data.index(b"\xff\xc2") + 5
    return data[:at] + struct.pack(">HH", height, width) + data[at + 4 :]


@pytest.mark.parametrize("make", [jpeg_with_two_frames, png_with_two_headers])
def test_a_second_header_is_never_believed(make) -> None:
    assert check_header(make(), "x") == (16, 16)
    with pytest.raises(BadSample, match=r"\(7000, 7000\) pixels, its header says \(16, 16\)") as caught:
        decode_picture(make(), "x", SIDE)
    assert caught.value.reason == "bad_image"


def test_a_jpeg_may_not_have_scans_without_end() -> None:
    assert outcome(with_scans(MAX_SCANS)) == "fine"
    for count, size in ((MAX_SCANS + 1, (64, 64)), (20, (8_192, 8_100))):
        with pytest.raises(BadSample, match=f"{count} scans of {size[0]} x {size[1]} pixels") as caught:
            decode_picture(resized(with_scans(count), *size), "jpg", SIDE)
        assert caught.value.reason == "bad_image"


def test_scans_are_not_counted_where_there_are_none() -> None:
    marks = b"\xff\xda" * 1000
    assert outcome(file("JPEG", icc_profile=marks)) == "fine"
    assert outcome(file("JPEG") + marks) == "fine"
    assert jpeg_scans(file("JPEG", icc_profile=marks) + marks) == 1
    assert jpeg_scans(file("JPEG", progressive=True)) == 10


def test_more_pixels_than_announced_cost_nothing() -> None:
    started = time.process_time()
    assert outcome(bomb()) in ("fine", "bad_image")
    assert time.process_time() - started < 5


def test_a_webp_frame_larger_than_its_canvas_is_bad() -> None:
    data = bytearray(file("WEBP", exif=rotated()))
    assert data[12:16] == b"VP8X"
    data[24:30] = b"\7\0\0\7\0\0"
    assert outcome(bytes(data)) == "bad_image"


def test_nothing_stays_open() -> None:
    folder = Path("/proc/self/fd") if Path("/proc/self/fd").is_dir() else Path("/dev/fd")
    before, draw = len(os.listdir(folder)), np.random.default_rng(1)
    for data in GOOD.values():
        outcome(data)
        outcome(damaged(data, draw))
    with warnings.catch_warnings():
        warnings.simplefilter("error", ResourceWarning)
        outcome(GOOD["png"][:-40])
    assert len(os.listdir(folder)) == before


def test_running_out_of_memory_is_no_fault_of_the_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr(Image, "open", full)
    with pytest.raises(MemoryError):
        decode_picture(GOOD["png"], "png", SIDE)
