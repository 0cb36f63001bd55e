"""Words with exact log-probabilities: every random choice is charged to the word that reveals it.

A choice adds its log-probability to a pending amount; the next word emitted takes the whole amount. A word that is no
choice costs 0. So the log-probabilities of a document sum to log P(document text | its pictures), and each is the
conditional log-probability of its word given everything before it.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from typing import NamedTuple

from nmm.data.words import IMAGE


class Choice(NamedTuple):
    """Alternatives with fixed probabilities: their cumulative sums (the last possible one is inf) and logarithms."""

    cumulative: tuple[float, ...]
    logs: tuple[float, ...]


def choice(weights: Sequence[float]) -> Choice:
    """A Choice from non-negative weights, of which at least one is positive."""
    total = math.fsum(weights)
    logs = tuple(math.log(w / total) if w > 0 else -math.inf for w in weights)
    last = max(i for i, w in enumerate(weights) if w > 0)
    cumulative = [c / total if i < last else math.inf for i, c in enumerate(accumulate(weights))]
    return Choice(tuple(cumulative), logs)


def flip(probability: float) -> Choice:
    """A yes/no choice: alternative 0 is yes with `probability`, alternative 1 is no."""
    return choice((probability, 1.0 - probability))


class TokenWriter:
    """Collects the words, log-probabilities and classes of one document.

    Args:
        draws: Uniform numbers in [0, 1), used from the front, one per choice.
    """

    __slots__ = ("_cursor", "_draws", "classes", "logprobs", "pending", "words")

    def __init__(self, draws: Sequence[float]) -> None:
        self.words: list[str] = []
        self.logprobs: list[float] = []
        self.classes: list[str] = []
        self.pending = 0.0
        self._draws = draws
        self._cursor = 0

    def image(self) -> None:
        """Stand in for the next picture. It is given, not predicted, so nothing may be pending."""
        assert self.pending == 0.0
        self.words.append(IMAGE)

    def emit(self, word: str, kind: str = "g") -> None:
        """Append a word of class `kind`; it takes what is pending."""
        self.words.append(word)
        self.logprobs.append(self.pending)
        self.classes.append(kind)
        self.pending = 0.0

    def charge(self, log_probability: float) -> None:
        """Charge a choice made elsewhere to the next word."""
        self.pending += log_probability

    def pick(self, alternatives: Choice) -> int:
        """Choose among alternatives, charge the choice to the next word and return its number."""
        number = bisect_right(alternatives.cumulative, self._draws[self._cursor])
        self._cursor += 1
        self.pending += alternatives.logs[number]
        return number

    def locate(self, cumulative: Sequence[float]) -> int:
        """Choose by cumulative probabilities that end at 1; what it costs is for the caller to charge."""
        number = bisect_right(cumulative, self._draws[self._cursor])
        self._cursor += 1
        return number

    def emit_one_of(self, options: Sequence[Sequence[str]], weights: Sequence[float], kind: str = "g") -> int:
        """Choose one word sequence and emit it, each word charged given the words before it; returns its number.

        Options may share a beginning: what is then still undecided is charged where the texts part.
        """
        number = self.locate(choice(weights).cumulative)
        alive = list(range(len(options)))
        mass = math.fsum(weights)
        for position, word in enumerate(options[number]):
            alive = [i for i in alive if options[i][position] == word]
            rest = math.fsum(weights[i] for i in alive)
            self.pending += math.log(rest / mass)
            mass = rest
            self.emit(word, kind)
        return number
