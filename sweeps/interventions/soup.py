"""The study of weight soups: fine-tunes of one checkpoint on different instructions, averaged, against joint training.

One pretrained model a seed. D asks for colours; D + d_i asks as often for one kind more (count, after, same); "joint"
has all of them. Every model and every soup is scored by `nmm soup` on one set of shards that asks all kinds alike:
selection on val, numbers on test.

    OUT/shards/NAME   OUT/base/sSEED   OUT/tuned/NAME-LR-STEPS/sSEED   OUT/soups/NAME/sSEED
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from sweeps.interventions.building import recipe
from sweeps.interventions.protocol import Arm, Metric, Step, Study
from sweeps.interventions.soup_rows import collect
from sweeps.interventions.soup_table import Scale, Soup, first_soups, later_soups, tunings

KINDS = ("count", "colour", "left", "after", "same", "odd")  # the order of world.question_kinds
BASE_KIND = "colour"
WORLD = (
    "data=world", "sheet=false", "workers=1", "data.mixture.caption=1", "data.mixture.interleaved=0",
    "data.mixture.text=0", "+data.world.num_entities=24", "+data.world.name_words=6", "+data.world.num_colours=4",
    "+data.world.object_counts=[0,1,0,0]", "+data.world.count_phrase=0", "+data.world.full_clause=1",
    "+data.world.tails=[0,0,1]", "+data.world.where_question=0",
)  # fmt: skip
TRAIN = (
    "data.mixture.caption=1", "data.mixture.interleaved=0", "data.mixture.text=0", "data.eval_rows=8",
    "trainer.progress=false", "trainer.compile=off",
)  # fmt: skip
TUNE = (
    "stage=sft", "start=run", "stage.eval_questions=2", "stage.eval_captions=2", "schedule.cooldown_fraction=0.5",
    "intervention.method=soup",
)  # fmt: skip

CLAIM = (
    "POINTS (arXiv 2409.04828, table 4): the mean of models that were fine-tuned from one checkpoint, each on a base "
    "set and one data set more, is better than any of them (59.0 alone; greedy soup over data sets 61.8, average 61.2, "
    "maximum 61.0; over learning rates only 59.2). The paper scored and selected on the same benchmarks and did not "
    "compare with training one model on all data sets. Model Soups: arXiv 2203.05482; Model Stock: arXiv 2403.19522."
)
MEASURED_ON = (
    "A procedural world of two objects a picture; early fusion, width 32, 2 blocks, pretrained on pictures with "
    "captions and some questions, then fine-tuned on instructions that ask for colours (D) and as often for one kind "
    "more (count, what comes after, same colour). Score: exact greedy answers, plain mean over the four kinds, on "
    "questions that no model has seen; members and soups are chosen on the val split, numbers are of the test split."
)


def study(out: Path, scale: str) -> Study:
    """The study in ``out``; scale tiny is for looking at the machinery."""
    plan = scale_of(scale)
    return Study(
        method="soup",
        title="Weight soups: the mean of fine-tuned models",
        acts_on="weights",
        claim=CLAIM,
        control="best_single",
        arms=ARMS,
        metrics=(
            Metric("accuracy", "accuracy of held-out answers (mean over kinds)", "higher"),
            Metric("loss", "loss of held-out answers (nats a token, mean over kinds)", "lower"),
        ),
        measured_on=MEASURED_ON,
        steps=steps(out, plan),
        collect=lambda folder: collect(folder, plan),
    )


ARMS = (
    Arm("best_single", "control", "the best of the k fine-tunes on D + d_i, by its val score"),
    Arm("uniform", "treatment", "mean of all k fine-tunes"),
    Arm("greedy", "treatment", "greedy soup: from the best on, each next one that does not make it worse"),
    Arm("maximum", "treatment", "mean of the two best"),
    Arm("individual_select", "treatment", "add the most useful one as long as the soup gets better"),
    Arm("model_stock", "treatment", "between the mean and the pretrained weights, tensor by tensor"),
    Arm("pretrained", "baseline", "the model before fine-tuning"),
    Arm("D_only", "baseline", "fine-tuned on the base set alone"),
    Arm("lr_best_single", "baseline", "the best of several learning rates, all on D, by its val score"),
    Arm("lr_greedy", "baseline", "greedy soup over learning rates, all on D"),
    Arm("other_starts", "baseline", "mean of k fine-tunes of k different pretrained models; must collapse"),
    Arm("joint", "baseline", "one model on D and all d_i together; its steps are a ladder"),
    Arm("plateau_start", "baseline", "joint training at its longest: what the plateau arms go on from"),
    Arm("plateau_best_single", "baseline", "from there, the best of the k fine-tunes on D + d_i"),
    Arm("plateau_uniform", "treatment", "from there, mean of the k fine-tunes"),
    Arm("plateau_greedy", "treatment", "from there, greedy soup of them"),
    Arm("plateau_joint", "baseline", "from there, joint training for as many steps as one member"),
    Arm("plateau_joint_long", "baseline", "from there, joint training for as many steps as all k members"),
)


def scale_of(scale: str) -> Scale:
    """Sizes of the study."""
    grid = recipe("intervention_soup")
    if scale == "tiny":
        return Scale(arch="early", size="d16", seeds=(0, 1), tokens=8_192, lr=2e-3, lrs=(1e-3,), lengths=(6,),
                     joint=(6, 18), after=6, base_tokens=40_000, tune_tokens=20_000, eval_samples=60)  # fmt: skip
    return Scale(
        arch=grid["archs"][0], size=grid["sizes"][0], seeds=tuple(grid["seeds"]), tokens=grid["tokens"][0], lr=2e-3,
        lrs=(1e-3, 4e-3), lengths=(100, 200, 400), joint=(12, 25, 50, 100, 200, 400, 800, 1200), after=200,
        base_tokens=700_000, tune_tokens=250_000, eval_samples=500,
    )  # fmt: skip


def steps(out: Path, plan: Scale) -> tuple[Step, ...]:
    """Shards, the pretrained models, all fine-tunes, all soups, then those that go on from joint training."""
    return (
        *(_shards(out, plan, name) for name in ("pretrain", "D", *plan.extra, "joint", "exam")),
        _train("base", out, plan, [f"budget.tokens={plan.tokens}", *_base(out, plan)], out / "base"),
        *(
            _train(f"tune-{i}", out, plan, [*TUNE, *overrides], out / "tuned")
            for i, overrides in enumerate(tunings(out, plan))
        ),
        _soups("soups", out, first_soups(out, plan)),
        *(
            _train(f"tune-after-{i}", out, plan, [*TUNE, *overrides], out / "tuned")
            for i, overrides in enumerate(tunings(out, plan, after=True))
        ),
        _soups("soups-after", out, later_soups(out, plan)),
    )


def _shards(out: Path, plan: Scale, name: str) -> Step:
    """pretrain: captions, and after nine of ten of them a question of any kind; the rest: three questions each."""
    asked = {"D": (BASE_KIND,), "joint": (BASE_KIND, *plan.extra), "pretrain": (BASE_KIND, *plan.extra),
             "exam": (BASE_KIND, *plan.extra)}.get(name, (BASE_KIND, name))  # fmt: skip
    tokens = {"pretrain": plan.base_tokens, "exam": 2_000}.get(name, plan.tune_tokens)
    held_out = plan.eval_samples if name == "exam" else 60
    chain = "[0.9,0.5]" if name == "pretrain" else "[1,1,1]"
    weights = ",".join(str(int(kind in asked)) for kind in KINDS)
    folder = out / "shards" / name
    command = ("shards", *WORLD, f"out={folder}", f"train_tokens={tokens}", f"eval_samples={held_out}",
               f"+data.world.question_chain={chain}", f"+data.world.question_kinds=[{weights}]")  # fmt: skip
    return Step(f"shards-{name}", command, folder / "manifest.json")


def _base(out: Path, plan: Scale) -> list[str]:
    return [
        f"arch={plan.arch}", f"size={plan.size}", f"data.path={out / 'shards' / 'pretrain'}",
        f"out={out / 'base'}/s${{seed}}", f"schedule.warmup_steps={plan.warmup}",
    ]  # fmt: skip


def _train(name: str, out: Path, plan: Scale, overrides: Sequence[str], done: Path) -> Step:
    """One command for many runs; a run that is finished costs nothing, so the command may be stopped and repeated."""
    seeds = ",".join(map(str, plan.seeds))
    return Step(name, ("train", "-m", f"seed={seeds}", *TRAIN, *overrides), done)


def _soups(name: str, out: Path, soups: Sequence[Soup]) -> Step:
    """One command for many soups, which share the scores of their members."""
    file = out / f"{name}.jsonl"
    text = "".join(json.dumps(soup.keys()) + "\n" for soup in soups)
    command = ("soup", f"list={file}", f"data={out / 'shards' / 'exam'}", "rows=0", "sources=[caption]",
               f"scores={out / 'scores.jsonl'}")  # fmt: skip
    return Step(name, command, Path(soups[-1].out) / "soup.json", lambda: {file: text})
