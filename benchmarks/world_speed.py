"""Samples a second of the procedural world on one core (processor time), with and without writing tars.

    python benchmarks/world_speed.py [--samples 8192]

Prints for every source: documents with words only, with pixels, and written as a shard (PNG, JSON, tar, sha256), then
how rendering with whole numbers compares with the same pictures computed in float64 with float noise. The goal is 2,000
samples a second, pixels included.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from nmm.data.counter_rng import CounterStream
from nmm.data.render import palette, picture_grids, render
from nmm.data.scene import sample_pictures
from nmm.data.shard_plan import ShardPlan
from nmm.data.shards import write_shard
from nmm.data.world import CHUNK, SOURCES, World, WorldConfig
from nmm.data.world_config import GAIN_UNIT


def rate(work: Callable[[], object], count: int, repeats: int = 3) -> float:
    """Best of a few runs of `work`, which makes `count` samples, in samples a second of processor time.

    Processor time, so that a shared machine gives the figures of a core that one has to oneself.
    """
    best = float("inf")
    for _ in range(repeats):
        start = time.process_time()
        work()
        best = min(best, time.process_time() - start)
    return count / best


def render_float64(world: World, stream: CounterStream, indices: np.ndarray, pictures) -> np.ndarray:
    """The same pictures the usual way: float64 pixels times gain plus uniform float noise, rounded at the end."""
    scale = world.config.image_size // 16
    pixels = palette(world.config).astype(np.float64)[picture_grids(world.catalogue, pictures)] / 255.0
    pixels = pixels.repeat(scale, axis=1).repeat(scale, axis=2) * (pictures.gain / GAIN_UNIT)[:, None, None, None]
    noise = stream.uniform(indices, 0, pixels[0].size).reshape(pixels.shape)
    pixels += (2.0 * noise - 1.0) * world.config.noise / 255.0
    return np.round(np.clip(pixels, 0.0, 1.0) * 255.0).astype(np.uint8)


def time_sources(world: World, samples: int, folder: Path) -> None:
    """One line for each source."""
    print(f"{'samples/s of one core':24}{'words only':>12}{'with pixels':>13}{'written':>10}")
    for source in SOURCES:
        words = rate(lambda: _drain(world, source, samples, pixels=False), samples)  # noqa: B023
        pixels = rate(lambda: _drain(world, source, samples, pixels=True), samples)  # noqa: B023
        plan = ShardPlan(source, "train", 0, 0, samples)
        written = rate(lambda: write_shard(world, folder, plan), samples)  # noqa: B023
        print(f"{source:24}{words:12,.0f}{pixels:13,.0f}{written:10,.0f}")


def _drain(world: World, source: str, samples: int, pixels: bool) -> None:
    for _ in world.stream(source, "train", 0, samples, pixels):
        pass


def time_rendering(world: World) -> None:
    """Whole numbers against float64, pictures a second and ratio."""
    indices = np.arange(CHUNK)
    scene, noise = CounterStream(0, "scene"), CounterStream(0, "noise")
    pictures = sample_pictures(world.config, world.catalogue, scene, indices, 0, [])
    whole = rate(lambda: render(world.config, world.catalogue, pictures, noise, indices), CHUNK, repeats=5)
    floats = rate(lambda: render_float64(world, noise, indices, pictures), CHUNK, repeats=5)
    print(f"rendering, pictures/s: whole numbers {whole:,.0f}, float64 {floats:,.0f}, ratio {whole / floats:.1f}x")


def main() -> None:
    """Parse the options and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--samples", type=int, default=8192, help="documents of each source to time (default 8192)")
    world = World(WorldConfig())
    samples = parser.parse_args().samples
    with tempfile.TemporaryDirectory() as folder:
        time_sources(world, samples, Path(folder))
    time_rendering(world)


if __name__ == "__main__":
    main()
