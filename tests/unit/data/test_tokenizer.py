"""The word tokenizer reads what Hugging Face writes, and says so when it cannot."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from nmm.batch import END_ID, IMAGE_ID
from nmm.data.tokenizer import load_tokenizer, make_tokenizer

SPECIAL = {"<pad>": 0, "<image>": 1, "<end>": 2}


def test_agrees_with_hugging_face(tiny_root: Path) -> None:
    ours, theirs = load_tokenizer(tiny_root / "tokenizer.json"), Tokenizer.from_file(str(tiny_root / "tokenizer.json"))
    text = "<image> w3 w60  w0 <image>\nw7 <end>"
    assert ours.encode(text) == theirs.encode(text).ids
    assert ours.encode(text)[0] == IMAGE_ID
    assert ours.encode(text)[-1] == END_ID
    assert ours.decode(ours.encode(text)) == "<image> w3 w60 w0 <image> w7 <end>"
    assert ours.vocab_size == theirs.get_vocab_size()


def test_unknown_word_is_named() -> None:
    with pytest.raises(ValueError, match="'zebra'"):
        make_tokenizer(SPECIAL).encode("<image> zebra")


def test_fingerprint_follows_the_vocabulary() -> None:
    one, other = make_tokenizer(SPECIAL | {"a": 3, "b": 4}), make_tokenizer(SPECIAL | {"b": 3, "a": 4})
    assert one.fingerprint != other.fingerprint
    assert one.fingerprint == make_tokenizer({"b": 4, "a": 3} | SPECIAL).fingerprint


@pytest.mark.parametrize(
    ("vocab", "message"),
    [
        (SPECIAL | {"a": 4}, "each once"),
        (SPECIAL | {"a": 2}, "each once"),
        ({"<pad>": 0, "<end>": 1, "<image>": 2}, "wrong or missing"),
        ({"a": 0, "b": 1, "c": 2}, "wrong or missing"),
    ],
)
def test_bad_vocabularies_are_refused(vocab: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_tokenizer(vocab)


@pytest.mark.parametrize(
    "change",
    [
        {"model": {"type": "BPE", "vocab": {}}},
        {"pre_tokenizer": {"type": "Whitespace"}},
        {"normalizer": {"type": "Lowercase"}},
    ],
)
def test_other_tokenizers_are_refused(tiny_root: Path, tmp_path: Path, change: dict) -> None:
    file = tmp_path / "tokenizer.json"
    file.write_text(json.dumps(json.loads((tiny_root / "tokenizer.json").read_text()) | change))
    with pytest.raises(ValueError, match="only WordLevel with WhitespaceSplit"):
        load_tokenizer(file)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="tokenizer"):
        load_tokenizer(tmp_path / "tokenizer.json")
