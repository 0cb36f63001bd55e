"""A folder of shards that `nmm shards` rendered, opened by its manifest.

It is trusted only as far as it can be checked: the manifest's fingerprint covers the manifest, the manifest's sha256
covers each tar, and ``nmm.data.tar`` refuses damaged ones.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nmm.batch import SOURCES
from nmm.config import canonical_json
from nmm.data.tar import TarSamples, group_samples, open_bytes, refuse_unsafe, walk_tar
from nmm.data.tiling import tile
from nmm.data.tokenizer import Tokenizer, load_tokenizer

MANIFEST_FORMAT = 1
_FIX = "Render or copy the shards again."


@dataclass(frozen=True)
class ShardInfo:
    """One tar as its manifest describes it. ``bytes`` is the file's size, ``first_index`` its first document."""

    path: str
    samples: int
    bytes: int
    sha256: str
    first_index: int


@dataclass(frozen=True)
class SplitInfo:
    """One split of one source. ``entropy`` is the known nats per text token, None where nobody knows it."""

    samples: int
    text_tokens: int
    images: int
    entropy: float | None
    shards: tuple[ShardInfo, ...]


@dataclass(frozen=True)
class Shards:
    """An opened shard folder. ``sources[source][split]`` is a SplitInfo, ``cache`` keeps the decoded samples.

    Pictures are of ``picture_size`` pixels a side; a model sees each as one image of ``image_size``, or as at most
    ``tiles`` of them and a thumbnail.
    """

    root: Path
    cache: Path
    fingerprint: str
    tokenizer: Tokenizer
    vocab_size: int
    image_size: int
    sources: Mapping[str, Mapping[str, SplitInfo]]
    manifest: Mapping[str, Any]
    picture_size: int = 0  # 0: image_size
    tiles: int = 1

    @property
    def images_per_picture(self) -> int:
        """Images that a picture becomes."""
        return tile(self.picture_size, self.picture_size, self.image_size, self.tiles).images if self.is_cut else 1

    @property
    def is_cut(self) -> bool:
        """Whether a model sees anything but the pictures as they are."""
        return self.picture_size not in (0, self.image_size)

    @property
    def names(self) -> tuple[str, ...]:
        """Every source a batch can name, by number."""
        return SOURCES

    def split(self, source: str, split: str) -> SplitInfo:
        """One split of one source. Raises ValueError naming what the folder does hold."""
        if source not in self.sources:
            raise ValueError(f"{self.root} has no source {source!r}; it holds {sorted(self.sources)}")
        splits = self.sources[source]
        if split not in splits:
            raise ValueError(f"{self.root} has no split {split!r} of {source!r}; it holds {sorted(splits)}")
        return splits[split]


def open_shards(path: str | Path, cache: str | Path | None = None, verify: bool = False) -> Shards:
    """Open a finished shard folder. Decoded samples go to ``cache`` (default ``<path>/.decoded``).

    Sizes are compared at once; checksums when a shard is decoded for the first time, or here with ``verify=True``.
    Raises FileNotFoundError (no manifest, missing tar) and ValueError (unknown format, edited manifest, changed tar).
    """
    root = Path(path)
    manifest = _read_manifest(root)
    sources = {
        source: {split: _split_info(entry) for split, entry in splits.items()}
        for source, splits in manifest["sources"].items()
    }
    tokenizer = load_tokenizer(root / "tokenizer.json")
    if tokenizer.vocab_size != manifest["vocab_size"]:
        raise ValueError(
            f"{root / 'tokenizer.json'} has {tokenizer.vocab_size} words, the manifest says {manifest['vocab_size']}: "
            "the two do not belong together. Render the shards again."
        )
    shards = Shards(
        root=root,
        cache=Path(cache) if cache is not None else root / ".decoded",
        fingerprint=manifest["fingerprint"],
        tokenizer=tokenizer,
        vocab_size=manifest["vocab_size"],
        image_size=manifest["image_size"],
        sources=sources,
        manifest=manifest,
    )
    for info in (shard for splits in sources.values() for split in splits.values() for shard in split.shards):
        check_size(root, info)
        if verify:
            index_shard(root, info)
    return shards


def check_size(root: Path, info: ShardInfo) -> None:
    """Raise unless the tar exists inside ``root`` with the size its manifest gives."""
    refuse_unsafe(info.path, "manifest.json")
    file = root / info.path
    if not file.is_file():
        raise FileNotFoundError(f"shard {file} is named in the manifest but missing. {_FIX}")
    size = file.stat().st_size
    if size != info.bytes:
        raise ValueError(f"shard {file} has {size} bytes, the manifest says {info.bytes}: cut or replaced. {_FIX}")


def index_shard(root: Path, info: ShardInfo) -> TarSamples:
    """Check a tar against its manifest entry (size, sha256, number of samples) and list its samples.

    Raises ValueError naming the shard, what was expected and what to do.
    """
    check_size(root, info)
    file = root / info.path
    with open_bytes(file) as data:
        digest = hashlib.sha256(data).hexdigest()
        if digest != info.sha256:
            raise ValueError(f"shard {file} has sha256 {digest[:12]}, the manifest says {info.sha256[:12]}. {_FIX}")
        index = group_samples(walk_tar(data, str(file)), str(file))
    if len(index.keys) != info.samples:
        raise ValueError(f"shard {file} holds {len(index.keys)} samples, the manifest says {info.samples}. {_FIX}")
    return index


def _read_manifest(root: Path) -> dict[str, Any]:
    file = root / "manifest.json"
    if not file.is_file():
        raise FileNotFoundError(
            f"{root} has no manifest.json: no shards there, or their rendering was interrupted. "
            f"Run `nmm shards data=world out={root}` (it goes on where it stopped)."
        )
    manifest = json.loads(file.read_text())
    if manifest.get("format") != MANIFEST_FORMAT:
        raise ValueError(f"{file} has format {manifest.get('format')!r}, this version reads {MANIFEST_FORMAT}. {_FIX}")
    rest = {key: value for key, value in manifest.items() if key != "fingerprint"}
    if hashlib.sha256(canonical_json(rest).encode()).hexdigest() != manifest.get("fingerprint"):
        raise ValueError(f"{file} does not match its own fingerprint: it was edited. {_FIX}")
    return manifest


def _split_info(entry: Mapping[str, Any]) -> SplitInfo:
    shards = tuple(
        ShardInfo(shard["path"], shard["samples"], shard["bytes"], shard["sha256"], shard["first_index"])
        for shard in entry["shards"]
    )
    entropy = entry.get("entropy_per_text_token")
    return SplitInfo(entry["samples"], entry["text_tokens"], entry["images"], entropy, shards)
