"""Every option of the trunk on real batches: it learns, the past does not know the future, a cache changes nothing."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from lab import ARCHS, conf, tiny_config_on, training_batch
from torch import Tensor

from nmm.batch import ARRAYS, IMAGE_ID, Batch
from nmm.config import RunConfig
from nmm.data.shards import write_shards
from nmm.data.world import WorldConfig
from nmm.model.build import build
from nmm.model.fusion import NativeMultimodalModel, grid_positions, row_positions
from nmm.model.layers import Context, LayerCache
from nmm.model.loss import loss_sums, objective

MakeConfig = Callable[..., RunConfig]

OPTIONS: dict[str, dict[str, dict[str, Any]]] = {
    "layer norm": {"block": {"norm": "layer"}},
    "qk-norm over the width": {"block": {"qk_norm": "width"}},
    "no qk-norm": {"block": {"qk_norm": "none"}},
    "swiglu": {"block": {"ffn": "swiglu", "hidden_multiple": 8}},
    "2-d positions": {"block": {"rope": "2d"}},
    "tied head": {"block": {"tied_head": True}},
    "no patch position": {"block": {"patch_position": False}},
    "small branches": {"block": {"init": "depth"}},
    "grouped heads": {"size": {"num_heads": 4, "num_kv_heads": 2, "head_dim": 8}},
    "one head of keys": {"size": {"num_kv_heads": 1}},
    "wide heads": {"size": {"head_dim": 20}},
    "causal images": {"arch": {"image_attention": "causal"}},
    "documents together": {"arch": {"document_mask": False}},
    "the paper's block": {"block": conf("block", "paper") | {"hidden_multiple": 16}},
    "all at once": {
        "block": {"norm": "layer", "qk_norm": "width", "ffn": "swiglu", "rope": "2d", "tied_head": True}
        | {"patch_position": False, "init": "depth", "vision": "swiglu"},
        "size": {"num_heads": 4, "num_kv_heads": 2, "head_dim": 8},
        "arch": {"image_attention": "causal", "document_mask": False},
    },
}


def loud(config: RunConfig) -> NativeMultimodalModel:
    """The built model with a head that is not zero."""
    model = build(config)
    torch.nn.init.normal_(model.head.weight, generator=torch.Generator().manual_seed(5))
    return model


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("option", OPTIONS)
def test_every_parameter_learns(make_config: MakeConfig, option: str, arch: str) -> None:
    config = make_config(arch, **OPTIONS[option])
    model, batch = loud(config), training_batch(config)
    loss = objective(loss_sums(model(batch), batch, config), batch.weights.sum(), config)
    loss.backward()
    assert loss.isfinite()
    silent = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]
    assert silent == []


def test_a_tied_head_is_the_embedding(make_config: MakeConfig) -> None:
    model = build(make_config(block={"tied_head": True}))
    assert model.head.weight is model.embedding.weight
    assert "head.weight" not in dict(model.named_parameters())


# ------------------------------------------------------------------------------------------- who knows what


def features(model: NativeMultimodalModel, batch: Batch) -> Tensor:
    return model.features(batch)[0].detach()


@pytest.mark.parametrize("option", OPTIONS)
def test_a_word_changes_nothing_before_it(make_config: MakeConfig, option: str) -> None:
    config = make_config(**OPTIONS[option])
    model, batch = build(config), training_batch(config)
    before = features(model, batch)
    words = ((batch.tokens[0] != IMAGE_ID) & (batch.document[0] >= 0)).nonzero().squeeze(1).tolist()
    for at in words[1::17]:
        tokens = batch.tokens.clone()
        tokens[0, at] = 3 + (tokens[0, at] - 2) % 20
        moved = (features(model, dataclasses.replace(batch, tokens=tokens)) - before).abs().amax(dim=-1) > 1e-6
        assert moved[0, at]
        assert not moved[0, :at].any(), at
        assert not moved[1:].any(), at


@pytest.mark.parametrize("arch", ["early", "late"])
@pytest.mark.parametrize("image_attention", ["bidirectional", "causal"])
def test_the_last_patch_is_known_to_the_first_only_if_images_are_bidirectional(
    make_config: MakeConfig, image_attention: str, arch: str
) -> None:
    """In late fusion the encoder tells every patch of all others whatever the trunk's mask is."""
    config = make_config(arch, arch={"image_attention": image_attention})
    model, batch = build(config), training_batch(config)
    at = int(batch.patch_at[0, 0])
    assert at < 128, "the first image stands in the first row"
    patches = batch.patches.clone()
    patches[0, -1] = 255 - patches[0, -1]
    difference = features(model, dataclasses.replace(batch, patches=patches)) - features(model, batch)
    moved = difference.abs().amax(dim=-1)[0] > 1e-6
    assert moved[at].item() == (image_attention == "bidirectional" or arch == "late")
    assert moved[at + 15]
    assert not moved[:at].any()


# -------------------------------------------------------------------------------------------------- positions


def test_patches_have_a_row_and_a_column() -> None:
    position = torch.tensor([[0, 1, 2, 3, 4, 5, 6, 0], [0, 1, 2, 3, 4, 5, 0, 1]])
    patch_at = torch.tensor([[2, 3, 4, 5], [9, 10, 11, 12]])
    rows, columns = grid_positions(position, patch_at).unbind(-1)
    assert rows.tolist() == [[0, 1, 2, 2, 3, 3, 6, 0], [0, 1, 1, 2, 2, 5, 0, 1]]
    assert columns.tolist() == [[0, 1, 2, 3, 2, 3, 6, 0], [0, 1, 2, 1, 2, 5, 0, 1]]
    assert position[0].tolist() == [0, 1, 2, 3, 4, 5, 6, 0], "the batch's own positions stay as they are"


def test_no_two_positions_of_a_document_are_the_same(make_config: MakeConfig) -> None:
    config = make_config(block={"rope": "2d"})
    batch = training_batch(config)
    grid = grid_positions(batch.position, batch.patch_at)
    valid = batch.document >= 0
    row = torch.arange(len(grid))[:, None].expand_as(batch.document)
    places = torch.stack([row[valid], batch.document[valid].long(), *grid[valid].unbind(-1)], dim=1)
    assert len(places.unique(dim=0)) == len(places) > 400


def without_images(batch: Batch) -> Batch:
    tokens = batch.tokens.masked_fill(batch.tokens == IMAGE_ID, 7)
    nothing = {"patches": batch.patches[:0], "patch_at": batch.patch_at[:0], "image": torch.full_like(batch.image, -1)}
    return dataclasses.replace(batch, tokens=tokens, **nothing)


def test_text_has_the_same_features_with_one_or_two_coordinates(make_config: MakeConfig) -> None:
    plain, grid = (build(make_config(block={"rope": rope})) for rope in ("1d", "2d"))
    batch = training_batch(plain.config)
    assert torch.equal(features(plain, without_images(batch)), features(grid, without_images(batch)))
    assert not torch.allclose(features(plain, batch), features(grid, batch), atol=1e-3)


def test_positions_run_on_where_documents_see_each_other() -> None:
    position = torch.tensor([[0, 1, 2, 0, 1, 0], [0, 0, 1, 2, 0, 0], [7, 8, 9, 10, 11, 12]])
    document = torch.tensor([[0, 0, 0, 1, 1, 2], [-1, 0, 0, 0, 1, -1], [0, 0, 0, 0, 0, 0]])
    found = row_positions(position, document)
    assert found[0].tolist() == [0, 1, 2, 3, 4, 5]
    assert found[1, 1:5].tolist() == [0, 1, 2, 3], "padding on the left moves nothing"
    assert found[2].tolist() == [7, 8, 9, 10, 11, 12], "a later piece of a document goes on"


# ------------------------------------------------------------------------------------------------------ caches


def pieces(batch: Batch, cuts: list[int]) -> Iterator[tuple[int, int, Batch]]:
    """(start, stop, those columns of a batch of one row)."""
    for start, stop in zip([0, *cuts], [*cuts, batch.tokens.shape[1]], strict=True):
        inside = (batch.patch_at >= start) & (batch.patch_at < stop)
        assert torch.equal(inside.any(dim=1), inside.all(dim=1)), "an image stays in one piece"
        kept = inside.all(dim=1)
        values = {name: getattr(batch, name) for name in ARRAYS}
        cut = {name: v[:, start:stop] for name, v in values.items() if v.ndim == 2 and name != "patch_at"}
        at = {"patches": batch.patches[kept], "patch_at": batch.patch_at[kept] - start}
        yield start, stop, dataclasses.replace(batch, **cut, **at)


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("option", OPTIONS)
def test_features_in_pieces_are_the_features_of_the_whole(make_config: MakeConfig, option: str, arch: str) -> None:
    """A row of several documents, cut after its first image and into single words at its end."""
    config = make_config(arch, **OPTIONS[option])
    model = build(config).eval()
    batch = next(b for b in training_batch(config).split(4) if len(b.patches) > 1 and b.image[0, -4:].max() < 0)
    whole, context = features(model, batch), model.context(batch)
    size = config.size
    caches = [
        LayerCache(1, config.num_kv_heads, 128, config.head_dim, model.embedding.weight) for _ in range(size.depth)
    ]
    found = []
    with torch.no_grad():
        for start, stop, piece in pieces(batch, [int(batch.patch_at[0, -1]) + 1, 124, 125, 126, 127]):
            part = Context(
                context.mask[:, :, start:stop, :stop],  # type: ignore[index]
                context.cos[:, :, start:stop],
                context.sin[:, :, start:stop],
                context.valid[:, start:stop],
                context.is_image[:, start:stop],
            )
            found.append(model.features(piece, part, caches)[0])
    assert torch.allclose(torch.cat(found, dim=1), whole, atol=2e-5)
    assert [cache.length for cache in caches] == [128] * size.depth


# ------------------------------------------------------------------------------- resolutions and context lengths


@pytest.fixture(scope="module")
def large_shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards of a world of 48 x 48 pixels."""
    counts = {source: {"train": 60, "val": 10, "test": 5} for source in ("caption", "interleaved", "text")}
    out = tmp_path_factory.mktemp("large") / "shards"
    write_shards(WorldConfig(num_entities=150, name_words=16, image_size=48), out, counts, 128, progress=False)
    return out


def scored(config: RunConfig) -> Tensor:
    """Loss of the first batch, after its backward pass."""
    model, batch = loud(config), training_batch(config)
    assert batch.patches.shape[1:] == (config.tokens_per_image, 3 * config.data.patch_size**2)
    assert len(batch.patches)
    loss = objective(loss_sums(model(batch), batch, config), batch.weights.sum(), config)
    loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    return loss.detach()


@pytest.mark.parametrize("arch", ["early", "late"])
@pytest.mark.parametrize(("patch_size", "tokens"), [(16, 9), (12, 16), (6, 64)])
def test_a_larger_image_and_any_patch(large_shards: Path, arch: str, patch_size: int, tokens: int) -> None:
    data = {"image_size": 48, "patch_size": patch_size}
    config = tiny_config_on(large_shards, arch, "d32", data=data, block={"rope": "2d"})
    assert config.tokens_per_image == tokens
    assert scored(config).isfinite()


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize(("patch_size", "context_length"), [(4, 128), (4, 1024), (32, 128), (8, 2048)])
def test_small_patches_and_long_contexts(
    make_config: MakeConfig, arch: str, patch_size: int, context_length: int
) -> None:
    data = {"patch_size": patch_size, "context_length": context_length}
    assert scored(make_config(arch, data=data, trainer={"rows_per_step": 2})).isfinite()


@pytest.mark.parametrize("context_length", [1024, 2048])
def test_the_papers_images_at_both_contexts_without_memory(make_config: MakeConfig, context_length: int) -> None:
    """224 x 224 pixels in patches of 14: 256 positions an image, on the meta device."""
    paper = conf("data", "paper")
    data = {name: paper[name] for name in ("image_size", "patch_size", "pixel_mean", "pixel_std")}
    data["context_length"] = context_length
    config = make_config("late", "d32", block=conf("block", "paper"))
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, **data))
    with torch.device("meta"):
        model = NativeMultimodalModel(config)
        like = {"tokens": torch.int64, "position": torch.int64, "document": torch.int32, "image": torch.int32}
        grids = {name: torch.empty(2, context_length, dtype=dtype) for name, dtype in like.items()}
        patches = torch.empty(3, 256, 588, dtype=torch.uint8)
        other = dict.fromkeys(("targets", "weights", "source", "logprobs", "classes", "row_ids"))
        batch = Batch(**grids, patches=patches, patch_at=torch.empty(3, 256, dtype=torch.int64), **other)
        assert model.features(batch)[0].shape == (2, context_length, 32)
