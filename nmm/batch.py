"""The one object in which data and model meet: packed rows of text and image tokens.

Shape legend: B rows, T positions, I images, M patches an image, P values a patch (channels x height x width).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

SOURCES = ("caption", "interleaved", "text")
PAD_ID, IMAGE_ID, END_ID = 0, 1, 2


class Skipped(NamedTuple):
    """A document that turned out unreadable when it was to be delivered: its positions are padding."""

    source: str
    reason: str
    sample: str  # shard and key, for a person
    text_tokens: int
    image_tokens: int
    targets: int
    samples: int = 1  # 0 for a later piece of a document that was cut


@dataclass(frozen=True)
class Batch:
    """Packed rows, all tensors on one device. Built by ``nmm.data``, read by ``nmm.model``.

    Rows hold documents one after another (of texts that were cut, pieces); an image stands in a row as M consecutive
    positions whose token is ``IMAGE_ID``.

    tokens     (B, T) int64    vocabulary id; IMAGE_ID where a patch stands, PAD_ID in padding
    patches    (I, M, P) uint8 raw pixels, channel-major inside a patch (C, h, w); images in order of appearance
    patch_at   (I, M) int64    flat position b * T + t of every patch
    document   (B, T) int32    number of the document inside its row, -1 in padding
    image      (B, T) int32    number of the image inside its row, -1 for text and padding
    position   (B, T) int64    position inside the document (0 for its first token)
    targets    (B, T) int64    the next token of the same document, 0 where there is none
    weights    (B, T) float32  1 where the next token is text of the same document, else 0
    source     (B, T) int8     place of the source among those of the data (SOURCES in a rendered world), -1 in padding
    logprobs   (B, T) float32  log-probability of the target under the generator (nats, <= 0), NaN where it is not known
    classes    (B, T) uint8    ord() of the target's class letter, 0 where there is none
    row_ids    (B,) int64      64-bit digest of the sample ids in each row: the order of delivery can be proved
    skipped    documents of these rows that are padding now because they could not be read
    """

    tokens: Any
    patches: Any
    patch_at: Any
    document: Any
    image: Any
    position: Any
    targets: Any
    weights: Any
    source: Any
    logprobs: Any
    classes: Any
    row_ids: Any
    skipped: tuple[Skipped, ...] = ()

    def to(self, device: Any) -> Batch:
        """The same batch on another torch device."""
        moved = {name: getattr(self, name).to(device, non_blocking=True) for name in ARRAYS}
        return Batch(**moved, skipped=self.skipped)

    def split(self, parts: int) -> Iterator[Batch]:
        """Cut into ``parts`` micro-batches of whole rows (the last ones may be smaller; empty ones are not yielded).

        They know nothing of skipped documents.
        """
        rows, width = self.tokens.shape
        size = -(-rows // parts)
        first_position = self.patch_at[:, 0] if len(self.patch_at) else self.patch_at.new_zeros(0)
        for start in range(0, rows, size):
            stop = min(start + size, rows)
            inside = (first_position >= start * width) & (first_position < stop * width)
            cut = {name: getattr(self, name)[start:stop] for name in ARRAYS if name not in ("patches", "patch_at")}
            yield Batch(**cut, patches=self.patches[inside], patch_at=self.patch_at[inside] - start * width)


ARRAYS = tuple(field.name for field in fields(Batch) if field.name != "skipped")
