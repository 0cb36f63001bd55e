"""Rows of training data as a page for the eye: what the model sees, position by position, drawn from the Batch itself.

Shape legend: B rows, T positions a row.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from itertools import groupby
from pathlib import Path

import numpy as np

from nmm.batch import END_ID, Batch
from nmm.data.view_pictures import image_uri, mask_classes, mask_picture, picture, visible
from nmm.data.view_text import Decoder, pieces, plain, shown

COLOURS = ("#2f6fb3", "#d9822b", "#7a5bb0", "#2a9187", "#c2506b", "#8a7a2d", "#5f7f2f", "#7d6a60")
SMALLEST, LARGEST = 144, 224  # pixels an image is drawn with
MASK_PIXELS = 1024  # of longer rows every second position is shown, or every third ...
SCRIPT = """
let last;
const show = e => {
  const it = e.target.closest("[data-at]");
  if (!it) return;
  if (last) last.classList.remove("at");
  last = it;
  it.classList.add("at");
  document.getElementById("at").textContent = it.dataset.at;
};
for (const kind of ["mouseover", "click", "focusin"]) document.addEventListener(kind, show);
"""


@dataclass(frozen=True)
class Lens:
    """What a Batch does not say about itself.

    ``sources``: what ``Batch.source`` counts. ``samples[b][d]`` names document d of row b, its key or id.
    ``image_attention`` and ``document_mask`` as in ``nmm.config.Arch``.
    """

    sources: Sequence[str]
    samples: Sequence[Sequence[str]]
    tokenizer: Decoder
    patch_size: int
    image_attention: str = "bidirectional"
    document_mask: bool = True

    def colour(self, source: int) -> str:
        """The colour of a source."""
        return COLOURS[source % len(COLOURS)]


def view_page(batch: Batch, lens: Lens, facts: Mapping[str, str], first_row: int = 0) -> str:
    """A self-contained HTML page of a numpy Batch, whose first row is number ``first_row`` of the training data;
    ``facts`` (label -> value) stand at its top.

    Everything that comes from the data is escaped, and the page forbids itself network and foreign scripts.
    """
    rows = "".join(_Row(batch, lens, b).html(first_row + b) for b in range(len(batch.tokens)))
    entries = "".join(f"<div><dt>{escape(k)}</dt><dd>{escape(v)}</dd></div>" for k, v in facts.items())
    digest = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
    policy = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    style = Path(__file__).with_name("view.css").read_text(encoding="utf-8")
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><link rel="icon" href="data:,">'
        f"<title>Rows as the model sees them</title><style>{style}</style></head>\n<body><main>"
        "<h1>Rows as the model sees them</h1>"
        f'<p class="soft">{_totals(batch)}</p>{_skipped(batch)}<dl>{entries}</dl>{_legend(batch, lens)}{rows}</main>'
        '<output id="at">Point at a token or an image.</output>'
        f"<script>{SCRIPT}</script></body></html>\n"
    )


def _totals(batch: Batch) -> str:
    rows, width = batch.tokens.shape
    filled, targets = int((batch.document >= 0).sum()), int((batch.weights > 0).sum())
    return (
        f"{_many(rows, 'row')} of {width:,} positions: {filled:,} of {rows * width:,} positions filled "
        f"({filled / max(1, rows * width):.1%}), {_many(targets, 'target')}, {_many(len(batch.patches), 'image')}"
    )


def _skipped(batch: Batch) -> str:
    lines = (f"could not be read: {one.source} {one.sample} ({one.reason}), padding here" for one in batch.skipped)
    return "".join(f'<p class="lost">{escape(line)}</p>' for line in lines)


def _legend(batch: Batch, lens: Lens) -> str:
    used = [source for source in np.unique(batch.source).tolist() if source >= 0]
    dots = "".join(
        f'<span><span class="dot" style="--c:{lens.colour(source)}"></span>{escape(lens.sources[source])}</span>'
        for source in used
    )
    return (
        f'<div class="legend">{dots}'
        '<span><span class="t w"><bdi>word</bdi><i>3</i></span> learned from what stands before it</span>'
        '<span><span class="t"><bdi>word</bdi><i>4</i></span> read, not learned</span>'
        '<span><span class="pad">padding</span> nothing</span>'
        "<span>small numbers: positions inside the document</span>"
        "<span>square: who sees whom, a line for every position, left to right what it sees; darker: later patches of "
        "the same image; grey: padding</span></div>"
    )


class _Row:
    """One row of a Batch on its way to HTML."""

    def __init__(self, batch: Batch, lens: Lens, row: int) -> None:
        self.batch, self.lens, self.row = batch, lens, row
        self.width = batch.tokens.shape[1]
        self.document, self.image = batch.document[row], batch.image[row]
        self.tokens, self.position = batch.tokens[row].tolist(), batch.position[row].tolist()
        self.targets, self.weights = batch.targets[row].tolist(), batch.weights[row].tolist()
        self.pieces = pieces(lens.tokenizer, self.tokens)
        self.image_of = {int(at): i for i, at in enumerate(batch.patch_at[:, 0])}

    def html(self, number: int) -> str:
        runs = "".join(
            self._document(run) if self.document[run[0]] >= 0 else _padding(run) for run in _runs(self.document)
        )
        filled, targets = int((self.document >= 0).sum()), sum(weight > 0 for weight in self.weights)
        documents, images = len(set(self.document[self.document >= 0].tolist())), int(self.image.max(initial=-1)) + 1
        return (
            f'<section class="row"><h2>Row {number}</h2>'
            f'<p class="soft">{filled:,} of {self.width:,} positions filled, {_many(documents, "document")}, '
            f"{_many(images, 'image')}, {_many(targets, 'target')}</p>"
            f'<div class="body"><div class="documents">{runs}</div>{self._mask()}</div></section>\n'
        )

    def _document(self, run: range) -> str:
        number, source = int(self.document[run[0]]), int(self.batch.source[self.row, run[0]])
        cut = "" if self.tokens[run[-1]] == END_ID else ", cut: no &lt;end&gt;"
        return (
            f'<div class="doc" style="--c:{self.lens.colour(source)}">'
            f"<p><b>{number} \N{MIDDLE DOT} {escape(self.lens.sources[source])}</b> "
            f"{escape(self.lens.samples[self.row][number])}<br>"
            f"{_span('column', run[0], run[-1])}, {_many(len(run), 'position')}{cut}</p>{self._parts(run)}</div>"
        )

    def _parts(self, run: range) -> str:
        """Images that follow each other side by side; the text after a lone one beside it, other text below."""
        parts: list[str] = []
        pictures: list[str] = []
        for same in _runs(self.image[run.start : run.stop], run.start):
            if self.image[same[0]] >= 0:
                pictures.append(self._image(same))
                continue
            words = f'<div class="words">{"".join(map(self._token, same))}</div>'
            images = "".join(pictures)
            parts += [images + words] if len(pictures) == 1 else [images, words]
            pictures = []
        return "".join(f'<div class="part">{part}</div>' for part in [*parts, "".join(pictures)] if part)

    def _learned(self, at: int) -> bool:
        """A position's weight stands where it is predicted: at the position before it."""
        return at > 0 and self.weights[at - 1] > 0

    def _token(self, at: int) -> str:
        learned = " w" if self._learned(at) else ""
        text = shown(self.pieces[at], self.tokens[at])
        number = f"<i>{self.position[at]}</i>"
        return f'<span class="t{learned}" data-at="{self._explained(at)}"><bdi>{text}</bdi>{number}</span>'

    def _image(self, run: range) -> str:
        patches = self.batch.patches[self.image_of[self.row * self.width + run[0]]]
        pixels = picture(patches, self.lens.patch_size)
        side, last = len(pixels), run[-1]
        across, drawn = side // self.lens.patch_size, _drawn(side)
        numbers = f"{self.position[run[0]]}\N{EN DASH}{self.position[last]}"
        about = f"columns {run[0]}\N{EN DASH}{last}   positions {numbers} of document {int(self.document[last])}   "
        about += f"image {int(self.image[last])} of the row, {across} x {across} patches"
        next_ = f"   the last one is followed by {self._follower(last)}"
        return (
            f'<figure class="image" style="--n:{across};--w:{drawn}px" tabindex="0" data-at="{about}{escape(next_)}">'
            f'<span class="frame"><img src="{image_uri(pixels)}" alt="{about}"></span>'
            f"<figcaption>{numbers}</figcaption></figure>"
        )

    def _explained(self, at: int) -> str:
        """Everything known about the token of a position, as the value of an attribute."""
        learned = f"learned, weight {self.weights[at - 1]:g}" if self._learned(at) else "not learned"
        parts = [
            f"column {at}",
            f"position {self.position[at]} of document {int(self.document[at])}",
            f"{plain(self.pieces[at], self.tokens[at])} is {learned}",
            f"followed by {self._follower(at)}",
        ]
        return escape("   ".join(parts))

    def _follower(self, at: int) -> str:
        """What a position is to predict, and its weight."""
        if at + 1 == self.width or self.document[at + 1] != self.document[at]:
            return "nothing: the document ends"
        if self.image[at + 1] >= 0:
            return "an image, weight 0"
        logprob = float(self.batch.logprobs[self.row, at])
        known = f", {-logprob:.2f} nats under the generator" if np.isfinite(logprob) else ""
        return f"{plain(self.pieces[at + 1], self.targets[at])}, weight {self.weights[at]:g}{known}"

    def _mask(self) -> str:
        step = -(-self.width // MASK_PIXELS)
        document, image, source = (part[::step] for part in (self.document, self.image, self.batch.source[self.row]))
        seen = visible(document, image, self.lens.image_attention, self.lens.document_mask)
        uri = mask_picture(mask_classes(seen, source), [self.lens.colour(i) for i in range(len(self.lens.sources))])
        inside = seen[document >= 0]
        mean = step * float(inside.sum(1).mean()) if len(inside) else 0.0
        fine = ' class="fine"' if self.width > 400 else ""
        return (
            f'<figure class="mask"><img{fine} src="{uri}" alt="attention mask of the row">'
            f"<figcaption>a position sees {mean:,.0f} on average</figcaption></figure>"
        )


def _runs(values: np.ndarray, start: int = 0) -> Iterator[range]:
    """Stretches of equal values, as ranges that count from ``start``."""
    for _, same in groupby(values.tolist()):
        length = sum(1 for _ in same)
        yield range(start, start + length)
        start += length


def _padding(run: range) -> str:
    return f'<div class="pad">padding: {_many(len(run), "position")}, {_span("column", run[0], run[-1])}</div>'


def _span(what: str, first: int, last: int) -> str:
    return f"{what} {first}" if first == last else f"{what}s {first}\N{EN DASH}{last}"


def _many(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def _drawn(side: int) -> int:
    """Pixels on the screen; of a small image a whole multiple, so that its pixels are equally large."""
    return min(side, LARGEST) if side >= SMALLEST else side * max(1, round(SMALLEST / side))
