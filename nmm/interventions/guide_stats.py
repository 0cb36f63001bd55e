"""What guidance does, step by step: how large it is, how far expert and amateur are apart, what it makes of the base.

Shape legend: R rows that have not ended, W tokens that base and guides share, V vocabulary of the base.

Distributions are those at temperature 1 over text tokens, the ones that can be chosen.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from nmm.interventions.guide import Step
from nmm.interventions.guide_controls import NEVER, centred
from nmm.record import write_atomic

MEASURES = ("delta_norm", "js", "flip", "entropy_base", "entropy_guided")
SHOWN = 10  # words of each list in a report


@dataclass
class StepStatistics:
    """A listener of ``guided``: it adds up what every step of every row that has not ended shows.

    delta_norm      length of the (centred) difference of the guides' logits, before alpha
    js              Jensen-Shannon divergence of expert and amateur, nats (at most log 2); None without both
    flip            share of steps whose likeliest token is not the base's
    entropy_base, entropy_guided    of the next token, nats
    """

    sums: list[dict[str, float]] = field(default_factory=list)  # by step: "rows", and the sum of each measure
    gained: Tensor | None = None  # (V,) probability given to every token, summed over steps
    flips: Counter[tuple[int, int]] = field(default_factory=Counter)  # base's likeliest token -> the guided one

    def __call__(self, step: Step, at: Sequence[int], numbers: Sequence[int], tokens: Sequence[int]) -> None:
        rows = torch.tensor(at, device=step.base.device)
        base, guided = log_probabilities(step.base[rows]), log_probabilities(step.combined[rows])
        before, after = base.argmax(dim=1), guided.argmax(dim=1)
        found = {"flip": (before != after).double(), "entropy_base": entropy(base), "entropy_guided": entropy(guided)}
        if step.delta is not None:
            found["delta_norm"] = centred(step.delta[rows]).norm(dim=1)
        if step.expert is not None and step.amateur is not None:
            width = min(step.expert.shape[1], step.amateur.shape[1])
            pair = (log_probabilities(logits[rows][:, :width]) for logits in (step.expert, step.amateur))
            found["js"] = jensen_shannon(*pair)
        while len(self.sums) <= step.number:
            self.sums.append({"rows": 0})
        here = self.sums[step.number]
        here["rows"] += len(at)
        for name, values in found.items():
            here[name] = here.get(name, 0.0) + float(values.sum())
        gained = (guided.exp() - base.exp()).sum(dim=0).cpu()
        self.gained = gained if self.gained is None else self.gained + gained
        changed = before != after
        self.flips.update(zip(before[changed].tolist(), after[changed].tolist(), strict=True))

    def report(
        self, said: Sequence[Sequence[int]], stop_ids: Sequence[int], word: Callable[[int], str]
    ) -> dict[str, Any]:
        """{"steps", "mean": {measure: ...}, "by_step": [...], "promoted", "demoted", "flips", "lengths"} for JSON."""
        steps = int(sum(each["rows"] for each in self.sums))
        known = [name for name in MEASURES if any(name in each for each in self.sums)]
        mean = {name: sum(each.get(name, 0.0) for each in self.sums) / steps for name in known} if steps else {}
        by_step = [
            {"step": number, "rows": int(each["rows"]), **{name: each[name] / each["rows"] for name in known}}
            for number, each in enumerate(self.sums)
            if each["rows"]
        ]
        ranked = [] if self.gained is None else sorted(enumerate((self.gained / steps).tolist()), key=lambda x: -x[1])
        return {
            "steps": steps,
            "mean": mean,
            "by_step": by_step,
            "promoted": [_gain(word, *pair) for pair in ranked[:SHOWN] if pair[1] > 0],
            "demoted": [_gain(word, *pair) for pair in ranked[: -SHOWN - 1 : -1] if pair[1] < 0],
            "flips": [
                {"from": word(old), "to": word(new), "count": count}
                for (old, new), count in sorted(self.flips.items(), key=lambda each: (-each[1], each[0]))[:SHOWN]
            ],
            "lengths": lengths(said, stop_ids),
        }


def _gain(word: Callable[[int], str], token: int, probability: float) -> dict[str, Any]:
    return {"word": word(token), "id": token, "probability_a_step": probability}


def lengths(said: Sequence[Sequence[int]], stop_ids: Sequence[int]) -> dict[str, float]:
    """Tokens of continuations: mean, median, most, and the share that a stop token ended."""
    counts = [len(tokens) for tokens in said]
    if not counts:
        return {}
    stopped = sum(bool(tokens) and tokens[-1] in stop_ids for tokens in said)
    return {
        "mean": sum(counts) / len(counts),
        "median": float(median(counts)),
        "most": max(counts),
        "stopped": stopped / len(counts),
    }


def log_probabilities(logits_RV: Tensor) -> Tensor:
    """(R, V) of text tokens, in double precision; -inf for what is never chosen."""
    text = logits_RV.double().clone()
    text[:, NEVER] = -math.inf
    return text.log_softmax(dim=1)


def entropy(logp_RV: Tensor) -> Tensor:
    """(R,) nats."""
    return -(logp_RV.exp() * logp_RV.masked_fill(logp_RV.isneginf(), 0.0)).sum(dim=1)


def jensen_shannon(one_RV: Tensor, two_RV: Tensor) -> Tensor:
    """(R,) nats, of two distributions given by their log-probabilities: entropy of the mean less mean entropy."""
    middle = torch.logaddexp(one_RV, two_RV) - math.log(2)
    return (entropy(middle) - (entropy(one_RV) + entropy(two_RV)) / 2).clamp(min=0.0)


class KeptLogits:
    """A listener of ``guided``: it keeps the logits of all models at every step, for analysis elsewhere."""

    def __init__(self) -> None:
        self.parts: dict[str, list[Tensor]] = {}

    def __call__(self, step: Step, at: Sequence[int], numbers: Sequence[int], tokens: Sequence[int]) -> None:
        rows = torch.tensor(at, device=step.base.device)
        models = {"base": step.base, "expert": step.expert, "amateur": step.amateur, "combined": step.combined}
        found = {name: logits[rows].float().cpu() for name, logits in models.items() if logits is not None}
        found |= {"prompt": torch.tensor(numbers), "token": torch.tensor(tokens)}
        found["step"] = torch.full((len(at),), step.number)
        for name, value in found.items():
            self.parts.setdefault(name, []).append(value)

    def tensors(self) -> dict[str, Tensor]:
        """base, expert, amateur, combined (S, V) fp32; prompt, step, token (S,): prompt by prompt, step by step."""
        joined = {name: torch.cat(several) for name, several in self.parts.items()}
        order = (joined["prompt"] * (int(joined["step"].max()) + 1) + joined["step"]).argsort()
        return {name: value[order].contiguous() for name, value in joined.items()}

    def save(self, file: Path) -> None:
        """Write ``tensors`` as safetensors."""
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(file, lambda opened: save_file(self.tensors(), opened.name))


def summary(report: dict[str, Any]) -> list[str]:
    """A report in lines for a person."""
    mean, ends = report["mean"], report["lengths"]
    said = [
        f"{report['steps']} steps; {ends['mean']:.1f} tokens a continuation, {ends['stopped']:.0%} ended by themselves"
    ]
    if "delta_norm" in mean:
        said.append(f"expert - amateur: length {mean['delta_norm']:.3g}" + _js(mean))
    said.append(
        f"the likeliest word changes in {mean['flip']:.1%} of the steps; entropy {mean['entropy_base']:.3f} -> "
        f"{mean['entropy_guided']:.3f} nats"
    )
    for name in ("promoted", "demoted"):
        words = ", ".join(f"{each['word']} {each['probability_a_step']:+.3f}" for each in report[name][:6])
        said.append(f"{name} (probability a step): {words or 'nothing'}")
    flips = ", ".join(f"{each['from']} -> {each['to']} ({each['count']})" for each in report["flips"][:6])
    return [*said, f"flips: {flips or 'none'}"]


def _js(mean: dict[str, float]) -> str:
    return f", Jensen-Shannon divergence {mean['js']:.4f} nats" if "js" in mean else ""
