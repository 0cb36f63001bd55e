"""Which documents and tokens instruction tuning uses: by hand, and against the words of the tiny world."""

from __future__ import annotations

import functools
import json
from dataclasses import fields
from itertools import product
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
from lab import ROOT

from nmm.batch import IMAGE_ID, SOURCES
from nmm.data.decoded import SAMPLE, DecodedShard, sample_id
from nmm.data.loader import TrainLoader
from nmm.data.manifest import Shards, open_shards
from nmm.data.records import sample_key
from nmm.data.sft import Tuning, tuning
from nmm.data.shards import write_shards
from nmm.data.source import RowSource
from nmm.data.window import DOCUMENT
from nmm.data.world import Document, World, WorldConfig

T = TypeVar("T")
MIXTURE = {"caption": 0.5, "interleaved": 0.5}
PATCH, M = 8, 16
WIDE, NARROW = 192, 40  # wide: no document is cut; narrow: most are, and two pictures leave no room for a question


@pytest.fixture(scope="module")
def shards(tiny_shards: Path) -> Shards:
    return open_shards(tiny_shards)


@pytest.fixture(scope="module")
def documents(shards: Shards) -> dict[str, list[Document]]:
    """The documents the shards were rendered from."""
    world = World(WorldConfig.from_dict(shards.manifest["world"]))
    return {s: world.documents(s, "train", 0, shards.split(s, "train").samples, pixels=False) for s in MIXTURE}


def rows(shards: Shards, width: int = WIDE, **options: Any) -> RowSource:
    return RowSource(shards, **{"mixture": MIXTURE, "seed": 3, "stage": "sft", **options}, context_length=width,
                     patch_size=PATCH)  # fmt: skip


def learned_words(document: Document) -> list[bool]:
    """The rule, told by words: answers stand after an A, a caption before its first Q; the word after either counts."""
    learned, answering, captioning = [], False, document.source == "caption"
    for number, word in enumerate(document.words):
        learned.append((answering or captioning) and word != "<image>")
        if word in ("Q", "<end>"):
            answering = captioning = False
        if word == "A" and "Q" in document.words[:number]:
            answering = True
    return learned


def expanded(document: Document, values: list[T]) -> list[T]:
    """One value for each position: an image stands M times."""
    pairs = zip(document.words, values, strict=True)
    return [value for word, value in pairs for _ in range(M if word == "<image>" else 1)]


def test_by_hand() -> None:
    rule = Tuning(question_id=7)
    #         <image>   topleft .  Q kind A  red disc  Q kind A  one <end>
    tokens = [IMAGE_ID] * 2 + [9, 8, 7, 6, 5, 20, 21, 7, 6, 5, 22, 2]
    letters = [0, 0, *map(ord, "lggggaagggag")]
    expected = {True: "..###..###..##", False: ".......###..##"}
    #          topleft Q kind A  no <end>   padding
    tokens += [9, 7, 6, 5, 23, 2] + [0, 0]
    letters += [*map(ord, "lgggag"), 0, 0]
    opens = np.isin(np.arange(len(tokens)), [0, 14, 20, 21])
    for first, second in ((True, False), (False, True)):
        caption = np.array([first] * 14 + [second] * 6 + [False] * 2)
        learned = rule.learned(np.array(tokens), np.array(letters, np.uint8), opens, caption)
        end = "##..##" if second else "....##"
        assert "".join(".#"[int(mark)] for mark in learned) == expected[first] + end + ".."


def test_selection_by_hand() -> None:
    """Three caption documents: text first, no answer, and an answer that a cut takes away."""
    words = [9, IMAGE_ID, 8, 7, 6, 5, 20, 2] + [IMAGE_ID, 8, 2] + [IMAGE_ID, 9, 7, 6, 5, 20, 2]
    letters = [*b"l", 0, *b"gggga", *b"g"] + [0, *b"gg"] + [0, *b"lgggag"]
    positions = np.zeros(len(words), [("token", "<u2"), ("letter", "u1")])
    positions["token"], positions["letter"] = words, letters
    documents, samples = np.zeros(3, DOCUMENT), np.zeros(3, SAMPLE)
    documents["start"] = samples["start"] = [0, 8, 11]
    documents["length"], documents["shard"] = [8, 3, 5], 4
    shard = DecodedShard(Path("nowhere"), samples)
    shard.__dict__["positions"] = positions
    kept = Tuning(question_id=7).select(documents, [shard], first_shard=4)
    assert kept["start"].tolist() == [0]
    assert kept["targets"].tolist() == [4], "a first token follows nothing; learned are 8, Q, the answer and the end"


@pytest.mark.parametrize(("width", "sources"), [(WIDE, set(MIXTURE)), (NARROW, {"caption"})])
def test_weights_are_the_rule_and_documents_without_an_answer_are_left_out(
    shards: Shards, documents: dict[str, list[Document]], width: int, sources: set[str]
) -> None:
    by_tokens = {}
    for name in sources:
        for document in documents[name]:
            tokens = expanded(document, shards.tokenizer.encode(document.text))
            by_tokens[(SOURCES.index(name), *tokens[:width])] = document
    batch = rows(shards, width, mixture=dict.fromkeys(sources, 1.0)).rows_at(0, 150)
    seen = set()
    for row, number in product(range(150), range(20)):
        (at,) = np.nonzero(batch.document[row] == number)
        if len(at):
            document = by_tokens[(int(batch.source[row, at[0]]), *batch.tokens[row, at].tolist())]
            marks = expanded(document, learned_words(document))
            assert batch.weights[row, at].tolist() == [*marks[1 : len(at)], False]
            assert "A" in expanded(document, document.words)[: len(at) - 1], "an answer lies within the row"
            seen.add(document.source)
    assert seen == sources


def test_every_document_with_an_answer_comes_once_an_epoch(
    shards: Shards, documents: dict[str, list[Document]]
) -> None:
    source = rows(shards, once_in_order=True)
    with_answer = {name: sum("A" in d.words for d in known) for name, known in documents.items()}
    assert {name: stream.samples for name, stream in source.streams.items()} == with_answer
    delivered = source.counts(source.rows_available() - 1)
    assert 0 < with_answer["caption"] - delivered["caption"]["samples"] < 10
    ids = {sample_id(sample_key(name, "train", d.index)) for name in MIXTURE for d in documents[name] if "A" in d.words}
    assert (
        set(
            np.concatenate(
                [corpus.records(np.arange(corpus.units.sum()))["id"] for corpus in source.corpora.values()]
            ).tolist()
        )
        == ids
    )


@pytest.mark.parametrize("width", [WIDE, NARROW])
@pytest.mark.parametrize("count", [1, 37, 300])
def test_counts_are_those_of_the_weights(shards: Shards, width: int, count: int) -> None:
    source = rows(shards, width, mixture={"caption": 1.0} if width == NARROW else MIXTURE)
    batch, counts = source.rows_at(0, count), source.counts(count)
    for name in source.streams:
        here = batch.source == SOURCES.index(name)
        assert counts[name]["targets"] == batch.weights[here].sum()
        assert counts[name]["tokens"] == here.sum()
        assert counts[name]["image_tokens"] == (here & (batch.tokens == IMAGE_ID)).sum()


def test_where_every_document_asks_only_the_weights_know_the_stage(tmp_path: Path) -> None:
    world = WorldConfig(num_entities=150, name_words=16, question_chain=(1.0, 0.3), where_question=1.0)
    write_shards(world, tmp_path, {name: {"train": 400} for name in MIXTURE}, 128, progress=False)
    tuned, plain = rows(open_shards(tmp_path)), rows(open_shards(tmp_path), stage="pretrain")
    ours, theirs = tuned.rows_at(0, 30), plain.rows_at(0, 30)
    for field in fields(ours):
        if field.name != "weights":
            assert np.array_equal(getattr(ours, field.name), getattr(theirs, field.name), equal_nan=True), field.name
    assert (ours.weights <= theirs.weights).all() and 0 < ours.weights.sum() < theirs.weights.sum()
    assert plain.stream == {k: v for k, v in tuned.stream.items() if k != "stage"}, "old checkpoints still fit"


def ids_of(shards: Shards, world: int, steps: range, state: dict[str, Any] | None = None) -> list[list[int]]:
    """Row ids of steps in global order, from as many loaders as there are ranks."""
    ranks = [TrainLoader(rows(shards), 12, 80, rank, world) for rank in range(world)]
    for loader in ranks:
        if state is not None:
            loader.load_state_dict(state)
    iterators = [iter(loader) for loader in ranks]
    parts = [[next(iterator).row_ids.tolist() for iterator in iterators] for _ in steps]
    return [[row for together in zip(*part, strict=True) for row in together] for part in parts]


def test_the_order_knows_no_ranks_and_no_restart(shards: Shards) -> None:
    expected = rows(shards).row_ids(0, 12 * 60).reshape(60, 12).tolist()
    for world in (1, 3):
        assert ids_of(shards, world, range(60)) == expected
    loader = TrainLoader(rows(shards), 12, 80)
    state = json.loads(json.dumps(loader.state_dict(cursor=12 * 31)))
    for world in (1, 2):
        assert ids_of(shards, world, range(31, 60), state) == expected[31:]


def test_a_position_in_pretraining_is_none_in_tuning(shards: Shards) -> None:
    state = TrainLoader(rows(shards, stage="pretrain"), 12, 80).state_dict()
    with pytest.raises(ValueError, match="stage: saved None, now 'sft'"):
        TrainLoader(rows(shards), 12, 80).load_state_dict(state)


def test_sources_that_ask_nothing_are_refused(shards: Shards) -> None:
    with pytest.raises(ValueError, match=r"text train .* holds no document with an answer .* data.mixture.text=0"):
        rows(shards, mixture={"caption": 0.5, "text": 0.5})


def test_shards_without_questions_are_refused(tiny_root: Path) -> None:
    foreign = open_shards(tiny_root)
    with pytest.raises(ValueError, match="no word 'Q'"):
        RowSource(foreign, {"caption": 1.0}, 64, 4, seed=0, stage="sft")
    with pytest.raises(ValueError, match="no word 'Q'"):
        tuning(foreign.tokenizer)


def test_the_picture_of_the_rule_is_the_rule() -> None:
    """The marks under the examples at the head of the module."""
    lines = (ROOT / "nmm" / "data" / "sft.py").read_text().splitlines()
    for source in ("caption", "interleaved"):
        number = next(n for n, line in enumerate(lines) if line.startswith(f"    {source} "))
        shown, marks = lines[number], lines[number + 1]
        words = shown.split()[1:]
        blank: Any = functools.partial(Document, split="", index=0, logprobs=None, classes="", images=None)
        document = blank(source=source, words=words, questions=(), scene=(), subjects=())
        column = len(f"    {source} ")
        for word, learned in zip(words, learned_words(document), strict=True):
            column = shown.index(word, column)
            assert marks.ljust(column + 1)[column] == ("^" if learned else " "), word
            column += len(word)
