"""Instruction tuning: which documents are used, and which of their tokens are learned.

    caption      <image> topleft red disc small . Q count red A one <end>
                         ^^^^^^^ ^^^ ^^^^ ^^^^^ ^ ^            ^^^ ^^^^^
    interleaved  <image> topleft ... . <nl> <image> ... . Q where first NAME A topleft <end>
                                                                               ^^^^^^^ ^^^^^

Learned (^) are a caption's own words, every answer, and the token after either, so that the model knows where to stop.
What is asked, and the text of interleaved documents, is read but not learned. Documents without an answer are left out.
Whether a token is learned depends on nothing that follows it, so cutting a document changes nothing before the cut.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nmm.batch import IMAGE_ID, SOURCES
from nmm.data.decoded import DecodedShard
from nmm.data.tokenizer import Tokenizer

CAPTION = SOURCES.index("caption")
ANSWER = ord("a")
QUESTION_WORD = "Q"


@dataclass(frozen=True)
class Tuning:
    """The rule, for shards in which ``question_id`` opens a question and the class letter "a" marks its answer."""

    question_id: int

    def learned(self, tokens: np.ndarray, letters: np.ndarray, opens: np.ndarray, caption: np.ndarray) -> np.ndarray:
        """(n,) bool: which tokens are learned. Documents stand one after another.

        Args:
            tokens: (n,) ids; padding is a document by itself.
            letters: (n,) class letters of these tokens (uint8).
            opens: (n,) bool, true on the first token of every document.
            caption: (n,) bool, true in caption documents.
        """
        is_question = tokens == self.question_id
        before = np.cumsum(is_question) - is_question
        asked = before > np.maximum.accumulate(np.where(opens, before, 0))
        answer = letters == ANSWER
        ends = np.zeros(len(tokens), bool)
        ends[1:] = answer[:-1] & ~answer[1:] & ~opens[1:]
        return (answer | ends | (caption & ~asked)) & (tokens != IMAGE_ID)

    def select(self, documents: np.ndarray, decoded: Sequence[DecodedShard], first_shard: int) -> np.ndarray:
        """The DOCUMENT records of one source that hold an answer, with ``targets`` counting learned tokens only.

        ``documents`` are those of the shards ``decoded``, which are numbered from ``first_shard``.
        """
        documents = documents.copy()
        answers = np.zeros(len(documents), np.int64)
        for number, shard in enumerate(decoded):
            inside = np.flatnonzero(documents["shard"] == first_shard + number)
            positions, starts = shard.positions, shard.samples["start"]
            opens = np.zeros(len(positions), bool)
            opens[starts] = True
            caption = np.full(len(positions), bool(len(inside)) and documents["source"][inside[0]] == CAPTION)
            learned = self.learned(positions["token"], positions["letter"], opens, caption)
            first, last = documents["start"][inside], documents["start"][inside] + documents["length"][inside]
            documents["targets"][inside] = _between(learned, first + 1, last)  # nothing precedes a first token
            answers[inside] = _between(positions["letter"] == ANSWER, first, last)
        return documents[answers > 0]


def tuning(tokenizer: Tokenizer) -> Tuning:
    """The rule for shards with this vocabulary. Raises ValueError when it has no word that opens a question."""
    if QUESTION_WORD not in tokenizer.ids:
        raise ValueError(
            f"stage=sft needs documents with questions, but the vocabulary has no word {QUESTION_WORD!r}: "
            "use shards that ask some, as those of `nmm shards data=world` do"
        )
    return Tuning(tokenizer.ids[QUESTION_WORD])


def _between(marks: np.ndarray, first: np.ndarray, last: np.ndarray) -> np.ndarray:
    """(n,) int64: how many of ``marks[first[i] : last[i]]`` are true."""
    running = np.concatenate([[0], np.cumsum(marks, dtype=np.int64)])
    return running[last] - running[first]
