"""Tiny shard folders in the project's layout, written with webdataset, small enough to check by hand."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import webdataset
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers

from nmm.config import canonical_json

WORDS = ["<pad>", "<image>", "<end>", *(f"w{i}" for i in range(61))]
COUNTS = {
    "caption": {"train": 90, "val": 30},
    "interleaved": {"train": 50, "val": 12},
    "text": {"train": 70, "val": 40},
}
SHARD_SAMPLES = 32


def make_document(source: str, split: str, index: int, size: int = 8, longest: int = 12) -> dict[str, Any]:
    """One sample as plain values: words, images (size, size, 3) and what the generator knows about each text token."""
    rng = np.random.default_rng([("caption", "interleaved", "text").index(source), len(split), index])
    num_images = {"caption": 1, "interleaved": int(rng.integers(2, 4)), "text": 0}[source]
    words: list[str] = []
    for _ in range(max(1, num_images)):
        words += ["<image>"] * (num_images > 0)
        words += [f"w{i}" for i in rng.integers(0, 61, int(rng.integers(1, longest)))]
    words.append("<end>")
    text = [word for word in words if word != "<image>"]
    return {
        "words": words,
        "images": [rng.integers(0, 256, (size, size, 3), dtype=np.uint8) for _ in range(num_images)],
        "logprobs": [-float(x) for x in rng.random(len(text), np.float32)],
        "classes": "".join(rng.choice(list("csznfag"), len(text))),
    }


def write_tiny_shards(root: Path, counts: dict[str, dict[str, int]] = COUNTS, size: int = 8, longest: int = 12) -> Path:
    """Write a whole shard folder; documents come from ``make_document``."""
    root.mkdir(parents=True, exist_ok=True)
    words = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    words.save(str(root / "tokenizer.json"))
    sources = {
        source: {split: _write_split(root, source, split, samples, size, longest) for split, samples in splits.items()}
        for source, splits in counts.items()
    }
    manifest = {"format": 1, "kind": "tiny", "world": {}, "vocab_size": len(WORDS), "image_size": size, "channels": 3}
    save_manifest(root, {**manifest, "sources": sources})
    return root


def save_manifest(root: Path, manifest: dict[str, Any]) -> None:
    """Write manifest.json with the fingerprint that fits it."""
    rest = {key: value for key, value in manifest.items() if key != "fingerprint"}
    digest = hashlib.sha256(canonical_json(rest).encode()).hexdigest()
    (root / "manifest.json").write_text(json.dumps({**rest, "fingerprint": digest}))


def _write_split(root: Path, source: str, split: str, samples: int, size: int, longest: int) -> dict[str, Any]:
    (root / source).mkdir(exist_ok=True)
    shards = []
    documents = [make_document(source, split, i, size, longest) for i in range(samples)]
    for first in range(0, samples, SHARD_SAMPLES):
        name = f"{source}/{split}-{first // SHARD_SAMPLES:06d}.tar"
        with webdataset.TarWriter(str(root / name), encoder=False, mtime=0) as writer:
            for index in range(first, min(first + SHARD_SAMPLES, samples)):
                writer.write(_members(source, split, index, documents[index]))
        data = (root / name).read_bytes()
        count = min(SHARD_SAMPLES, samples - first)
        digest = hashlib.sha256(data).hexdigest()
        shards.append({"path": name, "samples": count, "bytes": len(data), "sha256": digest, "first_index": first})
    logprobs = [x for document in documents for x in document["logprobs"]]
    return {
        "samples": samples,
        "text_tokens": len(logprobs),
        "images": sum(len(document["images"]) for document in documents),
        "entropy_per_text_token": -float(np.mean(logprobs)) if logprobs else None,
        "shards": shards,
    }


def _members(source: str, split: str, index: int, document: dict[str, Any]) -> dict[str, Any]:
    members: dict[str, Any] = {"__key__": f"{source}-{split}-{index:09d}"}
    for number, pixels in enumerate(document["images"]):
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "PNG")
        members["png" if source == "caption" else f"{number}.png"] = buffer.getvalue()
    facts = {
        "source": source,
        "split": split,
        "index": index,
        "logprobs": document["logprobs"],
        "classes": document["classes"],
    }
    members["txt"] = " ".join(document["words"]).encode()
    members["json"] = json.dumps(facts).encode()
    return members


@pytest.fixture(scope="session")
def tiny_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A read-only tiny shard folder shared by all tests: 8 x 8 images, so 4 patches of side 4."""
    return write_tiny_shards(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def make_shards(tmp_path: Path) -> Callable[..., Path]:
    """A fresh folder for a test that changes it: ``make_shards(counts=..., size=..., longest=...)``."""
    return lambda **options: write_tiny_shards(tmp_path / "shards", **options)


@pytest.fixture
def write_manifest() -> Callable[[Path, dict[str, Any]], None]:
    """Write a changed manifest with the fingerprint that fits it."""
    return save_manifest


@pytest.fixture(scope="session")
def tiny_document() -> Callable[..., dict[str, Any]]:
    """What ``tiny_root`` holds: ``tiny_document(source, split, index)``."""
    return make_document
