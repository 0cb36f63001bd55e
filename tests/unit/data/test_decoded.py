"""The decoded cache holds exactly what the tars hold, is written once, and never from a damaged tar."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import io
import json
import multiprocessing
import pickle
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nmm.batch import IMAGE_ID
from nmm.data import decoded
from nmm.data.decoded import cache_key, open_decoded, sample_id
from nmm.data.images import patchify
from nmm.data.manifest import open_shards

Changed = Callable[[dict[str, bytes | None]], Path]


def png(side: int = 8) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.full((side, side, 3), 7, np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def one_sample(make_shards: Callable[..., Path], write_manifest: Callable[..., None]) -> Changed:
    """A folder whose one text shard holds one sample with the members given."""

    def build(members: dict[str, bytes | None]) -> Path:
        root = make_shards(counts={"text": {"train": 1}})
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as archive:
            for extension, body in members.items():
                if body is not None:
                    info = tarfile.TarInfo(f"only.{extension}")
                    info.size = len(body)
                    archive.addfile(info, io.BytesIO(body))
        data = buffer.getvalue()
        (root / "text" / "train-000000.tar").write_bytes(data)
        manifest = json.loads((root / "manifest.json").read_text())
        manifest["sources"]["text"]["train"]["shards"][0] |= {
            "bytes": len(data),
            "sha256": hashlib.sha256(data).hexdigest(),
        }
        write_manifest(root, manifest)
        return root

    return build


@pytest.mark.parametrize("source", ["caption", "interleaved", "text"])
def test_holds_what_was_written(tiny_root: Path, tiny_document: Callable[..., dict], source: str) -> None:
    shards = open_shards(tiny_root)
    index = 0
    for shard in open_decoded(shards, source, "train", patch_size=4):
        for sample in shard.samples:
            document = tiny_document(source, "train", index)
            inside = slice(sample["start"], sample["start"] + sample["length"])
            records = shard.positions[inside]
            ids = shards.tokenizer.encode(" ".join(document["words"]))
            assert records["token"].tolist() == [i for i in ids for _ in range(4 if i == IMAGE_ID else 1)]
            is_text = records["token"] != IMAGE_ID
            assert np.array_equal(records["logprob"][is_text], np.float32(document["logprobs"]))
            assert bytes(records["letter"][is_text]).decode() == document["classes"]
            assert np.isnan(records["logprob"][~is_text]).all()
            assert not records["letter"][~is_text].any()
            first = sample["first_image"]
            assert sample["images"] == len(document["images"])
            for number, pixels in enumerate(document["images"], start=first):
                assert np.array_equal(shard.patches[number * 4 : number * 4 + 4], patchify(pixels, 4))
            assert sample["id"] == sample_id(f"{source}-train-{index:09d}")
            assert sample["opens_with_text"] == (source == "text")
            index += 1
    assert index == shards.split(source, "train").samples


def test_decodes_once_per_patch_size(make_shards: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    shards = open_shards(make_shards())
    first = open_decoded(shards, "caption", "val", 4)
    monkeypatch.setattr(decoded, "decode_shard", None)
    again = open_decoded(shards, "caption", "val", 4)
    assert np.array_equal(again[0].patches, first[0].patches)
    with pytest.raises(TypeError):
        open_decoded(shards, "caption", "val", 2)


def test_key_follows_everything_that_decides_the_bytes(tiny_root: Path, make_shards: Callable[..., Path]) -> None:
    shards, larger = open_shards(tiny_root), open_shards(make_shards(size=16))
    info = shards.split("text", "train").shards
    keys = {cache_key(shards, info[0], 4), cache_key(shards, info[0], 2), cache_key(shards, info[1], 4)}
    assert len(keys | {cache_key(larger, info[0], 4)}) == 4


def test_cache_can_live_elsewhere(make_shards: Callable[..., Path], tmp_path: Path) -> None:
    root = make_shards()
    open_decoded(open_shards(root, cache=tmp_path / "elsewhere"), "text", "val", 4)
    assert not (root / ".decoded").exists()
    assert list((tmp_path / "elsewhere").glob("*/positions.npy"))
    (tmp_path / "a-file").write_text("")
    with pytest.raises(ValueError, match="pass another `cache`"):
        open_decoded(open_shards(root, cache=tmp_path / "a-file"), "text", "val", 4)


def _open_all(root: str) -> int:
    shards = open_shards(root)
    return sum(len(d.samples) for source in shards.sources for d in open_decoded(shards, source, "train", 4))


def test_processes_share_the_work(make_shards: Callable[..., Path]) -> None:
    root = make_shards()
    with multiprocessing.get_context("fork").Pool(3) as pool:
        assert pool.map(_open_all, [str(root)] * 3) == [90 + 50 + 70] * 3
    assert len(list((root / ".decoded").glob("*/samples.npy"))) == 3 + 2 + 3
    assert not list((root / ".decoded").glob("*.tmp.*"))


def test_leftovers_of_a_killed_process_are_cleared(make_shards: Callable[..., Path]) -> None:
    shards = open_shards(make_shards())
    info = shards.split("text", "val").shards[0]
    left = shards.cache / f"{cache_key(shards, info, 4)}.tmp.killed"
    left.mkdir(parents=True)
    (left / "positions.npy").write_bytes(b"half")
    assert len(open_decoded(shards, "text", "val", 4)[0].samples) == 32
    assert not left.exists()


def test_works_without_file_locks(make_shards: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "no locks here")

    monkeypatch.setattr(fcntl, "flock", refuse)
    assert len(open_decoded(open_shards(make_shards()), "text", "val", 4)[1].samples) == 8


def test_loser_of_a_race_keeps_the_winners_folder(make_shards: Callable[..., Path]) -> None:
    shards = open_shards(make_shards())
    info = shards.split("text", "val").shards[0]
    folder = shards.cache / cache_key(shards, info, 4)
    open_decoded(shards, "text", "val", 4)
    before = (folder / "positions.npy").stat().st_ino
    decoded._publish(folder, decoded.decode_shard(shards, info, 4))
    assert (folder / "positions.npy").stat().st_ino == before
    assert not list(shards.cache.glob("*.tmp.*"))


def test_damaged_cache_says_what_to_delete(make_shards: Callable[..., Path]) -> None:
    shards = open_shards(make_shards())
    shard = open_decoded(shards, "text", "val", 4)[0]
    whole = (shard.folder / "positions.npy").read_bytes()
    (shard.folder / "positions.npy").write_bytes(whole[:-9])
    with pytest.raises(ValueError, match=r"is damaged .*: delete it"):
        _ = open_decoded(shards, "text", "val", 4)[0].positions
    np.save(shard.folder / "samples.npy", shard.samples[:3])
    with pytest.raises(ValueError, match="does not fit shard text/val-000000.tar: delete it"):
        open_decoded(shards, "text", "val", 4)


def test_pickles_without_its_arrays(tiny_root: Path) -> None:
    shard = open_decoded(open_shards(tiny_root), "caption", "train", 4)[0]
    size = len(shard.patches) * shard.patches.shape[1]
    data = pickle.dumps(shard)
    assert len(data) < size
    assert np.array_equal(pickle.loads(data).patches, shard.patches)


def test_changed_tar_is_refused_and_leaves_nothing(make_shards: Callable[..., Path]) -> None:
    shards = open_shards(make_shards())
    file = shards.root / "text" / "train-000001.tar"
    data = bytearray(file.read_bytes())
    data[600] ^= 1
    file.write_bytes(bytes(data))
    with pytest.raises(ValueError, match="train-000001.tar has sha256"):
        open_decoded(shards, "text", "train", 4)
    assert len(list(shards.cache.glob("*/samples.npy"))) == 1


def test_real_data_needs_no_logprobs(one_sample: Changed) -> None:
    shard = open_decoded(open_shards(one_sample({"txt": b"w1 w2 <end>", "json": b"{}"})), "text", "train", 4)[0]
    assert np.isnan(shard.positions["logprob"]).all()
    assert not shard.positions["letter"].any()


def test_more_than_ten_images_keep_their_order(one_sample: Changed) -> None:
    images = {f"{i}.png": png() for i in range(12)}
    images["10.png"] = _plain(99)
    text = " ".join(["<image>"] * 12 + ["<end>"]).encode()
    root = one_sample(dict(sorted(images.items())) | {"txt": text, "json": b"{}"})
    shard = open_decoded(open_shards(root), "text", "train", 8)[0]
    assert shard.patches[:, 0].tolist() == [7] * 10 + [99, 7]


def _plain(value: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.full((8, 8, 3), value, np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"txt": b"w1 <end>", "json": None}, "'json' is missing"),
        ({"txt": None, "json": b"{}"}, "'txt' is missing"),
        ({"txt": b"", "json": b"{}"}, "0 words"),
        ({"txt": b"w1 unheard <end>", "json": b"{}"}, "'unheard'"),
        ({"txt": b"\xff\xfe", "json": b"{}"}, "utf-8"),
        ({"txt": b"w1 <end>", "json": b"{"}, "Expecting"),
        ({"txt": b"<image> <end>", "json": b"{}"}, "1 times '<image>', but 0 images"),
        ({"png": png(), "txt": b"w1 <end>", "json": b"{}"}, "0 times '<image>', but 1 images"),
        ({"0.png": png(), "2.png": png(), "txt": b"<image> <image>", "json": b"{}"}, "without gaps"),
        ({"png": png(), "0.jpg": png(), "txt": b"<image> <image>", "json": b"{}"}, "without gaps or doubles"),
        ({"left.png": png(), "txt": b"<image>", "json": b"{}"}, "expected <key>.png"),
        ({"png": b"junk", "txt": b"<image>", "json": b"{}"}, "not a readable PNG"),
        ({"png": png(16), "txt": b"<image>", "json": b"{}"}, "16 x 16 pixels"),
        ({"txt": b"w1 <end>", "json": b'{"logprobs": [-1.0]}'}, "1 logprobs for 2 text tokens"),
        ({"txt": b"w1 <end>", "json": b'{"logprobs": [-1.0, 0.5]}'}, "must be <= 0, got 0.5"),
        ({"txt": b"w1 <end>", "json": b'{"logprobs": [-1.0, [2]]}'}, "must be real number"),
        ({"txt": b"w1 <end>", "json": b'{"classes": "ggg"}'}, "3 classes for 2 text tokens"),
    ],
)
def test_bad_samples_are_named(one_sample: Changed, members: dict[str, bytes | None], message: str) -> None:
    shards = open_shards(one_sample(members))
    with pytest.raises(ValueError, match=rf"train-000000.tar, sample 'only': .*{message}"):
        open_decoded(shards, "text", "train", 4)


def test_patch_size_is_checked_before_decoding(tiny_root: Path) -> None:
    with pytest.raises(ValueError, match="patch_size=3 does not divide"):
        open_decoded(open_shards(tiny_root), "caption", "train", 3)
