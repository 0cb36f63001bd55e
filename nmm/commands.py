"""`nmm shards`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nmm.compose import compose_dict
from nmm.config import ConfigError

SHARDS_HELP = """usage: nmm shards data=world|glyphs out=DIR [KEY=VALUE ...]

Render a data source into WebDataset tars. Run it again to go on where it was stopped.

  data=world     a procedural world of objects: every word has a known probability; tars with a manifest
  data=glyphs    characters in the fonts of matplotlib with their Unicode names; tars as downloaders write them, indexed

  train_tokens=2500000   image + text tokens of the training split, shared out by the mixture
  eval_samples=4000      world: documents of each source in the validation and in the test split
                         (glyphs: enough to fill data.eval_rows of data.val_fraction, which is held out by key)
  shard_samples=4096     documents a tar
  first_sample=0         world: number of the first training document, e.g. for two folders with none in common
  workers=2              processes
  sheet=true             also draw DIR/sheet.png, samples for the eye
  +data.world.seed=1     any field of nmm/data/world_config.py (glyphs: of GlyphConfig in nmm/data/glyphs.py)

examples: nmm shards data=world out=outputs/shards/world train_tokens=500000
          nmm shards data=glyphs out=outputs/shards/glyphs train_tokens=500000
          nmm train data=glyphs data.path=outputs/shards/glyphs arch=early size=d16 budget.tokens=100000
"""


def shards_main(argv: list[str]) -> int:
    """Render shards as composed from conf/shards.yaml."""
    if any(a in ("-h", "--help") for a in argv):
        print(SHARDS_HELP, end="")
        return 0
    values = compose_dict("shards", argv)
    match _chosen(argv):
        case "world":
            _render_world(values)
        case "glyphs":
            _render_glyphs(values)
        case other:
            raise ConfigError(f"data={other} is nothing that can be rendered; allowed: data=world, data=glyphs")
    return 0


def _chosen(argv: list[str]) -> str:
    """The option of group data: the last one given counts, as in Hydra."""
    return next((a.removeprefix("data=") for a in reversed(argv) if a.startswith("data=")), "world")


def _render_world(values: dict[str, Any]) -> None:
    from nmm.data.shards import samples_for_tokens, write_shards
    from nmm.data.sheet import picture_sheet
    from nmm.data.world import WorldConfig

    data = values["data"]
    world = WorldConfig.from_dict({"image_size": data["picture_size"] or data["image_size"], **data["world"]})
    train = samples_for_tokens(world, values["train_tokens"], data["mixture"], _image_tokens(data))
    held_out = {"val": values["eval_samples"], "test": values["eval_samples"]}
    samples = {source: {"train": count, **held_out} for source, count in train.items()}
    write_shards(
        world,
        values["out"],
        samples,
        values["shard_samples"],
        workers=values["workers"],
        first_sample=values["first_sample"],
    )
    sheet = Path(values["out"]) / "sheet.png"
    if values["sheet"] and not sheet.exists():
        picture_sheet(world, sheet)
        print(f"samples to look at: {sheet}")


def _render_glyphs(values: dict[str, Any]) -> None:
    from nmm.data.glyph_shards import glyphs_for_tokens, write_glyph_shards
    from nmm.data.glyph_sheet import glyph_sheet
    from nmm.data.glyphs import GlyphConfig
    from nmm.data.indexing import index_shards
    from nmm.data.tokenizer import open_tokenizer

    data, out = values["data"], Path(values["out"])
    glyphs = GlyphConfig.from_dict({"image_size": data["picture_size"] or data["image_size"], **data["world"]})
    tokenizer = open_tokenizer(data["tokenizer"])
    samples = glyphs_for_tokens(
        glyphs,
        data["mixture"],
        lambda text: len(tokenizer.encode(text)),
        _image_tokens(data),
        train=values["train_tokens"],
        held_out=data["eval_rows"] * data["context_length"],
        val_fraction=data["val_fraction"],
    )
    write_glyph_shards(glyphs, out, samples, values["shard_samples"], workers=values["workers"])
    into = Path(data["index_dir"]) if data["index_dir"] else None
    folders = [out / source for source, count in samples.items() if count]
    summary = index_shards(folders, data["tokenizer"], into, workers=values["workers"])
    if summary.refused:
        worst = summary.refused[0]
        raise ValueError(f"{len(summary.refused)} shards cannot be indexed, first {worst.path}: {worst.error}")
    print(f"indexed for tokenizer {data['tokenizer']}: nmm train data=glyphs data.path={out}")
    sheet = out / "sheet.png"
    if values["sheet"] and not sheet.exists():
        glyph_sheet(glyphs, sheet)
        print(f"samples to look at: {sheet}")


def _image_tokens(data: dict[str, Any]) -> int:
    """Positions of a picture, with its tiles and thumbnail."""
    from nmm.data.tiling import tile

    side = data["picture_size"] or data["image_size"]
    images = tile(side, side, data["image_size"], data["tiles"]).images
    return int(images * (data["image_size"] // data["patch_size"]) ** 2)
