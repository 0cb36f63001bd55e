"""Statistics and page of tars as they are, from `nmm index` to the screen."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
import webdataset
from lab import composed
from PIL import Image

from nmm.config import RunConfig, from_dict
from nmm.data.images import patchify
from nmm.data.indexing import index_shards
from nmm.data.opening import open_data, row_source
from nmm.data.stats import data_stats
from nmm.data.view_pictures import image_uri, picture
from nmm.data.view_rows import rows_page, sample_names
from nmm.resolve import finalize

CAPTION = 'a <b>square</b> & "more" number'


def write_tar(file: Path, samples: Sequence[Mapping[str, object]]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with webdataset.TarWriter(str(file), encoder=False, mtime=0) as writer:
        for sample in samples:
            writer.write(dict(sample))


def png(seed: int, side: int = 16) -> tuple[np.ndarray, bytes]:
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return pixels, buffer.getvalue()


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty captions, one of them twice and one blank, twenty documents of two images, and lines of text."""
    root = tmp_path_factory.mktemp("sources")
    captions = [{"__key__": f"{i:04d}", "png": png(i)[1], "txt": f"{CAPTION} {i}".encode()} for i in range(40)]
    captions[7] |= {"txt": captions[6]["txt"], "png": captions[6]["png"]}
    captions[8] |= {"txt": b" "}
    write_tar(root / "caption" / "0.tar", captions)
    parts = {"texts": ["before ", None, " between ", None], "images": [None, "0.png", None, "1.png"]}
    documents = [
        {"__key__": f"d{i}", "json": json.dumps(parts).encode(), "0.png": png(100 + i)[1], "1.png": png(200 + i)[1]}
        for i in range(20)
    ]
    write_tar(root / "interleaved" / "0.tar", documents)
    (root / "text").mkdir()
    (root / "text" / "0.jsonl").write_text("".join(json.dumps({"text": f"line {i}\n"}) + "\n" for i in range(30)))
    index_shards([root], "bytes", workers=1, progress=False)
    return root


@pytest.fixture
def config(root: Path) -> RunConfig:
    values = composed(data="shards")
    names = ("caption", "interleaved", "text")
    values["data"] |= {"path": str(root), "sources": {name: name for name in names}, "context_length": 128}
    values["data"] |= {"image_size": 16, "patch_size": 8, "val_fraction": 0.1}
    return finalize(from_dict(values | {"budget": {"steps": 2}}))


def test_the_page_shows_pixels_and_keys_of_the_tars(config: RunConfig) -> None:
    opened = open_data(config.data)
    rows = row_source(opened, config.data, config.seed)
    page = rows_page(config, 0, 8)
    batch = rows.rows_at(0, 8)
    for patches in batch.patches:
        assert image_uri(picture(patches, 8)) in page
    shown = 0
    for row in range(8):
        for name, record in zip(sample_names(opened, rows, row), rows.documents(row), strict=True):
            assert f" {name}<br>" in page
            file, key = name.split(": ")
            if file == "0.tar" and key.isdigit() and int(key) not in (6, 7):
                assert image_uri(picture(patchify(png(int(key))[0], 8), 8)) in page
                shown += 1
            assert record["truncated"] or file in ("0.tar", "0.jsonl")
    assert shown > 3
    assert page.count('<section class="row">') == 8
    assert "<b>square" not in page


def test_the_text_of_a_document_can_be_read_off_the_page(config: RunConfig) -> None:
    page = rows_page(config, 0, 6)
    boxes = re.findall(r'<div class="doc".*?</div></div></div>', page, re.DOTALL)
    found = {}
    for box in boxes:
        key = re.search(r"</b> (.*?)<br>", box)
        letters = re.findall(r"<bdi>(.*?)</bdi>", box)
        assert key is not None
        found[key[1]] = "".join(letters)
    captions = {key: text for key, text in found.items() if key.startswith("0.tar: 00")}
    assert captions
    for key, text in captions.items():
        number = int(key[-4:]) - (key[-4:] == "0007")
        plain = f"{CAPTION} {number}".replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
        assert text == plain.replace('"', "&quot;").replace(" ", "<s>\u2423</s>") + "&lt;end&gt;"


def test_statistics_of_tars(config: RunConfig) -> None:
    opened = open_data(config.data)
    facts = data_stats(opened, row_source(opened, config.data, 0), config.data, 64)
    sources = facts["sources"]
    assert sources["caption"]["bad"] == {"empty_text": 1}
    assert {name: one["samples"] + one["held_out"] for name, one in sources.items()} == {
        "caption": 39,
        "interleaved": 20,
        "text": 30,
    }
    assert facts["duplicates"]["sources"]["caption"]["repeats"] == 1
    assert sources["interleaved"]["images"] == [0, 0, sources["interleaved"]["samples"]]
    assert facts["data"]["kind"] == "indexed" and facts["data"]["tokens_per_image"] == 4
    assert facts["rows"]["target_share"] == pytest.approx(config.data.target_share, abs=0.05)
