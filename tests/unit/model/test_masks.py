"""The mask against a brute-force oracle on random layouts, on both back ends, and what padding may never do."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
import torch
from lab import training_batch
from torch.nn.attention.flex_attention import create_mask, flex_attention

from nmm.batch import ARRAYS, Batch
from nmm.config import RunConfig
from nmm.model.build import build
from nmm.model.loss import balance_loss, target_losses
from nmm.model.masks import block_mask, dense_mask, lookups, visible

LAYOUTS = 200


def random_layout(seed: int) -> tuple[list[int], list[int]]:
    """Document and image numbers of one row: documents of text and images, then padding, as packing makes them."""
    rng = random.Random(seed)
    width = rng.choice([1, 2, 5, 16, 33])
    document: list[int] = []
    image: list[int] = []
    images = 0
    number = 0
    while len(document) < width and rng.random() < 0.85:
        for _ in range(rng.randint(1, 4)):
            if rng.random() < 0.4:
                patches = rng.choice([1, 4, 9])
                document += [number] * patches
                image += [images] * patches
                images += 1
            else:
                words = rng.randint(1, 6)
                document += [number] * words
                image += [-1] * words
        number += 1
    fill = max(0, width - len(document))
    return (document + [-1] * fill)[:width], (image + [-1] * fill)[:width]


def oracle(document: list[int], image: list[int], bidirectional: bool, separate: bool) -> list[list[bool]]:
    """Who sees whom, said in words: the same document (or any, when documents are not kept apart; padding is never
    seen by text), nothing later, except inside one image."""
    seen = []
    for q in range(len(document)):
        row = []
        for k in range(len(document)):
            together = document[q] == document[k] or (not separate and document[q] >= 0 and document[k] >= 0)
            same_image = bidirectional and image[q] >= 0 and image[q] == image[k]
            row.append(together and (k <= q or same_image))
        seen.append(row)
    return seen


def tensors(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    document, image = random_layout(seed)
    return torch.tensor([document], dtype=torch.int32), torch.tensor([image], dtype=torch.int32)


@pytest.mark.parametrize("image_attention", ["bidirectional", "causal"])
@pytest.mark.parametrize("document_mask", [True, False])
def test_dense_mask_is_the_oracle(image_attention: str, document_mask: bool) -> None:
    for seed in range(LAYOUTS):
        document, image = random_layout(seed)
        mask = dense_mask(*lookups(*tensors(seed), image_attention, document_mask))
        expected = oracle(document, image, image_attention == "bidirectional", document_mask)
        assert mask[0, 0].tolist() == expected, (document, image)


def test_the_layouts_are_worth_testing() -> None:
    """Guards the generator: padding, several documents, several images and full rows all occur."""
    rows = [random_layout(seed) for seed in range(LAYOUTS)]
    assert sum(min(document) < 0 for document, _ in rows) > 20
    assert sum(max(document) >= 2 for document, _ in rows) > 20
    assert sum(max(image) >= 2 for _, image in rows) > 20
    assert sum(document == [-1] * len(document) for document, _ in rows) > 5
    assert sum(min(document) >= 0 for document, _ in rows) > 20


def test_flex_attention_reads_the_same_predicate() -> None:
    """FlexAttention's own evaluation of the predicate (a dense mask from its mask_mod) on the same layouts."""
    for seed in range(LAYOUTS):
        document, image = lookups(*tensors(seed), "bidirectional", True)

        def mask_mod(b: torch.Tensor, h: torch.Tensor, q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
            return visible(q, k, document[b, q], document[b, k], image[b, q], image[b, k])  # noqa: B023

        width = document.shape[1]
        flex = create_mask(mask_mod, 1, 1, width, width, device="cpu")
        assert torch.equal(flex, dense_mask(document, image)), seed


def test_block_mask_has_the_predicate_of_the_batch(make_config: Callable[..., RunConfig]) -> None:
    """Every position of a real batch, through the BlockMask's own mask_mod."""
    batch = training_batch(make_config())
    document, image = lookups(batch.document, batch.image, "bidirectional", True)
    mask_mod = block_mask(document, image).mask_mod
    rows, width = document.shape
    dense = create_mask(mask_mod, rows, 1, width, width, device="cpu")
    assert torch.equal(dense, dense_mask(document, image))


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("document_mask", [True, False])
def test_flex_attention_forward_is_sdpa_forward(make_config: Callable[..., RunConfig], document_mask: bool) -> None:
    batch = training_batch(make_config())
    document, image = lookups(batch.document, batch.image, "bidirectional", document_mask)
    rows, width = document.shape
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(rows, 2, width, 8, generator=generator) for _ in range(3))
    flex = flex_attention(q, k, v, block_mask=block_mask(document, image))
    hidden = torch.zeros(()).masked_fill(~dense_mask(document, image), float("-inf"))
    dense = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=hidden)
    assert torch.allclose(flex, dense, atol=2e-6, rtol=1e-5)


# ------------------------------------------------------------------------------------------ through the whole model


def blank(batch: Batch, rows: list[int]) -> Batch:
    """The batch with whole rows made padding."""
    fields = {name: getattr(batch, name).clone() for name in ARRAYS}
    nothing = {"document": -1, "image": -1, "source": -1, "tokens": 0, "position": 0, "targets": 0, "weights": 0.0}
    for name, value in nothing.items():
        fields[name][rows] = value
    row_of_image = batch.patch_at[:, 0] // batch.tokens.shape[1]
    kept = ~torch.isin(row_of_image, torch.tensor(rows))
    return Batch(**{**fields, "patches": batch.patches[kept], "patch_at": batch.patch_at[kept]})


@pytest.mark.parametrize("arch", ["early", "late", "moe"])
@pytest.mark.parametrize("rows", [[1], [0, 1, 2, 3]])
def test_rows_of_padding_give_no_nan_and_change_no_other_row(
    make_config: Callable[..., RunConfig], arch: str, rows: list[int]
) -> None:
    config = make_config(arch)
    batch = training_batch(config)
    padded = blank(batch, rows)
    model = build(config)
    torch.nn.init.normal_(model.head.weight, generator=torch.Generator().manual_seed(3))
    features = model.trunk(model.embed(padded), model.context(padded))[0]
    assert features.isfinite().all()
    output = model(padded)
    loss = target_losses(output, padded).sum() + balance_loss(output)
    loss.backward()
    assert loss.isfinite()
    for name, parameter in model.named_parameters():
        assert parameter.grad is None or parameter.grad.isfinite().all(), name
    whole = model.trunk(model.embed(batch), model.context(batch))[0]
    others = [row for row in range(4) if row not in rows]
    assert torch.allclose(features[others], whole[others], atol=1e-6)


@pytest.mark.parametrize("arch", ["early", "late", "moe"])
@pytest.mark.parametrize(("image_attention", "document_mask"), [("bidirectional", True), ("causal", False)])
def test_information_flows_exactly_where_the_mask_says(
    make_config: Callable[..., RunConfig], arch: str, image_attention: str, document_mask: bool
) -> None:
    """Change the input of one position: with one layer, exactly the positions that see it change."""
    config = make_config(
        arch, arch={"image_attention": image_attention, "document_mask": document_mask}, size={"depth": 1}
    )
    model = build(config)
    batch = training_batch(config)
    context, x = model.context(batch), model.embed(batch).detach()
    before = model.trunk(x, context)[0]
    sees = dense_mask(*lookups(batch.document, batch.image, image_attention, document_mask))[0, 0]
    for at in (0, 7, 40, 77, 127):
        changed = x.clone()
        changed[0, at] += 1.0
        moved = (model.trunk(changed, context)[0] - before)[0].abs().amax(dim=-1) > 0
        assert torch.equal(moved, sees[:, at]), at
