"""Which data is possible: mixture, rendered shards, indexed sources."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from nmm.validation.tables import ConfigError

if TYPE_CHECKING:
    from nmm.config import RunConfig

MAX_SOURCES = 127  # a batch numbers them in a byte


def validate_data(config: RunConfig) -> None:
    """Refuse a mixture or a data source that cannot be. Raises ``ConfigError``."""
    data, mixture = config.data, config.data.mixture
    for name, allowed in (("val_fraction", "[0, 1)"), ("max_skipped", "[0, 1)"), ("flip", "[0, 1]")):
        value = getattr(data, name)
        if not (0 <= value < 1 or (value == 1 and allowed.endswith("]"))):
            raise ConfigError(f"data.{name}={value} must lie in {allowed}")
    if not 0 < data.crop_scale <= 1:
        raise ConfigError(f"data.crop_scale={data.crop_scale} must lie in (0, 1], 1 for centre crops")
    _validate_tiles(config)
    if data.sources:
        _validate_sources(config)
    elif data.weights != "tokens" or data.crop_scale < 1 or data.flip or data.cut_text or data.val_fraction:
        raise ConfigError(
            f"data.weights={data.weights}, data.crop_scale={data.crop_scale}, data.flip={data.flip}, "
            f"data.cut_text={data.cut_text}, data.val_fraction={data.val_fraction}: rendered shards are mixed by "
            "tokens, whole, seen as they are and have a split of their own; these are for indexed tars (data.sources)"
        )
    for name in ("image_share", "target_share"):
        value = getattr(config.data, name)
        if not 0 <= value <= 1:
            raise ConfigError(f"data.{name}={value} must lie in [0, 1], a share of the positions")
    if not mixture or any(w < 0 for w in mixture.values()) or not sum(mixture.values()) > 0:
        raise ConfigError(f"data.mixture={mixture} needs non-negative weights with a positive sum")


def _validate_tiles(config: RunConfig) -> None:
    """Refuse tiles that no picture would be cut into, that do not fit a row, or of pictures cropped at random."""
    data = config.data
    if data.sources and data.picture_size:
        raise ConfigError(f"data.picture_size={data.picture_size} is for rendered shards; pictures of data.sources may "
                          "have any size, leave it at 0")  # fmt: skip
    if data.picture_size and data.picture_size == data.image_size:
        raise ConfigError(f"data.picture_size={data.picture_size} is data.image_size; leave it at 0, which means that")
    if data.tiles == 1:
        return
    images = data.tiles + 1
    if not data.sources:
        side, picture = data.image_size, data.picture_size or data.image_size
        a_side = range(1, math.isqrt(data.tiles) + 1)
        images = 1 + min(a_side, key=lambda number: abs((number * side) ** 2 - picture**2)) ** 2
        if images == 2:
            raise ConfigError(
                f"data.tiles={data.tiles} with data.image_size={side}: rendered pictures are squares of {picture} "
                f"pixels and would be one tile; set data.picture_size to {2 * side} or more, which the shards must "
                "have, and tiles to 4 or more"
            )
    if images * config.tokens_per_image >= data.context_length:
        raise ConfigError(
            f"data.tiles={data.tiles}: a picture can be {images} images of {config.tokens_per_image} positions, and "
            f"data.context_length={data.context_length} leaves no room for text; raise it, or take fewer tiles"
        )
    if data.crop_scale < 1:
        raise ConfigError(
            f"data.crop_scale={data.crop_scale} with data.tiles={data.tiles}: how many tiles a random crop has is not "
            "known before it is drawn; set crop_scale=1 (data.flip works with tiles)"
        )


def _validate_sources(config: RunConfig) -> None:
    data = config.data
    reserved = sorted({"avg", "mixture", "all"} & data.sources.keys())
    if reserved:
        raise ConfigError(f"data.sources.{reserved[0]}: records call means by that name; call the source otherwise")
    if len(data.sources) > MAX_SOURCES:
        raise ConfigError(f"data.sources has {len(data.sources)} names, at most {MAX_SOURCES} are possible; join some")
    if not data.tokenizer:
        raise ConfigError("data.tokenizer is empty; data.sources need one: bytes, or a tokenizer.json")
    if not data.val_fraction > 0:
        raise ConfigError(
            f"data.val_fraction={data.val_fraction} holds nothing out of data.sources; runs are judged on held-out "
            "samples, 0.01 is usual"
        )
    absent = [name for name, weight in data.mixture.items() if weight > 0 and name not in data.sources]
    if absent:
        raise ConfigError(
            f"data.mixture draws from {', '.join(absent)}, but data.sources names {', '.join(sorted(data.sources))}; "
            f"add +data.sources.{absent[0]}=FOLDER or set data.mixture.{absent[0]}=0"
        )
    if config.start.kind == "hf" and config.start.embeddings == "load":
        raise ConfigError(
            "start=hf with data.sources: tokens of an indexed source have other ids than in the start's own vocabulary "
            "(three special words come first); set start.embeddings=fresh"
        )
    if config.stage.name in ("sft", "rft"):
        raise ConfigError(
            f"stage.name={config.stage.name} needs the questions of a rendered world (data=world); data.sources have "
            "none"
        )
