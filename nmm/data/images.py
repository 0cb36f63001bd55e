"""Image bytes to pixels, and pixels to patches.

Shape legend: H, W image height and width, S image_size, the side of the square that a model sees, C = 3 channels,
M patches an image, P = C * patch_size^2 pixel values a patch.

``decode_image`` is for shards of ours, whose images have the one size that their manifest gives; ``decode_picture``
for anybody's. Whatever its colours, a picture becomes 8-bit RGB: alpha and transparent palette entries are laid on
white, of 16 bits the upper 8 are kept, CMYK is converted without profiles, ICC profiles are ignored. EXIF rotation is
applied. Of an animation the first frame is taken.
"""

from __future__ import annotations

import io
import math
import struct
import warnings
import zlib
from dataclasses import dataclass

import numpy as np
from PIL import Image

from nmm.data.image_header import (
    MAX_SCANNED,
    MAX_SCANS,
    PLUGIN_ERRORS,
    Header,
    check_header,
    jpeg_scans,
    png_chunks,
    read_header,
)
from nmm.data.reasons import BadSample

__all__ = [
    "CROP_UNIFORMS",
    "FORMATS",
    "Crop",
    "check_header",
    "check_patch_size",
    "decode_image",
    "decode_picture",
    "decode_upright",
    "patchify",
]

FORMATS = {"png": "PNG", "jpg": "JPEG", "jpeg": "JPEG", "webp": "WEBP"}

CROP_TRIES = 10
CROP_UNIFORMS = 2 * CROP_TRIES + 3  # what a Crop needs to be distributed as torchvision's
ASPECTS = (3 / 4, 4 / 3)  # of random crops, width over height
DRAFT_GAP = 2  # a JPEG is decoded at 1/2, 1/4, 1/8 where that leaves this many times what is needed; 1 blurs small text
REDUCING_GAP = 3.0  # Pillow: from here on, shrinking in two steps cannot be told from shrinking in one

Box = tuple[float, float, float, float]  # left, upper, right, lower, in pixels


def decode_image(data: bytes, extension: str, image_size: int) -> np.ndarray:
    """Decode to (image_size, image_size, 3) uint8, any colour mode converted to RGB.

    Raises ValueError for bytes that are no such image and for any size but ``image_size``, which is read from the
    header: nothing larger is ever decoded.
    """
    if extension == "png" and (pixels := _unfiltered_png(data, image_size)) is not None:
        return pixels
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            with Image.open(io.BytesIO(data), formats=(FORMATS[extension],)) as image:
                if image.size != (image_size, image_size):
                    found = f"{image.width} x {image.height}"
                    raise ValueError(f"image is {found} pixels, the manifest says {image_size} x {image_size}")
                return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))
        except (OSError, SyntaxError, Image.DecompressionBombError, Warning) as error:
            raise ValueError(f"not a readable {FORMATS[extension]} image: {error}") from error


def _unfiltered_png(data: bytes, side: int) -> np.ndarray | None:
    """Pixels of the simplest PNG, as the world writes it: 8-bit RGB, rows unfiltered, one data chunk. Else None.

    Pillow spends most of its time on a small image before it reaches the pixels; this is several times faster.
    """
    header = struct.pack(">8sI4sIIBBBBB", b"\x89PNG\r\n\x1a\n", 13, b"IHDR", side, side, 8, 2, 0, 0, 0)
    size = int.from_bytes(data[33:37])
    if not data.startswith(header) or data[37:41] != b"IDAT" or len(data) != size + 57:
        return None
    unpacker, expected = zlib.decompressobj(), side * (1 + 3 * side)
    try:
        rows = np.frombuffer(unpacker.decompress(data[41 : 41 + size], expected + 1), np.uint8)
    except zlib.error:
        return None
    if len(rows) != expected or not unpacker.eof or rows[:: 1 + 3 * side].any():
        return None
    return rows.reshape(side, 1 + 3 * side)[:, 1:].reshape(side, side, 3)


@dataclass(frozen=True)
class Crop:
    """One random resized crop, distributed as torchvision's (arXiv 2504.07951: ``scale`` 0.4, ``flip`` 0.5).

    A share of the area, uniform in [scale, 1], and an aspect, log-uniform in ASPECTS, are drawn until they fit, then
    placed anywhere; if none fits, the largest central crop with an aspect in ASPECTS is taken. With ``scale`` 1 there
    is nothing to draw: it is the central square.

    Attributes:
        scale: least share of the area, in (0, 1].
        uniforms: (n,) numbers in [0, 1), n odd and >= 5: (area, aspect) of every try, then the place (across, down),
            then the flip. CROP_UNIFORMS of them give the ten tries that torchvision has.
        flip: probability of mirroring left and right.
    """

    scale: float
    uniforms: np.ndarray
    flip: float

    @property
    def mirrored(self) -> bool:
        return bool(self.uniforms[-1] < self.flip)

    def box(self, width: int, height: int) -> Box:
        """Where to cut an upright image of ``width`` x ``height``: whole pixels inside it."""
        if self.scale >= 1:
            return central_box(width, height, (1.0, 1.0))
        *tries, across, down, _ = self.uniforms.tolist()
        for share, aspect in zip(tries[::2], tries[1::2], strict=True):
            area = width * height * (self.scale + (1 - self.scale) * share)
            ratio = math.exp(math.log(ASPECTS[0]) + math.log(ASPECTS[1] / ASPECTS[0]) * aspect)
            wide, high = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if 0 < wide <= width and 0 < high <= height:
                left, upper = int(across * (width - wide + 1)), int(down * (height - high + 1))
                return left, upper, left + wide, upper + high
        return central_box(width, height, ASPECTS)


def central_box(width: int, height: int, aspects: tuple[float, float]) -> Box:
    """The largest central crop of ``width`` x ``height`` pixels whose width over height lies in ``aspects``."""
    wide = min(width, max(1, round(height * aspects[1])))
    high = min(height, max(1, round(width / aspects[0])))
    left, upper = (width - wide) // 2, (height - high) // 2
    return left, upper, left + wide, upper + high


def decode_picture(data: bytes, extension: str, image_size: int, crop: Crop | None = None) -> np.ndarray:
    """Decode to (S, S, 3) uint8; the format is read from the bytes, ``extension`` only appears in errors.

    Without ``crop`` the shorter side is resized to S and the centre kept, so an S x S image comes back bit for bit;
    with one, its box is resized to S x S and mirrored if it says so. Bicubic; a pure function of the arguments.

    Raises BadSample: "bad_image" for pixels that are cut off or damaged as far as the format can tell (a JPEG holds no
    checksum), and what ``check_header`` raises; nothing larger than that allows is ever decoded.
    """
    header = read_header(data, extension)
    width, height = header.size
    box = crop.box(width, height) if crop else central_box(width, height, (1.0, 1.0))
    pixels = decode_upright(data, header, box, (image_size, image_size))
    return np.ascontiguousarray(pixels[:, ::-1] if crop and crop.mirrored else pixels)


def decode_upright(data: bytes, header: Header, box: Box, size: tuple[int, int]) -> np.ndarray:
    """``box`` of the upright picture, resized to ``size`` (width, height), as (height, width, 3) uint8.

    Raises BadSample("bad_image").
    """
    stored = (size[1], size[0]) if header.orientation >= 5 else size
    pixels = _decode(data, header, _as_stored(box, header), stored)
    if header.orientation in (3, 4, 6, 7):
        pixels = pixels[::-1]
    if header.orientation in (2, 3, 7, 8):
        pixels = pixels[:, ::-1]
    return pixels.transpose(1, 0, 2) if header.orientation >= 5 else pixels


def _as_stored(box: Box, header: Header) -> Box:
    """A box of the upright image in the coordinates of the stored one (the way back from EXIF's orientation)."""
    left, upper, right, lower = box
    if header.orientation >= 5:
        left, upper, right, lower = upper, left, lower, right
    if header.orientation in (2, 3, 7, 8):
        left, right = header.width - right, header.width - left
    if header.orientation in (3, 4, 6, 7):
        upper, lower = header.height - lower, header.height - upper
    return left, upper, right, lower


def _decode(data: bytes, header: Header, box: Box, size: tuple[int, int]) -> np.ndarray:
    """``box`` of the stored image, resized to ``size`` (width, height). Raises BadSample("bad_image")."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of odd metadata; what is wrong with pixels is an error
        try:
            _check_damage(data, header)
            with Image.open(io.BytesIO(data), formats=(header.kind,)) as image:
                if image.size != (header.width, header.height):
                    raise ValueError(f"{image.size} pixels, its header says {(header.width, header.height)}")
                box = _draft(image, box, size)
                small = _rgb(image).resize(size, Image.Resampling.BICUBIC, box, REDUCING_GAP)
                return np.asarray(small if small.mode == "RGB" else small.convert("RGB"))
        except PLUGIN_ERRORS as error:
            raise BadSample("bad_image", f"pixels of a {header.kind} image cannot be decoded: {error}") from error


def _draft(image: Image.Image, box: Box, size: tuple[int, int]) -> Box:
    """Let a large JPEG be decoded smaller, which saves most of the work; the box in the image as it will be."""
    width, height = image.size
    spare = min((box[2] - box[0]) / size[0], (box[3] - box[1]) / size[1]) / DRAFT_GAP
    shrink = next((by for by in (8, 4, 2) if by <= spare), 1)
    if shrink == 1 or image.draft(None, (width // shrink, height // shrink)) is None:
        return box
    if image.size != (-(-width // shrink), -(-height // shrink)):
        raise ValueError(f"decoded at 1/{shrink}, {width} x {height} pixels became {image.size}")
    left, upper, right, lower = box
    return left / shrink, upper / shrink, right / shrink, lower / shrink


def _rgb(image: Image.Image) -> Image.Image:
    """Decode; RGB, or L for what is grey throughout, which is quicker to resize."""
    if image.mode.startswith("I"):
        sixteen = np.asarray(image).clip(0, 65535).astype(np.uint16)
        return Image.fromarray((sixteen >> 8).astype(np.uint8))
    if image.mode in ("LA", "PA", "RGBA") or "transparency" in image.info:
        layered = image if image.mode == "RGBA" else image.convert("RGBA")
        white = Image.new("RGB", image.size, "white")
        white.paste(layered, mask=layered.getchannel("A"))
        return white
    if image.mode == "1":
        return image.convert("L")
    return image if image.mode in ("RGB", "L") else image.convert("RGB")


def _check_damage(data: bytes, header: Header) -> None:
    """What Pillow does not look at: checksums of a PNG's pixels, and JPEGs of so many scans that they are a trap."""
    if header.kind == "PNG":
        for name, start, end in png_chunks(data):
            if name[0] < 97 and zlib.crc32(data[start - 4 : end]) != int.from_bytes(data[end : end + 4]):
                raise ValueError(f"the checksum of chunk {name!r} is wrong")
    elif header.kind == "JPEG":
        allowed = min(MAX_SCANS, MAX_SCANNED // (header.width * header.height))
        if data.count(b"\xff\xda") > allowed and (scans := jpeg_scans(data)) > allowed:
            raise ValueError(f"{scans} scans of {header.width} x {header.height} pixels; allowed are {allowed}")


def patchify(images: np.ndarray, patch_size: int) -> np.ndarray:
    """(..., H, W, C) to (..., M, P): patches in row-major order, values of a patch ordered (C, height, width).

    Raises ValueError when H or W is no multiple of ``patch_size``.
    """
    *lead, height, width, channels = images.shape
    check_patch_size(height, patch_size)
    check_patch_size(width, patch_size)
    down, across = height // patch_size, width // patch_size
    grid = images.reshape(-1, down, patch_size, across, patch_size, channels).transpose(0, 1, 3, 5, 2, 4)
    return grid.reshape(*lead, down * across, channels * patch_size * patch_size)


def check_patch_size(side: int, patch_size: int) -> None:
    """Raise ValueError unless ``side`` pixels are a whole number of patches."""
    if patch_size < 1 or side % patch_size:
        allowed = [size for size in range(1, side + 1) if side % size == 0]
        raise ValueError(f"patch_size={patch_size} does not divide an image side of {side} pixels; allowed: {allowed}")
