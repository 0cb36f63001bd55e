"""Texts cut to fill rows: every target comes once, nothing else is lost or doubled, and counts stay exact."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from known_documents import PATCH, Known, captions, index, interleaved, opened, texts, write_documents

from nmm.batch import IMAGE_ID
from nmm.data.index_file import read_index
from nmm.data.packing import MIN_PIECE, Pieces, pack, place
from nmm.data.source import RowSource

WIDTH = 64
MIXTURE = {"caption": 40, "interleaved": 20, "text": 40}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[tuple[str, str], Known]]:
    folder, known = tmp_path_factory.mktemp("cut"), {}
    made = {"caption": captions("c", 0, 90), "interleaved": interleaved("d", 300, 60), "text": texts("t", 0, 70)}
    for name, documents in made.items():
        write_documents(folder / name / "00000.tar", documents)
        known |= {(name, document.key): document for document in documents}
    index(folder)
    return folder, known


def rows_of(data: tuple[Path, dict[tuple[str, str], Known]], seed: int = 0, cut_text: bool = True) -> RowSource:
    return RowSource(opened(data[0], {name: name for name in MIXTURE}), MIXTURE, WIDTH, PATCH, seed, cut_text=cut_text)


def lengths_like(shares: dict[str, float], caption: int, window: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Lengths of a window of 256 rows of 1,024, and which are texts: images of 256 patches."""
    rng, found, text = np.random.default_rng(seed), [], []
    for name, share in shares.items():
        budget = int(share * window)
        while budget > 0:
            match name:
                case "caption":
                    length = 257 + int(rng.integers(caption // 2, 2 * caption))
                case "interleaved":
                    length = min(1024, int(rng.integers(1, 4)) * 256 + int(rng.lognormal(5.5, 0.8)))
                case _:
                    length = min(1024, 1 + int(rng.lognormal(6.0, 1.0)))
            found.append(length)
            text.append(name == "text")
            budget -= length
    return np.array(found), np.array(text)


def pieces_of(pieces: Pieces) -> dict[int, list[tuple[int, int]]]:
    """Document -> (begin, positions of its own) of its pieces."""
    found: dict[int, list[tuple[int, int]]] = {}
    for document, begin, length in zip(pieces.document, pieces.begin, pieces.length, strict=True):
        found.setdefault(int(document), []).append((int(begin), int(length) - int(begin > 0)))
    return found


@pytest.mark.parametrize("width", [20, 64, 1024])
@pytest.mark.parametrize("seed", range(6))
def test_every_position_stands_in_one_piece_and_no_row_overflows(width: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    lengths, cuttable = rng.integers(1, width + 1, 200), rng.random(200) < 0.5
    pieces, rows = place(lengths, width, cuttable)
    assert np.bincount(pieces.row, pieces.length, rows).max() <= width
    for document, parts in pieces_of(pieces).items():
        ends = [0]
        for begin, own in sorted(parts):
            assert begin == ends[-1] and own > 0
            ends.append(begin + own)
        assert ends[-1] == lengths[document]
        assert cuttable[document] or len(parts) == 1
        assert all(own >= MIN_PIECE for _, own in sorted(parts)[:-1])
    assert width < 64 or rows <= pack(lengths, width)[1]


def test_nothing_to_cut_is_packing_as_it_was() -> None:
    lengths = np.random.default_rng(0).integers(1, 65, 300)
    for cuttable in (None, np.zeros(300, bool)):
        pieces, rows = place(lengths, 64, cuttable)
        row, expected = pack(lengths, 64)
        assert np.array_equal(pieces.row, row) and rows == expected
        assert np.array_equal(pieces.length, lengths) and not pieces.begin.any()


@pytest.mark.parametrize(("caption", "at_least"), [(100, 0.98), (20, 0.96)], ids=["bytes", "subwords"])
def test_rows_are_full(caption: int, at_least: float) -> None:
    """Captions of about 125 and 25 tokens beside 256 patches, 45-45-10: whole texts leave far more free."""
    filled, whole = [], []
    for seed in range(4):
        lengths, text = lengths_like({"caption": 0.45, "interleaved": 0.45, "text": 0.1}, caption, 256 * 1024, seed)
        filled.append(lengths.sum() / (1024 * place(lengths, 1024, text)[1]))
        whole.append(lengths.sum() / (1024 * pack(lengths, 1024)[1]))
    assert np.mean(filled) >= at_least
    assert np.mean(filled) > np.mean(whole) + 0.03


@pytest.mark.parametrize("text", [0.1, 0.4])
def test_texts_are_spread_over_the_rows(text: float) -> None:
    """Batches of four rows swing no more between text and images than with whole documents."""
    shares = {"caption": 0.5 - text / 2, "interleaved": 0.5 - text / 2, "text": text}
    for seed in range(3):
        lengths, is_text = lengths_like(shares, 100, 256 * 1024, seed)
        row, rows = pack(lengths, 1024)
        swings = []
        for pieces, number in (
            place(lengths, 1024, is_text),
            (Pieces(np.arange(len(row)), row, 0 * row, lengths), rows),
        ):
            order = np.random.default_rng(0).permutation(number)[: number // 4 * 4].reshape(-1, 4)
            texts_in = np.bincount(pieces.row, np.where(is_text[pieces.document], pieces.length, 0), number)
            all_in = np.bincount(pieces.row, pieces.length, number)
            swings.append((texts_in[order].sum(1) / all_in[order].sum(1)).std())
        assert swings[0] < swings[1]


def test_every_target_of_an_epoch_comes_once(data: tuple[Path, dict[tuple[str, str], Known]]) -> None:
    """Of every text that was delivered whole, the targets are those of the text, each once, and nothing else."""
    source = rows_of(data)
    end = source.table.locate(400)[1]
    batch = source.rows_at(0, end)
    found: dict[int, Counter[int]] = {}
    wanted: dict[int, list[int]] = {}
    cuts = 0
    for row in range(end):
        for number, document in enumerate(source.documents(row)):
            name = source.names[document["source"]]
            if name != "text":
                continue
            cuts += int(document["begin"] > 0)
            shard = source.indexed[name].shards[document["shard"]]
            tokens = data[1][name, read_index(shard.index).key(int(document["start"]))].tokens(WIDTH)
            inside = (batch.document[row] == number) & (batch.weights[row] > 0)
            ordinal = int(document["ordinal"])
            found.setdefault(ordinal, Counter()).update(batch.targets[row, inside].tolist())
            wanted[ordinal] = tokens[1:]
            first = int(document["begin"]) - int(document["begin"] > 0)
            own = batch.tokens[row, batch.document[row] == number].tolist()
            assert own == tokens[first : first + len(own)]
            assert batch.position[row, batch.document[row] == number].tolist() == list(range(len(own)))
    assert cuts > 20
    assert {n: Counter(tokens) for n, tokens in wanted.items()} == found


@pytest.mark.parametrize("seed", [0, 1])
def test_counts_are_those_of_the_batches(data: tuple[Path, dict[tuple[str, str], Known]], seed: int) -> None:
    """At rows inside windows, before and after the ends of epochs: positions, targets, samples and unique tokens."""
    source = rows_of(data, seed)
    last = source.table.locate(700)[1]
    batch = source.rows_at(0, last)
    seen: dict[str, dict[int, np.ndarray]] = {name: {} for name in source.names}
    begun: dict[str, set[int]] = {name: set() for name in source.names}
    held = {name: Counter[str]() for name in source.names}
    for row in range(last):
        for number, document in enumerate(source.documents(row)):
            name, here = source.names[document["source"]], batch.document[row] == number
            begin, later = int(document["begin"]), int(document["begin"] > 0)
            own = int(here.sum()) - later
            counted = {"tokens": own, "targets": int(batch.weights[row, here].sum()), "samples": 1 - later}
            counted["image_tokens"] = int((batch.tokens[row, here] == IMAGE_ID).sum())
            counted["truncated"] = int(document["truncated"]) * (1 - later)
            held[name].update(counted)
            covered = seen[name].setdefault(int(document["id"]), np.zeros(int(document["whole"]), bool))
            covered[begin : begin + own] = True
            if not later:  # a sample counts where its first piece stands
                begun[name].add(int(document["id"]))
        if row % 37 == 0 or row > last - 30:
            counts = source.counts(row + 1)
            for name, expected in held.items():
                assert {key: counts[name][key] for key in expected} == dict(expected), (row, name)
                assert counts[name]["unique_tokens"] == sum(int(c.sum()) for c in seen[name].values()), (row, name)
                assert counts[name]["unique_samples"] == len(begun[name]), (row, name)
    assert all(source.counts(last)[name]["epochs"] > 1 for name in source.names)


def test_equal_row_ids_are_equal_rows(data: tuple[Path, dict[tuple[str, str], Known]]) -> None:
    """Also where two rows hold pieces of the same documents, cut elsewhere."""
    batch = rows_of(data).rows_at(0, 600)
    rows: dict[int, bytes] = {}
    for number, tokens in zip(batch.row_ids.tolist(), batch.tokens, strict=True):
        assert rows.setdefault(number, tokens.tobytes()) == tokens.tobytes()
    assert 200 < len(rows) < 600
