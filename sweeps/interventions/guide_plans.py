"""What the study of guided decoding asks: which runs are tuned how, and every setting of its two exams. Plain values.

Labels of a setting say which row of the results it becomes (``model``: the size that answers, where that is not the big
one; ``search``: the arm whose alpha, chosen on validation, it uses); ``marks_of`` gives its marks back.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sweeps.interventions.building import records
from sweeps.interventions.protocol import StudyError

ALPHAS = (0.1, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0)
PAPERS_ALPHA = 0.5
COUNTS = (1, 2, 4, 8, 16)
CONTROLS = {"wrong_picture": "other_pictures", "random_delta": "random", "permuted_delta": "permuted"}
WORSE = ("early", "opposite", "coin")  # experts from worse tuning
Marks = Mapping[str, Any]


@dataclass(frozen=True)
class Scale:
    """How large a study is. ``pairs`` (small, big); ``main``: the pair that has all controls; its small is tuned in
    other ways too, and pretrained on a skewed world. ``larger``: what stands for one larger model.
    """

    sizes: tuple[str, ...]
    seeds: tuple[int, ...]
    pairs: tuple[tuple[str, str], ...]
    main: tuple[str, str]
    larger: str
    pretrain_steps: int
    rft_steps: int
    early_steps: int
    prompts: int
    train_tokens: int
    val_questions: int
    test_questions: int
    drawn_questions: int
    samples: int

    @property
    def counts(self) -> tuple[int, ...]:
        """Of pass@k and votes."""
        return tuple(k for k in COUNTS if k <= self.samples)


CPU = Scale(
    sizes=("d24", "d32", "d48", "d64"),
    seeds=(0, 1, 2, 3, 4),
    pairs=(("d24", "d32"), ("d24", "d48"), ("d24", "d64"), ("d32", "d64")),
    main=("d24", "d48"),
    larger="d64",
    pretrain_steps=1600,
    rft_steps=40,
    early_steps=8,
    prompts=32,
    train_tokens=1_640_000,
    val_questions=400,
    test_questions=1000,
    drawn_questions=400,
    samples=16,
)
TINY = Scale(
    sizes=("d16", "d24"),
    seeds=(0, 1),
    pairs=(("d16", "d24"),),
    main=("d16", "d24"),
    larger="d24",
    pretrain_steps=20,
    rft_steps=2,
    early_steps=1,
    prompts=4,
    train_tokens=20_000,
    val_questions=12,
    test_questions=16,
    drawn_questions=8,
    samples=4,
)


def scale_of(name: str) -> Scale:
    """By the name that the command line has for it."""
    return {"cpu": CPU, "tiny": TINY}[name]


def pretrained(out: Path, scale: Scale) -> dict[tuple[str, int], Path]:
    """(size, seed) -> run directory of the ladder; ("skewed", seed) of the small models with another prior."""
    found = {(record["size"], record["seed"]): out / "base" / record["run_id"] for record in records(out / "base")}
    for record in records(out / "prior"):
        found["skewed", record["seed"]] = out / "prior" / record["run_id"]
    return found


def tuned_at(out: Path, name: str, seed: int) -> Path:
    """Where the tuned run of a size, or of a variant of the main small model, lies."""
    return out / "rft" / f"{name}-s{seed}"


def tune_plan(out: Path, scale: Scale) -> dict[str, Any]:
    """Every run of `nmm rft`: all sizes, then the worse experts and the skewed one."""
    start, runs = pretrained(out, scale), []
    for seed in scale.seeds:
        variants: list[tuple[str, str, dict[str, Any]]] = [(size, size, {}) for size in scale.sizes]
        small = scale.main[0]
        variants += [
            ("early", small, {"steps": scale.early_steps}),
            ("opposite", small, {"reward": "opposite"}),
            ("coin", small, {"reward": "coin"}),
            ("skewed", "skewed", {}),
        ]
        for name, origin, options in variants:
            common = {"steps": scale.rft_steps, "prompts": scale.prompts, "seed": seed, "kinds": ["sum"]}
            where = {"run": str(start[origin, seed]), "out": str(tuned_at(out, name, seed))}
            runs.append({**where, **common, "eval_questions": scale.val_questions, **options})
    return {"runs": runs}


def _pair(out: Path, start: Mapping[tuple[str, int], Path], small: str, big: str, seed: int) -> dict[str, str]:
    """The three runs of a guided model."""
    expert, amateur = tuned_at(out, small, seed), start[small, seed]
    return {"base": str(start[big, seed]), "expert": str(expert), "amateur": str(amateur)}


def val_plan(out: Path, scale: Scale) -> dict[str, Any]:
    """Every alpha, of every pair, with and without an amateur, on the validation split."""
    start, settings = pretrained(out, scale), []
    pairs = [*scale.pairs, ("skewed", scale.main[1])]
    for seed in scale.seeds:
        for small, big in pairs:
            runs = _pair(out, start, small, big, seed)
            for arm in ("guided", "no_amateur"):
                for alpha in ALPHAS:
                    labels = {"arm": arm, "seed": seed, "small": small, "big": big, "alpha": alpha}
                    settings.append(
                        _setting(scale.val_questions, "val", runs, labels, arm, alpha) | {"nll": small != "skewed"}
                    )
    return {"settings": settings}


def _setting(
    questions: int, split: str, runs: Mapping[str, str], labels: dict[str, Any], arm: str, alpha: float
) -> dict[str, Any]:
    named = dict(runs)
    if arm == "no_amateur":
        named.pop("amateur")
    setting = {**named, "alpha": alpha, "split": split, "questions": questions, "kinds": ["sum"], "labels": labels}
    setting["name"] = " ".join(str(value) for value in labels.values())
    setting["control"] = CONTROLS.get(arm, "none")
    return setting


def search_flops(marks: Iterable[Marks]) -> dict[tuple[str, str, str, int], float]:
    """(arm, small, big, seed) -> FLOPs of all answers that its alpha was chosen by, every alpha's."""
    found: dict[tuple[str, str, str, int], float] = {}
    for each in marks:
        labels = each["setting"]["labels"]
        key = labels["arm"], labels["small"], labels["big"], labels["seed"]
        found[key] = found.get(key, 0.0) + each["flops_a_question"] * each["asked"]
    return found


def best_alphas(marks: Iterable[Marks]) -> dict[tuple[str, str, str, int], float]:
    """(arm, small, big, seed) -> the alpha with most right answers on validation; of equals the one nearest to the
    middle of them, on a plateau its middle.
    """
    found: dict[tuple[str, str, str, int], list[tuple[float, float]]] = {}
    for each in marks:
        labels = each["setting"]["labels"]
        key = labels["arm"], labels["small"], labels["big"], labels["seed"]
        found.setdefault(key, []).append((each["accuracy"], labels["alpha"]))
    chosen = {}
    for key, pairs in found.items():
        best = sorted(alpha for accuracy, alpha in pairs if accuracy == max(pairs)[0])
        chosen[key] = best[(len(best) - 1) // 2]
    return chosen


def test_plan(out: Path, scale: Scale, val: Sequence[Marks]) -> dict[str, Any]:
    """Every arm at the alpha that validation chose, on the test split."""
    start, chosen, settings = pretrained(out, scale), best_alphas(val), []
    for seed in scale.seeds:
        settings += _alone(out, scale, start, seed)
        for small, big in [*scale.pairs, ("skewed", scale.main[1])]:
            settings += _guided(out, scale, start, small, big, seed, chosen)
        settings += _controls(out, scale, start, seed, chosen)
    return {"settings": settings}


def _alone(out: Path, scale: Scale, start: Mapping[tuple[str, int], Path], seed: int) -> list[dict[str, Any]]:
    """Every size by itself: as it is, made to go step by step, and tuned."""
    settings = []
    for size in scale.sizes:
        for arm, run in (
            ("base", start[size, seed]),
            ("forced", start[size, seed]),
            ("tuned", tuned_at(out, size, seed)),
        ):
            labels = {"arm": arm, "seed": seed, "small": None, "big": size, "alpha": None}
            setting = _setting(scale.test_questions, "test", {"base": str(run)}, labels, arm, 0.0)
            settings.append(setting | {"nll": arm != "forced", "style": "slow" if arm == "forced" else "free"})
    usual = {"questions_of": str(start[scale.main[0], seed])}  # not those of the skewed pictures it was trained on
    skewed = {"base": str(start["skewed", seed])} | usual
    tuned = {"base": str(tuned_at(out, "skewed", seed))} | usual
    for arm, found in (("skewed_base", skewed), ("skewed_expert", tuned)):
        labels = {"arm": arm, "seed": seed, "small": "skewed", "big": scale.main[0], "alpha": None}
        settings.append(_setting(scale.test_questions, "test", found, labels, arm, 0.0))
    return settings


def _guided(
    out: Path,
    scale: Scale,
    start: Mapping[tuple[str, int], Path],
    small: str,
    big: str,
    seed: int,
    chosen: Mapping[tuple[str, str, str, int], float],
) -> list[dict[str, Any]]:
    """A pair at its own alpha, at the paper's, and without the amateur at its own best."""
    runs, settings = _pair(out, start, small, big, seed), []
    for arm, kind, alpha, search in (
        ("guided", "guided", chosen["guided", small, big, seed], "guided"),
        ("guided_half", "guided", PAPERS_ALPHA, None),
        ("no_amateur", "no_amateur", chosen["no_amateur", small, big, seed], "no_amateur"),
        ("no_amateur_half", "no_amateur", PAPERS_ALPHA, None),
    ):
        prefix = "skewed_" if small == "skewed" else ""
        labels = {"arm": prefix + arm, "seed": seed, "small": small, "big": big, "alpha": alpha, "search": search}
        setting = _setting(scale.test_questions, "test", runs, labels, kind, alpha)
        settings.append(setting | {"nll": not prefix, "stats": arm == "guided" and not prefix})
    return settings


def _controls(
    out: Path,
    scale: Scale,
    start: Mapping[tuple[str, int], Path],
    seed: int,
    chosen: Mapping[tuple[str, str, str, int], float],
) -> list[dict[str, Any]]:
    """Of the main pair: other deltas, worse experts, and many answers drawn from each model."""
    (small, big), settings = scale.main, []
    runs, alpha = _pair(out, start, small, big, seed), chosen["guided", small, big, seed]
    for arm in CONTROLS:
        labels = {"arm": arm, "seed": seed, "small": small, "big": big, "alpha": alpha, "search": "guided"}
        settings.append(_setting(scale.test_questions, "test", runs, labels, arm, alpha))
    for name in WORSE:
        worse = runs | {"expert": str(tuned_at(out, name, seed))}
        for arm, found in ((f"guided_{name}", worse), (f"expert_{name}", {"base": worse["expert"]})):
            labels = {"arm": arm, "seed": seed, "small": small, "big": big} | _alpha(found, alpha)
            labels |= {"model": small} if len(found) == 1 else {}
            settings.append(
                _setting(scale.test_questions, "test", found, labels, arm, alpha if len(found) > 1 else 0.0)
            )
    for arm, found in (
        ("drawn_base", {"base": runs["base"]}),
        ("drawn_guided", runs),
        ("drawn_expert", {"base": runs["expert"]}),
        ("drawn_tuned", {"base": str(tuned_at(out, big, seed))}),
    ):
        labels = {"arm": arm, "seed": seed, "small": small, "big": big} | _alpha(found, alpha)
        labels |= {"model": small} if arm == "drawn_expert" else {}
        setting = _setting(scale.drawn_questions, "test", found, labels, arm, alpha if len(found) > 1 else 0.0)
        settings.append(setting | {"samples": scale.samples, "counts": list(scale.counts), "seed": seed})
    return settings


def _alpha(runs: Mapping[str, str], alpha: float) -> dict[str, Any]:
    """Labels of an alpha that the guided arm chose; a model alone has none."""
    return {"alpha": alpha, "search": "guided"} if len(runs) > 1 else {"alpha": None}


def marks_of(file: Path, plan: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The marks of every setting of a plan, in its order, with the plan's labels.

    Raises ``StudyError`` for a setting without marks.
    """
    if not file.is_file():
        raise StudyError(f"{file} is not there; run the study again, it goes on with that exam")
    known = {}
    for line in file.read_text(encoding="utf-8").splitlines():
        marks = json.loads(line)["marks"]
        known[_signature(marks["setting"])] = marks
    found = []
    for setting in plan["settings"]:
        marks = known.get(_signature(setting))
        if marks is None:
            raise StudyError(f"{file} has no marks of {setting['name']}; delete it and run the study again")
        found.append({**marks, "setting": {**marks["setting"], "labels": setting["labels"]}})
    return found


_DEFAULTS: dict[str, Any] = {
    "questions_of": "",
    "expert": "",
    "amateur": "",
    "alpha": 0.0,
    "control": "none",
    "style": "free",
    "samples": 0,
    "counts": [],
    "seed": 0,
    "stats": False,
    "nll": False,
    "split": "test",
    "questions": 1000,
}


def _signature(setting: Mapping[str, Any]) -> str:
    named = {name: setting.get(name, default) for name, default in _DEFAULTS.items()}
    return json.dumps([setting["base"], {**named, "counts": list(named["counts"])}], sort_keys=True)
