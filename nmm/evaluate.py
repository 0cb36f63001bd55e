"""Held-out losses by source, with the known entropy of the very same tokens, the excess by class of token, the loss of
what captions say of their pictures, and what the experts of every layer took.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from nmm.batch import Batch
from nmm.flops import has_experts
from nmm.model.fusion import NativeMultimodalModel
from nmm.model.loss import target_losses
from nmm.model.specialisation import Counts, added, counts_of, describe

CLASS_NAMES = {"c": "colour", "s": "shape", "z": "size", "l": "location", "n": "name", "f": "fact", "a": "answer"}
CLASS_NAMES["g"] = "grammar"
GROUNDED = "cszl"  # of a caption's words, what its picture shows; capitals where the entity is of the world's tail
ROUTING_SCALARS = ("load_max", "load_min", "load_entropy", "load_evenness", "router_entropy", "dropped", "unused",
                   "specialisation", "imbalance_text", "imbalance_image")  # fmt: skip
PLATEAU_GATE = 1.0  # nats of colour excess; a model that ignores its images sits near 1.5


@torch.no_grad()
def evaluate(
    model: NativeMultimodalModel, batches: Mapping[str, Sequence[Batch]], mixture: Mapping[str, float]
) -> dict[str, Any]:
    """Mean text-token loss (nats) per source, over ``avg`` (plain mean of the sources) and over ``mixture``.

    Returns {"loss": {...}, "entropy": {...}, "class_excess": {...}}; an entropy is None where any log-probability is
    unknown. Where captions have grounded words also {"grounded": {...}}, see ``_grounded``; with experts also
    {"routing": {source: [layer, ...]}}, where a layer is {"layer": its block, ...} with the numbers of
    ``nmm.model.specialisation.describe``, and the source "all" is all of them pooled. Runs uncompiled: evaluation
    shapes differ from training's and a compiled one would not pay.
    """
    was_training = model.training
    model.eval()
    with torch.compiler.set_stance("force_eager"):
        sums = {source: _sums(model, parts) for source, parts in batches.items()}
    model.train(was_training)
    loss = {source: s["nll"] / s["targets"] for source, s in sums.items()}
    entropy = {source: -s["logprob"] / s["targets"] for source, s in sums.items()}
    weight = {source: mixture.get(source, 0.0) * s["targets"] / s["positions"] for source, s in sums.items()}
    result = {
        "loss": _with_means(loss, weight),
        "entropy": {k: (None if math.isnan(v) else v) for k, v in _with_means(entropy, weight).items()},
        "class_excess": _class_excess(sums),
    }
    if grounded := _grounded(sums.get("caption", {})):
        result["grounded"] = grounded
    if model.config.arch.num_experts:
        result["routing"] = _routing(model, {source: s["routing"] for source, s in sums.items()})
    return result


def _sums(model: NativeMultimodalModel, batches: Sequence[Batch]) -> dict[str, Any]:
    """Token sums over one source; by class letter: (NLL, log-probability, count)."""
    total: dict[str, Any] = {"nll": 0.0, "logprob": 0.0, "targets": 0, "positions": 0, "letters": {}}
    layers = []
    for batch in batches:
        output = model(batch)
        nll = target_losses(output, batch).double()
        logprob = batch.logprobs.reshape(-1)[output.at].double()
        classes = batch.classes.reshape(-1)[output.at]
        total["nll"] += nll.sum().item()
        total["logprob"] += logprob.sum().item()
        total["targets"] += nll.numel()
        total["positions"] += int((batch.document >= 0).sum())
        layers.append([counts_of(routing) for routing in output.routings])
        for letter in (*CLASS_NAMES, *GROUNDED.upper(), "N"):
            chosen = classes == ord(letter)
            before = total["letters"].get(letter, (0.0, 0.0, 0))
            now = (nll[chosen].sum().item(), logprob[chosen].sum().item(), int(chosen.sum()))
            total["letters"][letter] = tuple(a + b for a, b in zip(before, now, strict=True))
    total["routing"] = added(layers)
    return total


def _with_means(values: Mapping[str, float], weight: Mapping[str, float]) -> dict[str, float]:
    means = {"avg": sum(values.values()) / len(values)}
    means["mixture"] = sum(values[s] * weight[s] for s in values) / sum(weight.values())
    return {**values, **means}


def _class_excess(sums: Mapping[str, Mapping[str, Any]]) -> dict[str, float | None]:
    """Mean excess (nats) by class of the target over all sources; None for a class that does not occur."""
    result: dict[str, float | None] = {}
    for letter, name in CLASS_NAMES.items():
        found = [_of_letters(s["letters"], letter + letter.upper()) for s in sums.values()]
        nll, logprob, count = (sum(part) for part in zip(*found, strict=True))
        value = (nll + logprob) / count if count else math.nan
        result[name] = None if math.isnan(value) else value
    return result


def _of_letters(sums: Mapping[str, tuple[float, float, int]], letters: str) -> tuple[float, float, int]:
    """(NLL, log-probability, count) over some class letters."""
    found = [sums[letter] for letter in letters if letter in sums]
    return sum(s[0] for s in found), sum(s[1] for s in found), sum(s[2] for s in found)


def _grounded(caption: Mapping[str, Any]) -> dict[str, float | None]:
    """Loss and known entropy (nats) over the colour, shape, size and location words of captions, and how many there
    are; ``loss_tail`` and so on of entities of the tail, where the world marks some. {} where nothing is grounded.
    """
    result: dict[str, float | None] = {}
    for ending, letters in (("", GROUNDED + GROUNDED.upper()), ("_tail", GROUNDED.upper())):
        nll, logprob, count = _of_letters(caption.get("letters", {}), letters)
        if count:
            known = None if math.isnan(logprob) else -logprob / count
            result |= {f"loss{ending}": nll / count, f"entropy{ending}": known, f"targets{ending}": count}
    return result


def _routing(model: NativeMultimodalModel, counts: Mapping[str, list[Counts]]) -> dict[str, list[dict[str, Any]]]:
    """Every layer with experts, by source and over all of them."""
    blocks = [layer for layer in range(model.config.size.depth) if has_experts(model.config, layer)]
    pooled = {**counts, "all": added(list(counts.values()))}
    return {
        source: [{"layer": block, **describe(layer)} for block, layer in zip(blocks, layers, strict=True)]
        for source, layers in pooled.items()
    }


def routing_row(routing: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, Any]:
    """Of ``evaluate``'s routing, one number a column: {"routing_layer0_specialisation": 0.3, ...}, over all sources."""
    return {
        f"routing_layer{layer['layer']}_{name}": layer[name] for layer in routing["all"] for name in ROUTING_SCALARS
    }
