"""`nmm shards`."""

from __future__ import annotations

from pathlib import Path

from nmm.compose import compose_dict

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
