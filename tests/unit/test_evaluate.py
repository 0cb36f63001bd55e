"""Held-out losses against loops in plain Python, and entropies against what the shards themselves say."""

from __future__ import annotations

import dataclasses
import json
import math
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lab import SOURCES

from nmm.batch import Batch
from nmm.config import RunConfig
from nmm.data.loader import val_batches
from nmm.data.manifest import open_shards
from nmm.data.source import RowSource
from nmm.evaluate import CLASS_NAMES, ROUTING_SCALARS, evaluate, routing_row
from nmm.model.build import build
from nmm.model.fusion import NativeMultimodalModel

WIDTH = 256  # wide enough for every document, so that none is cut
MIXTURE = {"caption": 0.45, "interleaved": 0.45, "text": 0.10}


@pytest.fixture(scope="module")
def batches(tiny_shards: Path) -> dict[str, list[Batch]]:
    """Every row of the validation split of every source, in batches of uneven sizes."""
    shards = open_shards(tiny_shards)
    held_out = {}
    for source in SOURCES:
        rows = RowSource(shards, {source: 1.0}, WIDTH, 8, seed=0, split="val", once_in_order=True).rows_available()
        held_out[source] = val_batches(shards, source, "val", rows, 5, WIDTH, 8)
    return held_out


@pytest.fixture(scope="module")
def model(make_config: Callable[..., RunConfig]) -> NativeMultimodalModel:
    built = build(make_config("early"))
    torch.nn.init.normal_(built.head.weight, std=0.5, generator=torch.Generator().manual_seed(1))
    return built


@pytest.fixture(scope="module")
def evaluation(model: NativeMultimodalModel, batches: dict[str, list[Batch]]) -> dict[str, Any]:
    return evaluate(model, batches, MIXTURE)


def tokens_one_by_one(model: NativeMultimodalModel, batch: Batch) -> list[tuple[float, float, str]]:
    """(loss, log-probability under the generator, class letter) of every scored token, position by position."""
    with torch.no_grad():
        log_p = model.head(model.trunk(model.embed(batch), model.context(batch))[0]).double().log_softmax(-1)
    found = []
    for b, row in enumerate(batch.weights.tolist()):
        for t, weight in enumerate(row):
            if weight:
                loss = -log_p[b, t, batch.targets[b, t]].item()
                found.append((loss, batch.logprobs[b, t].item(), chr(batch.classes[b, t])))
    return found


def test_losses_entropies_and_excess_by_class(
    model: NativeMultimodalModel, batches: dict[str, list[Batch]], evaluation: dict[str, Any]
) -> None:
    tokens = {source: [t for b in parts for t in tokens_one_by_one(model, b)] for source, parts in batches.items()}
    for source, found in tokens.items():
        loss = sum(loss for loss, _, _ in found) / len(found)
        entropy = -sum(logprob for _, logprob, _ in found) / len(found)
        assert evaluation["loss"][source] == pytest.approx(loss, rel=1e-6)
        assert evaluation["entropy"][source] == pytest.approx(entropy, rel=1e-6)
    everything = [token for found in tokens.values() for token in found]
    assert {letter for _, _, letter in everything} == set(CLASS_NAMES)
    for letter, name in CLASS_NAMES.items():
        excess = [loss + logprob for loss, logprob, its in everything if its == letter]
        assert evaluation["class_excess"][name] == pytest.approx(sum(excess) / len(excess), rel=1e-5)


def test_average_and_mixture(batches: dict[str, list[Batch]], evaluation: dict[str, Any]) -> None:
    """The mixture's weights are shares of positions; a source's loss counts by its scored tokens a position."""
    density = {
        source: sum(int(b.weights.sum()) for b in parts) / sum(int((b.document >= 0).sum()) for b in parts)
        for source, parts in batches.items()
    }
    total = sum(MIXTURE[source] * density[source] for source in SOURCES)
    for kind in ("loss", "entropy"):
        values = evaluation[kind]
        assert values["avg"] == pytest.approx(sum(values[s] for s in SOURCES) / 3, rel=1e-12)
        mixture = sum(MIXTURE[s] * density[s] * values[s] for s in SOURCES) / total
        assert values["mixture"] == pytest.approx(mixture, rel=1e-12)
        assert set(values) == {*SOURCES, "avg", "mixture"}


@pytest.mark.parametrize("source", ["caption", "interleaved"])
def test_entropy_of_a_whole_split_is_the_manifest_s(tiny_shards: Path, evaluation: dict[str, Any], source: str) -> None:
    manifest = json.loads((tiny_shards / "manifest.json").read_text())
    known = manifest["sources"][source]["val"]["entropy_per_text_token"]
    assert evaluation["entropy"][source] == pytest.approx(known, rel=1e-6)


def test_entropy_of_text_leaves_out_first_words(tiny_shards: Path, evaluation: dict[str, Any]) -> None:
    """Nothing stands before the first word of a text document, so nothing predicts it."""
    logprobs: list[float] = []
    for shard in sorted((tiny_shards / "text").glob("val-*.tar")):
        with tarfile.open(shard) as tar:
            for member in tar.getmembers():
                if member.name.endswith(".json"):
                    file = tar.extractfile(member)
                    assert file is not None
                    logprobs += json.load(file)["logprobs"][1:]
    assert evaluation["entropy"]["text"] == pytest.approx(-math.fsum(logprobs) / len(logprobs), rel=1e-6)


def test_an_untrained_model_is_at_log_vocabulary(make_config: Callable[..., RunConfig], batches: dict) -> None:
    config = make_config("early")
    result = evaluate(build(config), batches, MIXTURE)
    for value in result["loss"].values():
        assert value == pytest.approx(math.log(config.data.vocab_size), rel=1e-6)


def test_what_captions_say_of_their_pictures(
    model: NativeMultimodalModel, batches: dict[str, list[Batch]], evaluation: dict[str, Any]
) -> None:
    found = [t for b in batches["caption"] for t in tokens_one_by_one(model, b) if t[2] in "cszl"]
    expected = sum(loss for loss, _, _ in found) / len(found), -sum(known for _, known, _ in found) / len(found)
    assert evaluation["grounded"] == {
        "loss": pytest.approx(expected[0], rel=1e-6),
        "entropy": pytest.approx(expected[1], rel=1e-6),
        "targets": len(found),
    }
    assert "grounded" not in evaluate(model, {"text": batches["text"]}, {"text": 1.0})


def test_words_of_rare_entities_are_counted_apart_too(
    model: NativeMultimodalModel, batches: dict[str, list[Batch]], evaluation: dict[str, Any]
) -> None:
    """Capitals are the same classes; here those of every second batch."""

    def capitals(batch: Batch) -> Batch:
        grounded = sum(batch.classes == ord(letter) for letter in "cszln").bool()
        return dataclasses.replace(batch, classes=torch.where(grounded, batch.classes - 32, batch.classes))

    rare = [batch for number, batch in enumerate(batches["caption"]) if number % 2]
    mixed = [capitals(b) if number % 2 else b for number, b in enumerate(batches["caption"])]
    result = evaluate(model, {**batches, "caption": mixed}, MIXTURE)
    apart = evaluate(model, {"caption": rare}, {"caption": 1.0})["grounded"]
    tail = {f"{name}_tail": pytest.approx(value, rel=1e-6) for name, value in apart.items()}
    whole = {name: pytest.approx(value, rel=1e-9) for name, value in evaluation["grounded"].items()}
    assert result["grounded"] == {**whole, **tail}
    assert result["class_excess"] == pytest.approx(evaluation["class_excess"], rel=1e-9)


def test_an_unknown_log_probability_makes_the_entropy_unknown(
    model: NativeMultimodalModel, batches: dict[str, list[Batch]], evaluation: dict[str, Any]
) -> None:
    first = batches["text"][0]
    logprobs = first.logprobs.clone()
    logprobs[first.weights > 0] = torch.where(torch.arange(int(first.weights.sum())) == 3, torch.nan, -1.0)
    changed = {**batches, "text": [dataclasses.replace(first, logprobs=logprobs), *batches["text"][1:]]}
    result = evaluate(model, changed, MIXTURE)
    assert result["loss"] == evaluation["loss"]
    assert (result["entropy"]["text"], result["entropy"]["avg"], result["entropy"]["mixture"]) == (None, None, None)
    assert result["entropy"]["caption"] == evaluation["entropy"]["caption"]


def test_a_class_that_does_not_occur_has_no_excess(model: NativeMultimodalModel, batches: dict) -> None:
    result = evaluate(model, {"text": batches["text"]}, {"text": 1.0})
    assert (result["class_excess"]["size"], result["class_excess"]["location"]) == (None, None)
    assert result["class_excess"]["fact"] is not None
    assert result["loss"]["avg"] == pytest.approx(result["loss"]["text"], rel=1e-12)


def test_it_leaves_the_model_as_it_was(model: NativeMultimodalModel, batches: dict) -> None:
    for training in (True, False):
        model.train(training)
        evaluate(model, {"caption": batches["caption"][:1]}, {"caption": 1.0})
        assert model.training is training
    assert all(parameter.grad is None for parameter in model.parameters())


# ---------------------------------------------------------------------------------------------------------- experts


def choices_one_by_one(model: NativeMultimodalModel, batch: Batch) -> list[tuple[int, bool, list[int]]]:
    """(layer, is an image, experts) of every valid position, layer by layer and position by position."""
    with torch.no_grad():
        routings = model.features(batch)[1]
    return [
        (layer, bool(batch.image[b, t] >= 0), routing.expert[b, t].tolist())
        for layer, routing in enumerate(routings)
        for b, row in enumerate(batch.document.tolist())
        for t, document in enumerate(row)
        if document >= 0
    ]


@pytest.fixture(scope="module")
def sparse(make_config: Callable[..., RunConfig]) -> NativeMultimodalModel:
    """Experts in every second block."""
    return build(make_config("moe", "d24", arch={"moe_every": 2, "top_k": 2}, size={"depth": 4}))


def test_what_experts_took_by_layer_and_source(sparse: NativeMultimodalModel, batches: dict[str, list[Batch]]) -> None:
    result = evaluate(sparse, batches, MIXTURE)["routing"]
    assert set(result) == {*SOURCES, "all"}
    chosen = {source: [c for b in parts for c in choices_one_by_one(sparse, b)] for source, parts in batches.items()}
    chosen["all"] = [c for source in SOURCES for c in chosen[source]]
    for source, layers in result.items():
        assert [layer["layer"] for layer in layers] == [1, 3]  # blocks, not places in the list
        for number, layer in enumerate(layers):
            mine = [(is_image, experts) for at, is_image, experts in chosen[source] if at == number]
            slots = [sum(e in experts for _, experts in mine) for e in range(8)]
            of_images = [sum(e in experts for is_image, experts in mine if is_image) for e in range(8)]
            assert sum(slots) == 2 * len(mine)
            assert layer["load"] == pytest.approx([n / sum(slots) for n in slots])
            assert layer["image_share"] == [i / n if n else None for i, n in zip(of_images, slots, strict=True)]
            assert layer["dropped"] == 0
            assert (layer["of_image"] is None) == (source == "text")
    assert json.loads(json.dumps(result, allow_nan=False)) == result


def test_routing_does_not_depend_on_how_rows_are_batched(
    sparse: NativeMultimodalModel, batches: dict[str, list[Batch]]
) -> None:
    whole = evaluate(sparse, {"interleaved": batches["interleaved"]}, {"interleaved": 1.0})["routing"]
    rows = [row for batch in batches["interleaved"] for row in batch.split(len(batch.tokens))]
    assert len(rows) > len(batches["interleaved"])
    single = evaluate(sparse, {"interleaved": rows}, {"interleaved": 1.0})["routing"]
    for one, other in zip(whole["interleaved"], single["interleaved"], strict=True):
        assert one.pop("router_entropy") == pytest.approx(other.pop("router_entropy"), rel=1e-6)
        assert one == other


def test_only_models_with_experts_have_routing(evaluation: dict[str, Any]) -> None:
    assert "routing" not in evaluation


def test_a_row_of_metrics_has_one_number_a_column(
    sparse: NativeMultimodalModel, batches: dict[str, list[Batch]]
) -> None:
    result = evaluate(sparse, {"caption": batches["caption"][:1]}, {"caption": 1.0})["routing"]
    row = routing_row(result)
    assert len(row) == 2 * len(ROUTING_SCALARS)
    assert row["routing_layer3_specialisation"] == result["all"][1]["specialisation"]
    assert all(value is None or isinstance(value, float | int) for value in row.values())
