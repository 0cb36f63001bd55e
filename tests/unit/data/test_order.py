"""Order is a pure function, every epoch is a permutation, and the running hash proves what was delivered."""

from __future__ import annotations

import numpy as np
import pytest

from nmm.data.order import OrderHash, epoch_order, random_bits

SHARDS = (100, 1, 57, 300, 42)


@pytest.mark.parametrize("block", [1, 7, 64, 10_000])
@pytest.mark.parametrize("epoch", [0, 1, 9])
def test_every_epoch_is_a_permutation(block: int, epoch: int) -> None:
    order = epoch_order(SHARDS, 3, "caption", epoch, block)
    assert np.array_equal(np.sort(order), np.arange(500))
    assert np.array_equal(order, epoch_order(SHARDS, 3, "caption", epoch, block))


def test_seed_source_and_epoch_each_change_the_order() -> None:
    base = epoch_order(SHARDS, 0, "caption", 0)
    for other in (
        epoch_order(SHARDS, 1, "caption", 0),
        epoch_order(SHARDS, 0, "text", 0),
        epoch_order(SHARDS, 0, "caption", 1),
    ):
        assert (base == other).mean() < 0.05


def test_blocks_stay_within_neighbouring_shards() -> None:
    order = epoch_order([64] * 48, 0, "caption", 0, block=256)
    shards = order // 64
    assert all(len(set(shards[start : start + 256])) == 4 for start in range(0, 48 * 64, 256))
    assert (shards[:-1] == shards[1:]).mean() < 0.5


def test_positions_are_uniform() -> None:
    """Where sample 0 lands over many seeds is flat: chi-squared of 10 bins stays below its 0.999 quantile."""
    places = [int(np.argmin(epoch_order([40, 60], seed, "text", 0))) for seed in range(2000)]
    counts = np.bincount(np.array(places) // 10, minlength=10)
    assert ((counts - 200) ** 2 / 200).sum() < 27.9


def test_the_order_itself_is_part_of_the_contract() -> None:
    """Change this and every old run is of another order: then PACKING_VERSION must change too."""
    assert epoch_order([3, 4], 0, "caption", 0).tolist() == [4, 3, 6, 2, 1, 5, 0]
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
