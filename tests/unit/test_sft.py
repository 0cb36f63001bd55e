"""The marks of instruction tuning: a made-up pupil with known answers, and CIDEr by hand."""

from __future__ import annotations

import builtins
import math
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nmm import sft
from nmm.batch import END_ID
from nmm.compose import compose
from nmm.config import RunConfig
from nmm.data.manifest import Shards, open_shards
from nmm.data.sft_exam import Question
from nmm.sft import Exam, accuracy, cider, grade, make_exam


@pytest.fixture
def shards(tiny_shards: Path) -> Shards:
    return open_shards(tiny_shards)


def asked(kind: str, *answer: int) -> Question:
    return Question(kind, [7], np.zeros((0, 1, 1), np.uint8), answer)


def test_the_stage_as_composed() -> None:
    """A tenth of the rate, unless it is given, and no text documents."""
    start = ["stage=sft", "start=run", "start.path=x", "budget.steps=1", "size=d32"]
    composed = compose(start)
    assert composed.learning_rate == pytest.approx(0.1 * compose(["budget.steps=1", "size=d32"]).learning_rate)
    assert compose([*start, "optim.lr=0.01"]).learning_rate == 0.01
    assert composed.data.mixture == {"caption": 0.5, "interleaved": 0.5, "text": 0.0}
    assert compose([*start, "data.mixture.interleaved=0"]).data.mixture["interleaved"] == 0


# ---------------------------------------------------------------------------------------------------------------------
# accuracy


def test_accuracy_by_kind_with_chance_and_standard_error() -> None:
    questions = [asked("count", 5), asked("count", 5), asked("count", 6), asked("count", 5), asked("after", 8, 9)]
    marks = accuracy(questions, [[5], [6], [6], [5, 5], [8, 9]])
    assert marks["accuracy"] == {"count": 0.5, "after": 1.0, "avg": 0.75}
    assert marks["chance"] == {"count": 0.75, "after": 1.0, "avg": 0.875}
    assert marks["stderr"] == pytest.approx({"count": 0.25, "after": 0.0, "avg": 0.125})
    assert marks["questions"] == {"count": 4, "after": 1}


@pytest.mark.parametrize("wrong", [[], [8], [9, 8], [8, 9, 9]])
def test_a_part_of_an_answer_or_more_than_it_is_wrong(wrong: list[int]) -> None:
    assert accuracy([asked("after", 8, 9)], [wrong])["accuracy"]["after"] == 0


# ---------------------------------------------------------------------------------------------------------------------
# grade, with a pupil instead of a model

Pupil = Callable[[list[int], Any], list[int]]


@pytest.fixture
def exam(shards: Shards, make_config: Callable[..., RunConfig]) -> Exam:
    return make_exam(shards, sft_config(make_config))


def sft_config(make_config: Callable[..., RunConfig], **groups: Any) -> RunConfig:
    mixture = {"caption": 0.5, "interleaved": 0.5, "text": 0.0}
    small = {"stage": {"eval_questions": 12, "eval_captions": 20}, "data": {"mixture": mixture}}
    return make_config(**{**small, **groups})


def take(monkeypatch: pytest.MonkeyPatch, exam: Exam, answer: Pupil, describe: Pupil) -> dict[str, Any]:
    """The marks of someone who answers by ``answer`` and ``describe``: (words that are right, stops) -> tokens."""
    known = {(tuple(q.tokens), q.patches.tobytes()): list(q.answer) for q in exam.questions}
    seen = {p.patches.tobytes(): exam.tokenizer.encode(p.told) for p in exam.pictures}

    def generate(model: Any, prompts: Any, max_new_tokens: int, stop_ids: tuple[int, ...]) -> list[list[int]]:
        assert stop_ids == (END_ID, exam.tokenizer.ids["Q"])
        said = []
        for prompt in prompts:
            right = known.get((tuple(prompt.tokens), prompt.patches.tobytes()))
            words = answer(right, stop_ids) if right else describe(seen[prompt.patches.tobytes()], stop_ids)
            end = next((n for n, word in enumerate(words) if word in stop_ids), len(words)) + 1
            said.append(words[: min(end, max_new_tokens)])
        return said

    monkeypatch.setattr(sft, "generate", generate)
    return grade(None, exam)  # type: ignore[arg-type]


def test_who_knows_everything_gets_all_marks(monkeypatch: pytest.MonkeyPatch, exam: Exam) -> None:
    marks = take(monkeypatch, exam, lambda right, stops: [*right, stops[0], 9], lambda told, stops: [*told, stops[1]])
    assert set(marks["accuracy"].values()) == {1.0}
    assert set(marks["questions"]) | {"odd"} == {"count", "colour", "left", "after", "same", "odd", "where"}
    assert set(marks["accuracy"]) == {*marks["questions"], "avg"}
    assert marks["cider"] == marks["cider_truth"] > 3
    assert (marks["captions"], marks["references"]) == (20, 5)


def test_who_never_stops_gets_none(monkeypatch: pytest.MonkeyPatch, exam: Exam) -> None:
    marks = take(monkeypatch, exam, lambda right, stops: [*right, 9, 9, 9], lambda told, stops: [9] * 999)
    assert set(marks["accuracy"].values()) == {0.0}
    assert marks["cider"] < 0.1 < marks["cider_truth"]


def test_who_always_says_the_commonest_scores_chance(exam: Exam) -> None:
    best = {
        kind: Counter(q.answer for q in exam.questions if q.kind == kind).most_common(1)[0][0]
        for kind in {q.kind for q in exam.questions}
    }
    marks = accuracy(exam.questions, [best[q.kind] for q in exam.questions])
    assert marks["accuracy"] == marks["chance"]
    assert marks["chance"]["same"] >= 0.5 > marks["chance"]["after"]


def test_an_exam_without_captions(
    monkeypatch: pytest.MonkeyPatch, shards: Shards, make_config: Callable[..., RunConfig]
) -> None:
    mixture = {"caption": 0.0, "interleaved": 1.0, "text": 0.0}
    exam = make_exam(shards, sft_config(make_config, data={"mixture": mixture}))
    assert {q.kind for q in exam.questions} == {"where"} and not exam.pictures
    assert "cider" not in take(monkeypatch, exam, lambda right, stops: right, lambda told, stops: told)


def test_one_caption_is_too_few(shards: Shards, make_config: Callable[..., RunConfig]) -> None:
    with pytest.raises(ValueError, match="1 held-out captions .* at least 2"):
        make_exam(shards, sft_config(make_config, stage={"eval_captions": 1}))


# ---------------------------------------------------------------------------------------------------------------------
# CIDEr


def test_identical_captions_score_ten_and_disjoint_ones_nothing() -> None:
    captions = ["a b c d e", "f g h i j", "k l m n o"]
    assert cider(captions, [[caption] for caption in captions]) == pytest.approx(10)
    assert cider(captions, [[caption] for caption in captions[1:] + captions[:1]]) == 0


def test_by_hand() -> None:
    """Captions of four words, of which the first two agree; every n-gram stands in one of the two captions.

    So idf is log 2 for all and cancels. Cosines: unigrams 2 / 4, bigrams 1 / 3, trigrams and more 0; lengths are equal.
    """
    score = cider(["a b x y", "e f g h"], [["a b c d"], ["e f g h"]])
    assert score == pytest.approx(10 * ((1 / 2 + 1 / 3) / 4 + 1) / 2)


def test_a_longer_caption_is_punished_as_in_the_paper() -> None:
    """Two words too many: cosines 4 / sqrt(4 * 6), ..., times exp(-2^2 / (2 * 6^2))."""
    score = cider(["a b c d x y", "e f g h"], [["a b c d"], ["e f g h"]])
    cosines = [n / math.sqrt(n * (n + 2)) for n in (4, 3, 2, 1)]
    assert score == pytest.approx(10 * (sum(cosines) / 4 * math.exp(-4 / 72) + 1) / 2)


def test_repeating_a_word_earns_nothing_and_common_words_count_for_nothing() -> None:
    references = [["the cat sat here"], ["the dog ran there"], ["the sun set now"]]
    others = ["the dog ran there", "the sun set now"]
    once, thrice = (cider([text, *others], references) for text in ("cat p q r", "cat cat cat r"))
    assert thrice < once
    assert cider(["the p q r", *others], references) == pytest.approx(10 * 2 / 3)


def test_the_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def missing(name: str, *rest: Any) -> Any:
        if name.startswith("pycocoevalcap"):
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(ValueError, match="pip install pycocoevalcap"):
        cider(["a", "b"], [["a"], ["b"]])
