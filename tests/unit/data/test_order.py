"""Order is a pure function, every epoch is a permutation, and the running hash proves what was delivered."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from nmm.data.order import BLOCK_SAMPLES, EpochOrder, OrderHash, random_bits

SHARDS = (100, 1, 57, 300, 42)


def whole(units: Sequence[int], seed: int, source: str, epoch: int, block: int = BLOCK_SAMPLES) -> np.ndarray:
    order = EpochOrder(units, seed, source, epoch, block)
    return np.concatenate([order.block(number) for number in range(len(order.ends))])


@pytest.mark.parametrize("block", [1, 7, 64, 10_000])
@pytest.mark.parametrize("epoch", [0, 1, 9])
@pytest.mark.parametrize("units", [SHARDS, (0, *SHARDS, 0), (0, 0, 500)])
def test_every_epoch_is_a_permutation(units: tuple[int, ...], block: int, epoch: int) -> None:
    order = whole(units, 3, "caption", epoch, block)
    assert np.array_equal(np.sort(order), np.arange(500))
    assert np.array_equal(order, whole(units, 3, "caption", epoch, block))


def test_seed_source_and_epoch_each_change_the_order() -> None:
    base = whole(SHARDS, 0, "caption", 0)
    for other in (whole(SHARDS, 1, "caption", 0), whole(SHARDS, 0, "text", 0), whole(SHARDS, 0, "caption", 1)):
        assert (base == other).mean() < 0.05


def test_blocks_are_whole_units_of_at_least_so_many_samples() -> None:
    order = EpochOrder([64] * 48 + [10], 0, "caption", 0, block=200)
    for number, end in enumerate(order.ends.tolist()):
        block = order.block(number)
        assert len(block) == end - order.start(number) >= 200
        assert all(((block // 64) == unit).sum() in (64, 10) for unit in set((block // 64).tolist()))
        assert (block[:-1] // 64 == block[1:] // 64).mean() < 0.5


def test_a_block_is_made_alone() -> None:
    """Asking for the last block first changes nothing, and no more than its own samples are ever held."""
    asked = EpochOrder([100] * 90, 0, "text", 4, block=500)
    last = asked.block(len(asked.ends) - 1)
    assert np.array_equal(last, whole([100] * 90, 0, "text", 4, block=500)[-500:])


def test_unshuffled_is_the_numbering() -> None:
    order = EpochOrder(SHARDS, 0, "text", 0, block=90, shuffled=False)
    assert np.array_equal(np.concatenate([order.block(n) for n in range(len(order.ends))]), np.arange(500))


def test_positions_are_uniform() -> None:
    """Where sample 0 lands over many seeds is flat: chi-squared of 10 bins stays below its 0.999 quantile."""
    places = [int(np.argmin(whole([40, 60], seed, "text", 0))) for seed in range(2000)]
    counts = np.bincount(np.array(places) // 10, minlength=10)
    assert ((counts - 200) ** 2 / 200).sum() < 27.9


def test_the_order_itself_is_part_of_the_contract() -> None:
    """Change this and every old run is of another order: then ORDER_VERSION must change too."""
    assert whole([3, 4], 0, "caption", 0).tolist() == [4, 3, 6, 2, 1, 5, 0]
    assert whole([3, 4, 2], 0, "caption", 0, block=3).tolist() == [8, 7, 4, 6, 3, 5, 1, 2, 0]
    assert random_bits(2, 0, "rows", "0").tolist() == [11329202513175542391, 12153429188683063165]


def test_hash_does_not_depend_on_batches() -> None:
    rows = np.random.default_rng(0).integers(-(2**63), 2**63 - 1, 30)
    whole = OrderHash()
    whole.update(rows)
    for size in (1, 4, 7):
        parts = OrderHash()
        for start in range(0, 30, size):
            parts.update(rows[start : start + size].tolist())
        assert parts.hexdigest() == whole.hexdigest()


def test_hash_goes_on_from_its_state() -> None:
    rows = np.arange(20)
    whole, first = OrderHash(), OrderHash()
    whole.update(rows)
    first.update(rows[:9])
    second = OrderHash(first.hexdigest())
    second.update(rows[9:])
    assert second.hexdigest() == whole.hexdigest()
    with pytest.raises(ValueError, match="32 hex digits"):
        OrderHash("abc")


def test_hash_sees_order_loss_and_repeats() -> None:
    digests = set()
    for rows in ([1, 2, 3], [2, 1, 3], [1, 2], [1, 2, 3, 3], []):
        chain = OrderHash()
        chain.update(rows)
        digests.add(chain.hexdigest())
    assert len(digests) == 5
