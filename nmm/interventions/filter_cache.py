"""Scores of one reference, tar by tar: a stopped pass goes on with the next tar, another band or share scores nothing.

    <scores>/<reference>-<digest>-<what it sees>/<source>-train-000000-<tar>.npz

``digest`` is of the reference's weights and of what else decides a score, ``tar`` of the tar's bytes, so an old score
can never meet another sample. Files appear by one rename.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from nmm.batch import SOURCES
from nmm.config import ConfigError, RunConfig, canonical_json
from nmm.data.decoded import open_decoded
from nmm.data.derived import SPLIT
from nmm.data.manifest import ShardInfo, Shards, open_shards
from nmm.data.opening import open_data
from nmm.data.out_folder import progress_bar
from nmm.flops import forward_flops
from nmm.groups import Start
from nmm.interventions.filter import Filter
from nmm.origin import only_one, run_digest, run_settings
from nmm.record import RecordError, read_record

if TYPE_CHECKING:
    from nmm.interventions.filter_score import ShardScores

SCORER = 1  # changes with whatever changes scores


@dataclass(frozen=True)
class Reference:
    """The run that scores. flops: of its training with its past, None where no record says so; flops_of: what that
    covers, in words."""

    run: Path
    config: RunConfig
    digest: str
    name: str
    flops: float | None
    flops_of: str


@dataclass(frozen=True)
class Scores:
    """Of all N samples of a split in order: summed NLL, tokens, truncated; the FLOPs of scoring them; seconds now."""

    nll: np.ndarray
    tokens: np.ndarray
    truncated: np.ndarray
    flops: float
    seconds: float
    scored_now: int


def open_reference(options: Filter, shards: Shards) -> Reference:
    """Raises ``ConfigError`` for a run whose words have other ids than the shards', or that is none."""
    run = _run(Path(options.reference))
    config = run_settings(run)
    _check(config, options, shards)
    record = read_record(run)
    name = record["run_id"] if record else run.resolve().name
    return Reference(run, config, run_digest(run, "reference"), name, *training_cost(run))


def training_cost(run: Path) -> tuple[float | None, str]:
    """FLOPs of a run's training with its past, as far as records tell, and what they cover, in words.

    A start from a run is followed while the weights that were taken are still there. What a run was charged for is
    added; it may hold the start's training already, so nothing before such a run is counted.
    """
    total, stages, at = 0.0, 0, run
    while (record := read_record(at)) is not None:
        charged = float(record.get("intervention", {}).get("charged_flops", 0.0))
        total, stages = total + float(record["flops"]["total"]) + charged, stages + 1
        start = run_settings(at).start
        if start.kind == "scratch":
            return total, "of all its training"
        if charged or not _still_there(start):
            break
        at = Path(start.path)
    if not stages:
        return None, "unknown: it has no record"
    return total, "of its last stage only" if stages == 1 else f"of its last {stages} stages only"


def _still_there(start: Start) -> bool:
    """Whether the run that a start names is there, with the weights that were taken from it."""
    try:
        return start.kind == "run" and run_digest(Path(start.path)) == start.digest
    except (ConfigError, RecordError):
        return False


def _run(given: Path) -> Path:
    """A run or an export, or the one run that lies in this folder."""
    run = only_one(given)
    if (run / "config.json").is_file():
        return run
    inside = len(list(given.glob("*/config.json")))
    held = f"holds {inside} runs" if inside else "holds no config.json"
    raise ConfigError(f"reference={given} {held}; give one run directory, or what `nmm export` wrote")


def _check(config: RunConfig, options: Filter, shards: Shards) -> None:
    data = config.data
    side = data.picture_size or data.image_size
    if data.sources or side != shards.image_size:
        kind = "indexed sources" if data.sources else f"pictures of {side} pixels"
        raise ConfigError(f"reference={options.reference} was trained on {kind}, {shards.root} has {shards.image_size}")
    if data.fingerprint == shards.fingerprint:
        return
    where = Path(options.reference_shards or data.path)
    if not (where / "manifest.json").is_file():
        raise ConfigError(
            f"the shards that reference={options.reference} was trained on are not at {where} any more, so nobody "
            "knows its vocabulary; say where they are with reference_shards=DIR"
        )
    theirs = open_shards(where)
    if theirs.fingerprint != data.fingerprint:
        raise ConfigError(f"{where} holds other shards than reference={options.reference} was trained on")
    if theirs.tokenizer.fingerprint != shards.tokenizer.fingerprint:
        raise ConfigError(
            f"reference={options.reference} has another vocabulary ({theirs.vocab_size} words) than {shards.root} "
            f"({shards.vocab_size}): render both with the same +data.world options, they decide the words"
        )


def folder_of(options: Filter, shards: Shards, reference: Reference) -> Path:
    """Where the scores of this reference and this way of seeing are kept."""
    decides = [SCORER, reference.digest, options.sees, reference.config.data.context_length]
    digest = hashlib.sha256(canonical_json(decides).encode()).hexdigest()[:12]
    root = Path(options.scores) if options.scores else shards.root / ".scores"
    return root / f"{reference.name}-{digest}-{options.sees}"


def scored(options: Filter, shards: Shards, reference: Reference) -> Scores:
    """The scores of every training sample of the source; what is missing is scored first, tar by tar."""
    infos = shards.split(options.source, SPLIT).shards
    folder = folder_of(options, shards, reference)
    files = [
        folder / f"{Path(info.path).with_suffix('').as_posix().replace('/', '-')}-{info.sha256[:12]}.npz"
        for info in infos
    ]
    missing = [number for number, file in enumerate(files) if not file.is_file()]
    seconds = 0.0
    if missing:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(
                f"cannot keep scores in {folder} ({error}); name another place with scores=DIR"
            ) from error
        seconds = _score(options, shards, reference, infos, files, missing)
    parts = [_read(file, info) for file, info in zip(files, infos, strict=True)]
    joined = {name: np.concatenate([part[name] for part in parts]) for name in ("nll", "tokens", "truncated")}
    flops = sum(_flops(reference.config, part) for part in parts)
    return Scores(**joined, flops=flops, seconds=seconds, scored_now=sum(infos[number].samples for number in missing))


def _score(
    options: Filter,
    shards: Shards,
    reference: Reference,
    infos: Sequence[ShardInfo],
    files: Sequence[Path],
    missing: Sequence[int],
) -> float:
    """Score and write the files that are missing; returns the seconds it took, without loading and decoding."""
    import torch

    from nmm.interventions.filter_score import Scorer
    from nmm.start import load_run

    torch.set_num_threads(options.threads)
    device = "cuda" if options.accelerator == "gpu" else "cpu"
    data = replace(reference.config.data, path=str(shards.root))
    seen = open_data(data)  # as the reference saw pictures: in one piece, smaller, or in tiles
    assert isinstance(seen, Shards)
    scorer = Scorer(load_run(reference.run), options.sees, options.batch_rows, device, seen.images_per_picture)
    decoded = open_decoded(seen, options.source, SPLIT, reference.config.row_data.patch_size)
    total = sum(info.samples for info in infos)
    with progress_bar(options.progress) as bar:
        task = bar.add_task("scoring", total=total, completed=total - sum(infos[n].samples for n in missing))
        began = time.monotonic()
        for number in missing:
            found = scorer.score(decoded[number], SOURCES.index(options.source), lambda n: bar.advance(task, n))
            _write(files[number], found)
    return time.monotonic() - began


def _write(file: Path, found: ShardScores) -> None:
    temporary = file.with_name(f".{file.name}.tmp-{os.getpid()}")
    with temporary.open("wb") as handle:
        np.savez(handle, **vars(found))
        handle.flush()
        os.fsync(handle.fileno())
    temporary.rename(file)


def _read(file: Path, info: ShardInfo) -> dict[str, np.ndarray]:
    try:
        with np.load(file) as content:
            part = {name: content[name] for name in content.files}
    except (OSError, ValueError, KeyError) as error:
        raise ConfigError(f"scores {file} are damaged ({error}): delete that file, it is made again") from error
    if len(part["nll"]) != info.samples:
        raise ConfigError(f"scores {file} do not fit {info.path}: delete that file, it is made again")
    return part


def _flops(config: RunConfig, part: dict[str, np.ndarray]) -> float:
    """Forward FLOPs of one tar's rows, padding included as it is computed."""
    positions = int(part["positions"])
    per_position = forward_flops(config, int(part["images"]) / positions, int(part["targets"]) / positions).total
    return per_position * positions
