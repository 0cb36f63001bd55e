"""`nmm shards` and `nmm describe`."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from nmm.compose import compose_dict
from nmm.config import ConfigError, from_dict, validate
from nmm.flops import count_params, ffn_hidden, forward_flops, resolve_budget, training_flops

SHARDS_HELP = """usage: nmm shards data=world out=DIR [KEY=VALUE ...]

Render a data source into WebDataset tars with a manifest. Run it again to go on where it was stopped.

  train_tokens=2500000   image + text tokens of the training split, shared out by the mixture
  eval_samples=4000      documents of each source in the validation and in the test split
  shard_samples=4096     documents a tar
  workers=2              processes
  sheet=true             also draw DIR/sheet.png, samples for the eye
  +data.world.seed=1     any field of nmm/data/world_config.py

example: nmm shards data=world out=outputs/shards/world train_tokens=500000
"""

DESCRIBE_HELP = """usage: nmm describe [arch=...] [size=...] [budget.tokens=...] [--json]

Parameters by group and FLOPs by component of a config, from formulas: nothing is allocated or trained.

example: nmm describe arch=late size=d64 budget.tokens=2000000
"""


def shards_main(argv: list[str]) -> int:
    """Render shards as composed from conf/shards.yaml."""
    if any(a in ("-h", "--help") for a in argv):
        print(SHARDS_HELP, end="")
        return 0
    values = compose_dict("shards", argv)
    data = values["data"]
    from nmm.data.shards import samples_for_tokens, write_shards
    from nmm.data.sheet import picture_sheet
    from nmm.data.world import WorldConfig

    world = WorldConfig.from_dict({"image_size": data["image_size"], **data["world"]})
    image_tokens = (data["image_size"] // data["patch_size"]) ** 2
    train = samples_for_tokens(world, values["train_tokens"], data["mixture"], image_tokens)
    held_out = {"val": values["eval_samples"], "test": values["eval_samples"]}
    samples = {source: {"train": count, **held_out} for source, count in train.items()}
    write_shards(world, values["out"], samples, values["shard_samples"], workers=values["workers"])
    sheet = Path(values["out"]) / "sheet.png"
    if values["sheet"] and not sheet.exists():
        picture_sheet(world, sheet)
        print(f"samples to look at: {sheet}")
    return 0


def describe_main(argv: list[str]) -> int:
    """Print what a config is worth in parameters and FLOPs."""
    if any(a in ("-h", "--help") for a in argv):
        print(DESCRIBE_HELP, end="")
        return 0
    overrides = [a for a in argv if a != "--json"]
    facts = describe(compose_dict("config", overrides))
    if "--json" in argv:
        print(json.dumps(facts, indent=1))
        return 0
    from rich.console import Console
    from rich.table import Table

    console = Console()
    for title, rows in facts.items():
        table = Table(title=title, show_header=False, title_justify="left")
        for key, value in rows.items():
            table.add_row(
                key, f"{value:,.4g}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else value
            )
        console.print(table)
    return 0


def describe(values: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Facts of a composed config; without shards the vocabulary counts as the world's default."""
    if not any((values.get("budget") or {}).values()):
        values["budget"] = {"tokens": 1_000_000}
    config = from_dict(values)
    if not config.data.vocab_size:
        config = dataclasses.replace(
            config, data=dataclasses.replace(config.data, vocab_size=_vocab_size(config.data.path))
        )
    config = resolve_budget(validate(config))
    params = count_params(config)
    names = ("total", "non_embedding", "active", "active_non_embedding", "decoder_non_embedding")
    tokens = config.total_steps * config.tokens_per_step
    return {
        "run": {
            "arch": config.arch.name,
            "size": config.size.name,
            "ffn_hidden": ffn_hidden(config),
            "tokens_per_image": config.tokens_per_image,
            "tokens_per_step": config.tokens_per_step,
            "steps": config.total_steps,
            "learning_rate": config.learning_rate,
        },
        "parameters": {**dataclasses.asdict(params), **{name: getattr(params, name) for name in names}},
        "forward FLOPs per position": {
            **dataclasses.asdict(forward_flops(config)),
            "total": forward_flops(config).total,
        },
        f"training FLOPs of {tokens:,} positions": training_flops(config, tokens),
    }


def _vocab_size(path: str) -> int:
    manifest = Path(path) / "manifest.json"
    if manifest.exists():
        return int(json.loads(manifest.read_text())["vocab_size"])
    from nmm.data.world import World, WorldConfig

    if not path:
        raise ConfigError("data.path is empty; name a shard folder or set data.vocab_size")
    return len(World(WorldConfig()).vocabulary())
