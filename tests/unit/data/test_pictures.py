"""Anybody's picture becomes the square that a model sees: right colours, right side up, exact where it can be."""

from __future__ import annotations

import io
import struct
import threading
import zlib

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms, ImageOps
from scipy.stats import ks_2samp
from torchvision.transforms import RandomResizedCrop

from nmm.data.images import ASPECTS, CROP_UNIFORMS, Crop, decode_picture

SIDE = 16
LOSSLESS = {"PNG": {}, "WEBP": {"lossless": True, "exact": True}}


def file(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def noise(width: int = SIDE, height: int = SIDE, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(width * height).integers(0, 256, (height, width, channels), dtype=np.uint8)


def smooth(width: int, height: int) -> Image.Image:
    return Image.fromarray(noise(6, 4)).resize((width, height), Image.Resampling.BICUBIC)


def crop(*uniforms: float, scale: float = 0.4, flip: float = 0.0) -> Crop:
    return Crop(scale, np.array(uniforms), flip)


def turned(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def difference(one: np.ndarray, other: np.ndarray) -> int:
    return int(np.abs(one.astype(int) - other.astype(int)).max())


# ---------------------------------------------------------------------------------------------------------------------
# places


@pytest.mark.parametrize("kind", LOSSLESS)
def test_a_square_of_the_right_side_comes_back_bit_for_bit(kind: str) -> None:
    pixels = noise()
    decoded = decode_picture(file(Image.fromarray(pixels), kind, **LOSSLESS[kind]), "x", SIDE)
    assert np.array_equal(decoded, pixels)
    assert (decoded.dtype, decoded.flags.c_contiguous) == (np.uint8, True)


@pytest.mark.parametrize(("width", "height"), [(31, 16), (16, 40), (17, 16)])
def test_the_centre_is_cut_out_exactly_when_nothing_is_resized(width: int, height: int) -> None:
    pixels = noise(width, height)
    left, upper = (width - SIDE) // 2, (height - SIDE) // 2
    expected = pixels[upper : upper + SIDE, left : left + SIDE]
    assert np.array_equal(decode_picture(file(Image.fromarray(pixels)), "png", SIDE), expected)


@pytest.mark.parametrize("size", [(1, 1), (2, 30), (33, 21), (300, 200), (257, 1000)])
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_any_size_becomes_a_square(kind: str, size: tuple[int, int]) -> None:
    data = file(smooth(*size), kind)
    for chosen in (None, crop(*np.linspace(0, 0.99, CROP_UNIFORMS))):
        assert decode_picture(data, "x", SIDE, chosen).shape == (SIDE, SIDE, 3)


def test_shrinking_is_the_bicubic_of_the_square() -> None:
    image = smooth(260, 180)
    expected = image.crop((40, 0, 220, 180)).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    assert difference(decode_picture(file(image), "png", SIDE), np.asarray(expected)) <= 2


def test_large_jpegs_decoded_smaller_look_the_same() -> None:
    for side in (90, 128, 200, 400, 1000):
        data = file(smooth(side + 3, side), "JPEG", quality=95)
        whole = np.asarray(Image.open(io.BytesIO(data)).crop((1, 0, side + 1, side)).resize((SIDE, SIDE)))
        assert difference(decode_picture(data, "jpg", SIDE), whole) <= 4
        box = crop(0.2, 0.7, 0.9, 0.1, 0.9)
        left, upper, right, lower = box.box(side + 3, side)
        cut = Image.open(io.BytesIO(data)).crop((left, upper, right, lower)).resize((SIDE, SIDE))
        assert difference(decode_picture(data, "jpg", SIDE, box), np.asarray(cut)) <= 6


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_exif_rotation_is_applied(kind: str, orientation: int) -> None:
    data = file(Image.fromarray(noise(24, SIDE)), kind, exif=turned(orientation), **LOSSLESS[kind])
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    assert upright is not None
    assert difference(decode_picture(data, "x", SIDE), decode_picture(file(upright), "x", SIDE)) == 0
    box = crop(0.1, 0.8, 0.9, 0.3, 0.4, flip=0.5)
    assert box.mirrored
    assert difference(decode_picture(data, "x", 8, box), decode_picture(file(upright), "x", 8, box)) <= 2


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation_of_jpegs_that_are_decoded_smaller(orientation: int) -> None:
    image, box = smooth(301, 203), crop(0.1, 0.8, 0.9, 0.3, 0.4)
    data = file(image, "JPEG", exif=turned(orientation), quality=95)
    upright = file(ImageOps.exif_transpose(Image.open(io.BytesIO(data))))
    for chosen in (None, box):
        assert difference(decode_picture(data, "x", 8, chosen), decode_picture(upright, "x", 8, chosen)) <= 6


# ---------------------------------------------------------------------------------------------------------------------
# crops


def same(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether two samples may well be of one distribution."""
    return bool(ks_2samp(one, other, method="asymp").pvalue > 1e-3)


def test_a_crop_is_what_its_numbers_say() -> None:
    chosen = crop(0.0, 0.5, 0.999, 0.0, 0.2, scale=0.25, flip=0.3)  # a quarter of the area, as wide as high
    assert chosen.box(100, 100) == (50, 0, 100, 50)
    pixels = noise(100, 100)
    data = file(Image.fromarray(pixels))
    assert np.array_equal(decode_picture(data, "png", 50, chosen), pixels[:50, 50:][:, ::-1])
    straight = crop(0.0, 0.5, 0.999, 0.0, 0.3, scale=0.25, flip=0.3)
    assert np.array_equal(decode_picture(data, "png", 50, straight), pixels[:50, 50:])


def test_later_tries_are_used_when_earlier_ones_do_not_fit() -> None:
    too_wide, fits = (0.99, 0.99), (0.0, 0.5)
    one = crop(*fits, 0.5, 0.5, 0.9).box(100, 100)
    assert crop(*too_wide, *too_wide, *fits, 0.5, 0.5, 0.9).box(100, 100) == one
    assert crop(*too_wide, 0.5, 0.5, 0.9).box(100, 100) == (0, 0, 100, 100)
    assert crop(*too_wide, 0.5, 0.5, 0.9).box(300, 100) == (83, 0, 216, 100)
    assert crop(*too_wide, 0.5, 0.5, 0.9).box(100, 300) == (0, 83, 100, 216)


def test_scale_one_is_the_centre_and_may_still_be_mirrored() -> None:
    pixels = noise(20, SIDE)
    chosen = Crop(1.0, np.full(CROP_UNIFORMS, 0.4), 0.5)
    assert np.array_equal(decode_picture(file(Image.fromarray(pixels)), "png", SIDE, chosen), pixels[:, 2:18][:, ::-1])


@pytest.mark.parametrize("scale", [0.08, 0.4])
@pytest.mark.parametrize("size", [(64, 64), (200, 100), (90, 110), (40, 130)])
def test_crops_are_distributed_as_those_of_torchvision(size: tuple[int, int], scale: float) -> None:
    width, height = size
    torch.manual_seed(0)
    blank, count = torch.empty(1, height, width), 1500
    theirs = [RandomResizedCrop.get_params(blank, [scale, 1.0], list(ASPECTS)) for _ in range(count)]
    uniforms = np.random.default_rng(1).random((count, CROP_UNIFORMS))
    boxes = np.array([Crop(scale, row, 0.5).box(width, height) for row in uniforms])
    ours = np.stack([boxes[:, 1], boxes[:, 0], boxes[:, 3] - boxes[:, 1], boxes[:, 2] - boxes[:, 0]], axis=1)
    assert (boxes[:, :2] >= 0).all() and (boxes[:, 2:] <= size).all() and (ours[:, 2:] >= 1).all()
    for one, other in zip(ours.T, np.array(theirs).T, strict=True):
        assert same(one, other)
    assert same(ours[:, 2] * ours[:, 3], np.prod(np.array(theirs)[:, 2:], axis=1))
    assert same(ours[:, 3] / ours[:, 2], np.divide(*np.array(theirs).T[[3, 2]]))
    assert np.mean([Crop(scale, row, 0.5).mirrored for row in uniforms]) == pytest.approx(0.5, abs=0.05)


def test_a_picture_is_a_pure_function_of_its_arguments_in_threads_too() -> None:
    data = [file(smooth(70 + i, 90), kind) for i, kind in enumerate(("PNG", "JPEG", "WEBP"))]
    chosen = crop(*np.random.default_rng(0).random(CROP_UNIFORMS), flip=0.5)
    before = chosen.uniforms.copy()
    expected = [decode_picture(one, "x", SIDE, chosen) for one in data]
    found: list[list[np.ndarray]] = [[] for _ in range(4)]

    def work(number: int) -> None:
        for _ in range(20):
            found[number] += [decode_picture(one, "x", SIDE, chosen) for one in data]

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(np.array_equal(one, expected[i % 3]) for several in found for i, one in enumerate(several))
    assert [len(several) for several in found] == [60] * 4
    assert np.array_equal(chosen.uniforms, before)


# ---------------------------------------------------------------------------------------------------------------------
# colours


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_alpha_is_laid_on_white(kind: str) -> None:
    pixels = noise(channels=4)
    pixels[:4, :, 3], pixels[4:8, :, 3] = 0, 255
    decoded = decode_picture(file(Image.fromarray(pixels), kind, **LOSSLESS[kind]), "x", SIDE)
    share = pixels[:, :, 3:] / 255
    assert difference(decoded, pixels[:, :, :3] * share + 255 * (1 - share)) <= 1
    assert (decoded[:4] == 255).all()
    assert np.array_equal(decoded[4:8], pixels[4:8, :, :3])


def test_grey_with_alpha_is_laid_on_white() -> None:
    pixels = noise(channels=2)
    decoded = decode_picture(file(Image.fromarray(pixels)), "png", SIDE)
    share = pixels[:, :, 1:] / 255
    assert difference(decoded, np.repeat(pixels[:, :, :1] * share + 255 * (1 - share), 3, axis=2)) <= 1


def test_palettes_with_and_without_transparency() -> None:
    places = noise(channels=1)[:, :, 0] % 4
    colours = np.array([[250, 0, 0], [0, 250, 0], [0, 0, 250], [9, 9, 9]], np.uint8)
    image = Image.fromarray(places)
    image.putpalette(colours.tobytes())
    assert image.mode == "P"
    assert np.array_equal(decode_picture(file(image), "png", SIDE), colours[places])
    clear = np.array([[255, 255, 255], *colours[1:]])
    assert np.array_equal(decode_picture(file(image, transparency=0), "png", SIDE), clear[places])
    half = np.array([[255, 255, 255], [127, 252, 127], *colours[2:]])
    assert difference(decode_picture(file(image, transparency=bytes([0, 128])), "png", SIDE), half[places]) <= 1


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_a_transparent_colour_is_white(mode: str) -> None:
    pixels = noise(channels=3)[:, :, : len(mode)].squeeze()
    pixels[:3] = 77
    decoded = decode_picture(file(Image.fromarray(pixels), transparency=77 if mode == "L" else (77,) * 3), "png", SIDE)
    assert (decoded[:3] == 255).all()
    grey = pixels if mode == "RGB" else np.repeat(pixels[:, :, None], 3, axis=2)
    untouched = ~(grey == 77).all(axis=2)
    assert np.array_equal(decoded[untouched], grey[untouched])


def test_sixteen_bits_keep_the_upper_eight_and_one_bit_is_black_or_white() -> None:
    deep = np.random.default_rng(0).integers(0, 1 << 16, (SIDE, SIDE), dtype=np.uint16)
    decoded = decode_picture(file(Image.fromarray(deep)), "png", SIDE)
    assert np.array_equal(decoded, np.repeat((deep >> 8).astype(np.uint8)[:, :, None], 3, axis=2))
    flat = noise(channels=1)[:, :, 0] > 99
    decoded = decode_picture(file(Image.fromarray(flat)), "png", SIDE)
    assert np.array_equal(decoded[:, :, 1], np.where(flat, 255, 0))
    small = decode_picture(file(Image.fromarray(flat)), "png", 8)
    assert len(np.unique(small)) > 2, "one bit is smoothed when it is shrunk, not sampled"


@pytest.mark.parametrize(
    ("depth", "colour", "channels"), [(1, 0, 1), (2, 0, 1), (4, 0, 1), (16, 2, 3), (16, 4, 2), (16, 6, 4)]
)
@pytest.mark.parametrize("clear", [b"", b"\0\1\0\1\0\1"])
def test_every_depth_of_png(depth: int, colour: int, channels: int, clear: bytes) -> None:
    row = b"\0" + b"\xff" * -(-SIDE * depth * channels // 8)
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", SIDE, SIDE, depth, colour, 0, 0, 0))]
    if clear and colour in (0, 2):
        chunks.append((b"tRNS", clear[: 2 if colour == 0 else 6]))
    chunks += [(b"IDAT", zlib.compress(row * SIDE)), (b"IEND", b"")]
    data = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(b)) + k + b + struct.pack(">I", zlib.crc32(k + b)) for k, b in chunks
    )
    assert (decode_picture(data, "png", SIDE) == 255).all()


def test_grey_and_cmyk_jpegs() -> None:
    grey = smooth(40, 40).convert("L")
    decoded = decode_picture(file(grey, "JPEG", quality=95), "jpg", 40)
    assert difference(decoded, np.repeat(np.asarray(grey)[:, :, None], 3, axis=2)) <= 6
    ink = Image.new("CMYK", (SIDE, SIDE), (255, 0, 0, 0))
    assert difference(decode_picture(file(ink, "JPEG"), "jpg", SIDE), np.full((SIDE, SIDE, 3), (0, 255, 255))) <= 4


def test_ycck_jpegs() -> None:
    """Inks are stored inverted: 200 of cyan is Y 55; Cb and Cr in the middle make it grey, no black makes it 200."""
    data = file(Image.new("CMYK", (SIDE, SIDE), (200, 127, 127, 0)), "JPEG", quality=95)
    mark = data.index(b"\xff\xee\0\x0eAdobe") + 15
    assert data[mark] == 0
    decoded = decode_picture(data[:mark] + b"\2" + data[mark + 1 :], "jpg", SIDE)
    assert difference(decoded, np.full((SIDE, SIDE, 3), 200)) <= 4


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_colour_profiles_are_ignored(kind: str) -> None:
    image, profile = smooth(40, 40), ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    plain, tagged = (decode_picture(file(image, kind, icc_profile=icc), "x", SIDE) for icc in (None, profile))
    assert np.array_equal(plain, tagged)


@pytest.mark.parametrize("kind", LOSSLESS)
def test_the_first_frame_of_an_animation(kind: str) -> None:
    frames = [Image.fromarray(noise()), Image.new("RGB", (SIDE, SIDE), "red")]
    data = file(frames[0], kind, save_all=True, append_images=frames[1:], **LOSSLESS[kind])
    assert np.array_equal(decode_picture(data, "x", SIDE), noise())


def test_the_first_picture_of_several_in_a_jpeg() -> None:
    image = smooth(64, 64)
    data = file(image, "MPO", save_all=True, append_images=[Image.new("RGB", (64, 64))], quality=95)
    assert difference(decode_picture(data, "jpg", 64), np.asarray(image)) <= 12
    assert difference(decode_picture(data, "jpg", 8), np.asarray(image.resize((8, 8)))) <= 8
