"""`nmm recaption`: a captioning run tells the pictures of a shard folder anew."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from nmm.config import ConfigError, RunConfig
from nmm.data.derived import SPLIT, Sample, samples_of
from nmm.data.manifest import Shards, open_shards
from nmm.interventions.caption_text import TELLER, count_truth
from nmm.interventions.options import read_options
from nmm.interventions.recaption import Recaption, Retelling, recaption
from nmm.origin import run_digest, run_settings
from nmm.record import read_record, write_json

SOURCE = "caption"
EXAMPLES = 8
COUNTED = 4096  # samples whose truth is counted before and after

RECAPTION_HELP = """usage: nmm recaption data=SHARDS model=RUN out=DIR [KEY=VALUE ...]

Tell the training pictures of the source caption anew with a captioning run of ours. DIR is a shard folder like any
other (nmm train data.path=DIR); DIR/recaption.json says what it cost, and how true the captions were and are.

  merge=replace           the run's words alone
  merge=fuse              the run's words of what is seen, the old caption's facts (from PLACE, likes FOOD) of the names
                          that the run tells (CapFusion, as arXiv 2409.04828 uses it)
  temperature=0           0 takes the likeliest word
  max_words=64            a caption that has not ended by then, or is none, is not used: the old one stays; counted
  accelerator=gpu         where the run computes; batch_rows=64 pictures at a time

New captions are kept in SHARDS/.told, chunk by chunk: a stopped pass goes on. Any other function of (texts, pictures)
can do the telling: nmm.interventions.recaption.recaption, from a script of your own.

example: nmm recaption data=outputs/shards/pool model=outputs/runs/RUN_ID merge=fuse out=outputs/shards/retold
"""


def recaption_main(argv: list[str]) -> int:
    """Recaption as composed from conf/recaption.yaml."""
    if any(a in ("-h", "--help") for a in argv):
        print(RECAPTION_HELP, end="")
        return 0
    options = read_options(Recaption, "recaption", argv, {"data": "shards"}, ("model",))
    shards = _open(options)
    run = Path(options.model)
    config = _config(options, shards)
    decides = {name: getattr(options, name) for name in ("merge", "max_words", "temperature", "top_p", "seed")}
    if not options.temperature:
        decides = {name: value for name, value in decides.items() if name not in ("top_p", "seed")}
    made_by = {"model": run_digest(run, "model"), "teller": TELLER, **decides}
    from nmm.interventions.captioner import Captioner, load  # torch only once all else is known to be right

    model = load(run, options.accelerator, options.threads)
    how = (options.merge, options.max_words, options.temperature, options.top_p, options.seed, options.batch_rows)
    teller = Captioner(model, shards.tokenizer, *how)
    made = recaption(
        shards, options.out, teller, made_by, SOURCE, options.told or None, lambda: teller.flops,
        ["recaption", *argv], options.progress,
    )  # fmt: skip
    report = _report(options, shards, made, config)
    write_json(Path(options.out) / "recaption.json", report)
    print(_last_line(options, made, report))
    return 0


def _open(options: Recaption) -> Shards:
    path = Path(options.shards)
    if not (path / "manifest.json").is_file():
        raise ConfigError(
            f"data={path} holds no manifest.json: `nmm recaption` reads folders that `nmm shards` rendered"
        )
    shards = open_shards(path)
    shards.split(SOURCE, SPLIT)
    return shards


def _config(options: Recaption, shards: Shards) -> RunConfig:
    """The captioner's settings. Raises ``ConfigError`` if it sees other pictures or speaks another vocabulary."""
    if not (Path(options.model) / "config.json").is_file():
        raise ConfigError(
            f"model={options.model} holds no config.json; give a run directory or what `nmm export` wrote"
        )
    config = run_settings(Path(options.model))
    data = config.data
    side = data.picture_size or data.image_size
    if data.sources or side != shards.image_size:
        seen = "indexed sources" if data.sources else f"pictures of {side} pixels"
        raise ConfigError(f"model={options.model} was trained on {seen}, {shards.root} has {shards.image_size}")
    if data.fingerprint != shards.fingerprint:
        where = Path(options.model_shards or data.path)
        if not (where / "manifest.json").is_file():
            raise ConfigError(
                f"the shards that model={options.model} was trained on are not at {where} any more, so nobody knows "
                "its vocabulary; say where they are with model_shards=DIR"
            )
        theirs = open_shards(where)
        if theirs.fingerprint != data.fingerprint or theirs.tokenizer.fingerprint != shards.tokenizer.fingerprint:
            raise ConfigError(
                f"model={options.model} has another vocabulary than {shards.root}, or {where} holds other shards than "
                "it was trained on: render both with the same +data.world options, they decide the words"
            )
    return config


def _report(options: Recaption, shards: Shards, made: Retelling, config: RunConfig) -> dict[str, Any]:
    """What recaption.json holds: cost, how true a part of the captions were and are, and examples."""
    record = read_record(Path(options.model))
    new = open_shards(options.out)
    return {
        "asked": {name: getattr(options, name) for name in ("merge", "max_words", "temperature", "top_p", "seed")},
        "captioner": {"arch": config.arch.name, "size": config.size.name,
                      "training_flops": float(record["flops"]["total"]) if record else None},
        "samples": made.samples,
        "kept": made.kept,
        "flops": made.flops,
        "truth": {"before": _truth(shards), "after": _truth(new)},
        "examples": [
            {"before": old.text, "after": now.text}
            for old, now in islice(zip(_samples(shards), _samples(new), strict=True), EXAMPLES)
        ],
    }  # fmt: skip


def _samples(shards: Shards) -> Iterator[Sample]:
    return (sample for info in shards.split(SOURCE, SPLIT).shards for sample in samples_of(shards, info))


def _truth(shards: Shards) -> dict[str, float] | None:
    """Share of words for colour, shape, size and name that are true, and facts a caption, of the first COUNTED samples;
    None for shards whose scenes nobody knows.
    """
    told = right = facts = samples = 0
    for sample in islice(_samples(shards), COUNTED):
        scene = sample.facts.get("scene", {}).get("images")
        if not scene:
            return None
        counts = count_truth(sample.text, scene[0])
        told, right, facts, samples = told + counts[0], right + counts[1], facts + counts[2], samples + 1
    return {"true": right / told if told else 0.0, "facts": facts / samples, "samples": samples}


def _last_line(options: Recaption, made: Retelling, report: dict[str, Any]) -> str:
    before, after = report["truth"]["before"], report["truth"]["after"]
    truth = f", words true {before['true']:.1%} -> {after['true']:.1%}" if before and after else ""
    rate = f" ({made.told_now:,} told now, {made.told_now / made.seconds:,.0f} a second)" if made.told_now else ""
    kept = f", {made.kept:,} stayed as they were" if made.kept else ""
    return f"told {made.samples:,} {SOURCE} samples anew{rate}{kept}{truth}, {made.flops:.3g} FLOPs: {options.out}"
