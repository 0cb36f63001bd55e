"""One definition of who sees whom, for every back end.

Shape legend: B rows, T positions. A query sees a key when both lie in the same document and the key is not later, or
both lie in the same image. ``visible`` is the definition; ``dense_mask`` evaluates it for SDPA on a CPU, ``block_mask``
hands the same predicate to FlexAttention on a GPU (FlexAttention has no CPU backward in torch 2.15).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask


def visible(
    query: Tensor, key: Tensor, query_doc: Tensor, key_doc: Tensor, query_image: Tensor, key_image: Tensor
) -> Tensor:
    """Elementwise predicate on positions, document numbers and image numbers (-1: not an image)."""
    same_image = (query_image == key_image) & (query_image >= 0)
    return (query_doc == key_doc) & ((key <= query) | same_image)


def lookups(document: Tensor, image: Tensor, image_attention: str, document_mask: bool) -> tuple[Tensor, Tensor]:
    """Apply the two ablation switches by changing what the predicate looks up, not the predicate.

    document, image (B, T). Padding (document -1) keeps to itself either way, so real text never sees it.
    """
    if not document_mask:
        document = document.clamp(max=0)
    if image_attention == "causal":
        image = torch.full_like(image, -1)
    return document, image


def dense_mask(document: Tensor, image: Tensor) -> Tensor:
    """(B, T) lookups -> (B, 1, T, T) bool, True where the query (dim 2) sees the key (dim 3)."""
    at = torch.arange(document.shape[1], device=document.device)
    seen = visible(
        at[:, None], at[None, :], document[:, :, None], document[:, None, :], image[:, :, None], image[:, None, :]
    )
    return seen[:, None]


def block_mask(document: Tensor, image: Tensor) -> BlockMask:
    """(B, T) lookups -> FlexAttention's BlockMask of the same predicate."""

    def mask_mod(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        return visible(q, k, document[b, q], document[b, k], image[b, q], image[b, k])

    rows, width = document.shape
    return create_block_mask(mask_mod, rows, None, width, width, device=str(document.device))
