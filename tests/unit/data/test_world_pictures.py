"""A picture determines its scene with certainty: every code, size, jitter, gain and noise; whole pictures decoded."""

from __future__ import annotations

import numpy as np
import pytest

from nmm.data import words
from nmm.data.catalogue import SHAPES, build_catalogue
from nmm.data.render import BODIES, CENTRED, NUM_JITTERS, lone_grids, palette, sprite_grids
from nmm.data.world import World, WorldConfig
from nmm.data.world_config import BACKGROUND_LEVEL, CHANNEL_LEVELS, GAIN_UNIT, NUM_CELLS

ALL_COLOURS = WorldConfig(num_colours=len(words.COLOURS))
EVERY_CODE = WorldConfig(num_entities=10_800, name_words=104)


def silhouettes() -> dict[bytes, tuple[int, int, int]]:
    """(size, shape, jitter) by silhouette: the body with the badge's 2x2, which always shows body or badge."""
    return {
        BODIES[size, shape, jitter].tobytes(): (size, shape, jitter)
        for size in range(2)
        for shape in range(len(SHAPES))
        for jitter in range(NUM_JITTERS)
    }


@pytest.mark.parametrize("config", [WorldConfig(), ALL_COLOURS, WorldConfig(gain_min=200, noise=8)])
def test_channel_levels_stay_apart_under_every_gain_and_noise(config):
    intervals = []
    for level in sorted((*CHANNEL_LEVELS, BACKGROUND_LEVEL)):
        shown = [level * gain // GAIN_UNIT for gain in range(config.gain_min, GAIN_UNIT + 1)]
        intervals.append((min(shown) - config.noise, max(shown) + config.noise))
    assert all(low[1] < high[0] for low, high in zip(intervals, intervals[1:], strict=False))
    table = palette(config)
    assert len({tuple(row) for row in table.tolist()}) == config.num_colours + 1


def test_the_badge_lies_inside_every_body_and_something_of_the_body_shows_around_it():
    for row in range(3):
        for column in range(3):
            bodies = BODIES[:, :, 3 * row + column]
            assert bodies[..., 2 + row : 4 + row, 2 + column : 4 + column].all()
            assert (bodies.sum(axis=(-1, -2)) > 4).all()


def test_silhouettes_tell_size_shape_and_jitter():
    assert len(silhouettes()) == 2 * len(SHAPES) * NUM_JITTERS


def test_every_pair_of_distinct_sprites_differs():
    catalogue = build_catalogue(EVERY_CODE)
    entity, size, jitter = np.meshgrid(np.arange(10_800), np.arange(2), np.arange(NUM_JITTERS), indexing="ij")
    grids = sprite_grids(catalogue, entity.ravel(), size.ravel(), jitter.ravel()).reshape(-1, 64)
    rows = np.ascontiguousarray(grids).view("V64").ravel()
    assert len(np.unique(rows)) == 10_800 * 2 * NUM_JITTERS


def test_a_lone_object_cannot_be_taken_for_objects_in_cells():
    catalogue = build_catalogue(EVERY_CODE)
    red_on_green = np.flatnonzero((catalogue.colour == 1) & (catalogue.badge == 0))
    assert len(red_on_green) == 8 * 15
    known, centred = silhouettes(), lone_silhouettes()
    for jitter in range(NUM_JITTERS):
        for size in range(2):
            for grid in lone_grids(catalogue, red_on_green, np.full_like(red_on_green, size), jitter):
                quarters = [grid[r : r + 8, c : c + 8] for r in (0, 8) for c in (0, 8)]
                assert all(quarter.any() for quarter in quarters)
                assert not all(reads_as_sprite(known, quarter) for quarter in quarters)
                assert (grid > 0).tobytes() in centred


def test_lone_silhouettes_tell_size_shape_and_jitter():
    assert len(lone_silhouettes()) == 2 * len(SHAPES) * NUM_JITTERS


def lone_silhouettes() -> dict[bytes, tuple[int, int, int]]:
    """(size, shape, jitter) by silhouette of a lone object, on the 16 x 16 grid."""
    found = {}
    for size in range(2):
        for shape in range(len(SHAPES)):
            doubled = BODIES[size, shape, CENTRED].repeat(2, axis=0).repeat(2, axis=1)
            for jitter in range(NUM_JITTERS):
                moved = np.roll(doubled, (jitter // 3 - 1, jitter % 3 - 1), axis=(0, 1))
                found[moved.tobytes()] = (size, shape, jitter)
    return found


def reads_as_sprite(known: dict[bytes, tuple[int, int, int]], part: np.ndarray) -> bool:
    """Whether a cell could show an object: a known silhouette, one colour around the centre, one other one inside."""
    silhouette = np.ascontiguousarray(part > 0).tobytes()
    if silhouette not in known:
        return False
    around, inside = split_centre(part, known[silhouette][2])
    body = set(around[around > 0].tolist())
    return len(body) == 1 and len(set(inside.tolist()) - body) == 1


def split_centre(part: np.ndarray, jitter: int) -> tuple[np.ndarray, np.ndarray]:
    """A cell with its badge's 2x2 blanked, and the four values of that 2x2."""
    row, column = 2 + jitter // 3, 2 + jitter % 3
    around = part.copy()
    around[row : row + 2, column : column + 2] = 0
    return around, part[row : row + 2, column : column + 2].ravel()


def decode(config: WorldConfig, image: np.ndarray) -> list[tuple[int, ...]]:
    """(cell, size, jitter, shape, colour, badge, pattern) of each object, from pixels alone."""
    step = config.image_size // 16
    blocks = image.reshape(16, step, 16, step, 3).transpose(0, 2, 1, 3, 4).reshape(16, 16, -1, 3)
    levels = np.array(sorted((*CHANNEL_LEVELS, BACKGROUND_LEVEL)))
    lowest = levels * config.gain_min // GAIN_UNIT - config.noise
    ranks = (blocks[..., None] >= lowest).sum(axis=-1) - 1
    assert (ranks == ranks[:, :, :1]).all(), "all pixels of a grid step read the same"
    table = {tuple(row): i for i, row in enumerate(palette(config).tolist())}
    grid = np.array([[table[tuple(levels[rank])] for rank in row] for row in ranks[:, :, 0].tolist()])
    cells = [(cell, grid[cell // 2 * 8 :, cell % 2 * 8 :][:8, :8]) for cell in range(NUM_CELLS)]
    known = silhouettes()
    if all(reads_as_sprite(known, part) for _, part in cells if part.any()):
        return [(cell, *decode_sprite(*known[(part > 0).tobytes()], part)) for cell, part in cells if part.any()]
    size, shape, jitter = lone_silhouettes()[(grid > 0).tobytes()]
    centred = np.roll(grid, (1 - jitter // 3, 1 - jitter % 3), axis=(0, 1))[::2, ::2]
    _, _, colour, badge, pattern = decode_sprite(size, shape, CENTRED, centred)[1:]
    return [(0, size, jitter, shape, colour, badge, pattern)]


def decode_sprite(size: int, shape: int, jitter: int, part: np.ndarray) -> tuple[int, ...]:
    """(size, jitter, shape, colour, badge, pattern) of a sprite whose silhouette has been recognised."""
    around, inside = split_centre(part, jitter)
    colour = int(around.max())
    bits = inside != colour
    return size, jitter, shape, colour - 1, int(inside[bits][0]) - 1, int(bits @ (1, 2, 4, 8))


@pytest.mark.parametrize("config", [WorldConfig(), WorldConfig(image_size=64, lone_object_fills=False, num_colours=14)])
def test_scenes_are_read_back_from_pixels(config):
    world = World(config)
    catalogue = world.catalogue
    seen = 0
    for source in ("caption", "interleaved"):
        for document in world.documents(source, "test", 100, 120):
            for image, objects in zip(document.images, document.scene, strict=True):
                truth = [(o.cell, o.size, o.jitter, *(int(a[o.entity]) for a in looks(catalogue))) for o in objects]
                assert decode(config, image) == truth
                seen += len(truth)
    assert seen > 500


def looks(catalogue) -> tuple[np.ndarray, ...]:
    return catalogue.shape, catalogue.colour, catalogue.badge, catalogue.pattern


def test_noise_and_gain_are_used_in_full_and_never_beyond():
    config = WorldConfig()
    images = np.concatenate([d.images for d in World(config).documents("caption", "train", 0, 300)])
    corners = images[:, 0, 0]  # background in every picture: objects keep to the inner 6 or jittered 8 steps
    empty = corners[(corners.max(axis=1) < 40)].astype(int)
    assert empty.min() >= BACKGROUND_LEVEL * config.gain_min // GAIN_UNIT - config.noise
    assert empty.max() <= BACKGROUND_LEVEL + config.noise
    assert len(np.unique(empty)) > 2 * config.noise


def test_a_lone_object_fills_all_four_cells_and_stands_in_the_first():
    for document in World(WorldConfig()).documents("caption", "train", 0, 200):
        objects = document.scene[0]
        if len(objects) == 1:
            assert objects[0].cell == 0
            patches = document.images[0].reshape(2, 16, 2, 16, 3).transpose(0, 2, 1, 3, 4).reshape(4, -1)
            assert (patches.max(axis=1) > 100).all()
        assert [o.cell for o in objects] == sorted({o.cell for o in objects})
        assert len({o.entity for o in objects}) == len(objects)
