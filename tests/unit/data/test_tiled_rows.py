"""Rows of tiled pictures, from rendered shards and from anybody's tars: lengths, cuts, counts, order, identity."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from shards_lab import index_all, indexed_config, opened_index, write_tar
from test_tiles import noise, png

from nmm.batch import IMAGE_ID, Batch
from nmm.config import ConfigError, RunConfig, run_id
from nmm.data.decoded import cache_key, open_decoded
from nmm.data.images import patchify
from nmm.data.indexed import Content, IndexedCorpus, open_indexed
from nmm.data.manifest import Shards
from nmm.data.opening import open_data, row_source
from nmm.data.picture_sizes import read_sizes, sizes_path
from nmm.data.source import RowSource
from nmm.data.tiles import tile_picture
from nmm.data.tiling import tile

MakeConfig = Callable[..., RunConfig]
TILED: dict[str, Any] = {"data": {"picture_size": 32, "image_size": 16, "tiles": 4, "patch_size": 8}}


def rows_of(config: RunConfig) -> RowSource:
    return row_source(open_data(config.data), config.row_data, config.seed)


def images_of(batch: Batch) -> dict[tuple[int, int], list[np.ndarray]]:
    """(row, document) -> its images' patches, in order."""
    found: dict[tuple[int, int], list[np.ndarray]] = {}
    width = batch.tokens.shape[1]
    for at, patches in zip(batch.patch_at, batch.patches, strict=True):
        row, column = divmod(int(at[0]), width)
        found.setdefault((row, int(batch.document[row, column])), []).append(patches)
    return found


# ---------------------------------------------------------------------------------------------------------------------
# rendered shards


def test_a_rendered_picture_is_its_tiles_and_a_thumbnail(make_config: MakeConfig) -> None:
    """Against the same rows' pictures as they are: four quarters bit for bit, then the picture at half its size."""
    tiled, whole = make_config("early", "d16", **TILED), make_config("early", "d16")
    shards, plain = (open_data(config.data) for config in (tiled, whole))
    assert isinstance(shards, Shards) and isinstance(plain, Shards)
    assert shards.images_per_picture == 5
    cut, uncut = open_decoded(shards, "caption", "val", 8)[0], open_decoded(plain, "caption", "val", 8)[0]
    assert np.array_equal(cut.samples["images"], 5 * uncut.samples["images"])
    assert np.array_equal(cut.samples["length"] - uncut.samples["length"], np.full(len(cut.samples), 5 * 4 - 16))
    for number in range(5):
        patches = np.asarray(uncut.patches[number * 16 : number * 16 + 16]).reshape(4, 4, 3, 8, 8)
        picture = patches.transpose(0, 3, 1, 4, 2).reshape(32, 32, 3)
        expected = patchify(tile_picture(picture, 16, 4), 8).reshape(20, -1)
        assert np.array_equal(cut.patches[number * 20 : number * 20 + 20], expected)
        assert np.array_equal(expected[:4], patchify(picture[:16, :16], 8))


@pytest.mark.parametrize("context_length", [128, 40, 25])
def test_counts_from_lengths_are_those_of_the_rows(make_config: MakeConfig, context_length: int) -> None:
    """Also where documents are cut: before a picture that does not fit whole, never between its tiles."""
    config = make_config("early", "d16", data={**TILED["data"], "context_length": context_length})
    rows = rows_of(config)
    batch, counts = rows.rows_at(0, 200), rows.counts(200)
    assert sum(count["image_tokens"] for count in counts.values()) == int((batch.tokens == IMAGE_ID).sum())
    assert sum(count["targets"] for count in counts.values()) == int(batch.weights.sum())
    assert sum(count["tokens"] for count in counts.values()) == int((batch.document >= 0).sum())
    assert all(len(images) % 5 == 0 for images in images_of(batch).values())
    assert batch.patches.shape[1:] == (4, 192)
    if context_length == 25:
        assert sum(count["truncated"] for count in counts.values()) > 100


def test_every_tile_is_an_image_of_its_own(make_config: MakeConfig) -> None:
    batch = rows_of(make_config("early", "d16", **TILED)).rows_at(0, 8)
    for row in range(8):
        numbers = batch.image[row][batch.image[row] >= 0]
        assert np.array_equal(numbers, np.repeat(np.arange(len(numbers) // 4), 4))


def test_the_thumbnail_alone_is_the_picture_made_smaller(make_config: MakeConfig) -> None:
    alone = make_config("early", "d16", data={**TILED["data"], "tiles": 1})
    batch, tiled = rows_of(alone).rows_at(0, 60), rows_of(make_config("early", "d16", **TILED)).rows_at(0, 60)
    thumbnails = {images[4].tobytes() for images in images_of(tiled).values()}
    shown = {image.tobytes() for images in images_of(batch).values() for image in images}
    assert len(thumbnails & shown) > 20


def test_tiles_decide_cache_stream_and_run(make_config: MakeConfig) -> None:
    configs = [make_config("early", "d16", **groups) for groups in ({}, TILED, {"data": {**TILED["data"], "tiles": 1}})]
    opened = [open_data(config.data) for config in configs]
    info = opened[0].sources["caption"]["val"].shards[0]  # type: ignore[union-attr]
    keys = {cache_key(shards, info, 8) for shards in opened if isinstance(shards, Shards)}
    assert len(keys) == len({run_id(config) for config in configs}) == 3
    streams = [rows_of(config).stream for config in configs]
    assert ["tiles" in stream and "picture_size" in stream for stream in streams] == [False, True, True]
    assert len({shards.fingerprint for shards in opened}) == 1


def test_shares_of_positions_are_measured(make_config: MakeConfig) -> None:
    config = make_config("late", "d32", **TILED)
    batch = rows_of(config).rows_at(0, 200)
    filled = int((batch.document >= 0).sum())
    assert config.data.image_share == pytest.approx(batch.patch_at.size / filled, abs=0.02)
    assert config.data.target_share == pytest.approx(batch.weights.sum() / filled, abs=0.02)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"tiles": 4}, "rendered pictures are squares of 32 pixels and would be one tile; set data.picture_size to 64"),
        ({"picture_size": 32, "image_size": 16, "tiles": 3}, "data.tiles=3 with .* would be one tile"),
        ({"picture_size": 32}, "data.picture_size=32 is data.image_size; leave it at 0"),
        ({"picture_size": 64}, "data.picture_size=64, but the shards in .* have 32"),
        ({"image_size": 16}, "data.image_size=16, but the shards in .* have 32; data.picture_size says that pictures"),
        ({**TILED["data"], "patch_size": 2, "context_length": 300}, "a picture can be 5 images of 64 positions"),
    ],
)
def test_impossible_tiles_are_refused(make_config: MakeConfig, data: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_config("early", "d16", data=data)


# ---------------------------------------------------------------------------------------------------------------------
# anybody's tars


SIZES = [(40, 16), (16, 40), (16, 16), (33, 31), (64, 32), (90, 30), (100, 17), (20, 64)]


def wide_sources(folder: Path, count: int = 40) -> Path:
    """Captions and documents with two pictures each, in sizes of every aspect."""
    captions, documents = [], []
    for n in range(count):
        captions += [(f"{n:05d}.png", picture(n)), (f"{n:05d}.txt", f"thing {n}".encode())]
        text = b'{"texts": ["one", null, "two %d", null], "images": [null, "a", null, "b"]}' % n
        documents += [(f"d{n:05d}.json", text), (f"d{n:05d}.0.png", picture(n)), (f"d{n:05d}.1.png", picture(n + 3))]
    write_tar(folder / "caption" / "0.tar", captions)
    write_tar(folder / "interleaved" / "0.tar", documents)
    return folder


def picture(number: int) -> bytes:
    width, height = SIZES[number % len(SIZES)]
    pixels = noise(width, height)
    pixels[0, 0] = number % 256
    return png(pixels)


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = wide_sources(tmp_path_factory.mktemp("wide"))
    index_all(folder)
    return folder


def tiled_config(folder: Path, **groups: Any) -> RunConfig:
    data = {"tiles": 4, "context_length": 96, "val_fraction": 0.3, "eval_rows": 1, **groups.pop("data", {})}
    return indexed_config(folder, data=data, **groups)


def corpus(config: RunConfig, name: str, seed: int | None = None) -> IndexedCorpus:
    return IndexedCorpus(open_indexed(config.data), name, "train", config.data.context_length, 8, seed)


@pytest.mark.parametrize("name", ["caption", "interleaved"])
@pytest.mark.parametrize("width", [96, 44, 30])
def test_records_from_sizes_are_what_is_read(wide: Path, name: str, width: int) -> None:
    """Without a pixel the index knows how many images a picture becomes; what is read has as many."""
    source = corpus(tiled_config(wide, data={"context_length": width, "tiles": 4 if width > 30 else 2}), name)
    records = source.records(np.arange(int(source.units.sum())))
    cut = 0
    for record in records:
        content = source.read(record)
        assert isinstance(content, Content)
        assert len(content.tokens) == record["length"] <= width
        assert len(content.patches) == record["images"]
        assert int((content.tokens == IMAGE_ID).sum()) == 4 * record["images"]
        cut += bool(record["truncated"])
    assert source.totals[:, 1].sum() == records["images"].sum() > len(records)
    assert (cut > 0) == (name == "interleaved" and width < 96)


def test_images_are_the_tiles_of_the_picture(wide: Path) -> None:
    source = corpus(tiled_config(wide), "caption")
    for record in source.records(np.arange(10)):
        content, number = source.read(record), int(record["start"])
        width, height = SIZES[number % len(SIZES)]
        assert isinstance(content, Content)
        assert len(content.patches) == tile(width, height, 16, 4).images
        assert content.patches[-1].shape == (4, 192)


def test_a_flip_mirrors_pictures_and_changes_no_length(wide: Path) -> None:
    still, flipped = (corpus(tiled_config(wide, data={"flip": flip}), "caption", seed=0) for flip in (0.0, 1.0))
    records = still.records(np.arange(10))
    assert np.array_equal(records["length"], flipped.records(np.arange(10))["length"])
    for record in records:
        one, other = still.read(record), flipped.read(record)
        assert isinstance(one, Content) and isinstance(other, Content)
        assert not np.array_equal(one.patches[-1], other.patches[-1])


def test_shares_come_from_the_sizes(wide: Path) -> None:
    plain, tiled = tiled_config(wide, data={"tiles": 1}), tiled_config(wide)
    assert plain.data.image_share < tiled.data.image_share < 1
    rows = row_source(open_data(tiled.data), tiled.row_data, 0)
    counts = rows.counts(30)
    image = sum(count["image_tokens"] for count in counts.values())
    assert tiled.data.image_share == pytest.approx(image / sum(c["tokens"] for c in counts.values()), abs=0.05)


def test_a_run_without_tiles_needs_no_sizes_and_is_the_same_run(wide: Path, tmp_path: Path) -> None:
    """Indexes from before sizes were kept: their fingerprint and rows stay; tiles ask for them to be made again."""
    folder = wide_sources(tmp_path / "old")
    index_all(folder)
    before = tiled_config(folder, data={"tiles": 1})
    stream = row_source(open_data(before.data), before.row_data, 0).stream
    assert "tiles" not in stream
    found = opened_index(folder / "caption" / "0.tar")
    assert read_sizes(found).tolist() == [list(SIZES[n % len(SIZES)]) for n in range(40)]
    sizes_path(found.file).unlink()
    assert tiled_config(folder, data={"tiles": 1}).data.fingerprint == before.data.fingerprint
    with pytest.raises(ConfigError, match=r"0.tar.*sizes does not hold the sizes of the 40 pictures.*run `nmm index`"):
        tiled_config(folder)
    index = found.file.read_bytes()
    outcomes = {shard.path.parent.name: shard.outcome for shard in index_all(folder).shards}
    assert outcomes == {"caption": "indexed", "interleaved": "kept"}
    assert found.file.read_bytes() == index
    assert tiled_config(folder).data.fingerprint == before.data.fingerprint


@pytest.mark.parametrize("damage", ["cut", "one bit", "of another shard"])
def test_damaged_sizes_are_never_believed(tmp_path: Path, damage: str) -> None:
    folder = wide_sources(tmp_path / "sources")
    index_all(folder)
    found = opened_index(folder / "caption" / "0.tar")
    file = sizes_path(found.file)
    content = bytearray(file.read_bytes())
    match damage:
        case "cut":
            del content[-4:]
        case "one bit":
            content[-1] ^= 1
        case _:
            content[8] ^= 1
    file.write_bytes(content)
    with pytest.raises(ValueError, match="does not hold the sizes"):
        read_sizes(found)


def test_crops_with_tiles_and_picture_size_with_sources_are_refused(wide: Path) -> None:
    with pytest.raises(ConfigError, match="data.crop_scale=0.4 with data.tiles=4: how many tiles a random crop has"):
        tiled_config(wide, data={"crop_scale": 0.4})
    with pytest.raises(ConfigError, match="data.picture_size=32 is for rendered shards"):
        tiled_config(wide, data={"picture_size": 32})
    with pytest.raises(ConfigError, match="a picture can be 10 images of 4 positions, and data.context_length=40"):
        tiled_config(wide, data={"tiles": 9, "context_length": 40})


def test_pixel_shuffle_on_sources(wide: Path) -> None:
    config = tiled_config(wide, data={"patch_size": 4, "tiles": 4}, arch={"pixel_shuffle": 2})
    assert (config.tokens_per_image, config.position_size) == (4, 8)
    batch = row_source(open_data(config.data), config.row_data, 0).rows_at(0, 4)
    assert batch.patches.shape[1:] == (4, 192)
    plain = tiled_config(wide, data={"patch_size": 8, "tiles": 4})
    assert config.data.image_share == plain.data.image_share
    assert dataclasses.replace(config.data, patch_size=8) == plain.data
