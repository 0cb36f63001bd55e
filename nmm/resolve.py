"""What only the shards know goes into the config: fingerprint, vocabulary; budget and warmup become steps. No torch."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

from nmm.config import ConfigError, Data, RunConfig, validate
from nmm.flops import resolve_budget
from nmm.origin import adopt, cached_sha256
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
    config = resolve_budget(count_encoder(validate(config)))
    return validate(resolve_warmup(config))  # lineage can be checked only against whole steps


def _with_shards(config: RunConfig) -> Data:
    """The data config with what a rendered folder knows."""
    shards = read_shards(config.data.path)
    _check_shards(config, shards)
    return dataclasses.replace(
        config.data,
        path=os.path.abspath(config.data.path),
        fingerprint=shards["fingerprint"],
        vocab_size=int(shards["vocab_size"]),
    )


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
        image, target = mixture_shares(opened, data)
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
    for name, tokens in held_out_tokens(open_indexed(data), data).items():
        if 2 * tokens < needed:
            raise ConfigError(
                f"data.sources.{name} holds out {tokens:,} tokens, data.eval_rows={data.eval_rows} rows of "
                f"{data.context_length} have {needed:,} positions: ask for fewer rows or raise data.val_fraction"
            )


def count_encoder(config: RunConfig) -> RunConfig:
    """Parameters and FLOPs of ``arch.vision_model`` into ``arch.vision_facts``: a timm model has no formula, so it is
    built on the meta device, which takes torch. Without one nothing is imported or changed.
    """
    if not config.arch.vision_model or config.arch.vision_facts:
        return config
    from nmm.model.encoder_facts import encoder_facts

    return dataclasses.replace(config, arch=dataclasses.replace(config.arch, vision_facts=encoder_facts(config)))


def _with_vision_digest(config: RunConfig) -> RunConfig:
    """The path of pretrained encoder weights made absolute, and the digest of the file, so that the run id knows it."""
    arch = config.arch
    if not arch.vision_weights:
        if arch.vision_digest:
            raise ConfigError(f"arch.vision_digest={arch.vision_digest} is read from arch.vision_weights; leave it out")
        return config
    path = Path(os.path.abspath(arch.vision_weights))
    if not path.is_file():
        raise ConfigError(f"arch.vision_weights={arch.vision_weights} is not a file on this machine")
    digest = cached_sha256(path)
    if arch.vision_digest not in ("", digest):
        raise ConfigError(
            f"arch.vision_weights={arch.vision_weights} now holds {digest[:12]}, but this config was made for "
            f"{arch.vision_digest[:12]}; give the old file or plan again"
        )
    return dataclasses.replace(config, arch=dataclasses.replace(arch, vision_weights=str(path), vision_digest=digest))


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
    for name in ("image_size", "channels"):
        if name in shards and shards[name] != getattr(data, name):
            raise ConfigError(f"data.{name}={getattr(data, name)}, but the shards in {data.path} have {shards[name]}")
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
