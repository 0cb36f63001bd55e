"""Which bridges are possible: labels, blocks that learn, transforms of a start."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nmm.validation.tables import ConfigError

if TYPE_CHECKING:
    from nmm.config import RunConfig

FRESH = ("patch", "labels")
TRAIN = "all, none, first:K, last:K, or block numbers as 0+3"


def trained_blocks(train: str, depth: int) -> tuple[int, ...]:
    """Numbers of the blocks (0-based, of ``depth``) that ``stage.train`` lets learn. Raises ``ConfigError``."""
    if train in ("all", "none"):
        return tuple(range(depth)) if train == "all" else ()
    kind, _, number = train.partition(":")
    if kind in ("first", "last") and number.isdecimal():
        count = int(number)
        if not 1 <= count <= depth:
            raise ConfigError(f"stage.train={train!r}: the trunk has {depth} blocks, so K must lie in 1..{depth}")
        return tuple(range(count)) if kind == "first" else tuple(range(depth - count, depth))
    named = train.split("+")
    if not all(name.isdecimal() for name in named):
        raise ConfigError(f"stage.train={train!r} is not one of {TRAIN}")
    blocks = tuple(sorted({int(name) for name in named}))
    if blocks[-1] >= depth:
        raise ConfigError(f"stage.train={train!r}: the trunk has blocks 0..{depth - 1}")
    return blocks


def validate_bridge(config: RunConfig) -> None:
    """Refuse a bridge that cannot be, and a transform or fresh part of a start that has no meaning."""
    _validate_transform(config)
    if config.bridge is None:
        return
    stage, data, arch = config.stage, config.data, config.arch
    learning = config.trained_blocks
    wanted = {name for name, weight in data.mixture.items() if weight > 0}
    if data.sources or wanted != {"caption"}:
        raise ConfigError(
            f"stage=bridge with data.mixture={data.mixture}, data.sources={data.sources or 'none'}: it learns from "
            "pictures of captions in shards of the world, whose classes are known; leave data.mixture to stage=bridge"
        )
    if data.tiles > 1:
        raise ConfigError(f"stage=bridge with data.tiles={data.tiles}: a label needs a picture of one image; use 1")
    if stage.objective == "next_patch" and arch.image_attention != "causal":
        raise ConfigError(
            f"stage.objective=next_patch with arch.image_attention={arch.image_attention}: a patch would see the next "
            "one; set arch.image_attention=causal"
        )
    if stage.objective == "next_patch" and config.optim.z_loss_coef:
        raise ConfigError(
            f"stage.objective=next_patch with optim.z_loss_coef={config.optim.z_loss_coef}: use 0: pixels "
            "have no logits"
        )
    if arch.num_experts and arch.balancing == "bias" and len(learning) < config.size.depth:
        raise ConfigError(
            f"stage.train={stage.train} with arch.balancing=bias would move the biases of frozen blocks; use "
            "arch.balancing=loss or stage.train=all"
        )
    if stage.shift * 2 >= data.image_size:
        raise ConfigError(f"stage.shift={stage.shift} must be below half of data.image_size={data.image_size}")


def _validate_transform(config: RunConfig) -> None:
    start = config.start
    if start.kind == "scratch" and (start.transform != "none" or start.fresh):
        raise ConfigError(
            f"start.transform={start.transform}, start.fresh={list(start.fresh)} with start=scratch: from scratch all "
            "weights are fresh; leave both out"
        )
    unknown = [part for part in start.fresh if part not in FRESH]
    if unknown or len(set(start.fresh)) < len(start.fresh):
        raise ConfigError(f"start.fresh={list(start.fresh)}: each of {', '.join(FRESH)} at most once")
    if start.transform == "covariance" and (start.kind != "run" or config.arch.fusion != "early"):
        raise ConfigError(
            f"start.transform=covariance with start={start.kind} and arch.fusion={config.arch.fusion}: it draws the "
            "patch projection of an early model from a run's; use start=run with arch.fusion=early"
        )
