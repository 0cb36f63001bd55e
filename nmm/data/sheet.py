"""A picture sheet: samples of every source, enlarged, with the surprise of every word, for the eye.

Written as one PNG with pillow. Words that cost nothing are plain; the others carry their surprise (minus
log-probability) in nats under them, on a ground that darkens with it.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from nmm.data.words import IMAGE
from nmm.data.world import SOURCES, Document, World, WorldConfig

WIDTH, MARGIN, GAP, PADDING = 1280, 28, 18, 14
THUMBNAIL = 128
LABEL, LINE, CHIP_HEIGHT, QUESTION = 26, 36, 20, 20
FULL_COLOUR_NATS = 5.0
PROBE_DOCUMENTS = 2000
PAPER, CARD, INK, FAINT, ACCENT = "#f3f2ee", "#ffffff", "#22242a", "#767a85", "#1d4f91"
TITLES = {
    "caption": "Captions: one picture, then its description and questions",
    "interleaved": "Interleaved documents: two or three pictures with their texts",
    "text": "Text documents: facts about the same entities, no picture",
}


def picture_sheet(config: WorldConfig, out: str | Path, per_source: int = 6, split: str = "train") -> Path:
    """Draw `per_source` documents of each source into the PNG file `out` and return its path.

    Raises:
        ValueError: if per_source is not positive.
    """
    if per_source < 1:
        raise ValueError(f"per_source={per_source} must be at least 1")
    world = World(config)
    sheet = _Sheet()
    sheet.title(f"The procedural world, seed {config.seed}: {config.num_entities:,} entities, {split} samples")
    for source in SOURCES:
        sheet.section(TITLES[source], _summary(world, source, split))
        sheet.cards(world.documents(source, split, 0, per_source), columns=1 if source == "interleaved" else 2)
    path = Path(out)
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.cropped().save(path)
    return path


def _summary(world: World, source: str, split: str) -> str:
    documents = world.documents(source, split, 0, PROBE_DOCUMENTS, pixels=False)
    entropy = -np.concatenate([d.logprobs for d in documents]).mean()
    known = "entropy not known" if np.isnan(entropy) else f"known entropy {entropy:.3f} nats a word"
    words = np.mean([len(d.logprobs) for d in documents])
    pictures = np.mean([len(d.scene) for d in documents])
    return f"{words:.1f} words and {pictures:.2f} pictures a document; {known}"


class _Sheet:
    """A tall canvas that is filled from the top and cropped at the end."""

    def __init__(self) -> None:
        self.image = Image.new("RGB", (WIDTH, 400), PAPER)
        self.draw = ImageDraw.Draw(self.image)
        self.y = MARGIN
        self.fonts = {size: ImageFont.load_default(size) for size in (10, 13, 14, 18, 26)}

    def title(self, text: str) -> None:
        self.draw.text((MARGIN, self.y), text, fill=INK, font=self.fonts[26])
        self.y += 42
        self.draw.text((MARGIN, self.y), "Surprise of a word in nats:", fill=FAINT, font=self.fonts[14])
        x = MARGIN + 190
        for nats in (0.0, 0.3, 1.0, 2.0, 3.5, 5.0):
            self.draw.rounded_rectangle((x, self.y, x + 44, self.y + 18), 4, fill=_ground(nats), outline="#d8d5cc")
            self.draw.text((x + 22, self.y + 9), f"{nats:g}", fill=INK, font=self.fonts[13], anchor="mm")
            x += 50
        self.y += 34

    def section(self, title: str, summary: str) -> None:
        self._grow(80)
        self.draw.text((MARGIN, self.y), title, fill=ACCENT, font=self.fonts[18])
        self.draw.text((MARGIN, self.y + 26), summary, fill=FAINT, font=self.fonts[14])
        self.y += 54

    def cards(self, documents: list[Document], columns: int) -> None:
        """Cards side by side; a row is as high as its highest card."""
        width = (WIDTH - 2 * MARGIN - (columns - 1) * GAP) // columns
        for first in range(0, len(documents), columns):
            row = documents[first : first + columns]
            height = max(self._card_height(document, width) for document in row)
            self._grow(height + GAP)
            for column, document in enumerate(row):
                self._card(document, MARGIN + column * (width + GAP), width, height)
            self.y += height + GAP
        self.y += GAP

    def cropped(self) -> Image.Image:
        return self.image.crop((0, 0, WIDTH, self.y + MARGIN - GAP))

    def _grow(self, needed: int) -> None:
        if self.y + needed + MARGIN > self.image.height:
            taller = Image.new("RGB", (WIDTH, 2 * self.image.height + needed), PAPER)
            taller.paste(self.image)
            self.image, self.draw = taller, ImageDraw.Draw(taller)

    @staticmethod
    def _text_corner(document: Document) -> tuple[int, int]:
        """Where the words start inside a card: beside a single picture, below several."""
        shift = THUMBNAIL + PADDING
        return {0: (0, LABEL), 1: (shift, LABEL)}.get(len(document.images), (0, LABEL + shift))

    def _card_height(self, document: Document, width: int) -> int:
        rows = self._flow(document, width)[-1][1] + 1
        words = self._text_corner(document)[1] + rows * LINE + QUESTION * len(document.questions)
        return 2 * PADDING + max(words, LABEL + (THUMBNAIL if len(document.images) else 0))

    def _card(self, document: Document, x: int, width: int, height: int) -> None:
        self.draw.rounded_rectangle((x, self.y, x + width, self.y + height), 8, fill=CARD, outline="#dedbd2")
        left, top = x + PADDING, self.y + PADDING
        total = -float(document.logprobs.sum())
        cost = "" if np.isnan(total) else f"    {total:.2f} nats in all"
        noise = f"    {' + '.join(document.noise)}" if document.noise else ""
        label = f"{document.source}-{document.split}-{document.index:09d}{cost}{noise}"
        self.draw.text((left, top), label, fill=FAINT, font=self.fonts[13])
        for number, pixels in enumerate(document.images):
            thumbnail = Image.fromarray(pixels).resize((THUMBNAIL, THUMBNAIL), Image.Resampling.NEAREST)
            self.image.paste(thumbnail, (left + number * (THUMBNAIL + PADDING), top + LABEL))
        corner = self._text_corner(document)
        left, top = left + corner[0], top + corner[1]
        placed = self._flow(document, width)
        for offset, row, word, surprise in placed:
            self._chip(left + offset, top + row * LINE, word, surprise)
        top += (placed[-1][1] + 1) * LINE
        for number, question in enumerate(document.questions):
            text = f"{question.question} ?  {question.answer}"
            self.draw.text((left + 5, top + number * QUESTION), text, fill=ACCENT, font=self.fonts[13])

    def _chip(self, x: int, y: int, word: str, surprise: float | None) -> None:
        width = self._chip_width(word)
        fill = "#e6ecf5" if surprise is None or np.isnan(surprise) else _ground(surprise)
        self.draw.rounded_rectangle((x, y, x + width, y + CHIP_HEIGHT), 4, fill=fill)
        self.draw.text((x + width / 2, y + CHIP_HEIGHT / 2), word, fill=INK, font=self.fonts[14], anchor="mm")
        if surprise is not None and surprise > 0:
            middle = (x + width / 2, y + CHIP_HEIGHT + 6)
            self.draw.text(middle, f"{surprise:.2f}", fill=FAINT, font=self.fonts[10], anchor="mm")

    def _chip_width(self, word: str) -> int:
        return max(24, round(self.fonts[14].getlength(word)) + 10)

    def _flow(self, document: Document, width: int) -> list[tuple[int, int, str, float | None]]:
        """(x offset, row, word, surprise or None for a picture) of every word, wrapped to the card."""
        placed: list[tuple[int, int, str, float | None]] = []
        room = width - 2 * PADDING - self._text_corner(document)[0]
        x, row = 0, 0
        surprises = iter((-document.logprobs).tolist())
        for word in document.words:
            chip = self._chip_width(word)
            if x and (x + chip > room or word == IMAGE):
                x, row = 0, row + 1
            placed.append((x, row, word, None if word == IMAGE else next(surprises)))
            x += chip + 3
        return placed


def _ground(nats: float) -> tuple[int, int, int]:
    """White at 0 nats to full orange at FULL_COLOUR_NATS and beyond."""
    share = min(1.0, nats / FULL_COLOUR_NATS) ** 0.6
    red, green, blue = (round(255 + share * (end - 255)) for end in (240, 138, 60))
    return red, green, blue
