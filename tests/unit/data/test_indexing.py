"""Indexes of shards as people have them: what they say, what is kept, what is refused."""

from __future__ import annotations

import gzip
import io
import json
import os
import random
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zstandard
from tars import captions, image, write_tar

from nmm.data import scan
from nmm.data.formats import parse
from nmm.data.forward import ForwardFile
from nmm.data.index_file import (
    IMAGE_SEGMENT,
    KINDS,
    ShardIndex,
    check_index,
    content_digest,
    index_path,
    read_index,
    text_digest,
)
from nmm.data.indexing import Summary, find_shards, index_shards
from nmm.data.reasons import REASONS
from nmm.data.scan import Rules, scan_shard
from nmm.data.shards import write_shards
from nmm.data.tokenizer import open_tokenizer
from nmm.data.unpack import unpack
from nmm.data.world import WorldConfig
from nmm.record import file_sha256

BYTES = open_tokenizer("bytes")


def index(*paths: Path, **options: Any) -> Summary:
    return index_shards(paths, "bytes", workers=1, progress=False, **options)


def opened(shard: Path, into: Path | None = None) -> ShardIndex:
    found = read_index(index_path(shard, BYTES.fingerprint, into))
    check_index(found)
    return found


def parts_of(found: ShardIndex, shard: Path, sample: int) -> dict[str, bytes]:
    """The bytes of a sample, by offset alone."""
    row, data, parts = found.samples[sample], shard.read_bytes(), {}
    for name, offset, size, start, length in found.members[row["first_member"] :][: row["members"]].tolist():
        form, member = found.header["names"][name], data[offset : offset + size]
        if form.startswith("jsonl"):
            parts["jsonl"] = unpack(member, form)[start : start + length]
        else:
            parts[form] = member
    return parts


@pytest.fixture
def shard(tmp_path: Path) -> Path:
    return write_tar(tmp_path / "data" / "00000.tar", captions(0, 30))


def test_captions_as_img2dataset_writes_them(shard: Path) -> None:
    (report,) = index(shard.parent).shards
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
    (report,) = index(file, max_bad=0.5).shards
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
    index(tmp_path)
    found = opened(file)
    assert [found.key(i) for i in range(2)] == [f"part.jsonl{suffix}:1", f"part.jsonl{suffix}:2"]
    assert found.samples["text_tokens"].tolist() == [3, 5] and found.header["units"] == [2]
    assert parts_of(found, file, 1) == {"jsonl": b'{"text": "three"}'}


def test_the_worlds_own_shards(tmp_path: Path) -> None:
    samples = {source: {"train": 12} for source in ("caption", "interleaved", "text")}
    write_shards(WorldConfig(), tmp_path, samples, progress=False)
    reports = index(tmp_path).shards
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
    (report,) = index(file, max_bad=0.1).shards
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
    assert index(file).shards[0].bad == {}
    assert index(file).shards[0].outcome == "kept"
    (report,) = index(file, decode=True).shards
    assert (report.outcome, report.bad) == ("indexed", {"bad_image": 1})
    assert index(file).shards[0].outcome == "kept"  # more was looked at than is asked for now


def test_a_tokenizers_special_words_are_no_text(tmp_path: Path) -> None:
    spec = tmp_path / "tokenizer.json"
    vocabulary = {word: i for i, word in enumerate(["<pad>", "<image>", "<end>", "thing", *map(str, range(40))])}
    model = {"type": "WordLevel", "vocab": vocabulary, "unk_token": "<unk>"}
    spec.write_text(json.dumps({"version": "1.0", "model": model, "pre_tokenizer": {"type": "WhitespaceSplit"}}))
    file = write_tar(tmp_path / "a.tar", [*captions(0, 20), ("x.txt", b"thing <end>"), ("y.txt", b"unknown")])
    (report,) = index_shards([file], str(spec), max_bad=0.5, workers=1, progress=False).shards
    assert report.bad == {"reserved_token": 1, "bad_text": 1} and "'<end>'" in report.examples["reserved_token"]
    assert report.text_tokens == 40


# ---------------------------------------------------------------------------------------------------------------------
# whole shards


def tar_bytes(members: list[tuple[str, bytes]]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


def with_link() -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        link = tarfile.TarInfo("0.jpg")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    return out.getvalue()


def negative_size() -> bytes:
    """A header whose size sends a careless reader back to it for ever."""
    data = bytearray(tar_bytes([("a.txt", b"x" * 600)]))
    data[124:136] = b"-0000001000\0"
    data[148:156] = b" " * 8
    data[148:156] = b"%06o\0 " % sum(data[:512])
    return bytes(data)


def odd_name(name: bytes) -> bytes:
    data = bytearray(tar_bytes([("a" * len(name) + ".txt", b"x")]))
    data[: len(name)] = name
    data[148:156] = b" " * 8
    data[148:156] = b"%06o\0 " % sum(data[:512])
    return bytes(data)


GOOD = tar_bytes(captions(0, 5))
SECOND = GOOD.index(b"000000000.json")  # where a header begins


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "cut"),
        (GOOD[:3000], "cut"),
        (GOOD[: len(GOOD) - 10240 + 200], "cut"),
        (GOOD + b"more", "does not end properly"),
        (GOOD[:SECOND] + b"x" * 512 + GOOD[SECOND + 512 :], "damaged header"),
        (GOOD[:SECOND] + b"1" + GOOD[SECOND + 1 :], "checksum is wrong"),
        (with_link(), "links and devices are refused"),
        (tar_bytes([("/etc/a.txt", b"x")]), "leaves its folder"),
        (tar_bytes([("../a.txt", b"x")]), "leaves its folder"),
        (tar_bytes([("a/../../b.txt", b"x")]), "leaves its folder"),
        (negative_size(), "damaged header"),
        (odd_name(b"\xff\xfe"), "not UTF-8"),
        (tar_bytes([]), "holds no samples"),
        (tar_bytes([("a.mp4", b"x"), ("a.txt", b"x")]), "sample 'a': members"),
        (tar_bytes([("a.txt", b"x"), ("b.txt", b"y"), ("a.txt", b"z")]), "'a' in two places"),
        (tar_bytes([("a.txt", b"x"), ("a.txt", b"z")]), "'a.txt' twice"),
        (tar_bytes([("a.jsonl.gz", gzip.compress(b"x" * 9999)[:-4])]), "'a.jsonl.gz': it does not unpack"),
        (tar_bytes([("a.jsonl.zst", zstandard.compress(bytes(1 << 24)))]), "unpacks to more than"),
        (tar_bytes(captions(0, 3) + [("x.jpg", image())]), "1 of 4 samples are bad"),
    ],
)
def test_a_shard_that_is_refused_stops_no_other(shard: Path, data: bytes, words: str) -> None:
    bad = shard.with_name("00001.tar")
    bad.write_bytes(data)
    summary = index(shard.parent)
    assert [report.outcome for report in summary.shards] == ["indexed", "refused"]
    assert words in summary.refused[0].error and str(bad) in summary.refused[0].error
    assert not index_path(bad, BYTES.fingerprint).exists()
    index(shard.parent, quarantine=True)
    found = opened(bad)
    assert len(found.samples) == 0 and words in found.header["refused"] and found.header["bytes"] == len(data)
    assert [report.outcome for report in index(shard.parent).shards] == ["kept", "refused"]


def test_the_statistics_of_img2dataset_are_compared(shard: Path) -> None:
    statistics = shard.with_name("00000_stats.json")
    statistics.write_text('{"count": 40, "successes": 30, "status_dict": {"success": 30}}')
    assert index(shard).shards[0].outcome == "indexed"
    statistics.write_text('{"count": 40, "successes": 31}')
    (report,) = index(shard).shards
    assert report.outcome == "refused" and "31 successes" in report.error
    statistics.write_text("{")
    assert "is not JSON" in index(shard).shards[0].error
    statistics.write_text("[]")  # somebody else's file
    assert index(shard).shards[0].outcome == "indexed"


def test_what_is_indexed_is_not_read_again(shard: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index(shard)
    before = index_path(shard, BYTES.fingerprint).read_bytes()
    os.utime(shard)  # another time, the same bytes: hashed once and noted
    (report,) = index(shard).shards
    assert report.outcome == "kept" and report.samples == 30 and report.images == 30
    assert opened(shard).header["mtime_ns"] == shard.stat().st_mtime_ns != read_time(before)
    assert opened(shard).header["body_sha256"].encode() in before
    monkeypatch.setattr("nmm.data.indexing.file_sha256", lambda path: pytest.fail("read again"))
    assert index(shard).shards[0].outcome == "kept"


def read_time(data: bytes) -> int:
    length = int.from_bytes(data[12:16], "little")
    return int(json.loads(data[16 : 16 + length])["mtime_ns"])


def test_what_changed_is_read_again(shard: Path) -> None:
    index(shard)
    state, data = shard.stat(), bytearray(shard.read_bytes())
    data[data.index(b"thing 7", 15360)] ^= 1
    shard.write_bytes(data)
    os.utime(shard, ns=(state.st_atime_ns, state.st_mtime_ns + 1))
    assert index(shard).shards[0].outcome == "indexed"
    assert opened(shard).header["sha256"] == file_sha256(shard)
    assert index(shard, caption_field="alt").shards[0].outcome == "indexed"
    assert index(shard, force=True).shards[0].outcome == "indexed"
    file = index_path(shard, BYTES.fingerprint)
    file.write_bytes(file.read_bytes()[:-64])
    assert index(shard).shards[0].outcome == "indexed"
    write_tar(shard, captions(0, 3) + [("x.jpg", image())])
    assert index(shard).shards[0].outcome == "refused" and not file.exists()  # nobody may read the old one


def test_a_stricter_limit_is_held_against_old_indexes(tmp_path: Path) -> None:
    file = write_tar(tmp_path / "a.tar", captions(0, 9) + [("x.jpg", image())])
    assert index(file, max_bad=0.1).shards[0].outcome == "indexed"
    assert index(file, max_bad=0.1).shards[0].outcome == "kept"
    assert index(file, max_bad=0.05).shards[0].outcome == "refused"


def test_a_shard_that_changes_while_it_is_read(shard: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def shrink(members: Any, name: str) -> Any:
        os.truncate(shard, 4096)
        return ()

    monkeypatch.setattr(scan, "stream_samples", shrink)
    with pytest.raises(ValueError, match="got shorter while it was read"):
        scan_shard(shard, Rules(BYTES))
    monkeypatch.setattr(scan, "stream_samples", lambda members, name: (os.utime(shard), ())[1])
    with pytest.raises(ValueError, match="was changed while it was read"):
        scan_shard(shard, Rules(BYTES))
    shard.unlink()
    with pytest.raises(FileNotFoundError):
        scan_shard(shard, Rules(BYTES))


def test_workers_do_what_one_process_does(tmp_path: Path) -> None:
    for number in range(5):
        write_tar(tmp_path / f"{number}.tar", captions(10 * number, 10))
    (tmp_path / "3.tar").write_bytes(GOOD[:3000])
    one, two = (index_shards([tmp_path], "bytes", tmp_path / str(n), workers=n, progress=False) for n in (1, 2))
    assert one.shards == two.shards and len(one.refused) == 1
    files = [sorted((tmp_path / str(n)).iterdir()) for n in (1, 2)]
    assert [f.name for f in files[0]] == [f.name for f in files[1]] and len(files[0]) == 4
    assert [f.read_bytes() for f in files[0]] == [f.read_bytes() for f in files[1]]


def test_repeats_are_counted_and_kept(tmp_path: Path) -> None:
    first = write_tar(tmp_path / "a.tar", captions(0, 20))
    again = [(f"again{name}", data) for name, data in captions(5, 3)]
    second = write_tar(tmp_path / "b.tar", again + captions(100, 10))
    repeats = index(first, second, val_fraction=0.5).repeats
    assert (repeats.samples, repeats.repeated) == (33, 3)
    assert repeats.examples[0] in {(f"{first}: 00000000{n}", f"{second}: again00000000{n}") for n in (5, 6, 7)}
    held = {key: (text_digest(key) >> 11) * 2**-53 < 0.5 for key in (f"{n:09d}" for n in range(20))}
    held |= {f"again{n:09d}": (text_digest(f"again{n:09d}") >> 11) * 2**-53 < 0.5 for n in (5, 6, 7)}
    assert repeats.leaked == sum(held[f"{n:09d}"] != held[f"again{n:09d}"] for n in (5, 6, 7))
    assert index(first).repeats.repeated == 0


def test_paths(tmp_path: Path, shard: Path) -> None:
    (shard.parent / "00000_stats.json").write_text("{}")
    lines = shard.parent / "deep" / "x.jsonl"
    lines.parent.mkdir()
    lines.write_text('{"text": "x"}')
    assert find_shards([tmp_path]) == find_shards([f"{shard}::{lines}"]) == [shard, lines]
    assert find_shards([str(shard.parent / "*"), shard]) == [shard]
    for wrong in (tmp_path / "nowhere", shard.parent / "*.tgz"):
        with pytest.raises(ValueError, match="names no shards"):
            find_shards([wrong])
    with pytest.raises(ValueError, match=r"00000_stats.json is no shard: .*\.tar"):
        find_shards([shard.parent / "00000_stats.json"])
    with pytest.raises(ValueError, match="workers=0"):
        index_shards([shard], "bytes", workers=0)


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


def test_damaged_tars_end_in_clear_errors(tmp_path: Path) -> None:
    """A short fuzz; every damage is refused or changes a sample, none escapes as anything but a ValueError."""
    rng, file = random.Random(5), tmp_path / "a.tar"
    lines = ("l.jsonl.zst", zstandard.compress(b'{"text": "a line"}\n' * 9))
    good = tar_bytes(captions(0, 3) + [("i.0.png", image("png")), ("i.json", b'{"segments": [{"text": "x"}]}'), lines])
    refused = 0
    for _ in range(300):
        data = bytearray(good)
        for _ in range(rng.randrange(1, 4)):
            data[rng.randrange(len(good) - 9000)] = rng.randrange(256)
        file.write_bytes(data[: rng.choice((len(data), len(data), rng.randrange(len(data))))])
        try:
            scan_shard(file, Rules(BYTES))
        except ValueError as error:
            refused += 1
            assert str(file) in str(error) and len(str(error)) < 1000
    assert 100 < refused < 300
