"""What instruction tuning has taught: held-out questions answered, and pictures described, by greedy generation.

Accuracy is exact: what is generated up to the next "Q" or "<end>" must be the answer, word for word, so a right word
that runs on is wrong. Captions are scored by CIDEr-D (arXiv 1411.5726) as pycocoevalcap computes it.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from nmm.batch import END_ID, SOURCES
from nmm.config import RunConfig
from nmm.data.manifest import Shards
from nmm.data.sft import tuning
from nmm.data.sft_exam import Picture, Question, pictures, questions
from nmm.data.tokenizer import Tokenizer
from nmm.generate import Prompt, generate
from nmm.model.fusion import NativeMultimodalModel


@dataclass(frozen=True)
class Exam:
    """Held-out questions of every kind, and pictures to describe (none when the run does not learn captions)."""

    questions: Sequence[Question]
    pictures: Sequence[Picture]
    tokenizer: Tokenizer


def make_exam(shards: Shards, config: RunConfig) -> Exam:
    """The exam of a run, from the val split of the sources it learns from: the same for every run on these shards.

    Raises ValueError when the shards do not hold one, or the package that scores captions is not installed.
    """
    data, stage = config.row_data, config.stage
    sources = [source for source in SOURCES if data.mixture.get(source, 0) > 0]
    asked = questions(shards, sources, "val", stage.eval_questions, data.context_length, data.patch_size)
    shown: list[Picture] = []
    if "caption" in sources:
        cider(["a b", "c d"], [["a b"], ["c d"]])  # better missed now than after the last step
        shown = pictures(shards, "val", stage.eval_captions, data.context_length, data.patch_size)
        if len(shown) < 2:
            raise ValueError(
                f"{len(shown)} held-out captions in caption val of {shards.root} with stage.eval_captions="
                f"{stage.eval_captions}: CIDEr weighs words by how few captions use them and needs at least 2"
            )
    return Exam(asked, shown, shards.tokenizer)


def grade(model: NativeMultimodalModel, exam: Exam) -> dict[str, Any]:
    """The marks of a model.

    Returns {"accuracy": {kind: ..., "avg": plain mean over kinds}, "chance": {...}, "stderr": {...}, "questions":
    {kind: number}}, and with pictures {"cider", "cider_truth", "captions", "references"}. ``chance`` is the score of
    always giving the commonest answer to these questions of the kind, ``stderr`` the binomial standard error. CIDEr
    runs from 0 to 10 (tables often print 100 times it); ``cider_truth`` is what the documents' own captions reach
    against the same references, None where they are the references. It is a yardstick, no bound: a model's likeliest
    words agree with references more often than words that were drawn.
    """
    answers = _generate(model, exam.questions, 1 + max(len(q.answer) for q in exam.questions), exam.tokenizer)
    return {**accuracy(exam.questions, answers), **_captioning(model, exam)}


def accuracy(asked: Sequence[Question], answers: Sequence[Sequence[int]]) -> dict[str, Any]:
    """The part of ``grade`` about questions; ``answers`` end before the token that stopped them."""
    marks: dict[str, dict[str, float]] = {"accuracy": {}, "chance": {}, "stderr": {}}
    numbers = Counter(question.kind for question in asked)
    for kind, n in numbers.items():
        pairs = [(q.answer, tuple(answer)) for q, answer in zip(asked, answers, strict=True) if q.kind == kind]
        share = sum(truth == answer for truth, answer in pairs) / n
        marks["accuracy"][kind] = share
        marks["chance"][kind] = Counter(truth for truth, _ in pairs).most_common(1)[0][1] / n
        marks["stderr"][kind] = math.sqrt(share * (1 - share) / n)
    kinds = len(numbers)
    for name in ("accuracy", "chance"):
        marks[name]["avg"] = sum(marks[name].values()) / kinds
    marks["stderr"]["avg"] = math.sqrt(sum(value**2 for value in marks["stderr"].values())) / kinds
    return {**marks, "questions": dict(numbers)}


def _captioning(model: NativeMultimodalModel, exam: Exam) -> dict[str, Any]:
    """The part of ``grade`` about pictures."""
    shown = exam.pictures
    if not shown:
        return {}
    references = [list(picture.references) for picture in shown]
    longest = max(len(reference.split()) for several in references for reference in several)
    captions = [exam.tokenizer.decode(words) for words in _generate(model, shown, longest + 1, exam.tokenizer)]
    several = len(references[0]) > 1
    return {
        "cider": cider(captions, references),
        "cider_truth": cider([picture.told for picture in shown], references) if several else None,
        "captions": len(shown),
        "references": len(references[0]),
    }


def _generate(
    model: NativeMultimodalModel, asked: Sequence[Question] | Sequence[Picture], most: int, tokenizer: Tokenizer
) -> list[list[int]]:
    """What the model says, greedily, before the next "Q" or "<end>", in at most ``most`` tokens."""
    stops = (END_ID, tuning(tokenizer).question_id)
    said = generate(model, [Prompt(item.tokens, item.patches) for item in asked], most, stop_ids=stops)
    return [words[:-1] if words[-1] in stops else words for words in said]


def cider(captions: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """Mean CIDEr-D (0 to 10) of captions, each against its own references, which also give the idf of n-grams.

    Words are what whitespace separates. Raises ValueError when pycocoevalcap is missing.
    """
    try:
        from pycocoevalcap.cider.cider import Cider
    except ImportError as error:
        raise ValueError(
            "stage=sft scores captions by CIDEr, which pycocoevalcap computes, and it is not installed: "
            "pip install pycocoevalcap, or tune without captions (data.mixture.caption=0)"
        ) from error
    score, _ = Cider().compute_score(
        {i: list(several) for i, several in enumerate(references)}, {i: [caption] for i, caption in enumerate(captions)}
    )
    return float(score)
