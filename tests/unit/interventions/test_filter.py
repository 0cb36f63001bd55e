"""Which samples a filter keeps, and that batched scores are those of one sample at a time."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from lab import composed, run_directory, train

from nmm.batch import IMAGE_ID, SOURCES, Batch
from nmm.config import ConfigError, RunConfig
from nmm.data.corpus import DecodedCorpus
from nmm.data.decoded import open_decoded
from nmm.data.loader import to_torch
from nmm.data.manifest import Shards, open_shards
from nmm.data.opening import open_data
from nmm.data.packing import lay_out
from nmm.data.window import decoded_window, gather_documents
from nmm.interventions.filter import BANDS, SCORES, Filter, chosen, score_values
from nmm.interventions.filter_cache import open_reference, scored
from nmm.interventions.filter_score import Scorer, blank
from nmm.interventions.filter_truth import Facts, coverage, entropy, quality
from nmm.interventions.options import read_options
from nmm.model.build import build
from nmm.model.fusion import NativeMultimodalModel
from nmm.model.loss import target_losses
from nmm.start import load_run

NLL = np.array([3.0, 8.0, 0.0, 9.0, 2.0, 20.0])
TOKENS = np.array([3, 4, 0, 3, 4, 5])


def test_definitions_of_the_scores() -> None:
    mean = [1.0, 2.0, np.nan, 3.0, 0.5, 4.0]
    for score in ("image_conditional", "blind", "text_only"):
        np.testing.assert_array_equal(score_values(score, NLL, TOKENS), mean)
    np.testing.assert_array_equal(score_values("summed", NLL, TOKENS), [3.0, 8.0, np.nan, 9.0, 2.0, 20.0])
    # among those of 3 tokens, of 4 and of 5
    np.testing.assert_array_equal(score_values("length_normalised", NLL, TOKENS), [0.25, 0.75, np.nan, 0.75, 0.25, 0.5])


def test_length_normalised_keeps_every_length_alike() -> None:
    rng = np.random.default_rng(0)
    tokens = rng.integers(5, 9, 4000)
    nll = tokens * rng.normal(1.0, 0.1, 4000) + 3.0 * (tokens == 5)  # short ones look worse on average
    by_mean = chosen("lowest", 0.25, score_values("image_conditional", nll, tokens), 4000, 0)
    by_rank = chosen("lowest", 0.25, score_values("length_normalised", nll, tokens), 4000, 0)
    assert by_mean[tokens == 5].mean() < 0.01
    for length in range(5, 9):
        assert by_rank[tokens == length].mean() == pytest.approx(0.25, abs=0.002)


@pytest.mark.parametrize("keep", [0.2, 0.35, 1.0])
def test_bands(keep: float) -> None:
    scores = np.random.default_rng(1).permutation(100) / 10
    wanted = round(100 * keep)
    bands = {band: chosen(band, keep, scores, 100, 0, np.ones(100, bool)) for band in BANDS}
    assert {int(kept.sum()) for kept in bands.values()} == {wanted}
    ranked = {band: np.sort(scores[kept]) * 10 for band, kept in bands.items()}
    assert ranked["lowest"].tolist() == list(range(wanted))
    assert ranked["highest"].tolist() == list(range(100 - wanted, 100))
    first = (100 - wanted) // 2
    assert ranked["middle"].tolist() == list(range(first, first + wanted))


def test_a_random_choice_needs_no_scores_and_goes_by_its_seed() -> None:
    one, again, other = (chosen("random", 0.3, None, 1000, seed) for seed in (0, 0, 1))
    assert np.array_equal(one, again)
    assert (one & other).sum() == pytest.approx(90, abs=30)


def test_samples_without_a_score_are_never_kept_for_it() -> None:
    scores = np.array([np.nan, 1.0, 2.0, np.nan])
    for band in ("lowest", "middle", "highest"):
        assert chosen(band, 0.5, scores, 4, 0).tolist() == [False, True, True, False]
    with pytest.raises(ValueError, match="asks for 3 samples, but only 2 have a score"):
        chosen("lowest", 0.75, scores, 4, 0)


def test_clean_samples_are_drawn_among_those_labelled_so() -> None:
    clean = np.arange(100) % 3 == 0
    kept = chosen("clean", 0.2, None, 100, 0, clean)
    assert (int(kept.sum()), bool((kept & ~clean).any())) == (20, False)
    with pytest.raises(ValueError, match="asks for 40 samples, but only 34 are clean"):
        chosen("clean", 0.4, None, 100, 0, clean)
    with pytest.raises(ValueError, match="needs samples whose noise is labelled"):
        chosen("clean", 0.2, None, 100, 0)


def test_equal_scores_are_taken_in_order() -> None:
    assert chosen("lowest", 0.5, np.ones(6), 6, 0).tolist() == [True] * 3 + [False] * 3


def facts(labels: tuple[str, ...] | None, *entities: int) -> Facts:
    return Facts("k", "t", labels, entities, tuple(("red" if e % 2 else "blue", "star") for e in entities))


def test_precision_recall_and_coverage() -> None:
    found = [facts((), 0), facts(("wrong",), 5), facts(("wrong", "serial"), 1), facts((), 0, 7)]
    kept = np.array([True, True, False, False])
    said = quality(found, kept)
    assert said is not None
    assert (said["precision"], said["recall"]) == (0.5, 0.5)
    assert said["labels"]["wrong"] == {"pool": 2, "kept": 1}
    assert said["labels"]["serial"] == {"pool": 1, "kept": 0}
    assert quality([facts(None, 0), facts((), 1)], kept[:2]) is None
    told = coverage(found, kept, 5)
    assert told["pool"]["tail_share"] == pytest.approx(2 / 5)
    assert told["kept"] == {
        "mentions": 2, "entities": 2, "entity_entropy": pytest.approx(np.log(2)), "shape_entropy": 0.0,
        "colour_entropy": pytest.approx(np.log(2)), "tail_share": 0.5,
    }  # fmt: skip
    assert entropy([]) == 0.0


def options(**changes: object) -> Filter:
    given = [f"{name}={value}" for name, value in {"shards": "pool", "out": "here", **changes}.items()]
    return read_options(Filter, "filter", given, {"data": "shards"})


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"score": "perplexity"}, "score='perplexity' is not one of " + ", ".join(SCORES)),
        ({"band": "best"}, "band='best' is not one of lowest, middle, highest, random, clean"),
        ({"keep": 0}, "keep=0.0 must be above 0 and at most 1"),
        ({"batch_rows": 0}, "batch_rows=0 must be at least 1"),
        ({"reference": ""}, "reference is missing"),
        ({"out": ""}, "out is missing"),
        ({"share": 0.2}, "share"),
    ],
)
def test_wrong_options_are_named(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        options(**{"reference": "run", **changes})


def test_a_random_choice_needs_no_reference() -> None:
    assert not options(band="random").needs_scores
    assert options(band="random", reference="run").needs_scores


# ---------------------------------------------------------------------------------------------------------------------
# scores


@pytest.fixture(scope="module")
def reference(make_config: Callable[..., RunConfig], tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    config = make_config("early", budget={"steps": 30}, out=str(tmp_path_factory.mktemp("reference")))
    train(config)
    return config


def one_at_a_time(model: NativeMultimodalModel, batches: list[Batch]) -> list[tuple[float, int]]:
    """(summed NLL, tokens) of documents that have a batch each."""
    with torch.no_grad():
        losses = [target_losses(model(batch), batch).double() for batch in batches]
    return [(float(loss.sum()), len(loss)) for loss in losses]


def alone(config: RunConfig, source: int, name: str, split: str, sees: str) -> list[Batch]:
    """Every document of a split in a row of its own, made without the scorer's packing."""
    shards = open_data(config.data)
    batches = []
    for shard in open_decoded(shards, name, split, config.row_data.patch_size):
        bounds = (source, 0, config.data.context_length, config.tokens_per_image, shards.images_per_picture)
        documents = gather_documents([shard], *bounds)
        for number in range(len(documents)):
            one = documents[number : number + 1]
            layout = lay_out(one["length"], config.data.context_length, 0, 0)
            window = decoded_window(one, layout, [shard], config.data.context_length, config.tokens_per_image)
            batch = window.take(np.array([0]), [shard], 3 * config.row_data.patch_size**2)
            if sees == "blank":
                batch = dataclasses.replace(batch, patches=blank(batch.patches, config.data.pixel_mean))
            if sees == "nothing":
                batch = text_alone(batch)
            batches.append(to_torch(batch))
    return batches


def text_alone(batch: Batch) -> Batch:
    """The text of a one-document row, moved to its front; the first word is not predicted."""
    tokens = batch.tokens[0][(batch.document[0] >= 0) & (batch.tokens[0] != IMAGE_ID)]
    length, width = len(tokens), batch.tokens.shape[1]
    row = {
        "tokens": np.pad(tokens, (0, width - length)),
        "document": np.pad(np.zeros(length, np.int32), (0, width - length), constant_values=-1),
        "image": np.full(width, -1, np.int32),
        "position": np.pad(np.arange(length), (0, width - length)),
        "targets": np.pad(tokens[1:], (0, width - length + 1)),
        "weights": np.pad(np.ones(length - 1, np.float32), (0, width - length + 1)),
    }
    empty = {"patches": batch.patches[:0], "patch_at": batch.patch_at[:0]}
    return dataclasses.replace(batch, **{name: values[None] for name, values in row.items()}, **empty)


@pytest.mark.parametrize(
    "name, source, sees",
    [
        ("caption", 0, "image"),
        ("caption", 0, "blank"),
        ("caption", 0, "nothing"),
        ("interleaved", 1, "image"),
        ("text", 2, "image"),
    ],
)
def test_scores_are_those_of_one_sample_at_a_time(reference: RunConfig, name: str, source: int, sees: str) -> None:
    run = run_directory(reference)
    expected = one_at_a_time(load_run(run), alone(reference, source, name, "val", sees))
    decoded = open_decoded(open_shards(reference.data.path), name, "val", reference.data.patch_size)
    told: list[int] = []
    parts = [Scorer(load_run(run), sees, 3).score(shard, source, told.append) for shard in decoded]
    assert np.concatenate([part.tokens for part in parts]).tolist() == [tokens for _, tokens in expected]
    np.testing.assert_allclose(np.concatenate([part.nll for part in parts]), [nll for nll, _ in expected], rtol=2e-5)
    assert sum(told) == len(expected)
    assert any(part.truncated.any() for part in parts) == (name == "interleaved")  # some are longer than a row


def test_scores_do_not_depend_on_the_batch(reference: RunConfig) -> None:
    shard = open_decoded(open_shards(reference.data.path), "caption", "val", reference.data.patch_size)[0]
    few, many = (Scorer(load_run(run_directory(reference)), "image", rows).score(shard, 0) for rows in (1, 64))
    np.testing.assert_allclose(few.nll, many.nll, rtol=1e-5)
    assert (few.positions, few.images, few.targets) == (many.positions, many.images, many.targets)


def test_a_reference_that_saw_its_neighbours_scores_alone_all_the_same(
    make_config: Callable[..., RunConfig], tmp_path: Path
) -> None:
    config = make_config("early", arch={"document_mask": False}, budget={"steps": 4}, out=str(tmp_path))
    train(config)
    shard = open_decoded(open_shards(config.data.path), "caption", "val", config.data.patch_size)[0]
    scored = Scorer(load_run(run_directory(config)), "image", 4).score(shard, 0)
    expected = one_at_a_time(load_run(run_directory(config)), alone(config, 0, "caption", "val", "image"))
    np.testing.assert_allclose(scored.nll, [nll for nll, _ in expected], rtol=2e-5)


TILES = {"picture_size": 32, "image_size": 16, "tiles": 4}


@pytest.mark.parametrize(
    "groups, name",
    [
        ({"data": TILES}, "caption"),
        ({"data": {**TILES, "context_length": 48}}, "interleaved"),  # a row ends within a second picture's tiles
        ({"data": {"patch_size": 4}, "arch": {"pixel_shuffle": 2}}, "caption"),
    ],
)
def test_pictures_are_seen_as_the_reference_saw_them(
    make_config: Callable[..., RunConfig], tmp_path: Path, groups: dict[str, dict[str, object]], name: str
) -> None:
    config = make_config("early", budget={"steps": 4}, out=str(tmp_path / "runs"), **groups)
    train(config)
    shards, run = open_shards(config.data.path), run_directory(config)
    asked = options(shards=config.data.path, reference=run, scores=tmp_path / "scores", progress="false", source=name)
    found = scored(asked, shards, open_reference(asked, shards))
    batches = alone(config, SOURCES.index(name), name, "train", "image")
    expected = one_at_a_time(load_run(run), batches)
    assert found.truncated.any() == (name == "interleaved")
    patches = sum(int(np.load(file)["images"]) for file in (tmp_path / "scores").glob("*/*.npz"))
    assert patches == sum(batch.patch_at.numel() for batch in batches), "of whole pictures"
    np.testing.assert_allclose(found.nll, [nll for nll, _ in expected], rtol=2e-5)
    assert found.tokens.tolist() == [tokens for _, tokens in expected]
    again = scored(asked, shards, open_reference(asked, shards))
    assert (found.scored_now, again.scored_now) == (len(expected), 0)
    assert again.flops == found.flops > 0


def test_samples_end_where_training_ends_them(make_config: Callable[..., RunConfig]) -> None:
    """Before a picture whose tiles would not all fit, not within it."""
    config = make_config("early", data={**TILES, "context_length": 48})
    shards = open_data(config.data)
    assert isinstance(shards, Shards)
    corpus = DecodedCorpus(shards, "interleaved", "train", config.data.context_length, config.row_data.patch_size)
    model, images = build(config), shards.images_per_picture
    whole, cut = (Scorer(model, "image", 4, images_per_picture=number) for number in (images, 1))
    found = [whole.packed(shard, SOURCES.index("interleaved"))[0] for shard in corpus.decoded]
    for name in ("length", "images", "targets"):
        assert np.concatenate([one[name] for one in found]).tolist() == corpus.documents[name].tolist()
    assert any(
        (cut.packed(shard, SOURCES.index("interleaved"))[0]["images"] % images).any() for shard in corpus.decoded
    )


def test_a_blank_picture_is_zero_to_the_model() -> None:
    data = composed(arch="early", data="world")["data"]
    patches = blank(np.zeros((1, 4, 3 * 64), np.uint8), tuple(data["pixel_mean"]))
    normalised = (patches / 255 - np.repeat(data["pixel_mean"], 64)) / np.repeat(data["pixel_std"], 64)
    assert np.abs(normalised).max() < 0.01
