"""The study of guided decoding: a ladder pretrained alike, every size tuned by rewards, large ones guided by small.

Pictures show four objects; asked is a sum modulo 4 of numbers that their shapes stand for, answered at once (60 % of
pretraining) or step by step. Greedy models answer at once, by chance; tuning makes them go step by step.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from nmm.interventions.passk import samples_for
from nmm.record import read_json
from sweeps.interventions import guide_plans as plans
from sweeps.interventions.building import recipe, records, sweep_steps
from sweeps.interventions.guide_plans import Marks, Scale
from sweeps.interventions.protocol import Arm, Metric, Step, Study, StudyError

WORLD = (
    "+data.world.reasoning=1",
    "+data.world.reasoning_modulus=4",
    "+data.world.reasoning_shapes=true",
    "+data.world.object_counts=[0,0,0,1]",
    "+data.world.num_colours=4",
    "+data.world.num_entities=1000",
    "+data.world.name_words=40",
)
UNIFORM = ("+data.world.zipf_exponent=0",)
SKEWED = ("+data.world.zipf_exponent=1.5", "+data.world.zipf_shift=0")  # a few objects are in most pictures

ARMS = (
    Arm("base", "control", "the large model alone, greedy: it answers at once"),
    Arm("guided", "treatment", "base + alpha (expert - amateur), alpha chosen on validation"),
    Arm("guided_half", "treatment", "the same with the paper's alpha of 0.5"),
    Arm("expert", "baseline", "the small tuned model alone"),
    Arm("tuned", "ceiling", "the large model tuned directly, as the small one was"),
    Arm("forced", "ceiling", "the large model with the first word of a step-by-step answer given"),
    Arm("no_amateur", "baseline", "base + alpha expert, alpha chosen on validation"),
    Arm("no_amateur_half", "baseline", "base + 0.5 expert"),
    Arm("wrong_picture", "baseline", "guided, the two small models seeing another picture"),
    Arm("random_delta", "baseline", "guided by a random direction as long as expert - amateur"),
    Arm("permuted_delta", "baseline", "guided by expert - amateur, its values handed to other words"),
    Arm("vote", "baseline", "commonest of as many drawn answers of the base as guided FLOPs buy"),
    Arm("oracle", "baseline", "any of as many drawn answers of the base as guided FLOPs buy is right"),
    Arm("larger", "baseline", "a larger base alone that costs at least as many FLOPs a token"),
    Arm("guided_early", "baseline", "guided by an expert from the first steps of tuning"),
    Arm("expert_early", "baseline", "that expert alone"),
    Arm("guided_opposite", "baseline", "guided by an expert rewarded for wrong answers"),
    Arm("expert_opposite", "baseline", "that expert alone"),
    Arm("guided_coin", "baseline", "guided by an expert rewarded by a coin"),
    Arm("expert_coin", "baseline", "that expert alone"),
    Arm("skewed_guided", "baseline", "guided by a pair pretrained and tuned on pictures of few objects"),
    Arm("skewed_guided_half", "baseline", "the same with alpha 0.5"),
    Arm("skewed_no_amateur", "baseline", "base + alpha times that expert, alpha chosen on validation"),
    Arm("skewed_no_amateur_half", "baseline", "base + 0.5 times that expert"),
    Arm("skewed_expert", "baseline", "that expert alone"),
    Arm("skewed_base", "baseline", "the small model it was tuned from"),
    Arm("alpha", "baseline", "validation: guided at every alpha"),
    Arm("alpha_no_amateur", "baseline", "validation: without an amateur at every alpha"),
    Arm("drawn_base", "baseline", "answers drawn from the base: pass@k and votes"),
    Arm("drawn_guided", "baseline", "answers drawn from the guided model"),
    Arm("drawn_expert", "baseline", "answers drawn from the small expert"),
    Arm("drawn_tuned", "baseline", "answers drawn from the tuned large model"),
)
METRICS = (
    Metric("accuracy", "right final answers (share of questions)", "higher"),
    Metric("nll", "loss of held-out step-by-step answers (nats an answer)", "lower"),
    Metric("length", "words an answer", "lower"),
)


def study(out: Path, scale: str) -> Study:
    """The whole study under ``out``; ``scale`` cpu or tiny."""
    size = plans.scale_of(scale)
    return Study(
        method="guide",
        title="Guided decoding: a small tuned model guides a large one",
        acts_on="decoding",
        claim=(
            "ProxyThinker (arXiv 2505.24872): adding the difference of a small tuned and a small untuned model to the "
            "logits of a large untuned one gives it the skill of tuning, without training it; alpha 0.1 to 1 all help, "
            "and the untuned small model is needed"
        ),
        control="base",
        arms=ARMS,
        metrics=METRICS,
        measured_on=(
            f"sums modulo 4 over four objects of rendered pictures, {size.test_questions:,} held-out questions a model "
            f"and {len(size.seeds)} seeds; {', '.join(size.sizes)} pretrained alike for {size.pretrain_steps} steps, "
            f"tuned {size.rft_steps} steps by group-normalised policy gradient."
        ),
        steps=_steps(out, size),
        collect=partial(collect, scale=size),
    )


def _steps(out: Path, scale: Scale) -> tuple[Step, ...]:
    last = plans.tuned_at(out, "skewed", scale.seeds[-1]) / "record.json"
    return (
        _shards(out / "shards", scale, UNIFORM),
        _shards(out / "skewed", scale, SKEWED),
        *sweep_steps(out, "base", _spec(out / "shards", scale, scale.sizes, "guide_base")),
        *sweep_steps(out, "prior", _spec(out / "skewed", scale, scale.main[:1], "guide_prior")),
        Step("tune", ("rft", f"plan={out / 'tune.json'}"), last, _plan(out / "tune.json", plans.tune_plan, out, scale)),
        _exam(out, "val", _plan(out / "val.json", plans.val_plan, out, scale)),
        _exam(out, "test", _plan(out / "test.json", _test_plan, out, scale)),
    )


def _shards(out: Path, scale: Scale, world: Sequence[str]) -> Step:
    mixture = ("~data.mixture.interleaved", "~data.mixture.text", "data.mixture.caption=1")
    size = (f"train_tokens={scale.train_tokens}", f"eval_samples={max(scale.test_questions, 160)}", "workers=1")
    command = ("shards", "data=world", f"out={out}", *size, *mixture, *WORLD, *world)
    return Step(out.name, command, out / "manifest.json")


def _spec(shards: Path, scale: Scale, sizes: Sequence[str], name: str) -> dict[str, Any]:
    written = recipe("intervention_guide")
    overrides = [*written["overrides"], f"data.path={shards}", "intervention.method=guide"]
    changed = {"name": name, "sizes": list(sizes), "steps": [scale.pretrain_steps], "seeds": list(scale.seeds)}
    return written | changed | {"overrides": overrides}


def _plan(file: Path, make: Callable[[Path, Scale], Any], out: Path, scale: Scale) -> Callable[[], Mapping[Path, str]]:
    return lambda: {file: json.dumps(make(out, scale), indent=1)}


def _exam(out: Path, name: str, files: Callable[[], Mapping[Path, str]]) -> Step:
    marks = out / f"{name}.jsonl"
    return Step(name, ("exam", f"plan={out / name}.json", f"out={marks}"), marks, files)


def _test_plan(out: Path, scale: Scale) -> dict[str, Any]:
    return plans.test_plan(out, scale, _val_marks(out, scale))


def _val_marks(out: Path, scale: Scale) -> list[dict[str, Any]]:
    return plans.marks_of(out / "val.jsonl", plans.val_plan(out, scale))


# ---------------------------------------------------------------------------------------------------------------------
# results


def collect(out: Path, scale: Scale) -> list[dict[str, Any]]:
    """A row for every setting of both exams, and those that follow from several: expert, larger, vote, oracle."""
    val, plan = _val_marks(out, scale), _test_plan(out, scale)
    test = plans.marks_of(out / "test.jsonl", plan)
    _check_shards(test)
    facts = _Facts(out, scale, val)
    rows = [facts.row(marks, marks["setting"]["labels"]["arm"]) for marks in test]
    for marks in val:
        labels = marks["setting"]["labels"]
        rows.append(facts.row(marks, "alpha" if labels["arm"] == "guided" else "alpha_no_amateur"))
    by = {
        (m["setting"]["labels"]["arm"], m["setting"]["labels"]["big"], m["setting"]["labels"]["seed"]): m for m in test
    }
    for seed in scale.seeds:
        for small, big in scale.pairs:
            found = by["tuned", small, seed]
            rows.append(facts.row(found, "expert") | facts.pair(small, big))
        small, big = scale.main
        rows.append(facts.row(by["base", scale.larger, seed], "larger") | facts.pair(small, big))
        rows += _bought(facts, by["drawn_base", big, seed], by["guided", big, seed], scale)
    return rows


def _check_shards(test: Sequence[Marks]) -> None:
    """All arms stand in tables together, so all are asked the same questions."""
    asked = {marks["shards"] for marks in test}
    if len(asked) != 1:
        raise StudyError(f"the test asks questions of {len(asked)} shard folders; delete test.jsonl and run again")


def _bought(facts: _Facts, drawn: Marks, guided: Marks, scale: Scale) -> list[dict[str, Any]]:
    """The base's votes and best of n, n being what the FLOPs of one guided answer buy, but at most what was drawn.

    The question is read once, whatever the number of answers.
    """
    prompt = drawn["prompt_flops_a_question"]
    each = (drawn["flops_a_question"] - prompt) / scale.samples
    n = samples_for(guided["flops_a_question"] - prompt, each)
    k = max(count for count in scale.counts if count <= n)
    row = facts.row(drawn, "vote") | {"flops": prompt + each * k, "samples": k, "bought": n}
    return [row | {"accuracy": drawn["vote"][str(k)]}, row | {"arm": "oracle", "accuracy": drawn["pass"][str(k)]}]


class _Facts:
    """Sizes of the study's runs, and what an arm cost before it answered."""

    def __init__(self, out: Path, scale: Scale, val: Sequence[Marks]) -> None:
        self.out = out
        self.params = {record["size"]: record["params"]["active_non_embedding"] for record in records(out / "base")}
        self.params["skewed"] = self.params[scale.main[0]]
        self.search = plans.search_flops(val)

    def tuning(self, name: str, seed: int) -> float:
        """FLOPs of one run of `nmm rft`."""
        return float(read_json(plans.tuned_at(self.out, name, seed) / "record.json")["flops"]["total"])

    def ratio(self, small: str | None, big: str) -> float | None:
        """Parameters of the big model over those of the small one."""
        return None if small is None else self.params[big] / self.params[small]

    def pair(self, small: str | None, big: str) -> dict[str, Any]:
        """The columns that say which pair a row belongs to, or which size alone."""
        name = big if small is None else f"{small} guides {big}"
        return {"small": small, "big": big, "ratio": self.ratio(small, big), "pair": name}

    def row(self, marks: Marks, arm: str) -> dict[str, Any]:
        """One row of results.jsonl.

        flops: of answering one question; charged: of tuning what it was answered with, and of the answers on
        validation that its alpha was chosen by (``charged_alpha``).
        """
        labels = marks["setting"]["labels"]
        small, big, seed = labels["small"], labels["big"], labels["seed"]
        expert = Path(marks["setting"]["expert"] or marks["setting"]["base"])
        tuning = self.tuning(expert.name.rsplit("-s", 1)[0], seed) if expert.parent.name == "rft" else 0.0
        search = self.search[labels["search"], small, big, seed] if labels.get("search") else 0.0
        stats = marks.get("stats", {})
        return {
            "arm": arm,
            "seed": seed,
            "n": self.params[labels.get("model", big)],
            "d": None,
            "flops": marks["flops_a_question"],
            "charged": tuning + search,
            "charged_alpha": search,
            "accuracy": marks["accuracy"],
            "nll": marks["nll"]["nats_an_answer"] if "nll" in marks else None,
            "length": marks["length"],
            **self.pair(small, big),
            "alpha": labels["alpha"],
            "asked": marks["asked"],
            "right": marks["right"],
            "slow": marks["slow"],
            "ended": marks["ended"],
            **{name: stats["mean"].get(name) for name in ("flip", "js", "delta_norm") if stats},
            **({"flips": stats["flips"][:3], "flip_by_step": [s["flip"] for s in stats["by_step"]]} if stats else {}),
            **{f"pass_{k}": share for k, share in marks.get("pass", {}).items()},
            **{f"vote_{k}": share for k, share in marks.get("vote", {}).items()},
        }
