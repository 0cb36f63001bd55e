"""Which members a soup is made of, decided by scores alone. No torch, no weights.

Members are numbered as they were given. ``score`` takes the numbers of a trial's members, in the order in which they
are averaged, and is asked once for every trial.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

Members = tuple[int, ...]


@dataclass
class Trials:
    """What has been tried, in order. ``is_better(a, b)``: a is at least as good (or, ``strictly``, better)."""

    score: Callable[[Members], float]
    is_higher_better: bool
    tried: dict[Members, float] = field(default_factory=dict)

    def __call__(self, members: Members) -> float:
        if members not in self.tried:
            self.tried[members] = self.score(members)
        return self.tried[members]

    def is_better(self, new: float, old: float, strictly: bool) -> bool:
        """Whether ``new`` is a better score than ``old``, or as good unless ``strictly``."""
        if new == old:
            return not strictly
        return (new > old) == self.is_higher_better

    def ranked(self, count: int) -> list[int]:
        """All members, the best single one first; of equals the one given first."""
        sign = -1.0 if self.is_higher_better else 1.0
        return sorted(range(count), key=lambda i: (sign * self((i,)), i))


def select(method: str, count: int, trials: Trials, best: int) -> Members:
    """The members of the soup, in the order in which they are averaged.

    uniform, model_stock: all. maximum: the ``best`` ones by their own scores. greedy (arXiv 2203.05482, recipe 1): from
    the best member on, in order of their own scores, each is kept if the soup with it scores at least as well.
    individual_select: see ``add_the_most_useful``. Every member's own score is asked for, whatever the method, so that
    a soup can always be compared with its best member.
    """
    ranked = trials.ranked(count)
    match method:
        case "uniform" | "model_stock":
            return tuple(range(count))
        case "maximum":
            return tuple(ranked[:best])
        case "greedy":
            return _greedy(ranked, trials)
        case _:
            return add_the_most_useful(ranked, trials)


def passes_to_choose(method: str, trials: Trials) -> int:
    """How many scores the choice itself stood on: 2k - 1 at most for greedy, k for maximum; none where all members are
    taken, whose scores only tell which was the best one.
    """
    return 0 if method in ("uniform", "model_stock") else len(trials.tried)


def _greedy(ranked: list[int], trials: Trials) -> Members:
    pool: Members = (ranked[0],)
    for candidate in ranked[1:]:
        if trials.is_better(trials((*pool, candidate)), trials(pool), strictly=False):
            pool = (*pool, candidate)
    return pool


def add_the_most_useful(ranked: list[int], trials: Trials) -> Members:
    """Individual select (arXiv 2405.11850) with members in place of data sets.

    There a pool of data sets grows by one at a time, the model being trained anew on the pool with every candidate, as
    long as the score rises. Here the pool is of fine-tuned members and "trained on" is "averaged with": the pool starts
    with the best member; a round tries every member left and adds the one with which the soup scores highest (of equals
    the one that is better alone); the first round without a strict rise is the last.
    """
    pool: Members = (ranked[0],)
    left = ranked[1:]
    while left:
        scores = [(trials((*pool, candidate)), candidate) for candidate in left]
        top = (max if trials.is_higher_better else min)(score for score, _ in scores)
        if not trials.is_better(top, trials(pool), strictly=True):
            break
        chosen = next(candidate for score, candidate in scores if score == top)
        pool = (*pool, chosen)
        left.remove(chosen)
    return pool
