"""The picture sheet: every sample is on it, nothing leaves its card."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from nmm.data.sheet import PADDING, WIDTH, _Sheet, _summary, picture_sheet
from nmm.data.world import SOURCES, World, WorldConfig

CONFIG = WorldConfig(num_entities=200, name_words=20)


def test_sheet_shows_the_pixels_of_its_samples(tmp_path):
    path = picture_sheet(CONFIG, tmp_path / "deep" / "sheet.png", per_source=1)
    with Image.open(path) as opened:
        sheet = np.asarray(opened.convert("RGB"))
    assert sheet.shape[1] == WIDTH
    first = World(CONFIG).documents("caption", "train", 0, 1)[0].images[0]
    enlarged = first.repeat(4, axis=0).repeat(4, axis=1)
    rows, columns = np.nonzero((sheet == enlarged[0, 0]).all(axis=-1))
    assert any(np.array_equal(sheet[r : r + 128, c : c + 128], enlarged) for r, c in zip(rows, columns, strict=True))


@pytest.mark.parametrize("source", SOURCES)
def test_words_stay_inside_their_card_and_do_not_overlap(source):
    sheet = _Sheet()
    for document in World(CONFIG).documents(source, "val", 0, 40):
        width = 600
        right_of_row: dict[int, int] = {}
        for x, row, word, _ in sheet._flow(document, width):
            assert x >= right_of_row.get(row, 0)
            right_of_row[row] = x + sheet._chip_width(word)
            assert sheet._text_corner(document)[0] + right_of_row[row] <= width - 2 * PADDING


def test_an_empty_sheet_is_refused(tmp_path):
    with pytest.raises(ValueError, match="per_source=0"):
        picture_sheet(CONFIG, tmp_path / "sheet.png", per_source=0)


def test_a_noisy_world_has_a_sheet_that_says_what_is_not_known(tmp_path):
    noisy = WorldConfig(num_entities=60, name_words=12, serial=0.5, wrong=0.5, boilerplate=0.2)
    assert picture_sheet(noisy, tmp_path / "sheet.png", per_source=3).stat().st_size > 10_000
    assert _summary(World(noisy), "caption", "train").endswith("entropy not known")
    assert _summary(World(noisy), "caption", "val").endswith("nats a word")
