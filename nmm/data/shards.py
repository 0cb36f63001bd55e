"""Write a world as standard WebDataset shards, restartable and the same bytes every time.

    <out>/plan.json                      what this folder is for, written first
    <out>/<source>/<split>-000000.tar    a shard; beside it .json with its statistics, written after it
    <out>/tokenizer.json, manifest.json  written last: a manifest means the folder is complete

A run that was stopped keeps every finished shard; a folder made for other parameters is refused.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict
from itertools import groupby
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from nmm.config import canonical_json
from nmm.data.out_folder import claim, only_writer, progress_bar, refuse_strangers
from nmm.data.records import ShardStats, write_atomically, write_tar
from nmm.data.shard_plan import Samples, ShardPlan, plan_shards, samples_for_tokens
from nmm.data.words import SPECIALS
from nmm.data.world import World, WorldConfig

__all__ = ["Samples", "ShardPlan", "plan_shards", "samples_for_tokens", "tokenizer_json", "write_shards"]

FORMAT = 1
CHANNELS = 3
_LISTED = ("path", "samples", "bytes", "sha256", "first_index")


def write_shards(
    config: WorldConfig,
    out: str | Path,
    samples: Samples,
    shard_samples: int = 2048,
    progress: bool = True,
    workers: int = 1,
    first_sample: int = 0,
) -> dict[str, Any]:
    """Render documents into tars under `out` and return the manifest.

    Args:
        config: The world.
        out: Folder to write; made if missing. Shards finished earlier by the same call are kept.
        samples: Number of documents by source and split, e.g. {"caption": {"train": 10_000, "val": 1_000}}.
        shard_samples: Documents per tar (the last of a split may have fewer).
        progress: Show a bar and print one closing line.
        workers: Processes that write shards.
        first_sample: Number of the first training document: two folders of one world need not share any.

    Raises:
        ValueError: for an unknown source or split, a count that makes no sense, or an `out` made for something else.
    """
    out = Path(out)
    plans = plan_shards(samples, shard_samples, first_sample)
    if workers < 1:
        raise ValueError(f"workers={workers} must be at least 1")
    refuse_strangers(out)
    out.mkdir(parents=True, exist_ok=True)
    with only_writer(out):
        claim(out, _plan(config, samples, shard_samples) | ({"first_sample": first_sample} if first_sample else {}))
        done = {plan: stats for plan in plans if (stats := finished(out, plan.path)) is not None}
        num_kept = len(done)
        _render_missing(config, out, plans, done, workers, progress)
        manifest = _publish(config, out, [(plan, done[plan]) for plan in plans])
    if progress:
        size = sum(stats.bytes for stats in done.values())
        print(
            f"{sum(plan.samples for plan in plans):,} samples in {len(plans)} shards, {size / 1e6:,.0f} MB "
            f"({len(plans) - num_kept} written now, {num_kept} kept): {out / 'manifest.json'}"
        )
    return manifest


def _plan(config: WorldConfig, samples: Samples, shard_samples: int) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "world": config.to_dict(),
        "samples": {source: {split: n for split, n in samples[source].items() if n} for source in samples},
        "shard_samples": shard_samples,
    }


def finished(out: Path, path: str) -> ShardStats | None:
    """Statistics of a tar of `out` that is complete and unharmed on disk, else None."""
    tar = out / path
    sidecar = tar.with_suffix(".json")
    if not (tar.exists() and sidecar.exists()):
        return None
    stats = ShardStats(**json.loads(sidecar.read_text()))
    with tar.open("rb") as file:
        intact = hashlib.file_digest(file, "sha256").hexdigest() == stats.sha256
    return stats if intact else None


def _render_missing(
    config: WorldConfig,
    out: Path,
    plans: list[ShardPlan],
    done: dict[ShardPlan, ShardStats],
    workers: int,
    progress: bool,
) -> None:
    """Write the planned shards that are not in `done` and add them to it."""
    missing = [plan for plan in plans if plan not in done]
    with progress_bar(progress and bool(missing)) as bar:
        total, kept = sum(plan.samples for plan in plans), sum(plan.samples for plan in done)
        task = bar.add_task("rendering", total=total, completed=kept)
        if workers == 1 or len(missing) < 2:
            world = World(config)
            for plan in missing:
                done[plan] = write_shard(world, out, plan, lambda count: bar.advance(task, count))
            return
        with ProcessPoolExecutor(min(workers, len(missing)), mp_context=get_context("spawn")) as pool:
            jobs = {pool.submit(_write_in_worker, config, out, plan): plan for plan in missing}
            for job in as_completed(jobs):
                done[jobs[job]] = job.result()
                bar.advance(task, jobs[job].samples)


def _write_in_worker(config: WorldConfig, out: Path, plan: ShardPlan) -> ShardStats:
    return write_shard(World(config), out, plan)


def write_shard(world: World, out: Path, plan: ShardPlan, advance: Callable[[int], None] | None = None) -> ShardStats:
    """Write one tar, then its statistics, each under a temporary name that is renamed when the bytes are on disk."""
    tar = out / plan.path
    tar.parent.mkdir(parents=True, exist_ok=True)
    temporary = tar.with_name(f".{tar.name}.tmp-{os.getpid()}")
    stats = ShardStats(path=plan.path, first_index=plan.first_index)
    documents = world.stream(plan.source, plan.split, plan.first_index, plan.samples)
    unreported = 0
    with temporary.open("wb") as file:
        for _ in write_tar(world, documents, file, stats):
            unreported += 1
            if advance and unreported == 256:
                advance(unreported)
                unreported = 0
        file.flush()
        os.fsync(file.fileno())
    temporary.rename(tar)
    write_atomically(tar.with_suffix(".json"), canonical_json(asdict(stats)).encode())
    if advance:
        advance(unreported)
    return stats


def _publish(config: WorldConfig, out: Path, shards: list[tuple[ShardPlan, ShardStats]]) -> dict[str, Any]:
    """Write tokenizer.json and then manifest.json; returns the manifest."""
    vocabulary = World(config).vocabulary()
    write_atomically(out / "tokenizer.json", tokenizer_json(vocabulary).encode())
    manifest: dict[str, Any] = {
        "format": FORMAT,
        "kind": "world",
        "world": config.to_dict(),
        "vocab_size": len(vocabulary),
        "image_size": config.image_size,
        "channels": CHANNELS,
        "sources": {},
    }
    for (source, split), group in groupby(shards, key=lambda shard: (shard[0].source, shard[0].split)):
        manifest["sources"].setdefault(source, {})[split] = split_summary([stats for _, stats in group])
    return seal(out, manifest)


def seal(out: Path, manifest: dict[str, Any]) -> dict[str, Any]:
    """Write manifest.json with its fingerprint, the last file of a folder; returns it."""
    manifest["fingerprint"] = hashlib.sha256(canonical_json(manifest).encode()).hexdigest()
    write_atomically(out / "manifest.json", json.dumps(manifest, indent=1, sort_keys=True).encode() + b"\n")
    return manifest


def split_summary(shards: list[ShardStats]) -> dict[str, Any]:
    """A split's entry of the manifest."""
    tokens = sum(s.text_tokens for s in shards)
    sums = [s.logprob_sum for s in shards if s.logprob_sum is not None]
    return {
        "samples": sum(s.samples for s in shards),
        "text_tokens": tokens,
        "images": sum(s.images for s in shards),
        "entropy_per_text_token": -math.fsum(sums) / tokens if len(sums) == len(shards) else None,
        "shards": [{name: getattr(s, name) for name in _LISTED} for s in shards],
    }


def tokenizer_json(vocabulary: list[str]) -> str:
    """A word-level tokenizer file of the `tokenizers` library that splits at whitespace; ids are list positions."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    if tuple(vocabulary[: len(SPECIALS)]) != SPECIALS or len(set(vocabulary)) != len(vocabulary):
        raise ValueError(f"a vocabulary must start with {' '.join(SPECIALS)} and name every word once")
    tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(vocabulary)}))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return tokenizer.to_str(pretty=True)
