"""Bytes and other people's tokenizer files: nothing vanishes, nothing is added, ids 0 to 2 stay ours."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import tokenizers
from lab import child_environment
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

from nmm.data.reasons import BadSample
from nmm.data.tokenizer import (
    ByteTokenizer,
    HuggingFaceTokenizer,
    TextTokenizer,
    Tokenizer,
    load_tokenizer,
    open_tokenizer,
)

SPECIAL = {"<pad>": 0, "<image>": 1, "<end>": 2}
TEXTS = [
    "",
    " ",
    "a small red disc",
    "naïve — café ☃ 🙂",
    "line\nbreak\ttab\0nul",
    "x" * 3000,
    "دیوار 漢字",
    "\ufeffmark \u200b",
]


def byte_level(specials: tuple[str, ...] = (), add_specials_first: bool = True) -> tokenizers.Tokenizer:
    """A small byte-level BPE, as GPT-NeoX's is."""
    made = tokenizers.Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=list(specials) if add_specials_first else [],
        show_progress=False,
    )
    made.train_from_iterator(["a small red disc above a large green square"] * 20, trainer)
    if not add_specials_first:
        made.add_special_tokens(list(specials))
    return made


def saved(made: tokenizers.Tokenizer, folder: Path, **change: object) -> HuggingFaceTokenizer:
    file = folder / f"{hashlib.sha256(made.to_str().encode()).hexdigest()[:8]}{len(change)}.json"
    file.write_text(json.dumps(json.loads(made.to_str()) | change))
    opened = open_tokenizer(str(file))
    assert isinstance(opened, HuggingFaceTokenizer)
    return opened


@pytest.mark.parametrize("text", TEXTS)
def test_bytes_are_their_values_plus_three(text: str) -> None:
    opened = open_tokenizer("bytes")
    assert opened == ByteTokenizer()
    assert opened.encode(text) == [3 + byte for byte in text.encode()]
    assert opened.decode(opened.encode(text)) == text
    assert all(type(i) is int for i in opened.encode(text))


def test_bytes_spell_special_words_and_replace_what_is_no_utf8() -> None:
    opened = open_tokenizer("bytes")
    assert opened.vocab_size == 259
    assert opened.fingerprint == ByteTokenizer().fingerprint
    assert len(opened.fingerprint) == 64
    assert opened.decode([1, 1, 3 + ord("a"), 3 + 0xC3, 2, 0]) == "<image><image>a\ufffd<end><pad>"
    assert opened.encode("<image>")[0] == 3 + ord("<")
    for wrong in (-1, 259):
        with pytest.raises(ValueError, match=r"outside 0\.\.258"):
            opened.decode([5, wrong])


@pytest.mark.parametrize("text", TEXTS)
def test_ids_are_those_of_the_library_plus_three(text: str, tmp_path: Path) -> None:
    theirs = byte_level()
    ours = saved(theirs, tmp_path)
    ids = theirs.encode(text, add_special_tokens=False).ids
    assert ours.encode(text) == [i + 3 for i in ids]
    assert ours.decode(ours.encode(text)) == text
    assert (ours.shift, ours.vocab_size, ours.drops) == (3, 3 + theirs.get_vocab_size(), False)


def test_nothing_is_cut_padded_or_added_whatever_the_file_asks_for(tmp_path: Path) -> None:
    made = byte_level(("<s>",))
    plain = saved(made, tmp_path)
    made.enable_truncation(4)
    made.enable_padding(length=8)
    made.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    assert len(made.encode("a small red disc above").ids) == 8
    asked = saved(made, tmp_path)
    assert asked.encode("a small red disc above") == plain.encode("a small red disc above")
    assert asked.encode("") == []
    only_cut = saved(byte_level(("<s>",)), tmp_path, truncation=json.loads(made.to_str())["truncation"])
    assert only_cut.fingerprint == plain.fingerprint


def test_dropout_is_off(tmp_path: Path) -> None:
    content = json.loads(byte_level().to_str())
    content["model"]["dropout"] = 0.9
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    opened = open_tokenizer(str(tmp_path))
    assert len({tuple(opened.encode("a small red disc")) for _ in range(20)}) == 1


def test_special_words_in_their_places_are_used_and_text_that_spells_them_shows(tmp_path: Path) -> None:
    ours = saved(byte_level(tuple(SPECIAL)), tmp_path)
    assert ours.shift == 0
    ids = ours.encode("a disc<image> b<end><pad>")
    assert [i for i in ids if i < 3] == [1, 2, 0]
    assert ours.decode(ids) == "a disc<image> b<end><pad>"


def test_special_words_elsewhere_are_ordinary(tmp_path: Path) -> None:
    theirs = byte_level(tuple(SPECIAL), add_specials_first=False)
    ours = saved(theirs, tmp_path)
    assert ours.shift == 3
    assert min(ours.encode("<image> a")) >= 3
    assert ours.vocab_size == 3 + max(theirs.get_vocab().values()) + 1
    assert ours.vocab_size > 3 + theirs.get_vocab_size(with_added_tokens=False)
    assert (
        ours.decode([1, *ours.encode("a disc"), 1, *ours.encode("é")[:1], 2, 0])
        == "<image>a disc<image>\ufffd<end><pad>"
    )
    with pytest.raises(ValueError, match="outside"):
        ours.decode([ours.vocab_size])


def test_a_gap_in_the_ids_counts(tmp_path: Path) -> None:
    made = tokenizers.Tokenizer(models.WordLevel({"a": 0, "b": 40, "?": 7}, unk_token="?"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    assert saved(made, tmp_path).vocab_size == 44


def test_unknown_text_is_a_token_where_the_file_has_one_for_it(tmp_path: Path) -> None:
    made = tokenizers.Tokenizer(models.WordLevel({"a": 0, "<unk>": 1}, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    assert saved(made, tmp_path).encode("a zebra") == [3, 4]


def without_unknown() -> dict[str, tokenizers.Tokenizer]:
    made = {
        "words": tokenizers.Tokenizer(models.WordLevel({"a": 0, "b": 1})),
        "unigram": tokenizers.Tokenizer(models.Unigram([("a", -1.0), ("b", -2.0), ("▁", -2.0)], None)),
        "bpe": tokenizers.Tokenizer(models.BPE({"a": 0, "b": 1, "ab": 2}, [("a", "b")])),
        "half bytes": tokenizers.Tokenizer(models.BPE({"a": 0, "b": 1, "<0x00>": 2}, [], byte_fallback=True)),
    }
    for one in made.values():
        one.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return made


@pytest.mark.parametrize("kind", ["words", "unigram", "bpe", "half bytes"])
def test_text_without_a_token_is_refused_never_lost(kind: str, tmp_path: Path) -> None:
    opened = saved(without_unknown()[kind], tmp_path)
    assert opened.encode("a b") == [3, 4]
    assert opened.encode("  ") == []
    for text in ("a ☃ b", "☃", "a b☃"):
        with pytest.raises(BadSample, match="token") as caught:
            opened.encode(text)
        assert caught.value.reason == "bad_text"


def test_byte_fallback_keeps_every_character(tmp_path: Path) -> None:
    vocabulary = {f"<0x{byte:02X}>": byte for byte in range(256)} | {"a": 256}
    made = tokenizers.Tokenizer(models.BPE(vocabulary, [], byte_fallback=True))
    made.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    opened = saved(made, tmp_path)
    assert not opened.drops
    assert opened.encode("a☃") == [3 + 256, *(3 + byte for byte in "☃".encode())]
    assert opened.decode(opened.encode("a☃")) == "a☃"


def test_text_that_a_normalizer_swallows_whole_is_refused(tmp_path: Path) -> None:
    made = byte_level()
    made.normalizer = normalizers.Replace("☃", "")
    opened = saved(made, tmp_path)
    assert opened.decode(opened.encode("a☃")) == "a"
    with pytest.raises(BadSample, match="☃"):
        opened.encode("☃☃")


def test_half_a_surrogate_pair_is_bad_text(tmp_path: Path) -> None:
    for opened in (open_tokenizer("bytes"), saved(byte_level(), tmp_path)):
        with pytest.raises(BadSample, match="surrogate") as caught:
            opened.encode("a \ud83d b")
        assert caught.value.reason == "bad_text"


def test_fingerprint_is_of_the_content(tmp_path: Path) -> None:
    text = byte_level().to_str()
    files = [tmp_path / name for name in ("one.json", "two.json", "three.json")]
    files[0].write_text(text)
    files[1].write_text(json.dumps(json.loads(text), indent=4, sort_keys=True))
    other = json.loads(text)
    other["model"]["merges"] = other["model"]["merges"][:-1]
    files[2].write_text(json.dumps(other))
    one, two, three = (open_tokenizer(str(file)).fingerprint for file in files)
    assert one == two != three
    assert len(one) == 64


def test_word_lists_of_rendered_shards_stay_what_they_are(tiny_root: Path) -> None:
    opened = open_tokenizer(str(tiny_root))
    assert isinstance(opened, Tokenizer)
    assert opened == load_tokenizer(tiny_root / "tokenizer.json")
    with pytest.raises(BadSample, match="zebra"):
        opened.encode("w3 zebra")


def test_opened_once_until_the_file_changes(tmp_path: Path) -> None:
    file = tmp_path / "tokenizer.json"
    byte_level().save(str(file))
    first = open_tokenizer(str(file))
    assert open_tokenizer(str(tmp_path)) is first
    byte_level(("<s>",)).save(str(file))
    os.utime(file, ns=(1, 1))
    assert open_tokenizer(str(file)).fingerprint != first.fingerprint


@pytest.mark.parametrize("spec", ["", "byte", "EleutherAI/gpt-neox-20b"])
def test_what_is_no_file_is_refused_with_the_choices(spec: str) -> None:
    with pytest.raises(FileNotFoundError, match=r"'bytes'.*tokenizer\.json.*folder"):
        open_tokenizer(spec)


def test_a_folder_without_a_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"tokenizer\.json"):
        open_tokenizer(str(tmp_path))


@pytest.mark.parametrize(
    "content",
    [
        b"\x0a\x0e\x0a\x05<unk>",
        b"",
        b"{}",
        b'{"a": 0, "b": 1}',
        b'{"model": null}',
        b"[]",
        b'{"model": {"type": "BPE"}}',
        b'{"model": {"type": "WordLevel"}, "pre_tokenizer": {"type": "WhitespaceSplit"}}',
        b'{"model": {"type": "New", "vocab": {}}, "added_tokens": []}',
        b'{"model": {"type": "WordLevel", "vocab": {}, "unk_token": "?"}}',
    ],
)
def test_other_files_are_refused(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "tokenizer.model"
    file.write_bytes(content)
    with pytest.raises(ValueError, match=r"tokenizer\.model"):
        open_tokenizer(str(file))


def every_kind(tmp_path: Path, tiny_root: Path) -> list[TextTokenizer]:
    return [open_tokenizer("bytes"), open_tokenizer(str(tiny_root)), saved(byte_level(), tmp_path)]


def test_pickled_it_is_the_same(tmp_path: Path, tiny_root: Path) -> None:
    for opened in every_kind(tmp_path, tiny_root):
        again = pickle.loads(pickle.dumps(opened))
        assert (again.fingerprint, again.vocab_size) == (opened.fingerprint, opened.vocab_size)
        assert again.encode("w1 w2") == opened.encode("w1 w2")
        assert again.decode([1, *again.encode("w1"), 2]) == opened.decode([1, *opened.encode("w1"), 2])


WORKERS = """
import multiprocessing, sys
from nmm.data.tokenizer import open_tokenizer

def ids(text):
    return opened.encode(text)

def given(opened, text):
    return opened.encode(text)

opened = open_tokenizer(sys.argv[1])
if __name__ == "__main__":
    expected = opened.encode("a small disc")
    with multiprocessing.get_context("fork").Pool(2) as pool:
        assert pool.map(ids, ["a small disc"] * 8) == [expected] * 8
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(given, (opened, "a small disc")) == expected
    print("done")
"""


def test_workers_by_fork_and_spawn_get_the_same_ids_and_nobody_warns(tmp_path: Path) -> None:
    byte_level().save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "workers.py").write_text(WORKERS)
    command = [sys.executable, str(tmp_path / "workers.py"), str(tmp_path)]
    result = subprocess.run(command, env=child_environment(), capture_output=True, text=True, timeout=120)
    assert (result.returncode, result.stdout, result.stderr) == (0, "done\n", "")


def test_threads_may_share_one(tmp_path: Path) -> None:
    opened = saved(byte_level(), tmp_path)
    texts = [f"a small red disc {i} above" for i in range(200)]
    expected, found = [opened.encode(text) for text in texts], [[] for _ in range(4)]
    threads = [threading.Thread(target=lambda i=i: found[i].extend(map(opened.encode, texts))) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [expected] * 4
