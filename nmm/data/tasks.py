"""Questions with answers that a program can check: what reinforcement learns from and what guided models are asked.

Shape legend: I images of a prompt, M patches an image, P pixel values a patch.

A prompt ends with the "A" of its question. What is said after it is right when its final answer is that of the
document, which follows from the scene: for most kinds all that was said, for sums (nmm.data.reasoning) what follows the
last "is".
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nmm.batch import END_ID, SOURCES
from nmm.config import RunConfig
from nmm.data.decoded import open_decoded
from nmm.data.manifest import Shards
from nmm.data.reasoning import ANSWER_WORD, KIND, SLOW
from nmm.data.sft import QUESTION_WORD, tuning
from nmm.data.sft_exam import questions_of
from nmm.data.tokenizer import Tokenizer

ANSWER_MARK = "A"


@dataclass(frozen=True)
class Task:
    """One question. ``tokens`` end with "A", ``patches`` (I, M, P); ``told`` is what the document says after "A", up to
    the last word of the answer, and ``answer`` the final answer.
    """

    kind: str
    tokens: list[int]
    patches: np.ndarray
    told: tuple[int, ...]
    answer: tuple[int, ...]


@dataclass(frozen=True)
class Verifier:
    """Tells right answers from wrong ones.

    ``stops``: tokens that end what is said. ``marker``: the token that a sum's answer follows; None without sums.
    ``slow``: the token that announces steps.
    """

    stops: tuple[int, ...]
    marker: int | None
    slow: int | None

    def final(self, kind: str, said: Sequence[int]) -> tuple[int, ...] | None:
        """The final answer in what was said after "A"; None when it was not brought to an end."""
        if not said or said[-1] not in self.stops:
            return None
        words = tuple(said[:-1])
        if kind != KIND or self.marker is None:
            return words
        last = max((n for n, word in enumerate(words) if word == self.marker), default=-1)
        return words[last + 1 :]

    def is_right(self, task: Task, said: Sequence[int]) -> bool:
        """Whether the final answer is the true one, word for word; steps and style are free."""
        return self.final(task.kind, said) == task.answer

    def is_slow(self, said: Sequence[int]) -> bool:
        """Whether it was told step by step."""
        return self.slow is not None and self.slow in said


def verifier(tokenizer: Tokenizer) -> Verifier:
    """The rule for shards with this vocabulary. Raises ValueError when it has no word that opens a question."""
    ids = tokenizer.ids
    stops = (END_ID, tuning(tokenizer).question_id)
    return Verifier(stops, ids.get(ANSWER_WORD) if KIND in ids else None, ids.get(SLOW))


def tasks(
    shards: Shards, config: RunConfig, split: str, count: int, kinds: Sequence[str] = (), skip: int = 0
) -> list[Task]:
    """The first ``count`` questions of every kind (of ``kinds``; empty: of all), after ``skip`` of them, in order of
    sources and documents, from the sources that the run's mixture draws from.

    Shards are read until all kinds met so far have enough. Raises ValueError for a kind that is not asked, or when
    there are no questions.
    """
    data = config.row_data
    mark = shards.tokenizer.ids.get(ANSWER_MARK, -1)
    question = tuning(shards.tokenizer).question_id
    found: dict[str, list[Task]] = {kind: [] for kind in kinds}
    seen: Counter[str] = Counter()
    for source in (name for name in SOURCES if data.mixture.get(name, 0) > 0):
        for shard in open_decoded(shards, source, split, data.patch_size):
            for one in questions_of(shards, shard, source, data.context_length, data.patch_size):
                if kinds and one.kind not in found:
                    continue
                seen[one.kind] += 1
                if skip < seen[one.kind] <= skip + count:
                    asked = len(one.tokens) - one.tokens[::-1].index(question)
                    cut = one.tokens.index(mark, asked) + 1
                    told = (*one.tokens[cut:], *one.answer)
                    found.setdefault(one.kind, []).append(
                        Task(one.kind, one.tokens[:cut], one.patches, told, one.answer)
                    )
            if found and all(len(several) >= count for several in found.values()):
                break
    empty = [kind for kind, several in found.items() if not several]
    if empty or not found:
        raise ValueError(
            f"{shards.root} asks no question of kind {', '.join(empty) or 'any'} in its split {split} after the first "
            f"{skip}, within context_length={data.context_length}; it asks {', '.join(sorted(seen)) or 'none'} "
            f"(words after {QUESTION_WORD!r})"
        )
    return [task for several in found.values() for task in several]
