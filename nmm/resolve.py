"""What only the shards know goes into the config: fingerprint, vocabulary; budget and warmup become steps. No torch."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

from nmm.config import ConfigError, Data, RunConfig, validate
from nmm.flops import resolve_budget
from nmm.groups import Stage
from nmm.origin import adopt, cached_sha256
from nmm.params import encoder_configs
from nmm.record import read_json
from nmm.validation import validate_data


def read_shards(path: str | Path) -> dict[str, Any]:
    """The manifest of a finished shard folder. Raises ``ConfigError`` when there is none."""
    if not str(path):
        raise ConfigError("data.path is empty; give the shard folder, e.g. data.path=outputs/shards")
    file = Path(path) / "manifest.json"
    if not file.exists():
        raise ConfigError(
            f"data.path={path} holds no manifest.json, so there are no finished shards; "
            f"run `nmm shards data=world out={path}` first"
        )
    manifest = read_json(file)
    missing = [key for key in ("fingerprint", "vocab_size") if key not in manifest]
    if missing:
        raise ConfigError(f"{file} lacks {', '.join(missing)}; it is not a manifest written by `nmm shards`")
    return manifest


def finalize(config: RunConfig) -> RunConfig:
    """Make paths absolute, copy what the shards know, validate, and resolve budget and warmup rule to steps.

    Idempotent. Raises ``ConfigError`` when the shards are missing, changed, or do not fit the config.
    """
    config = _with_vision_digest(adopt(config))
    data = with_indexes(config) if config.data.sources else _with_shards(config)
    config = dataclasses.replace(config, data=data, out=os.path.abspath(config.out))
    if config.bridge is not None and not data.sources:
        config = dataclasses.replace(config, stage=with_classes(config.bridge, read_shards(data.path)))
    config = resolve_budget(count_encoder(validate(config)))
    return validate(resolve_warmup(config))  # lineage can be checked only against whole steps


def _with_shards(config: RunConfig) -> Data:
    """The data config with what a rendered folder knows."""
    shards = read_shards(config.data.path)
    _check_shards(config, shards)
    data = dataclasses.replace(
        config.data,
        path=os.path.abspath(config.data.path),
        fingerprint=shards["fingerprint"],
        vocab_size=int(shards["vocab_size"]),
    )
    if config.arch.pixel_shuffle == 1 and not data.picture_size:
        return data
    image, target = rendered_shares(config, shards)
    return dataclasses.replace(data, image_share=image, target_share=target)


def rendered_shares(config: RunConfig, shards: dict[str, Any]) -> tuple[float, float]:
    """Shares of image and target positions in the mixture, from the counts of a rendered folder's manifest.

    A picture has other positions than ``data.image_share`` was measured with once it is cut or shuffled. As with
    indexes, padding is left out, and so is that long documents are cut.
    """
    from nmm.data.tiling import tile

    data = config.data
    side = data.picture_size or data.image_size
    per_picture = config.tokens_per_image * tile(side, side, data.image_size, data.tiles).images
    image = target = 0.0
    for name, weight in data.mixture.items():
        if weight > 0:
            split = shards["sources"][name]["train"]
            patches = split["images"] * per_picture
            learned = split["text_tokens"] - (0 if split["images"] else split["samples"])  # no first token is learned
            image += weight * patches / (patches + split["text_tokens"])
            target += weight * learned / (patches + split["text_tokens"])
    total = sum(data.mixture.values())
    return image / total, target / total


def with_classes(stage: Stage, shards: dict[str, Any]) -> Stage:
    """The stage with the number of classes of a rendered world. Raises ``ConfigError`` for other shards."""
    from nmm.data.labels import num_classes

    if shards.get("kind") != "world":
        raise ConfigError(
            f"stage=bridge with shards of kind {shards.get('kind')!r}: only the world's classes are known"
        )
    return dataclasses.replace(stage, num_classes=num_classes(shards["world"], stage.classes))


def with_indexes(config: RunConfig) -> Data:
    """The data config with what the indexes of ``data.sources`` know: fingerprint, vocabulary, and the shares of image
    and target positions in this mixture, of which an empty one means all sources alike. Paths of files become absolute.
    Raises ``ConfigError``.
    """
    from nmm.data.indexed import open_indexed  # numpy, image and tokenizer libraries: only if needed
    from nmm.data.shares import mixture_shares

    data = config.data
    if not data.mixture:
        data = dataclasses.replace(data, mixture={name: 1 / len(data.sources) for name in sorted(data.sources)})
    validate_data(dataclasses.replace(config, data=data))
    data = dataclasses.replace(
        data,
        path=_absolute(data.path),
        tokenizer=data.tokenizer if data.tokenizer == "bytes" else _absolute(data.tokenizer),
        index_dir=_absolute(data.index_dir) if data.index_dir else "",
    )
    try:
        opened = open_indexed(data)
        image, target = mixture_shares(opened, dataclasses.replace(data, patch_size=config.position_size))
    except (ValueError, FileNotFoundError) as error:
        raise ConfigError(str(error)) from error
    _check_same(data, opened.fingerprint)
    return dataclasses.replace(
        data,
        fingerprint=opened.fingerprint,
        vocab_size=opened.vocab_size,
        image_share=image,
        target_share=target,
    )


def _absolute(path: str) -> str:
    return os.path.abspath(os.path.expanduser(path))


def check_held_out(config: RunConfig) -> None:
    """Refuse a run whose indexed sources surely hold out too few tokens for ``data.eval_rows``, before it is begun.

    Rows are more than half full, so half as many tokens as they have positions may just do; what lies between is
    found when the rows are packed. Raises ``ConfigError``.
    """
    data = config.data
    if not data.sources:
        return
    from nmm.data.indexed import open_indexed
    from nmm.data.shares import held_out_tokens

    needed = data.eval_rows * data.context_length
    for name, tokens in held_out_tokens(open_indexed(data), config.row_data).items():
        if 2 * tokens < needed:
            raise ConfigError(
                f"data.sources.{name} holds out {tokens:,} tokens, data.eval_rows={data.eval_rows} rows of "
                f"{data.context_length} have {needed:,} positions: ask for fewer rows or raise data.val_fraction"
            )


def count_encoder(config: RunConfig) -> RunConfig:
    """Parameters and FLOPs of timm encoders into ``arch.vision_facts`` and ``vision_facts2``: a timm model has no
    formula, so it is built on the meta device, which takes torch. Without one nothing is imported or changed.
    """
    counted: dict[str, Any] = {}
    for field, own in zip(("vision_facts", "vision_facts2"), encoder_configs(config), strict=False):
        if own.arch.vision_model and not own.arch.vision_facts:
            from nmm.model.encoder_facts import encoder_facts

            try:
                counted[field] = encoder_facts(own)
            except ConfigError as error:
                which = "second encoder (arch.vision_model2, vision_patch2): " if field == "vision_facts2" else ""
                raise ConfigError(f"{which}{error}") from error
    return dataclasses.replace(config, arch=dataclasses.replace(config.arch, **counted)) if counted else config


def _with_vision_digest(config: RunConfig) -> RunConfig:
    """Paths of pretrained encoder weights made absolute, and digests of the files, so that the run id knows them."""
    known: dict[str, Any] = {}
    for number in ("", "2"):
        weights, digest = (getattr(config.arch, f"vision_{name}{number}") for name in ("weights", "digest"))
        if weights:
            path = Path(os.path.abspath(weights))
            found = _weights_digest(path, weights, digest, number)
            known |= {f"vision_weights{number}": str(path), f"vision_digest{number}": found}
        elif digest:
            raise ConfigError(
                f"arch.vision_digest{number}={digest} is read from arch.vision_weights{number}; leave it out"
            )
    return dataclasses.replace(config, arch=dataclasses.replace(config.arch, **known)) if known else config


def _weights_digest(path: Path, given: str, expected: str, number: str) -> str:
    if not path.is_file():
        raise ConfigError(f"arch.vision_weights{number}={given} is not a file on this machine")
    digest = cached_sha256(path)
    if expected not in ("", digest):
        raise ConfigError(
            f"arch.vision_weights{number}={given} now holds {digest[:12]}, but this config was made for "
            f"{expected[:12]}; give the old file or plan again"
        )
    return digest


def resolve_warmup(config: RunConfig) -> RunConfig:
    """Replace the warmup rule by its number of steps, so that it is never applied a second time to another length.

    Raises ``ConfigError`` for a trunk or branch whose rule is open: they must share one warmup, which `sweeps.grid`
    takes from the longest branch.
    """
    if config.schedule.warmup_rule == "fixed":
        return config
    if config.role != "run":
        raise ConfigError(
            f"schedule.warmup_rule={config.schedule.warmup_rule} with role={config.role}: a trunk and its branches need"
            " one warmup; set schedule.warmup_rule=fixed and schedule.warmup_steps"
        )
    schedule = dataclasses.replace(config.schedule, warmup_rule="fixed", warmup_steps=paper_warmup(config))
    return dataclasses.replace(config, schedule=schedule)


def paper_warmup(config: RunConfig) -> int:
    """Updates of warmup by the total length of the run (arXiv 2504.07951, appendix A).

    1,000 for runs of 1,000 to 4,000 steps, 2,500 for 5,000 to 15,000, 5,000 for longer ones; with experts 2,500 for all
    below 20,000. What is not said there is decided here: from 4,000 to 5,000 steps as below; under 1,000 steps a
    quarter of the run; the warmup ends where the cooldown begins; and it is never above ``schedule.warmup_steps``.
    """
    total, has_experts = config.total_steps, config.arch.num_experts > 0
    if total < 1_000:
        steps = total // 4
    elif has_experts and total < 20_000:
        steps = 2_500
    else:
        steps = 1_000 if total < 5_000 else 2_500 if total <= 15_000 else 5_000
    return min(steps, config.schedule.warmup_steps, config.branch_step)


def _check_shards(config: RunConfig, shards: dict[str, Any]) -> None:
    data = config.data
    _check_same(data, shards["fingerprint"])
    side = "picture_size" if data.picture_size else "image_size"
    for name, ours in (("image_size", side), ("channels", "channels")):
        if name in shards and shards[name] != getattr(data, ours):
            hint = "; data.picture_size says that pictures are larger than what the model sees" if ours == name else ""
            raise ConfigError(
                f"data.{ours}={getattr(data, ours)}, but the shards in {data.path} have {shards[name]}{hint}"
            )
    have = sorted(shards.get("sources", data.mixture))
    absent = [name for name, weight in data.mixture.items() if weight > 0 and name not in have]
    if absent:
        raise ConfigError(f"data.mixture draws from {', '.join(absent)}, but {data.path} holds {', '.join(have)}")


def _check_same(data: Data, fingerprint: str) -> None:
    if data.fingerprint and data.fingerprint != fingerprint:
        where = f"data.sources={data.sources}" if data.sources else f"data.path={data.path}"
        raise ConfigError(
            f"{where} now holds shards {fingerprint[:12]}, but this config was made for {data.fingerprint[:12]}; point "
            "it at the old shards or plan again"
        )
