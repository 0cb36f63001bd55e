"""Shard folders are read without extracting, and nothing that is damaged or hostile gets through."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from nmm.data.manifest import check_size, index_shard, open_shards
from nmm.data.tar import Member, group_samples, walk_tar


def tar_of(*names: str, kind: bytes = tarfile.REGTYPE, form: int = tarfile.PAX_FORMAT) -> bytes:
    """An archive whose members hold their own name."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as archive:
        for name in names:
            info = tarfile.TarInfo(name)
            info.type, info.size = kind, len(name.encode()) if kind == tarfile.REGTYPE else 0
            archive.addfile(info, io.BytesIO(name.encode()))
    return buffer.getvalue()


def walked(data: bytes) -> list[Member]:
    return list(walk_tar(data, "some.tar"))


@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
def test_walk_finds_every_member_where_it_lies(form: int) -> None:
    names = ["a.txt", "folder/b.json", "x" * 60 + "/" + "y" * 80 + ".png"]
    if form != tarfile.USTAR_FORMAT:
        names += ["z" * 300 + ".txt", "näme.txt"]
    data = tar_of(*names, form=form)
    members = walked(data)
    assert [m.name for m in members] == names
    assert [data[m.offset : m.offset + m.size].decode() for m in members] == names


def test_walk_agrees_with_webdataset_output(tiny_root: Path) -> None:
    file = tiny_root / "interleaved" / "train-000000.tar"
    with tarfile.open(file) as archive:
        expected = [(m.name, m.offset_data, m.size) for m in archive]
    assert [(m.name, m.offset, m.size) for m in walked(file.read_bytes())] == expected


def test_folders_are_skipped() -> None:
    assert walked(tar_of("folder/", kind=tarfile.DIRTYPE)) == []


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_are_refused(kind: bytes) -> None:
    with pytest.raises(ValueError, match="links and devices are refused"):
        walked(tar_of("a.txt", kind=kind))


@pytest.mark.parametrize("name", ["/etc/passwd", "../up.txt", "a/../../up.txt"])
def test_names_that_leave_the_folder_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="leaves its folder"):
        walked(tar_of("fine.txt", name))


def test_cut_anywhere_is_refused() -> None:
    whole = tar_of("a.txt", "b.txt", "c.txt").rstrip(b"\0")
    end = -(-len(whole) // 512) * 512
    complete = whole.ljust(end + 1024, b"\0")
    assert len(walked(complete)) == 3
    for size in range(0, len(complete), 64):
        with pytest.raises(ValueError, match=r"cut|end properly"):
            walked(complete[:size])


@pytest.mark.parametrize("start", [0, 1024, 1024 + 100, 1024 + 124, 1024 + 148])
def test_damaged_header_is_refused(start: int) -> None:
    data = bytearray(tar_of("a.txt", "b.txt", "c.txt"))
    data[start : start + 8] = b"\xff\x01garble"
    with pytest.raises(ValueError, match="damaged header"):
        walked(bytes(data))


def test_zeros_in_the_middle_are_no_end() -> None:
    data = bytearray(tar_of("a.txt", "b.txt", "c.txt"))
    data[1024:2048] = bytes(1024)
    with pytest.raises(ValueError, match="does not end properly"):
        walked(bytes(data))


def test_samples_group_by_key() -> None:
    names = ["d/a.0.png", "d/a.1.png", "d/a.txt", "b.png"]
    index = group_samples(iter(Member(name, 0, 0) for name in names), "some.tar")
    assert index.keys == ("d/a", "b")
    assert list(index.members[0]) == ["0.png", "1.png", "txt"]


@pytest.mark.parametrize(
    ("names", "message"), [(["a.txt", "a.txt"], "twice"), (["a.txt", "b.txt", "a.png"], "two places")]
)
def test_doubles_are_refused(names: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        group_samples(iter(Member(name, 0, 0) for name in names), "some.tar")


def test_open_reads_the_manifest(tiny_root: Path) -> None:
    shards = open_shards(tiny_root, verify=True)
    manifest = json.loads((tiny_root / "manifest.json").read_text())
    assert shards.fingerprint == manifest["fingerprint"]
    train = shards.split("caption", "train")
    assert (train.samples, [s.first_index for s in train.shards]) == (90, [0, 32, 64])
    assert train.entropy == manifest["sources"]["caption"]["train"]["entropy_per_text_token"]
    assert shards.tokenizer.vocab_size == shards.vocab_size == 64
    with pytest.raises(ValueError, match="no source 'video'"):
        shards.split("video", "train")
    with pytest.raises(ValueError, match="no split 'test'"):
        shards.split("text", "test")


def test_index_lists_keys_in_order(tiny_root: Path) -> None:
    shards = open_shards(tiny_root)
    index = index_shard(tiny_root, shards.split("text", "train").shards[1])
    assert index.keys == tuple(f"text-train-{i:09d}" for i in range(32, 64))
    assert all(set(members) == {"txt", "json"} for members in index.members)


def test_missing_manifest_says_how_to_render(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nmm shards"):
        open_shards(tmp_path)


def test_edited_manifest_is_refused(make_shards: Callable[..., Path]) -> None:
    root = make_shards()
    file = root / "manifest.json"
    file.write_text(file.read_text().replace('"samples": 90', '"samples": 91'))
    with pytest.raises(ValueError, match="does not match its own fingerprint"):
        open_shards(root)


def test_unknown_format_is_refused(make_shards: Callable[..., Path], write_manifest: Callable[..., None]) -> None:
    root = make_shards()
    write_manifest(root, json.loads((root / "manifest.json").read_text()) | {"format": 2})
    with pytest.raises(ValueError, match="format 2"):
        open_shards(root)


def test_manifest_cannot_name_a_file_outside(
    make_shards: Callable[..., Path], write_manifest: Callable[..., None]
) -> None:
    root = make_shards()
    manifest = json.loads((root / "manifest.json").read_text())
    manifest["sources"]["text"]["val"]["shards"][0]["path"] = "../elsewhere.tar"
    write_manifest(root, manifest)
    with pytest.raises(ValueError, match="leaves its folder"):
        open_shards(root)


def test_tokenizer_of_another_vocabulary_is_refused(
    make_shards: Callable[..., Path], write_manifest: Callable[..., None]
) -> None:
    root = make_shards()
    write_manifest(root, json.loads((root / "manifest.json").read_text()) | {"vocab_size": 65})
    with pytest.raises(ValueError, match="do not belong together"):
        open_shards(root)


def test_changed_tars_are_refused(make_shards: Callable[..., Path], write_manifest: Callable[..., None]) -> None:
    root = make_shards()
    shards = open_shards(root)
    info = shards.split("caption", "train").shards[0]
    file = root / info.path
    good = file.read_bytes()

    file.write_bytes(good[:-512])
    with pytest.raises(ValueError, match=r"train-000000.tar has \d+ bytes, the manifest says \d+"):
        open_shards(root)
    changed = bytearray(good)
    changed[700] ^= 1
    file.write_bytes(bytes(changed))
    open_shards(root)
    with pytest.raises(ValueError, match="sha256"):
        open_shards(root, verify=True)
    file.unlink()
    with pytest.raises(FileNotFoundError, match="named in the manifest but missing"):
        check_size(root, info)


def test_number_of_samples_must_agree(make_shards: Callable[..., Path], write_manifest: Callable[..., None]) -> None:
    root = make_shards()
    manifest = json.loads((root / "manifest.json").read_text())
    entry = manifest["sources"]["text"]["train"]["shards"][0]
    data = tar_of("a.txt", "b.txt")
    (root / entry["path"]).write_bytes(data)
    entry |= {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    write_manifest(root, manifest)
    with pytest.raises(ValueError, match="holds 2 samples, the manifest says 32"):
        open_shards(root, verify=True)
