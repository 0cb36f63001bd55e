"""What the index says of shards as people have them."""

from __future__ import annotations

import gzip
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zstandard
from tars import captions, image, indexed, opened, parts_of, write_tar

from nmm.data.formats import parse
from nmm.data.forward import ForwardFile
from nmm.data.index_file import IMAGE_SEGMENT, KINDS, content_digest, text_digest
from nmm.data.indexing import index_shards
from nmm.data.reasons import REASONS
from nmm.data.shards import write_shards
from nmm.data.unpack import unpack
from nmm.data.world import WorldConfig
from nmm.record import file_sha256


@pytest.fixture
def shard(tmp_path: Path) -> Path:
    return write_tar(tmp_path / "data" / "00000.tar", captions(0, 30))


def test_captions_as_img2dataset_writes_them(shard: Path) -> None:
    (report,) = indexed(shard.parent).shards
    assert (report.outcome, report.samples, report.images, report.bad) == ("indexed", 30, 30, {})
    found = opened(shard)
    samples = found.samples
    assert [found.key(i) for i in range(30)] == [f"{i:09d}" for i in range(30)]
    assert found.header["names"] == ["jpg", "txt"] and found.header["units"] == [30]
    assert found.header["sha256"] == file_sha256(shard) and found.header["bytes"] == shard.stat().st_size
    assert samples["text_tokens"].tolist() == samples["text_bytes"].tolist() == [7] * 10 + [8] * 20
    assert found.segments.reshape(30, 2).tolist() == [[IMAGE_SEGMENT, n] for n in samples["text_tokens"].tolist()]
    assert len(set(samples["id"].tolist())) == len(set(samples["digest"].tolist())) == 30
    for sample in (0, 17, 29):
        parts = parts_of(found, shard, sample)
        assert parts == {"jpg": image("jpg", sample), "txt": b"thing %d" % sample}
        assert samples[sample]["digest"] == content_digest(list(parts.values()))
        assert samples[sample]["key_hash"] == text_digest(found.key(sample))
        assert samples[sample]["id"] == text_digest(found.header["sha256"], found.key(sample))


def test_every_kind_in_one_tar(tmp_path: Path) -> None:
    lines = b'{"text": "line one"}\n\nnonsense\n{"text": "line four"}'
    document = {"texts": ["before", None], "images": [None, "http://somewhere/x"]}
    packed = {".gz": gzip.compress(lines), ".zst": zstandard.compress(lines[:30]) + zstandard.compress(lines[30:])}
    file = write_tar(
        tmp_path / "mixed.tar",
        [
            *captions(0, 2, "png"),
            ("docs/a.json", json.dumps(document).encode()),
            ("docs/a.0.webp", image("webp")),
            ("t.txt", "grüße".encode()),
            ("p/part-0.jsonl", lines),
            ("part-1.jsonl.gz", packed[".gz"]),
            ("part-2.x.jsonl.zst", packed[".zst"]),
            ("u.json", b'{"text": "last"}'),
        ],
    )
    (report,) = indexed(file, max_bad=0.5).shards
    found = opened(file)
    keys = [found.key(i) for i in range(len(found.samples))]
    line_keys = [
        f"{name}:{n}" for name in ("p/part-0.jsonl", "part-1.jsonl.gz", "part-2.x.jsonl.zst") for n in (1, 3, 4)
    ]
    assert keys == ["000000000", "000000001", "docs/a", "t", *line_keys, "u"]
    assert found.header["units"] == [4, 2, 2, 2, 1] and report.bad == {"bad_text": 3} == found.quarantined()
    assert [KINDS[k] for k in found.samples["kind"][:5]] == ["caption", "caption", "interleaved", "text", "text"]
    usable = np.flatnonzero(found.samples["reason"] == 0)
    texts = [parse(parts_of(found, file, i), "caption").segments[-1] for i in usable if i != 2]
    assert texts == ["thing 0", "thing 1", "grüße", *["line one", "line four"] * 3, "last"]
    assert found.samples[3]["text_bytes"] == len("grüße".encode()) == found.samples[3]["text_tokens"]
    for i in usable:
        assert found.samples[i]["digest"] == content_digest(list(parts_of(found, file, i).values()))


@pytest.mark.parametrize(("suffix", "pack"), [("", bytes), (".gz", gzip.compress), (".zst", zstandard.compress)])
def test_jsonl_without_a_tar(tmp_path: Path, suffix: str, pack: Any) -> None:
    file = tmp_path / f"part.jsonl{suffix}"
    file.write_bytes(pack(b'{"text": "one"}\n{"text": "three"}\n'))
    indexed(tmp_path)
    found = opened(file)
    assert [found.key(i) for i in range(2)] == [f"part.jsonl{suffix}:1", f"part.jsonl{suffix}:2"]
    assert found.samples["text_tokens"].tolist() == [3, 5] and found.header["units"] == [2]
    assert parts_of(found, file, 1) == {"jsonl": b'{"text": "three"}'}


def test_the_worlds_own_shards(tmp_path: Path) -> None:
    samples = {source: {"train": 12} for source in ("caption", "interleaved", "text")}
    write_shards(WorldConfig(), tmp_path, samples, progress=False)
    reports = indexed(tmp_path).shards
    assert [(r.samples, r.bad) for r in reports] == [(12, {})] * 3
    found = opened(tmp_path / "interleaved" / "train-000000.tar")
    assert set(found.samples["kind"].tolist()) == {KINDS.index("interleaved")} and found.samples["images"].min() >= 1


def test_bad_samples_are_left_out_with_their_reasons(tmp_path: Path) -> None:
    members = captions(0, 60)
    broken = {
        "a.jpg": image(),  # no caption
        "b.jpg": image(),
        "b.txt": b"  ",
        "c.jpg": b"not an image",
        "c.txt": b"x",
        "d.jpg": image(),
        "d.txt": b"\xff",
        "e.txt": b"x",
        "e.json": b'{"url": "", "width": 1, "height": 1, "status": "success"}',
    }
    file = write_tar(tmp_path / "a.tar", [*members[:90], *broken.items(), *members[90:]])
    (report,) = indexed(file, max_bad=0.1).shards
    assert report.bad == dict.fromkeys(("no_text", "no_image", "empty_text", "bad_text", "bad_image_header"), 1)
    assert set(report.examples) == set(report.bad) and report.examples["empty_text"].startswith("sample 'b':")
    found = opened(file)
    assert found.samples["reason"][30:35].tolist() == [
        1 + REASONS.index(reason) for reason in ("no_text", "empty_text", "bad_image_header", "bad_text", "no_image")
    ]
    assert found.header["units"] == [60] and found.samples["segments"][30:35].sum() == 0
    assert parts_of(found, file, 64) == {"jpg": image("jpg", 59), "txt": b"thing 59"}


def test_only_decoding_finds_damaged_pixels(tmp_path: Path) -> None:
    damaged = ("x.png", image("png")[:-30] + bytes(30)), ("x.txt", b"a caption")
    file = write_tar(tmp_path / "a.tar", [*captions(0, 30), *damaged])
    assert indexed(file).shards[0].bad == {}
    assert indexed(file).shards[0].outcome == "kept"
    (report,) = indexed(file, decode=True).shards
    assert (report.outcome, report.bad) == ("indexed", {"bad_image": 1})
    assert indexed(file).shards[0].outcome == "kept"  # more was looked at than is asked for now


def test_a_tokenizers_special_words_are_no_text(tmp_path: Path) -> None:
    spec = tmp_path / "tokenizer.json"
    vocabulary = {word: i for i, word in enumerate(["<pad>", "<image>", "<end>", "thing", *map(str, range(40))])}
    model = {"type": "WordLevel", "vocab": vocabulary, "unk_token": "<unk>"}
    spec.write_text(json.dumps({"version": "1.0", "model": model, "pre_tokenizer": {"type": "WhitespaceSplit"}}))
    file = write_tar(tmp_path / "a.tar", [*captions(0, 20), ("x.txt", b"thing <end>"), ("y.txt", b"unknown")])
    (report,) = index_shards([file], str(spec), max_bad=0.5, workers=1, progress=False).shards
    assert report.bad == {"reserved_token": 1, "bad_text": 1} and "'<end>'" in report.examples["reserved_token"]
    assert report.text_tokens == 40


def test_compressed_members_of_many_frames() -> None:
    rng = random.Random(1)
    data = b"".join(b'{"text": "%d"}\n' % rng.getrandbits(40) for _ in range(3000))
    for cuts in ([10], [20, 40, 60], [30_000], sorted(rng.sample(range(len(data)), 40))):
        ends = [0, *cuts, len(data)]
        pieces = [data[a:b] for a, b in zip(ends, ends[1:], strict=False)]
        for form, pack in (("jsonl.gz", gzip.compress), ("jsonl.zst", zstandard.compress)):
            packed = b"".join(map(pack, pieces))
            assert unpack(packed, form) == data
            with pytest.raises(ValueError, match="the end is missing"):
                unpack(packed[:-3], form)
    assert unpack(b"", "jsonl.gz") == b""


def test_slices_of_a_file_in_any_order(tmp_path: Path) -> None:
    file, rng = tmp_path / "file", random.Random(0)
    data = rng.randbytes(5 << 20)
    file.write_bytes(data)
    with ForwardFile(file) as forward:
        at = 0
        while at < len(data):
            at += rng.randrange(300_000)
            for start in (at, max(0, at - rng.randrange(3 << 20)), at):
                size = rng.randrange(400_000)
                assert forward[start : start + size] == data[start : start + size]
        assert forward[len(data) - 5 :] == data[-5:]
        assert forward.finish() == file_sha256(file)
