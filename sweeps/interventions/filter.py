"""The study of perplexity filtering: a noisy pool of captions, a reference trained on others, what is kept, what it is
worth, and what it loses.

Three pools: in the main one all entities are about as common; in "rare" most of them are rare; in "dull" a fifth of the
captions are one fixed text, and a tenth of the samples are copies of a few. Reference and scores are made for each
pool; all losses are of the pool's clean validation captions, on the words that the picture shows.

    OUT/shards/POOL  OUT/shards/POOL-apart  OUT/shards/POOL-text  OUT/POOL-reference  OUT/kept/ARM  OUT/SWEEP
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from nmm.config import ConfigError
from nmm.record import read_json
from sweeps.interventions.building import recipe, records, row_of, sweep_steps
from sweeps.interventions.protocol import Arm, Metric, Step, Study

CLAIM = (
    "POINTS (arXiv 2409.04828, table 2): the fifth of the caption pairs that a vision-language model finds least "
    "perplexing trains a better model than all of them (1M of 5M: 59.6 against 59.0; 60.1 with another scorer). There "
    "is no random fifth, no other band, no seeds and no cost of scoring in the paper."
)
WORLD = (
    "data=world", "sheet=false", "workers=1", "~data.mixture.interleaved", "~data.mixture.text",
    "+data.world.num_colours=8", "+data.world.serial=0.6", "+data.world.wrong=0.3", "+data.world.question_chain=[]",
    "+data.world.object_counts=[0.7,0.3,0,0]", "+data.world.tails=[0.5,0,0.5]", "+data.world.full_clause=1",
    "+data.world.count_phrase=0",
)  # fmt: skip
POOLS = {
    "even": ("+data.world.num_entities=48", "+data.world.name_words=8", "+data.world.zipf_exponent=0.5",
             "+data.world.tail_rank=32"),
    "rare": ("+data.world.num_entities=200", "+data.world.name_words=20", "+data.world.tail_rank=40"),
    "dull": ("+data.world.num_entities=48", "+data.world.name_words=8", "+data.world.zipf_exponent=0.5",
             "+data.world.tail_rank=32", "+data.world.boilerplate=0.2", "+data.world.boilerplate_texts=1",
             "+data.world.repeated=0.1"),
}  # fmt: skip
SHARES = ("clean", "serial", "wrong", "boilerplate", "repeated")
APART = 1_000_000_000  # number of the first training document of a reference
SEED = 100  # of references


@dataclass(frozen=True)
class Kept:
    """One arm: options of `nmm filter` on its pool; none for the pool itself. ``sweeps``: where its runs are."""

    arm: Arm
    sweeps: tuple[str, ...]
    pool: str = "even"
    options: tuple[str, ...] = ()

    @property
    def drawn(self) -> bool:
        """Whether its samples are drawn at random: then every seed has a draw of its own, and intervals know luck."""
        return self.options[:1] in (("band=random",), ("band=clean",))

    @property
    def reference(self) -> str:
        """Which reference scores for it: the pool's, its text-only one, or none."""
        if not self.options or self.drawn:
            return ""
        return "text-reference" if "score=text_only" in self.options else "reference"


ARMS = (
    Kept(Arm("full", "control", "the whole noisy pool"), ("ladder", "long")),
    Kept(Arm("random", "baseline", "a random fifth of the pool"), ("ladder",), options=("band=random",)),
    Kept(Arm("lowest", "treatment", "the fifth of lowest perplexity given the picture"), ("ladder",),
         options=("band=lowest",)),
    Kept(Arm("clean", "ceiling", "a fifth drawn among the samples without noise, by their labels"), ("controls",),
         options=("band=clean",)),
    Kept(Arm("middle", "baseline", "the fifth in the middle of the same ranking"), ("controls",),
         options=("band=middle",)),
    Kept(Arm("highest", "baseline", "the fifth of highest perplexity"), ("controls",),
         options=("band=highest",)),
    Kept(Arm("blind", "baseline", "lowest, the same reference with the picture blanked"), ("controls",),
         options=("band=lowest", "score=blind")),
    Kept(Arm("text_only", "baseline", "lowest, by a reference trained on the captions' text alone"), ("controls",),
         options=("band=lowest", "score=text_only")),
    Kept(Arm("summed", "baseline", "lowest by the summed NLL, not its mean"), ("controls",),
         options=("band=lowest", "score=summed")),
    Kept(Arm("length_normalised", "treatment", "lowest among captions of equal length"), ("controls",),
         options=("band=lowest", "score=length_normalised")),
    Kept(Arm("rare_full", "baseline", "where most entities are rare: the whole pool"), ("rare",), "rare"),
    Kept(Arm("rare_random", "baseline", "there, a random fifth"), ("rare",), "rare", ("band=random",)),
    Kept(Arm("rare_lowest", "treatment", "there, the fifth of lowest perplexity"), ("rare",), "rare",
         ("band=lowest",)),
    Kept(Arm("dull_full", "baseline", "where one fixed text fills a fifth: the whole pool"), ("dull",), "dull"),
    Kept(Arm("dull_random", "baseline", "there, a random fifth"), ("dull",), "dull", ("band=random",)),
    Kept(Arm("dull_lowest", "treatment", "there, the fifth of lowest perplexity"), ("dull",), "dull",
         ("band=lowest",)),
    Kept(Arm("dull_middle", "baseline", "there, the fifth in the middle"), ("dull",), "dull", ("band=middle",)),
)  # fmt: skip
METRICS = (
    Metric("loss_grounded", "grounded loss (nats a word)", "lower"),
    Metric("loss_tail", "grounded loss of rarer entities (nats a word)", "lower"),
    Metric("loss_caption", "caption loss (nats a token)", "lower"),
)
MEASURED_ON = (
    "A procedural world of one or two objects a picture, early fusion, widths 16 to 32. 60 % of the training captions "
    "end with 1 to 6 unguessable words, 30 % tell another picture. The reference (width 32) was trained on other "
    "captions with the same noise. Losses are over the colour, shape, size and location words of clean validation "
    "captions, whose entropy is 0."
)


@dataclass(frozen=True)
class Scale:
    """How large a study is. Specs are keys of sweep files."""

    pool_tokens: int
    apart_tokens: int
    eval_samples: int
    reference_tokens: int  # of the training of a reference
    text_tokens: int  # and of the text-only one
    sweeps: Mapping[str, Mapping[str, Any]]

    @property
    def arms(self) -> tuple[Kept, ...]:
        """The arms that some sweep has."""
        return tuple(kept for kept in ARMS if any(sweep in self.sweeps for sweep in kept.sweeps))


def scale_of(scale: str) -> Scale:
    """Grids: the ladder is the recipe's; everything else has its middle size; tiny has the main pool only.

    The whole pool is trained for longer still, so that there is something to compare a charged arm with.
    """
    ladder = recipe("intervention_filter")
    long = ladder.pop("tokens_of")
    if scale == "tiny":
        eager = [o for o in ladder["overrides"] if "compile" not in o and "eval_rows" not in o and "warmup" not in o]
        overrides = [*eager, "trainer.compile=off", "data.eval_rows=8", "schedule.warmup_steps=4"]
        ladder = {**ladder, "sizes": ["d16"], "tokens": [8_192, 16_384], "seeds": [0, 1, 2], "overrides": overrides}
        one = {**ladder, "tokens": [16_384]}
        return Scale(20_000, 8_000, 100, 24_576, 6_000, {"ladder": ladder, "controls": one})
    middle = next(iter(long))
    controls = {**ladder, "sizes": [middle], "tokens": [125_000, 500_000]}
    sweeps = {
        "ladder": {**ladder, "tokens_of": long},
        "long": {**controls, "tokens": [2_000_000, 4_000_000]},
        "controls": controls,
        "rare": {**controls, "tokens": [500_000]},
        "dull": {**controls, "tokens": [250_000]},
    }
    return Scale(1_000_000, 450_000, 2000, 500_000, 250_000, sweeps)


def study(out: Path, scale: str) -> Study:
    """The study in ``out``; scale tiny is for looking at the machinery."""
    plan = scale_of(scale)
    return Study(
        method="filter",
        title="Perplexity filtering: keep the least surprising fifth of the captions",
        acts_on="data",
        claim=CLAIM,
        control="full",
        arms=tuple(kept.arm for kept in plan.arms),
        metrics=METRICS,
        measured_on=MEASURED_ON,
        steps=steps(out, plan),
        collect=partial(collect, tuple(plan.sweeps)),
    )


def steps(out: Path, plan: Scale) -> tuple[Step, ...]:
    """Per pool its shards, its reference and the text-only one; every arm's kept samples; then the runs."""
    made: list[Step] = []
    for pool in dict.fromkeys(kept.pool for kept in plan.arms):
        world = POOLS[pool]
        for name, first, tokens in ((pool, 0, plan.pool_tokens), (f"{pool}-apart", APART, plan.apart_tokens)):
            asked = (f"out={_shards(out, name)}", f"train_tokens={tokens}", f"first_sample={first}",
                     f"eval_samples={plan.eval_samples}")  # fmt: skip
            made.append(
                Step(f"shards-{name}", ("shards", *WORLD, *world, *asked), _shards(out, name) / "manifest.json")
            )
        made.append(_reference(out, plan, pool, "reference", f"{pool}-apart", plan.reference_tokens))
        if any(kept.pool == pool and kept.reference == "text-reference" for kept in plan.arms):
            made.append(_text(out, pool))
            made.append(_reference(out, plan, pool, "text-reference", f"{pool}-text", plan.text_tokens))
    for kept in plan.arms:
        seeds = plan.sweeps[kept.sweeps[0]]["seeds"] if kept.drawn else [None]
        made += [_filter(out, kept, seed) for seed in seeds if kept.options]
    for name, grid in plan.sweeps.items():
        made += sweep_steps(out, f"runs-{name}", partial(with_arms, out, name, grid))
    return tuple(made)


def _shards(out: Path, name: str) -> Path:
    return out / "shards" / name


def _reference(out: Path, plan: Scale, pool: str, name: str, shards: str, tokens: int) -> Step:
    """A run whose seed no other run has; `nmm filter` takes the folder, which holds nothing else."""
    folder, grid = out / f"{pool}-{name}", plan.sweeps["ladder"]
    given = (f"arch={grid['archs'][0]}", f"size={grid['sizes'][-1]}", f"budget.tokens={tokens}", f"seed={SEED}",
             f"data.path={_shards(out, shards)}", f"out={folder}", "trainer.progress=false")  # fmt: skip
    return Step(f"train-{pool}-{name}", ("train", *given, *grid["overrides"]), folder)


def _text(out: Path, pool: str) -> Step:
    """The captions that the reference was trained on, without their pictures."""
    source, folder = _shards(out, f"{pool}-apart"), _shards(out, f"{pool}-text")
    command = ("filter", f"data={source}", f"out={folder}", "band=random", "keep=1.0", "pictures=drop")
    return Step(f"filter-{pool}-text", command, folder / "filter.json")


def kept_in(out: Path, kept: Kept, seed: int | str | None) -> Path:
    """The folder with an arm's samples."""
    if not kept.options:
        return _shards(out, kept.pool)
    folder = out / "kept" / kept.arm.name
    return folder / f"s{seed}" if kept.drawn else folder


def _filter(out: Path, kept: Kept, seed: int | None) -> Step:
    folder = kept_in(out, kept, seed)
    by = (f"reference={out / f'{kept.pool}-{kept.reference}'}",) if kept.reference else (f"seed={seed}",)
    command = ("filter", f"data={_shards(out, kept.pool)}", f"out={folder}", "keep=0.2", *kept.options, *by)
    name = f"filter-{kept.arm.name}" + (f"-s{seed}" if kept.drawn else "")
    return Step(name, command, folder / "filter.json")


def with_arms(out: Path, sweep: str, grid: Mapping[str, Any]) -> dict[str, Any]:
    """A sweep's keys with its arms: which samples, and what was spent to choose them."""
    arms = {}
    for kept in ARMS:
        if sweep in kept.sweeps:
            path = f"data.path={kept_in(out, kept, '{seed}')}"
            arms[kept.arm.name] = [path, f"intervention.charged_flops={charged(out, kept)!r}"]
    return {**grid, "name": f"intervention_filter_{sweep}", "arms": arms}


def charged(out: Path, kept: Kept) -> float:
    """FLOPs of scoring the pool and of training the reference; 0 for what needs neither.

    Raises ``ConfigError`` where nobody knows what the reference cost.
    """
    if not kept.reference:
        return 0.0
    report = kept_in(out, kept, None) / "filter.json"
    cost = read_json(report)["cost"]
    if cost["reference_flops"] is None:
        raise ConfigError(
            f"{report} does not know what training its reference cost, so arm {kept.arm.name} cannot be charged: an "
            "export has no record; score with the run itself"
        )
    return float(cost["scoring_flops"] + cost["reference_flops"])


def collect(sweeps: Sequence[str], out: Path) -> list[dict[str, Any]]:
    """One row a finished run, with what its arm kept."""
    by_arm = {kept.arm.name: kept for kept in ARMS}
    rows = []
    for sweep in sweeps:
        for record in records(out / f"runs-{sweep}"):
            kept = by_arm[record["intervention"]["arm"]]
            rows.append(_row(record, kept) | kept_facts(out, kept, record["seed"]))
    return rows


def _row(record: Mapping[str, Any], kept: Kept) -> dict[str, Any]:
    result, tokens = record["result"], record["tokens"]
    marks = {
        "loss_grounded": result["grounded"]["loss"],
        "loss_tail": result["grounded"].get("loss_tail"),
        "loss_caption": result["loss"]["caption"],
    }
    more = {"size": record["size"], "pool": kept.pool, "positions": tokens["positions"], "unique": tokens["unique"]}
    return row_of(record, **marks, **more, epochs=tokens["total"] / tokens["unique"])


def kept_facts(out: Path, kept: Kept, seed: int) -> dict[str, Any]:
    """Precision, recall, coverage and cost of an arm's choice; of the whole pool what the random choice says of it."""
    drawn = next(one for one in ARMS if one.pool == kept.pool and one.options[:1] == ("band=random",))
    report = read_json(kept_in(out, kept if kept.options else drawn, seed) / "filter.json")
    side = "kept" if kept.options else "pool"
    total = report["kept"] if kept.options else report["samples"]
    labels = report["truth"]["labels"]
    shares = {f"share_{name}": labels.get(name, {side: 0})[side] / total for name in SHARES}
    covered = {name: report["coverage"][side][name] for name in ("entities", "entity_entropy", "tail_share")}
    recall = report["truth"]["recall"] if kept.options else 1.0
    costs = {"scoring_flops": report["cost"]["scoring_flops"], "reference_flops": report["cost"]["reference_flops"]}
    return {"samples": total, **shares, "recall": recall, **covered, **costs}
