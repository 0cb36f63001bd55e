"""Selection by scores alone, against oracles that try everything."""

from __future__ import annotations

import random

import pytest

from nmm.interventions.soup_select import Members, Trials, passes_to_choose, select


def table(seed: int, levels: int = 0) -> dict[frozenset[int], float]:
    """A score for every set of five members; with ``levels`` so few different ones that there are many ties."""
    draw = random.Random(seed)
    scores = {}
    for mask in range(1, 32):
        value = draw.random()
        scores[frozenset(i for i in range(5) if mask >> i & 1)] = round(value * levels) / levels if levels else value
    return scores


def trials_of(scores: dict[frozenset[int], float], higher: bool) -> tuple[Trials, list[Members]]:
    asked: list[Members] = []

    def score(members: Members) -> float:
        asked.append(members)
        return scores[frozenset(members)]

    return Trials(score, higher), asked


def greedy_oracle(scores: dict[frozenset[int], float], sign: int) -> set[int]:
    order = sorted(range(5), key=lambda i: -sign * scores[frozenset((i,))])
    pool = {order[0]}
    for candidate in order[1:]:
        if sign * scores[frozenset(pool | {candidate})] >= sign * scores[frozenset(pool)]:
            pool.add(candidate)
    return pool


def individual_oracle(scores: dict[frozenset[int], float], sign: int) -> set[int]:
    order = sorted(range(5), key=lambda i: -sign * scores[frozenset((i,))])
    pool = {order[0]}
    while len(pool) < 5:
        best = max((i for i in order if i not in pool), key=lambda i: sign * scores[frozenset(pool | {i})])
        if sign * scores[frozenset(pool | {best})] <= sign * scores[frozenset(pool)]:
            break
        pool.add(best)
    return pool


@pytest.mark.parametrize("higher", (True, False))
@pytest.mark.parametrize("levels", (0, 3))
@pytest.mark.parametrize("seed", range(30))
def test_both_searches_do_what_an_oracle_does(seed: int, levels: int, higher: bool) -> None:
    scores, sign = table(seed, levels), 1 if higher else -1
    for method, oracle in (("greedy", greedy_oracle), ("individual_select", individual_oracle)):
        trials, asked = trials_of(scores, higher)
        assert set(select(method, 5, trials, 2)) == oracle(scores, sign)
        assert len(set(asked)) == len(asked), "nothing is scored twice"


def test_greedy_asks_for_every_member_and_then_once_for_each_but_the_best() -> None:
    trials, asked = trials_of(table(1), True)
    select("greedy", 5, trials, 2)
    assert len(asked) == 5 + 4 == passes_to_choose("greedy", trials)
    assert all(len(members) == 1 for members in asked[:5])


def test_who_takes_all_members_needs_no_scores_to_choose() -> None:
    for method, passes in (("uniform", 0), ("model_stock", 0), ("maximum", 5)):
        trials, asked = trials_of(table(1), True)
        select(method, 5, trials, 2)
        assert len(asked) == 5 and passes_to_choose(method, trials) == passes


def test_as_good_is_kept_by_greedy_and_ends_individual_select() -> None:
    flat = {members: 0.5 for members in table(0)}
    assert select("greedy", 5, trials_of(flat, True)[0], 2) == (0, 1, 2, 3, 4)
    assert select("individual_select", 5, trials_of(flat, True)[0], 2) == (0,)


def test_the_order_is_that_in_which_members_came_in() -> None:
    scores = {members: float(len(members)) for members in table(0)}
    scores |= {frozenset((i,)): value for i, value in enumerate((0.1, 0.5, 0.3, 0.2, 0.4))}
    assert select("greedy", 5, trials_of(scores, True)[0], 2) == (1, 4, 2, 3, 0)
    assert select("maximum", 5, trials_of(scores, True)[0], 3) == (1, 4, 2)
    assert select("maximum", 5, trials_of(scores, False)[0], 2) == (0, 3)
    assert select("uniform", 5, trials_of(scores, True)[0], 2) == (0, 1, 2, 3, 4)
