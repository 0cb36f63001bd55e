"""How fast `nmm index` reads shards like img2dataset's, beside a plain walk of the same tars with `tarfile`.

    python benchmarks/index_speed.py [--megabytes 800] [--workers 2] [--rounds 3]

The shards are made in a temporary folder: JPEG images of 256 x 256 pixels and about 20 kB, a caption, img2dataset's
json, pax headers as WebDataset writes them. They are read once before, so the figures are of the program, not of the
disk.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import tarfile
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from PIL import Image

from nmm.data.indexing import index_shards

SIDE, SHARD_BYTES, PICTURES = 256, 100_000_000, 64


def picture(rng: np.random.Generator) -> bytes:
    """A JPEG of smooth colours with some grain, about 20 kB."""
    coarse = Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8)).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    pixels = np.asarray(coarse, np.int16) + rng.normal(0, 7, (SIDE, SIDE, 1)).astype(np.int16)
    out = io.BytesIO()
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(out, "JPEG", quality=90)
    return out.getvalue()


def record(key: str, caption: str) -> bytes:
    """The fields that img2dataset writes."""
    sizes = {"width": SIDE, "height": SIDE, "original_width": 800, "original_height": 600}
    own = {"caption": caption, "url": f"https://example.com/{key}.jpg", "key": key, "status": "success"}
    return json.dumps({**own, "error_message": None, **sizes, "exif": "{}", "sha256": "0" * 64}, indent=4).encode()


def make_shard(file: Path, number: int, size: int) -> int:
    """Write about ``size`` bytes; returns the samples. Images repeat with other bytes at the end: none is the same."""
    rng = np.random.default_rng(number)
    pictures, samples = [picture(rng) for _ in range(PICTURES)], 0
    with tarfile.open(file, "w") as tar:
        while file.stat().st_size < size:
            key = f"{number:05d}{samples:04d}"
            caption = "A photo of a thing that is described in about a hundred letters " + " ".join(key)
            image = pictures[samples % PICTURES] + samples.to_bytes(4, "little")
            for extension, data in (("jpg", image), ("json", record(key, caption)), ("txt", caption.encode())):
                member = tarfile.TarInfo(f"{key}.{extension}")
                member.size, member.mtime = len(data), time.time()  # a fraction: a pax header, as in real ones
                tar.addfile(member, io.BytesIO(data))
            samples += 1
    statistics = {"count": samples, "successes": samples, "failed_to_download": 0, "failed_to_resize": 0}
    file.with_name(f"{file.stem}_stats.json").write_text(json.dumps(statistics))
    return samples


def walk(file: Path) -> int:
    """Read every member of a tar with the standard library."""
    size = 0
    with tarfile.open(file) as tar:
        for member in tar:
            handle = tar.extractfile(member)
            size += len(handle.read()) if handle else 0
    return size


def timed(work: Callable[[], object]) -> float:
    """Seconds."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=800)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        count = max(args.workers, args.megabytes * 1_000_000 // SHARD_BYTES)
        shards = [Path(folder) / f"{number:05d}.tar" for number in range(count)]
        samples = sum(make_shard(file, number, SHARD_BYTES) for number, file in enumerate(shards))
        size = sum(file.stat().st_size for file in shards) / 1e6
        each = size * 1e3 / samples
        print(f"{samples:,} samples of {each:.1f} kB in {count} shards, {size:,.0f} MB, {os.cpu_count()} cores")
        with ProcessPoolExecutor(args.workers, mp_context=get_context("spawn")) as pool:
            list(pool.map(walk, shards))  # warms the pages and the processes
            for _ in range(args.rounds):
                plain = timed(lambda: list(pool.map(walk, shards)))
                ours = timed(lambda: index_shards(shards, "bytes", workers=args.workers, force=True, progress=False))
                again = timed(lambda: index_shards(shards, "bytes", workers=args.workers, progress=False))
                print(
                    f"{args.workers} workers: index {size / ours:6.0f} MB/s, {samples / ours:7,.0f} samples/s, start "
                    f"included; tarfile {size / plain:6.0f} MB/s, its processes warm; ratio {plain / ours:.2f}; "
                    f"again, nothing changed: {again * 1e3:.0f} ms"
                )


if __name__ == "__main__":
    main()
