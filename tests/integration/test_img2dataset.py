"""A real producer: img2dataset downloads pictures of ours, `nmm index` reads what it wrote, `nmm train` learns from it.

Slow: its environment is made once (about a minute, needs the network), then a run of it takes some five seconds.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

import img2dataset_venv
import numpy as np
import pyarrow
import pyarrow.csv
import pyarrow.parquet
import pytest
from lab import nmm
from picture_server import Served, pictures, serving

from nmm.batch import IMAGE_ID
from nmm.data.index_file import index_path, read_index
from nmm.data.opening import open_data, row_source
from nmm.data.source import RowSource
from nmm.data.tokenizer import open_tokenizer
from nmm.groups import Data
from nmm.record import read_json

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.version_info >= (3, 13), reason="img2dataset imports imghdr, which Python 3.13 left out"),
]

URLS, SHARD = 60, 16
OF_EACH_KIND = URLS // 12  # missing, no picture, cut, without a caption
TXT, JSON_ONLY = ["--caption_col=words"], ['--save_additional_columns=["words"]']
LAYOUTS = {
    "jpg": [*TXT, "--image_size=64", "--resize_mode=keep_ratio", "--encode_format=jpg"],
    "webp": [*TXT, "--image_size=64", "--resize_mode=center_crop", "--encode_format=webp"],
    "png": [*JSON_ONLY, "--image_size=48", "--resize_mode=center_crop", "--encode_format=png", "--encode_quality=6"],
    "as_served": [*TXT, "--disable_all_reencoding=True"],  # every file is named jpg then, whatever it holds
}
GEOMETRY = {"image_size": 32, "patch_size": 8, "context_length": 96}
TOKENS_OF_IMAGE = 16
HELD_OUT = 0.2


@dataclass(frozen=True)
class Crawl:
    """What img2dataset left for each of LAYOUTS: ``folder``/LAYOUT/*.tar, beside each its _stats.json."""

    folder: Path
    served: dict[str, Served]  # by caption

    def stats(self, layout: str) -> dict[str, dict[str, Any]]:
        """Name of a tar -> what img2dataset says about it."""
        files = sorted((self.folder / layout).glob("*_stats.json"))
        return {file.name.replace("_stats.json", ".tar"): read_json(file) for file in files}

    def written(self, layout: str) -> int:
        """Samples in all tars of a layout."""
        return sum(stats["successes"] for stats in self.stats(layout).values())

    def rows(self, layout: str, val_fraction: float = 0.0, split: str = "train") -> RowSource:
        """All documents of a split once."""
        values: dict[str, Any] = GEOMETRY | {
            "sources": {layout: layout},
            "mixture": {layout: 1.0},
            "val_fraction": val_fraction,
        }
        data = Data(path=str(self.folder), tokenizer="bytes", **values)
        return row_source(open_data(data), data, seed=0, split=split, once_in_order=True)


@pytest.fixture(scope="module")
def crawl(tmp_path_factory: pytest.TempPathFactory) -> Crawl:
    try:
        command = img2dataset_venv.installed()
    except img2dataset_venv.NotInstalled as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(str(error))
    folder, served = tmp_path_factory.mktemp("crawl"), pictures(URLS)
    with serving(served) as address:
        table = pyarrow.table({"link": [address + p.path for p in served], "words": [p.caption for p in served]})
        pyarrow.parquet.write_table(table, folder / "urls.parquet")
        pyarrow.csv.write_csv(table, folder / "urls.csv")
        for layout in LAYOUTS:
            run_img2dataset(command, folder, layout, "csv" if layout == "png" else "parquet")
    return Crawl(folder, {p.caption: p for p in served})


def run_img2dataset(command: Path, folder: Path, layout: str, listed: str) -> None:
    where = [f"--url_list={folder}/urls.{listed}", f"--input_format={listed}", f"--output_folder={folder / layout}"]
    shape = ["--url_col=link", "--output_format=webdataset", f"--number_sample_per_shard={SHARD}", "--thread_count=4"]
    environment = img2dataset_venv.environment()
    done = subprocess.run(
        [command, *where, *shape, *LAYOUTS[layout]], env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def indexed(crawl: Crawl) -> Crawl:
    """The same with indexes beside the tars."""
    for layout, options in LAYOUTS.items():
        field = ["--caption-field", "words"] if JSON_ONLY[0] in options else []
        done = nmm("index", layout, "--tokenizer", "bytes", "--max-bad", "0.4", *field, cwd=crawl.folder)
        assert done.returncode == 0, done.stderr
    return crawl


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_producer_is_the_one_we_expect(crawl: Crawl, layout: str) -> None:
    """Otherwise the tests below would be about something else."""
    stats = crawl.stats(layout)
    assert len(stats) == -(-URLS // SHARD) and sum(each["count"] for each in stats.values()) == URLS
    assert sum(each["failed_to_download"] for each in stats.values()) == OF_EACH_KIND
    refused = sum(each["failed_to_resize"] for each in stats.values())
    assert refused == 0 if layout == "as_served" else refused >= OF_EACH_KIND


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_index_has_every_sample_that_was_written(indexed: Crawl, layout: str) -> None:
    left_out: Counter[str] = Counter()
    tokenizer = open_tokenizer("bytes")
    for tar, stats in indexed.stats(layout).items():
        index = read_index(index_path(indexed.folder / layout / tar, tokenizer.fingerprint))
        assert len(index.samples) == stats["successes"]
        assert not index.header["refused"]
        left_out.update(index.quarantined())
    broken = {"bad_image_header": OF_EACH_KIND} if layout == "as_served" else {}
    assert left_out == {"empty_text": OF_EACH_KIND, **broken}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_captions_and_colours_arrive_together(indexed: Crawl, layout: str) -> None:
    """Every picture has one colour, which its pixels must have; every caption comes once."""
    rows = indexed.rows(layout)
    batch = rows.rows_at(0, rows.rows_available())
    seen = dict(documents(batch))
    assert len(seen) == sum(1 for _ in documents(batch))
    broken = OF_EACH_KIND if layout == "as_served" else 0  # each way: no picture at all, and cut
    assert [skipped.reason for skipped in batch.skipped] == ["bad_image"] * broken
    assert len(seen) == indexed.written(layout) - OF_EACH_KIND - 2 * broken
    for caption, colour in seen.items():
        assert np.abs(colour - indexed.served[caption].shown).max() <= 6, caption


def documents(batch: Any) -> Iterator[tuple[str, np.ndarray]]:
    """(caption, (3,) mean colour) of every document of a batch of captions."""
    tokenizer, flat = open_tokenizer("bytes"), batch.tokens.reshape(-1)
    first = {int(at[0]): patches for at, patches in zip(batch.patch_at, batch.patches, strict=True)}
    for row, numbers in enumerate(batch.document):
        for number in np.unique(numbers[numbers >= 0]):
            at = row * batch.tokens.shape[1] + np.flatnonzero(numbers == number)
            ids = flat[at]
            assert (ids[:TOKENS_OF_IMAGE] == IMAGE_ID).all() and (ids[TOKENS_OF_IMAGE:] != IMAGE_ID).all()
            colour = first[int(at[0])].reshape(TOKENS_OF_IMAGE, 3, -1).mean(axis=(0, 2))
            yield tokenizer.decode(ids[TOKENS_OF_IMAGE:-1].tolist()), colour


def test_training_on_them(indexed: Crawl, tmp_path: Path) -> None:
    """Two sources, one of them of three layouts, until every picture came more than once."""
    values: dict[str, Any] = {"data": "shards", "data.path": indexed.folder, "data.tokenizer": "bytes"}
    values |= {"+data.sources": "{caption: 'jpg::webp::png', served: as_served}"}
    values |= {f"data.{name}": value for name, value in GEOMETRY.items()}
    values |= {"+data.mixture": "{caption: 0.7, served: 0.3}", "data.val_fraction": HELD_OUT}
    values |= {"data.eval_rows": 2, "data.max_skipped": 0.2}
    values |= {"size": "d16", "trainer.compile": "off", "trainer.log_every_steps": 5, "schedule.warmup_steps": 4}
    values |= {"budget.steps": 100, "out": "runs"}
    done = nmm("train", *(f"{name}={value}" for name, value in values.items()), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    run = next((tmp_path / "runs").glob("*/record.json")).parent
    losses = [json.loads(line).get("train_loss", 0.0) for line in (run / "attempts/0001/metrics.jsonl").open()]
    assert len(losses) >= 20 and all(map(isfinite, losses))
    record = read_json(run / "record.json")
    assert (record["status"], record["steps"]) == ("done", 100)
    assert all(isfinite(record["result"]["loss"][name]) for name in ("caption", "served", "avg"))
    check_counts(indexed, record)


def check_counts(crawl: Crawl, record: dict[str, Any]) -> None:
    """What the record says was held and delivered follows from what img2dataset says it wrote."""
    skipped = record["result"]["skipped_samples"]["train"]
    assert skipped.keys() == {"served"} and skipped["served"].keys() == {"bad_image"}
    for source, layouts in {"caption": ("jpg", "webp", "png"), "served": ("as_served",)}.items():
        held, delivered = record["data"][source], record["tokens"]["by_source"][source]
        in_val = sum(crawl.rows(layout, HELD_OUT, "val").streams[layout].samples for layout in layouts)
        written = sum(crawl.written(layout) for layout in layouts)
        assert held["samples"] == written - sum(held["left_out"].values()) - in_val
        assert held["left_out"]["empty_text"] == OF_EACH_KIND * len(layouts)
        assert delivered["unique_samples"] == held["samples"] and delivered["epochs"] > 1
        assert delivered["samples"] > held["samples"]
        assert delivered["image_tokens"] == TOKENS_OF_IMAGE * delivered["samples"]
