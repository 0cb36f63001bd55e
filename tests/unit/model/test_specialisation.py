"""Counts and metrics of experts by hand, position by position, and what is said where there is nothing to count."""

from __future__ import annotations

import json
import math

import pytest
import torch
from torch import Tensor

from nmm.model.moe import Routing
from nmm.model.specialisation import Counts, added, counts_of, describe, image_shares, imbalance, specialisation


def routing(
    expert: list[list[list[int]]], image: list[list[bool]], valid: list[list[int]], experts: int = 4
) -> Routing:
    """Choices (B, T, k) of positions that are images or not, padding or not; probabilities at random."""
    chosen = torch.tensor(expert)
    logits = torch.randn(*chosen.shape[:2], experts, generator=torch.Generator().manual_seed(0))
    ends = chosen.reshape(-1).bincount(minlength=experts).cumsum(0).int()
    return Routing(logits, logits.softmax(-1), chosen, ends, torch.tensor(valid).float(), torch.tensor(image))


def counts(text: list[int], image: list[int]) -> Counts:
    return Counts(torch.tensor([text, image]), sum(text) + sum(image), 1.0, 0)


def binary_entropy(p: float) -> float:
    return -p * math.log2(p) - (1 - p) * math.log2(1 - p)


def test_slots_are_counted_by_modality_and_without_padding() -> None:
    one = routing(
        [[[0, 1], [0, 2], [3, 1]], [[2, 0], [2, 3], [2, 3]]],
        [[False, True, True], [False, False, False]],
        [[1, 1, 1], [1, 1, 0]],
    )
    found = counts_of(one)
    assert found.slots.tolist() == [[2, 1, 2, 1], [1, 1, 1, 1]]
    assert (found.positions, found.dropped) == (5, 0)
    p = one.probability.double().tolist()
    by_hand = sum(-q * math.log(q) for b, t in ((0, 0), (0, 1), (0, 2), (1, 0), (1, 1)) for q in p[b][t])
    assert found.entropy == pytest.approx(by_hand, rel=1e-6)


def test_a_slot_that_no_expert_computed_is_dropped() -> None:
    one = routing([[[0], [1], [1]]], [[False] * 3], [[1, 1, 1]])
    short = Routing(one.logits, one.probability, one.expert, one.ends - 1, one.valid, one.is_image)
    assert counts_of(short).dropped == 1


def test_the_entropy_of_an_expert_that_may_not_be_chosen_is_nothing() -> None:
    logits = torch.tensor([[[0.0, 0.0, float("-inf"), float("-inf")]]])
    one = routing([[[0]]], [[True]], [[1]])
    masked = Routing(logits, logits.softmax(-1), one.expert, one.ends, one.valid, one.is_image, 2)
    assert counts_of(masked).entropy == pytest.approx(math.log(2))


def test_counts_of_parts_add_up_to_those_of_the_whole() -> None:
    expert, image = [[[0], [1], [2]], [[3], [3], [0]]], [[True, False, False], [False, True, True]]
    whole = routing(expert, image, [[1, 1, 0], [1, 1, 1]])

    def rows(of: slice) -> Routing:
        ends = whole.expert[of].reshape(-1).bincount(minlength=4).cumsum(0)
        of_rows = (part[of] for part in (whole.logits, whole.probability, whole.expert))
        return Routing(*of_rows, ends, whole.valid[of], whole.is_image[of])

    (found,) = added([[counts_of(rows(slice(0, 1)))], [counts_of(rows(slice(1, 2)))]])
    expected = counts_of(whole)
    assert torch.equal(found.slots, expected.slots)
    assert (found.positions, found.dropped) == (expected.positions, expected.dropped)
    assert found.entropy == pytest.approx(expected.entropy, rel=1e-12)


def test_layers_are_added_layer_by_layer() -> None:
    first, second = counts([1, 0], [0, 2]), counts([0, 5], [7, 0])
    found = added([[first, second], [first, first]])
    assert [layer.slots.tolist() for layer in found] == [[[2, 0], [0, 4]], [[1, 5], [7, 2]]]


# ---------------------------------------------------------------------------------------------------------- the metrics


@pytest.mark.parametrize(
    ("text", "image", "expected"),
    [
        ([5, 0, 3], [0, 7, 0], 1.0),
        ([5, 2, 3], [5, 2, 3], 0.0),
        ([1, 0, 1], [3, 4, 1], ((1 - binary_entropy(0.75)) + 1.0 + 0.0) / 3),
        ([1, 0, 0], [3, 4, 0], ((1 - binary_entropy(0.75)) + 1.0) / 2),  # the last expert has no slots
        ([0, 0, 0], [0, 0, 0], None),
    ],
)
def test_specialisation_is_the_mean_of_one_less_the_binary_entropy(
    text: list[int], image: list[int], expected: float | None
) -> None:
    found = specialisation(torch.tensor([text, image]))
    assert found == (None if expected is None else pytest.approx(expected, abs=1e-12))


@pytest.mark.parametrize(
    ("slots", "expected"),
    [
        ([3, 3, 3, 3], 0.0),
        ([8, 0, 0, 0], 2 * 3 / 16),
        ([2, 1, 1, 0], (0.25 + 0.0 + 0.0 + 0.25) / 4),
        ([0, 0, 0, 0], None),
    ],
)
def test_imbalance_is_the_mean_distance_from_an_even_share(slots: list[int], expected: float | None) -> None:
    assert imbalance(torch.tensor(slots)) == (None if expected is None else pytest.approx(expected, abs=1e-12))


def test_image_shares() -> None:
    assert image_shares(torch.tensor([[1, 0, 4], [3, 0, 0]])) == [0.75, None, 0.0]


def test_the_numbers_of_a_layer() -> None:
    found = describe(Counts(torch.tensor([[4, 0, 2, 0], [0, 1, 1, 0]]), 8, 6.0, 0))
    p = (0.5, 0.125, 0.375)
    assert found["load"] == [0.5, 0.125, 0.375, 0.0]
    assert (found["load_max"], found["load_min"], found["unused"], found["dropped"]) == (0.5, 0.0, 1, 0)
    assert found["load_entropy"] == pytest.approx(-sum(q * math.log(q) for q in p))
    assert found["load_evenness"] == pytest.approx(found["load_entropy"] / math.log(4))
    assert found["router_entropy"] == pytest.approx(6.0 / 8)
    assert found["image_share"] == [0.0, 1.0, pytest.approx(1 / 3), None]
    assert found["of_text"] == pytest.approx([4 / 6, 0, 2 / 6, 0])
    assert found["of_image"] == [0, 0.5, 0.5, 0]
    assert found["specialisation"] == pytest.approx((1 + 1 + (1 - binary_entropy(1 / 3))) / 3)
    assert found["imbalance_text"] == pytest.approx((4 / 6 - 0.25 + 0.25 + 2 / 6 - 0.25 + 0.25) / 4)
    assert found["imbalance_image"] == pytest.approx(0.25)


def test_an_even_load_has_the_full_entropy() -> None:
    found = describe(counts([3, 3], [2, 2]))
    assert found["load_entropy"] == pytest.approx(math.log(2))
    assert found["load_evenness"] == pytest.approx(1.0)
    assert describe(counts([6, 0], [4, 0]))["load_evenness"] == 0.0


@pytest.mark.parametrize("slots", [[[0, 0], [0, 0]], [[3, 0], [0, 0]], [[0, 0], [0, 2]]])
def test_everything_is_json_whatever_is_missing(slots: list[list[int]]) -> None:
    whole = torch.tensor(slots)
    found = describe(Counts(whole, int(whole.sum()), 0.0, 0))
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    of_text: Tensor = whole[0].sum()
    assert (found["of_text"] is None) == (found["imbalance_text"] is None) == (of_text == 0)
