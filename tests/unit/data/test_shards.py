"""Shards: standard tars with the promised members, the same bytes every time, restartable, refused when foreign."""

from __future__ import annotations

import hashlib
import io
import json
import signal
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
import webdataset
from PIL import Image
from tokenizers import Tokenizer

from nmm.data import shards
from nmm.data.png import encode_png
from nmm.data.records import sample_key
from nmm.data.shards import samples_for_tokens, tokenizer_json, write_shards
from nmm.data.world import World, WorldConfig

CONFIG = WorldConfig(seed=2, num_entities=300, name_words=30)
SAMPLES = {"caption": {"train": 25, "val": 7}, "interleaved": {"train": 12, "test": 3}, "text": {"train": 20}}


def write(out: Path, **changes: object) -> dict:
    options: dict = {"config": CONFIG, "samples": SAMPLES, "shard_samples": 10, "progress": False} | changes
    return write_shards(out=out, **options)


def contents(out: Path) -> dict[str, str]:
    """sha256 of every file by its name, without the lock."""
    files = [path for path in out.rglob("*") if path.is_file() and path.name != ".lock"]
    return {str(path.relative_to(out)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("world") / "shards"
    write(out)
    return out


@pytest.fixture(scope="module")
def manifest(folder) -> dict:
    return json.loads((folder / "manifest.json").read_text())


def read(folder: Path, source: str, split: str, decoder: str = "rgb8") -> list[dict]:
    paths = sorted(str(path) for path in (folder / source).glob(f"{split}-*.tar"))
    return list(webdataset.WebDataset(paths, shardshuffle=False, empty_check=False).decode(decoder))


@pytest.mark.parametrize("source", ["caption", "interleaved", "text"])
def test_webdataset_reads_every_document_back(folder, source):
    truth = World(CONFIG).documents(source, "train", 0, SAMPLES[source]["train"])
    samples = read(folder, source, "train")
    assert len(samples) == len(truth)
    for sample, document in zip(samples, truth, strict=True):
        assert sample["__key__"] == sample_key(source, "train", document.index)
        names = ["png"] if source == "caption" else [f"{n}.png" for n in range(len(document.images))]
        assert [name for name in sample if not name.startswith("__")] == [*names, "txt", "json"]
        for name, image in zip(names, document.images, strict=True):
            np.testing.assert_array_equal(sample[name], image)
        assert sample["txt"].split() == document.words and sample["txt"] == " ".join(document.words)
        record = sample["json"]
        assert (record["source"], record["split"], record["seed"]) == (source, "train", CONFIG.seed)
        assert record["index"] == document.index
        np.testing.assert_array_equal(np.float32(record["logprobs"]), document.logprobs.astype(np.float32))
        assert record["classes"] == document.classes
        assert [(q["kind"], q["question"], q["answer"]) for q in record["questions"]] == list(document.questions)
        assert [s["image"] for s in record["segments"] if "image" in s] == names
        spoken = " ".join(s.get("text", "<image>") for s in record["segments"])
        assert spoken == document.text


def test_scene_truth_names_what_the_text_says(folder):
    for sample in read(folder, "caption", "train"):
        objects = sample["json"]["scene"]["images"][0]
        for thing in objects:
            assert thing["name"] in sample["txt"] and thing["location"] in sample["txt"]
            assert {"entity", "colour", "shape", "size", "badge", "pattern", "jitter"} < set(thing)
    for sample in read(folder, "text", "train"):
        assert len(sample["json"]["scene"]["subjects"]) == sample["txt"].count(" . ")


def test_manifest_counts_what_the_tars_hold(folder, manifest):
    assert {key: manifest[key] for key in ("format", "kind", "image_size", "channels")} == {
        "format": 1, "kind": "world", "image_size": 32, "channels": 3,
    }  # fmt: skip
    assert WorldConfig.from_dict(manifest["world"]) == CONFIG
    found = {s: {split: summary["samples"] for split, summary in m.items()} for s, m in manifest["sources"].items()}
    assert found == SAMPLES
    for source, splits in manifest["sources"].items():
        for split, summary in splits.items():
            samples = read(folder, source, split)
            logprobs = [value for sample in samples for value in sample["json"]["logprobs"]]
            assert summary["text_tokens"] == len(logprobs)
            assert summary["entropy_per_text_token"] == pytest.approx(-np.mean(logprobs), rel=1e-12)
            assert summary["images"] == sum(name.endswith("png") for sample in samples for name in sample)
            first = 0
            for shard in summary["shards"]:
                data = (folder / shard["path"]).read_bytes()
                assert (shard["bytes"], shard["sha256"]) == (len(data), hashlib.sha256(data).hexdigest())
                assert shard["first_index"] == first
                first += shard["samples"]
            assert first == summary["samples"]


def test_fingerprint_is_the_hash_of_everything_else(manifest):
    rest = {key: value for key, value in manifest.items() if key != "fingerprint"}
    canonical = json.dumps(rest, sort_keys=True, separators=(",", ":")).encode()
    assert manifest["fingerprint"] == hashlib.sha256(canonical).hexdigest()


def test_tars_are_plain_ustar_with_fixed_metadata(folder):
    with tarfile.open(folder / "caption/train-000000.tar") as tar:
        members = tar.getmembers()
    assert len(members) == 30
    assert {(m.mtime, m.uid, m.gid, m.mode, m.uname, m.isfile()) for m in members} == {(0, 0, 0, 0o644, "", True)}


def test_same_parameters_give_the_same_bytes_with_any_number_of_workers(folder, tmp_path):
    write(tmp_path / "again", workers=2)
    assert contents(tmp_path / "again") == contents(folder)
    write(tmp_path / "other", config=WorldConfig(seed=3, num_entities=300, name_words=30))
    assert contents(tmp_path / "other")["caption/train-000000.tar"] != contents(folder)["caption/train-000000.tar"]


def test_a_killed_run_keeps_its_finished_shards_and_ends_with_the_same_bytes(folder, tmp_path):
    out = tmp_path / "killed"
    code = (
        "import sys; sys.path[:0] = sys.argv[2:]\n"
        "import json, os, signal\n"
        "from nmm.data import records, shards\n"
        "encode, calls = records.encode_png, []\n"
        "def dying(image):\n"
        "    calls.append(1)\n"
        "    if len(calls) == 38: os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return encode(image)\n"
        "records.encode_png = dying\n"
        "options = json.loads(sys.argv[1])\n"
        "shards.write_shards(shards.WorldConfig.from_dict(options.pop('config')), **options)\n"
    )
    options = {"config": CONFIG.to_dict(), "out": str(out), "samples": SAMPLES, "shard_samples": 10, "progress": False}
    ended = subprocess.run([sys.executable, "-c", code, json.dumps(options), *(path for path in sys.path if path)])
    assert ended.returncode == -signal.SIGKILL and not (out / "manifest.json").exists()
    assert list(out.rglob(".*.tmp-*"))
    finished = {path: path.stat().st_mtime_ns for path in out.rglob("*.tar") if not path.name.startswith(".")}
    assert len(finished) >= 3
    write(out)
    assert {path: path.stat().st_mtime_ns for path in finished} == finished
    assert contents(out) == contents(folder)


def test_a_harmed_or_lost_shard_is_written_again(folder, tmp_path):
    out = tmp_path / "harmed"
    write(out)
    tar = out / "text/train-000001.tar"
    data = bytearray(tar.read_bytes())
    data[1000] ^= 1
    tar.write_bytes(data)
    (out / "caption/val-000000.tar").unlink()
    (out / "caption/train-000000.json").unlink()
    write(out)
    assert contents(out) == contents(folder)


def test_nothing_is_rendered_twice(folder, monkeypatch):
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*.tar")}
    monkeypatch.setattr(shards, "write_shard", None)
    write(folder)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*.tar")} == before


def test_other_parameters_and_foreign_folders_are_refused(folder, tmp_path):
    with pytest.raises(ValueError, match=r"other parameters \(world.seed is 2, asked for 4\)"):
        write(folder, config=WorldConfig(seed=4, num_entities=300, name_words=30))
    with pytest.raises(ValueError, match="samples.text.train is 20, asked for 21"):
        write(folder, samples=SAMPLES | {"text": {"train": 21}})
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(ValueError, match="not made by this command"):
        write(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"samples": {"video": {"train": 1}}}, "video/train; sources: caption"),
        ({"samples": {"text": {"dev": 1}}}, "splits: train, val, test"),
        ({"samples": {"text": {"train": -1}}}, "must not be negative"),
        ({"samples": {"text": {"train": 0}}}, "no document at all"),
        ({"shard_samples": 0}, "shard_samples=0"),
        ({"workers": 0}, "workers=0"),
    ],
)
def test_impossible_requests_leave_no_trace(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        write(tmp_path / "out", **changes)
    assert not (tmp_path / "out").exists()


def test_tokenizer_splits_at_whitespace_and_knows_every_word(folder, manifest):
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    vocabulary = World(CONFIG).vocabulary()
    assert tokenizer.get_vocab_size() == manifest["vocab_size"] == len(vocabulary)
    assert [tokenizer.token_to_id(word) for word in ("<pad>", "<image>", "<end>")] == [0, 1, 2]
    for sample in read(folder, "interleaved", "train"):
        encoding = tokenizer.encode(sample["txt"])
        assert encoding.tokens == sample["txt"].split()
        assert encoding.ids == [vocabulary.index(word) for word in encoding.tokens]
    with pytest.raises(ValueError, match="must start with <pad> <image> <end>"):
        tokenizer_json(["<end>", "<pad>"])


def test_closing_line_says_what_was_written_where(folder, capsys):
    write(folder, progress=True)
    assert "67 samples in 9 shards" in capsys.readouterr().out


def test_samples_for_tokens_meets_the_budget_with_a_reserve():
    mixture = {"caption": 0.45, "interleaved": 0.45, "text": 0.10}
    needed = samples_for_tokens(CONFIG, 200_000, mixture)
    for source, count in needed.items():
        documents = World(CONFIG).stream(source, "train", 0, count, pixels=False)
        tokens = sum(len(d.logprobs) + 16 * len(d.scene) for d in documents)
        assert 1.08 < tokens / (200_000 * mixture[source]) < 1.22
    few = samples_for_tokens(CONFIG, 200_000, {"caption": 1.0}, image_tokens=64)
    assert few["caption"] < needed["caption"]


@pytest.mark.parametrize("shape", [(1, 1), (32, 32), (70, 400)])
def test_png_bytes_read_back_exactly(shape):
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    with Image.open(io.BytesIO(encode_png(image))) as opened:
        np.testing.assert_array_equal(np.asarray(opened), image)
