"""A picture sheet of glyph documents, for the eye: every picture enlarged, its text beside or under it."""

from __future__ import annotations

import textwrap
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from nmm.data.glyph_fonts import matplotlib_fonts, read_catalogue
from nmm.data.glyphs import SOURCES, Drawn, GlyphConfig, GlyphDocument, Glyphs

WIDTH, MARGIN, GAP, PADDING = 1280, 28, 16, 12
THUMBNAIL, LINE, LETTER = 96, 20, 7.6  # LETTER: mean width of one in pixels
PAPER, CARD, EDGE, INK, FAINT, ACCENT = "#f3f2ee", "#ffffff", "#dedbd2", "#22242a", "#767a85", "#1d4f91"
TITLES = {
    "caption": ("Captions", 4, 24),  # title, columns, documents
    "interleaved": ("Interleaved documents, in reading order", 2, 12),
    "text": ("Text", 2, 10),
}


def glyph_sheet(config: GlyphConfig, out: str | Path) -> Path:
    """Draw the first documents of every source into the PNG file `out` and return its path."""
    catalogue = read_catalogue(matplotlib_fonts())
    glyphs = Glyphs(config, catalogue)
    head = Image.new("RGB", (WIDTH, 64), PAPER)
    title = f"Glyphs: {len(catalogue.characters):,} characters in {len(catalogue.fonts)} fonts, seed {config.seed}"
    ImageDraw.Draw(head).text((MARGIN, 24), title, fill=INK, font=ImageFont.load_default(26))
    parts = [head]
    for source in SOURCES:
        title, columns, count = TITLES[source]
        parts.append(_section(title, glyphs.documents(source, 0, count), columns))
    sheet = Image.new("RGB", (WIDTH, sum(part.height for part in parts) + MARGIN), PAPER)
    top = 0
    for part in parts:
        sheet.paste(part, (0, top))
        top += part.height
    path = Path(out)
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path)
    return path


def _section(title: str, documents: list[GlyphDocument], columns: int) -> Image.Image:
    """A title and cards, row by row; a row is as high as its highest card."""
    width = (WIDTH - 2 * MARGIN - (columns - 1) * GAP) // columns
    cards = [_card(document, width) for document in documents]
    rows = [cards[first : first + columns] for first in range(0, len(cards), columns)]
    heights = [max(card.height for card in row) + GAP for row in rows]
    section = Image.new("RGB", (WIDTH, 48 + sum(heights)), PAPER)
    draw = ImageDraw.Draw(section)
    draw.text((MARGIN, 14), title, fill=ACCENT, font=ImageFont.load_default(18))
    top = 48
    for row, height in zip(rows, heights, strict=True):
        for column, card in enumerate(row):
            left = MARGIN + column * (width + GAP)
            section.paste(CARD, (left, top, left + width, top + height - GAP))
            section.paste(card, (left, top))
            draw.rectangle((left, top, left + width - 1, top + height - GAP - 1), outline=EDGE)
        top += height
    return section


def _card(document: GlyphDocument, width: int) -> Image.Image:
    """Segments under one another, pictures with what follows them to their right."""
    card = Image.new("RGB", (width, 2000), CARD)
    draw = ImageDraw.Draw(card)
    font, small = ImageFont.load_default(14), ImageFont.load_default(11)
    left, top, bottom = PADDING, PADDING, PADDING
    for segment in document.segments:
        if isinstance(segment, Drawn):
            if left + THUMBNAIL > width - PADDING:
                left, top = PADDING, bottom + 8
            enlarged = Image.fromarray(segment.pixels).resize((THUMBNAIL, THUMBNAIL), Image.Resampling.NEAREST)
            card.paste(enlarged, (left, top))
            draw.text((left, top + THUMBNAIL + 2), f"U+{segment.character.code:04X}", fill=FAINT, font=small)
            left, bottom = left + THUMBNAIL + PADDING, max(bottom, top + THUMBNAIL + 16)
            continue
        lines = textwrap.wrap(segment, max(8, int((width - left - PADDING) / LETTER)))
        for number, line in enumerate(lines):
            draw.text((left, top + number * LINE), line, fill=INK, font=font)
        left, top, bottom = PADDING, max(bottom, top + len(lines) * LINE) + 6, max(bottom, top + len(lines) * LINE) + 6
    return card.crop((0, 0, width, bottom + PADDING - 6))
