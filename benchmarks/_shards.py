"""For the benchmarks of the data path: tars as people have them, of random pictures and words."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from PIL import Image

DISTINCT_PICTURES = 256
SAMPLES_A_SHARD = 1000
TEXT = (
    "the a of in on with and red blue small large old wooden bright photo image view street house mountain river dog "
    "cat people market table window garden summer winter night morning quiet busy two three several standing sitting "
    "holding near behind under above vintage modern detail portrait landscape"
)
WORDS = np.array(TEXT.split())

Members = Mapping[str, bytes]


def captioned(samples: int, side: int, seed: int = 0) -> Iterator[Members]:
    """What img2dataset writes: ``jpg`` of ``side`` pixels (20 kB at 256), ``txt`` of 5 to 30 words, ``json``."""
    rng = np.random.default_rng([seed, 1])
    jpegs = _jpegs(side, rng)
    for number in range(samples):
        caption = _words(rng, 5, 30)
        meta = {"caption": caption, "url": f"http://example.com/{number}", "width": side, "height": side}
        yield {
            "jpg": jpegs[number % len(jpegs)],
            "json": json.dumps(meta, indent=4).encode(),
            "txt": caption.encode(),
        }


def interleaved(samples: int, side: int, seed: int = 0) -> Iterator[Members]:
    """Documents as OBELICS lists them: one to three pictures, each after 10 to 60 words, some words at the end."""
    rng = np.random.default_rng([seed, 2])
    jpegs = _jpegs(side, rng)
    for _ in range(samples):
        count = int(rng.integers(1, 4))
        texts: list[str | None] = []
        images: list[str | None] = []
        for place in range(count):
            texts += [_words(rng, 10, 60), None]
            images += [None, f"{place}.jpg"]
        texts, images = [*texts, _words(rng, 5, 40)], [*images, None]
        chosen = rng.integers(len(jpegs), size=count)
        pictures = {f"{place}.jpg": jpegs[which] for place, which in enumerate(chosen.tolist())}
        yield {"json": json.dumps({"texts": texts, "images": images}).encode(), **pictures}


def texts(samples: int, seed: int = 0) -> Iterator[Members]:
    """Members ``jsonl.gz`` of a hundred documents, whose words are log-normal in number (median 120)."""
    rng = np.random.default_rng([seed, 3])
    for _ in range(samples // 100):
        counts = np.clip(rng.lognormal(np.log(120), 1.0, 100), 3, 5000).astype(int).tolist()
        lines = [json.dumps({"text": _words(rng, count, count)}) for count in counts]
        yield {"jsonl.gz": gzip.compress("\n".join(lines).encode(), 1)}


def write_shards(folder: Path, samples: Iterator[Members], a_shard: int = SAMPLES_A_SHARD) -> list[Path]:
    """Tars of ``a_shard`` samples each with members KEY.EXTENSION, as WebDataset reads them."""
    folder.mkdir(parents=True)
    tars: list[Path] = []
    out = None
    for number, sample in enumerate(samples):
        if number % a_shard == 0:
            if out is not None:
                out.close()
            tars.append(folder / f"{number // a_shard:05}.tar")
            out = tarfile.open(tars[-1], "w", format=tarfile.USTAR_FORMAT)  # noqa: SIM115, closed when it is full
        assert out is not None
        for extension, data in sample.items():
            member = tarfile.TarInfo(f"{number:09}.{extension}")
            member.size = len(data)
            out.addfile(member, io.BytesIO(data))
    if out is not None:
        out.close()
    return tars


def _jpegs(side: int, rng: np.random.Generator) -> list[bytes]:
    """Different JPEGs of soft shapes under some noise."""
    made = []
    for _ in range(DISTINCT_PICTURES):
        soft = Image.fromarray(rng.integers(0, 256, (12, 12, 3), np.uint8)).resize(
            (side, side), Image.Resampling.BICUBIC
        )
        grain = rng.normal(0, 7, (side, side, 1))
        out = io.BytesIO()
        Image.fromarray(np.clip(np.asarray(soft) + grain, 0, 255).astype(np.uint8)).save(out, "JPEG", quality=85)
        made.append(out.getvalue())
    return made


def _words(rng: np.random.Generator, fewest: int, most: int) -> str:
    return " ".join(WORDS[rng.integers(len(WORDS), size=int(rng.integers(fewest, most + 1)))])
