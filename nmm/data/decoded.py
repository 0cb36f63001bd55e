"""The decoded sample cache: every tar is checked and decoded once, then memory-mapped by every process.

Shape legend: n samples of a shard, L positions of all its samples together, I images (with tiles several a picture), M
patches an image, P pixel values a patch. Folder ``<cache>/<key>/`` of one (shard, tokenizer, patch size, tiling):

    positions.npy  (L,) token, logprob, letter: one entry per position, an image being M entries of IMAGE_ID
    patches.npy    (I * M, P) uint8
    samples.npy    (n,) id, start, length, images, first_image, opens_with_text

The key hashes the shard's sha256, so a changed shard can never meet an old cache. A folder appears by one rename.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import math
import os
import shutil
import tempfile
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from nmm.batch import IMAGE_ID
from nmm.data.images import FORMATS, check_patch_size, decode_image, patchify
from nmm.data.late_bar import LateBar
from nmm.data.manifest import ShardInfo, Shards, index_shard
from nmm.data.tar import Bytes, Member, open_bytes
from nmm.data.tiles import tile_picture

CACHE_FORMAT = 1
SAMPLE = np.dtype(
    [
        ("id", "<u8"),
        ("start", "<i8"),
        ("length", "<i4"),
        ("images", "<i4"),
        ("first_image", "<i8"),
        ("opens_with_text", "?"),
    ]
)


@dataclass(frozen=True)
class DecodedShard:
    """One decoded tar. ``samples`` is in memory; positions and patches are opened when first touched."""

    folder: Path
    samples: np.ndarray

    @cached_property
    def positions(self) -> np.ndarray:
        """(L,) records of token, logprob (float32, NaN where unknown) and letter (uint8, 0 where there is none)."""
        return _load(self.folder / "positions.npy", mapped=True)

    @cached_property
    def patches(self) -> np.ndarray:
        """(I * M, P) uint8."""
        return _load(self.folder / "patches.npy", mapped=True)

    def __getstate__(self) -> dict[str, object]:
        return {"folder": self.folder, "samples": self.samples}


def open_decoded(shards: Shards, source: str, split: str, patch_size: int) -> list[DecodedShard]:
    """The decoded shards of one split in manifest order; what is missing is checked, decoded and written first.

    Several processes may call this at once: each takes shards that nobody else is decoding, then waits for the rest.
    Raises ValueError naming shard and sample for anything that is not as the manifest and the format say.
    """
    check_patch_size(shards.image_size, patch_size)
    infos = shards.split(source, split).shards
    folders = [shards.cache / cache_key(shards, info, patch_size) for info in infos]
    missing = [(info, folder) for info, folder in zip(infos, folders, strict=True) if not folder.is_dir()]
    if missing:
        _decode_missing(shards, missing, patch_size, f"{source} {split}")
    return [_open_folder(folder, info) for info, folder in zip(infos, folders, strict=True)]


def cache_key(shards: Shards, info: ShardInfo, patch_size: int) -> str:
    """Folder name: 32 hex digits over everything that decides the decoded bytes."""
    parts: list[object] = [CACHE_FORMAT, info.sha256, shards.tokenizer.fingerprint, shards.image_size, patch_size]
    if shards.is_cut:
        parts += [shards.picture_size, shards.tiles]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


def _open_folder(folder: Path, info: ShardInfo) -> DecodedShard:
    samples = _load(folder / "samples.npy", mapped=False)
    if samples.dtype != SAMPLE or len(samples) != info.samples:
        raise ValueError(f"decoded cache {folder} does not fit shard {info.path}: delete it, it is made again")
    return DecodedShard(folder, samples)


def _load(file: Path, mapped: bool) -> np.ndarray:
    try:
        return np.asarray(np.load(file, mmap_mode="r" if mapped else None))
    except (ValueError, OSError) as error:
        raise ValueError(f"decoded cache {file.parent} is damaged ({error}): delete it, it is made again") from error


def _decode_missing(shards: Shards, missing: Sequence[tuple[ShardInfo, Path]], patch_size: int, name: str) -> None:
    try:
        shards.cache.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"cannot write decoded samples to {shards.cache} ({error}): pass another `cache`") from error
    bar = LateBar(f"decoding {name}", sum(info.samples for info, _ in missing))
    with contextlib.closing(bar):
        for wait in (False, True):
            for info, folder in missing:
                with _locked(folder, wait) as mine:
                    if mine and not folder.is_dir():
                        _publish(folder, decode_shard(shards, info, patch_size, bar.advance))
    bar.conclude(f"decoded {bar.done:,} samples of {name} into {shards.cache}")


def decode_shard(
    shards: Shards, info: ShardInfo, patch_size: int, advance: Callable[[], None] = lambda: None
) -> dict[str, np.ndarray]:
    """Check one tar and decode all its samples into the arrays of the cache folder (see the module's head).

    ``advance`` is called after every sample. Raises ValueError naming shard and sample.
    """
    index = index_shard(shards.root, info)
    content = _Content(shards)
    with open_bytes(shards.root / info.path) as data:
        for key, members in zip(index.keys, index.members, strict=True):
            try:
                content.add(data, members)
            except (ValueError, TypeError) as error:
                raise ValueError(f"shard {shards.root / info.path}, sample {key!r}: {error}") from error
            advance()
    ids = np.array([sample_id(key) for key in index.keys], np.uint64)
    return content.arrays(ids, patch_size)


def sample_id(key: str) -> int:
    """64-bit digest of a sample's key."""
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "little")


class _Content:
    """What the samples of one shard hold, gathered one by one and turned into arrays together."""

    def __init__(self, shards: Shards) -> None:
        self.tokenizer, self.image_size = shards.tokenizer, shards.image_size
        self.shards, self.images_per_picture = shards, shards.images_per_picture
        self.tokens, self.logprobs, self.letters = array("i"), array("f"), bytearray()
        self.images: list[np.ndarray] = []
        self.words_of, self.images_of = array("q"), array("q")

    def add(self, data: Bytes, members: Mapping[str, Member]) -> None:
        """Append one sample: words from ``txt``, images, and from ``json`` what is known about each text token."""
        for needed in ("txt", "json"):
            if needed not in members:
                raise ValueError(f"member {needed!r} is missing; there are {sorted(members)}")
        images = [self._pixels(body, kind) for kind, body in _images(data, members)]
        tokens = self.tokenizer.encode(_body(data, members["txt"]).decode())
        marks = tokens.count(IMAGE_ID)
        if not tokens or marks != len(images):
            raise ValueError(f"{len(tokens)} words with {marks} times '<image>', but {len(images)} images")
        text = len(tokens) - marks
        facts = json.loads(_body(data, members["json"]))
        logprobs = array("f", facts.get("logprobs", [math.nan] * text))
        classes = facts.get("classes", "\0" * text).encode("latin-1")
        for name, known in (("logprobs", len(logprobs)), ("classes", len(classes))):
            if known != text:
                raise ValueError(f"json has {known} {name} for {text} text tokens")
        if text and max(logprobs) > 0:
            raise ValueError(f"log-probabilities must be <= 0, got {max(logprobs)}")
        self.logprobs.extend(logprobs)
        self.letters.extend(classes)
        self.tokens.extend(tokens)
        self.images += [image for picture in images for image in picture]
        self.words_of.append(len(tokens))
        self.images_of.append(len(images))

    def _pixels(self, body: bytes, kind: str) -> np.ndarray:
        """(images of a picture, side, side, 3)."""
        if not self.shards.is_cut:
            return decode_image(body, kind, self.image_size)[None]
        whole = decode_image(body, kind, self.shards.picture_size)
        return tile_picture(whole, self.image_size, self.shards.tiles)

    def arrays(self, ids: np.ndarray, patch_size: int) -> dict[str, np.ndarray]:
        """The arrays of the cache folder; (n,) ``ids`` name the samples in the order they were added."""
        patches_per_picture = self.images_per_picture * (self.image_size // patch_size) ** 2
        words, pictures = np.array(self.words_of), np.array(self.images_of)
        tokens = np.array(self.tokens)
        is_image = tokens == IMAGE_ID
        token_type = "<u2" if self.tokenizer.vocab_size <= 1 << 16 else "<i4"
        positions = np.zeros(len(tokens), [("token", token_type), ("logprob", "<f4"), ("letter", "u1")])
        positions["token"], positions["logprob"] = tokens, np.nan
        positions["logprob"][~is_image] = self.logprobs
        positions["letter"][~is_image] = np.frombuffer(self.letters, np.uint8)
        samples = np.zeros(len(ids), SAMPLE)
        images = pictures * self.images_per_picture
        samples["id"], samples["images"] = ids, images
        samples["length"] = words + pictures * (patches_per_picture - 1)
        samples["start"] = np.cumsum(samples["length"], dtype=np.int64) - samples["length"]
        samples["first_image"] = np.cumsum(images) - images
        samples["opens_with_text"] = ~is_image[np.cumsum(words) - words]
        pixels = np.array(self.images, np.uint8).reshape(-1, self.image_size, self.image_size, 3)
        return {
            "positions": np.repeat(positions, np.where(is_image, patches_per_picture, 1)),
            "patches": patchify(pixels, patch_size).reshape(-1, 3 * patch_size * patch_size),
            "samples": samples,
        }


def _images(data: Bytes, members: Mapping[str, Member]) -> Iterator[tuple[str, bytes]]:
    """(extension, bytes) of a sample's images: the lone one, or the numbered ones in the order of their numbers."""
    found = []
    for extension, member in members.items():
        number, _, kind = extension.lower().rpartition(".")
        if kind in FORMATS:
            if number and not number.isdigit():
                raise ValueError(f"image member {member.name!r}: expected <key>.{kind} or <key>.<number>.{kind}")
            found.append((int(number or 0), kind, member))
    found.sort(key=lambda image: image[0])
    if [number for number, _, _ in found] != list(range(len(found))):
        raise ValueError(f"images must be numbered 0, 1, ... without gaps or doubles; members are {sorted(members)}")
    for _, kind, member in found:
        yield kind, _body(data, member)


def _body(data: Bytes, member: Member) -> bytes:
    return data[member.offset : member.offset + member.size]


def _publish(folder: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write the arrays under a temporary name, sync, rename. Another process that was faster wins, with equal bytes."""
    temporary = Path(tempfile.mkdtemp(prefix=f"{folder.name}.tmp.", dir=folder.parent))
    try:
        temporary.chmod(0o755)
        for name, array in arrays.items():
            with open(temporary / f"{name}.npy", "wb") as handle:
                np.save(handle, array)
                handle.flush()
                os.fsync(handle.fileno())
        try:
            temporary.rename(folder)
        except OSError:
            if not folder.is_dir():
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextlib.contextmanager
def _locked(folder: Path, wait: bool) -> Iterator[bool]:
    """Hold the shard's lock while the body runs; yields False when another process has it and ``wait`` is off.

    The lock only saves double work: on a file system without locks two processes may decode one shard, and the rename
    keeps that safe. Whoever holds it clears what a killed process left, as no living one can be writing.
    """
    with open(folder.with_suffix(".lock"), "w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        except OSError:
            yield True
            return
        for left in folder.parent.glob(f"{folder.name}.tmp.*"):
            shutil.rmtree(left, ignore_errors=True)
        yield True
