"""The page of rows: what stands on it is what stands in the Batch, and nothing in the data can get out of its box."""

from __future__ import annotations

import base64
import hashlib
import io
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from nmm.batch import END_ID, IMAGE_ID, Batch, Skipped
from nmm.data.images import patchify
from nmm.data.manifest import open_shards
from nmm.data.packing import Layout
from nmm.data.source import RowSource
from nmm.data.tokenizer import ByteTokenizer
from nmm.data.view import SCRIPT, Lens, view_page
from nmm.data.view_pictures import image_uri, mask_classes, mask_picture, picture, visible
from nmm.data.view_text import pieces, shown
from nmm.data.window import DOCUMENT, POSITION, row_fields
from nmm.model import masks

EVIL = """</span><script>alert(1)</script><img src=x onerror=alert(2)>" onmouseover="alert(3)' &lt;"""
VOID = ("meta", "link", "img", "br")


class Page(HTMLParser):
    """Tags and attributes of a page, and the text inside token boxes; fails when tags are not nested properly."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.open: list[str] = []
        self.script = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] == ["script"]:
            self.script += data

    def having(self, name: str) -> list[dict[str, str]]:
        """Attributes of the tags of a class."""
        return [attrs for _, attrs in self.tags if name in attrs.get("class", "").split()]


def byte_batch(documents: Sequence[Sequence[str | np.ndarray]], width: int, patch_size: int = 4) -> Batch:
    """One row of documents given as texts and images, read by bytes."""
    tokens: list[int] = []
    records = np.zeros(len(documents), DOCUMENT)
    images: list[np.ndarray] = []
    for record, parts in zip(records, documents, strict=True):
        before, seen = len(tokens), len(images)
        for part in parts:
            if isinstance(part, str):
                tokens += ByteTokenizer().encode(part)
            else:
                images.append(patchify(part, patch_size))
                tokens += [IMAGE_ID] * len(images[-1])
        tokens.append(END_ID)
        record["length"], record["images"] = len(tokens) - before, len(images) - seen
    m = len(images[0]) if images else 1
    positions = np.zeros(len(tokens), POSITION)
    positions["token"], positions["logprob"] = tokens, np.nan
    n, column = np.arange(len(records)), np.cumsum(records["length"]) - records["length"]
    fields = row_fields(records, Layout(n, 0 * n, n, column, 0 * n, records["length"], 1), positions, width, m)
    at = np.flatnonzero(fields["tokens"] == IMAGE_ID).reshape(-1, m)
    return Batch(**fields, row_ids=np.zeros(1, np.int64), patch_at=at, patches=np.array(images, np.uint8))


def byte_lens(documents: int = 1, **changed: object) -> Lens:
    values = {"sources": ["caption"], "samples": [["a key"] * documents], "tokenizer": ByteTokenizer(), "patch_size": 4}
    return Lens(**(values | changed))  # type: ignore[arg-type]


def pixels(seed: int, side: int = 8) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (side, side, 3), np.uint8)


def decoded(uri: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.removeprefix("data:image/png;base64,")))))


@pytest.mark.parametrize(("side", "patch_size"), [(8, 4), (12, 4), (12, 6), (5, 1), (7, 7)])
def test_a_picture_is_put_together_again(side: int, patch_size: int) -> None:
    image = pixels(side, side)
    again = picture(patchify(image, patch_size), patch_size)
    assert np.array_equal(again, image)
    assert np.array_equal(decoded(image_uri(again)), image)


@pytest.mark.parametrize("image_attention", ["bidirectional", "causal"])
@pytest.mark.parametrize("document_mask", [True, False])
def test_the_mask_is_that_of_the_model(tiny_root: Path, image_attention: str, document_mask: bool) -> None:
    mixture = {"caption": 1.0, "interleaved": 1.0, "text": 1.0}
    batch = RowSource(open_shards(tiny_root), mixture, 48, 4, seed=3).rows_at(0, 256)
    padded = np.flatnonzero((batch.document < 0).any(axis=1))[:4]
    assert len(padded) and (batch.image >= 0).any()
    chosen = np.concatenate([np.arange(8), padded])
    document, image = batch.document[chosen], batch.image[chosen]
    looked_up = masks.lookups(torch.tensor(document), torch.tensor(image), image_attention, document_mask)
    known = masks.dense_mask(*looked_up)
    ours = [visible(d, i, image_attention, document_mask) for d, i in zip(document, image, strict=True)]
    assert np.array_equal(np.array(ours), known[:, 0].numpy())


def test_colours_of_a_mask() -> None:
    document, image = np.array([0, 0, 0, 1, -1]), np.array([0, 0, -1, -1, -1])
    classes = mask_classes(visible(document, image, "bidirectional", True), np.array([1, 1, 1, 0, -1]))
    assert classes.tolist() == [[4, 5, 0, 0, 0], [4, 4, 0, 0, 0], [4, 4, 4, 0, 0], [0, 0, 0, 2, 0], [0, 0, 0, 0, 1]]
    image_of_it = Image.open(io.BytesIO(base64.b64decode(mask_picture(classes, ["#102030", "#405060"])[22:])))
    assert image_of_it.size == (5, 5)
    assert image_of_it.convert("RGB").getpixel((1, 0)) == (0x40, 0x50, 0x60)


def test_every_position_of_a_stream_is_on_the_page(tiny_root: Path) -> None:
    shards = open_shards(tiny_root)
    rows = RowSource(shards, {"caption": 45, "interleaved": 45, "text": 10}, 64, 4, seed=0)
    batch = rows.rows_at(0, 6)
    samples = [[f"row {b} document {d}" for d in range(len(rows.documents(b)))] for b in range(6)]
    text = view_page(batch, Lens(rows.names, samples, shards.tokenizer, 4), {"seed": "0"})
    page = Page(text)
    boxes = [attrs for attrs in page.having("t") if "data-at" in attrs]
    is_text = (batch.document >= 0) & (batch.image < 0)
    assert len(boxes) == is_text.sum()
    assert sum("w" in box["class"].split() for box in boxes) == (batch.weights > 0).sum()
    for box, (b, t) in zip(boxes, np.argwhere(is_text), strict=True):
        said = box["data-at"].split("   ")
        word = shards.tokenizer.decode([batch.tokens[b, t]])
        assert said[:2] == [f"column {t}", f"position {batch.position[b, t]} of document {batch.document[b, t]}"]
        assert said[2].startswith(f"\u201c{word}\u201d ({batch.tokens[b, t]}) is ")
        if batch.weights[b, t] > 0:
            target = shards.tokenizer.decode([batch.targets[b, t]])
            assert said[3].startswith(f"followed by \u201c{target}\u201d ({batch.targets[b, t]}), weight 1")
    drawn = [attrs["src"] for tag, attrs in page.tags if tag == "img" and "patches" in attrs["alt"]]
    assert [decoded(uri).tolist() for uri in drawn] == [picture(patches, 4).tolist() for patches in batch.patches]
    assert len(page.having("doc")) == sum(map(len, samples)) and all(name in text for row in samples for name in row)
    filled = int((batch.document >= 0).sum())
    assert f"{filled} of 384 positions filled" in text
    runs = [int((np.diff((row < 0).astype(int), prepend=0) == 1).sum()) for row in batch.document]
    assert len(page.having("pad")) == sum(runs) + 1  # and one in the legend


def test_images_stand_where_they_stand_in_the_document() -> None:
    first, second = pixels(1), pixels(2)
    batch = byte_batch([["ab", first, "c", second], [first, first, "d"]], 32)
    page = view_page(batch, byte_lens(2), {})
    order = [
        page.index(f">{part}<")
        for part in ("a</bdi><i>0", "b</bdi><i>1", "2\N{EN DASH}5", "c</bdi><i>6", "7\N{EN DASH}10")
    ]
    assert order == sorted(order)
    assert page.count('<div class="part">') == 5  # text, image and text, image; two images, text
    assert [page.count(image_uri(image)) for image in (first, second)] == [3, 1]


def test_a_hole_in_the_middle_is_padding_and_what_was_lost_is_said() -> None:
    batch = byte_batch([["one"], ["two"], ["three"]], 16)
    inside = batch.document[0] == 1
    batch.document[0, inside], batch.source[0, inside], batch.weights[0, inside] = -1, -1, 0
    lost = Skipped("caption", "bad_image", "a.tar: <key>", 3, 4, 2)
    page = view_page(Batch(**{**batch.__dict__, "skipped": (lost,)}), byte_lens(3), {})
    assert "padding: 4 positions, columns 4\N{EN DASH}7" in page
    assert "could not be read: caption a.tar: &lt;key&gt; (bad_image)" in page
    assert "10 of 16 positions filled, 2 documents" in page


def test_the_mask_of_a_long_row_is_thinned_out() -> None:
    page = Page(view_page(byte_batch([["a" * 2600]], 2700), byte_lens(), {}))
    mask = next(attrs["src"] for _, attrs in page.tags if attrs.get("alt", "").startswith("attention mask"))
    found = decoded(mask)
    assert found.shape == (900, 900)
    assert found[0].tolist() == [2] + [0] * 899 and found[866].tolist() == [2] * 867 + [0] * 33
    assert found[899].tolist() == [0] * 867 + [1] * 33


def test_nothing_of_the_data_becomes_markup() -> None:
    batch = byte_batch([[EVIL]], 160)
    lens = byte_lens(sources=[EVIL], samples=[[EVIL]])
    page = Page(view_page(batch, lens, {EVIL: EVIL}))
    assert [tag for tag, _ in page.tags].count("script") == 1 and page.script == SCRIPT
    harmless = Page(view_page(byte_batch([["x" * len(EVIL)]], 160), byte_lens(), {"a": "b"}))
    extra = {tag for tag, _ in page.tags} - {tag for tag, _ in harmless.tags}
    assert extra == {"s"}  # spaces made visible
    assert not [name for _, attrs in page.tags for name in attrs if name.startswith("on")]
    assert all(attrs["src"].startswith("data:image/png;base64,") for tag, attrs in page.tags if tag == "img")


def test_a_word_that_is_markup_is_escaped_as_a_whole() -> None:
    class Words:
        def decode(self, ids: Sequence[int]) -> str:
            return "<script>alert(1)</script>" * len(ids)

    batch = byte_batch([["abc"]], 8)
    page = Page(view_page(batch, byte_lens(tokenizer=Words()), {}))
    assert page.script == SCRIPT
    assert "\u201c<script>alert(1)</script>\u201d (100)" in page.having("t")[2]["data-at"]


def test_the_page_forbids_itself_everything_else() -> None:
    page = Page(view_page(byte_batch([["a"]], 4), byte_lens(), {}))
    policy = next(attrs["content"] for tag, attrs in page.tags if attrs.get("http-equiv") == "Content-Security-Policy")
    digest = base64.b64encode(hashlib.sha256(page.script.encode()).digest()).decode()
    assert policy == f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    links = [value for _, attrs in page.tags for name, value in attrs.items() if name in ("href", "src")]
    assert links and all(link.startswith("data:") for link in links)


def test_a_document_without_its_end_was_cut() -> None:
    batch = byte_batch([["abcdef"]], 7)
    assert "cut: no" not in view_page(batch, byte_lens(), {})
    batch.tokens[0, -1] = 100
    assert "cut: no &lt;end&gt;" in view_page(batch, byte_lens(), {})


def test_bytes_that_are_part_of_a_character_have_no_text() -> None:
    ids = ByteTokenizer().encode("a \u00e9")
    assert pieces(ByteTokenizer(), [*ids, END_ID, IMAGE_ID]) == ["a", " ", "", "", "<end>", "<image>"]
    assert shown("", 198) == "<s>#198</s>"


def test_the_space_before_a_word_is_found() -> None:
    class DropsFirstSpace:
        words = ("", "", "", " the", " cat", "s", " ")

        def decode(self, ids: Sequence[int]) -> str:
            return "".join(self.words[i] for i in ids).removeprefix(" ")

    assert pieces(DropsFirstSpace(), [3, 4, 5, 4, END_ID, 4, 6]) == ["the", " cat", "s", " cat", "<end>", "cat", " "]


def test_what_cannot_be_seen_is_shown() -> None:
    assert shown(" a\n\t", 5) == "<s>\u2423</s>a<s>\u21b5</s><s>\u21e5</s>"
    assert shown("\u202e\x00\u200b", 5) == "<s>U+202E</s><s>U+0000</s><s>U+200B</s>"
    assert shown("<&\"'", 5) == "&lt;&amp;&quot;&#x27;"
