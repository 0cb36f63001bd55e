"""Who may go into one soup: finished models with one vocabulary, one shape and one start. No torch.

Two models fine-tuned from one checkpoint usually lie in one basin of the loss, so the mean of their weights is a model
too (arXiv 2203.05482); the mean of models from different starts is none. What a member began with is read from its
config, where a run keeps the digest of the weights that it loaded.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nmm.config import ConfigError, RunConfig, from_dict, run_id, to_dict
from nmm.data.manifest import Shards
from nmm.data.tokenizer import load_tokenizer, open_tokenizer
from nmm.flops import training_flops
from nmm.groups import Start
from nmm.origin import WEIGHTS, cached_sha256, only_one, run_shape
from nmm.record import newest_checkpoint, read_json, read_record
from nmm.resolve import read_shards

# what a config says beside the shape of weights, and a model computes something else with
_DATA = ("image_size", "patch_size", "channels", "pixel_mean", "pixel_std", "vocab_size", "context_length")
_ARCH = ("image_attention", "document_mask")


@dataclass(frozen=True)
class Member:
    """A model that may be averaged. start: what it began with, None where nobody knows; flops: of its fine-tune."""

    directory: Path
    settings: RunConfig
    name: str
    digest: str
    start: dict[str, Any] | None
    flops: float

    def facts(self) -> dict[str, Any]:
        """What soup.json says of it."""
        return {"path": str(self.directory), "name": self.name, "digest": self.digest, "flops": self.flops}


def open_member(directory: Path) -> Member:
    """A run at its last step (or a folder that holds just one), an export or another soup.

    Raises ``ConfigError`` for one that is not finished, has diverged, or is none.
    """
    directory = only_one(directory)
    if not (directory / "config.json").is_file():
        raise ConfigError(f"{directory} holds no config.json; give run directories or what `nmm export` wrote")
    content = read_json(directory / "config.json")
    if not isinstance(content, dict) or "settings" not in content:
        raise ConfigError(f"{directory} is neither a run nor an export of ours: its config.json has no settings")
    settings = from_dict(content["settings"])
    if "soup" in content:
        soup = content["soup"]
        digest = cached_sha256(directory / WEIGHTS)
        return Member(directory, settings, directory.name, digest, soup["start"], soup["flops"])
    if (directory / WEIGHTS).is_file():
        facts = content.get("export", {})
        _check_result(directory, facts.get("result"))
        digest, flops = cached_sha256(directory / WEIGHTS), _exported(directory, settings, facts.get("flops"))
    else:
        digest, flops = _finished(directory)
    return Member(directory, settings, run_id(settings), digest, start_of(settings), flops)


def _check_result(directory: Path, result: Any) -> None:
    """Of an export: the record's result, None where the run had not finished."""
    if not isinstance(result, dict):
        raise ConfigError(f"{directory} was exported from a run that had not finished; finish it and export it again")
    if "error" in result:
        raise ConfigError(f"{directory} was exported from a run that diverged ({result['error']}); leave it out")


def _finished(directory: Path) -> tuple[str, float]:
    """Digest of the last checkpoint of a finished run, and the FLOPs of its training."""
    record = read_record(directory)
    if record is None:
        raise ConfigError(f"{directory} is a run that is not finished; run its command again, then make the soup")
    if record["status"] != "done":
        raise ConfigError(f"{directory} is a run that {record['status']}; leave it out")
    found = newest_checkpoint(directory)
    if found is None or found[0] != record["steps"]:
        raise ConfigError(f"{directory} has no checkpoint of its last step any more; only its record is left")
    return str(read_json(found[1].with_suffix(".json"))["sha256"]), float(record["flops"]["total"])


def _exported(directory: Path, settings: RunConfig, flops: float | None) -> float:
    """FLOPs of an export's training: as its run's record had them; where the export kept none, as expected of the
    settings. Raises ``ConfigError`` for a run tuned by rewards without them, whose rollouts no settings tell.
    """
    if flops is not None:
        return float(flops)
    if settings.stage.name == "rft":
        raise ConfigError(f"{directory}: an export of a run tuned by rewards that does not say what it cost; export "
                          "the run again")  # fmt: skip
    return training_flops(settings, settings.total_steps * settings.tokens_per_step)["total"]


def start_of(settings: RunConfig) -> dict[str, Any] | None:
    """What a run began with: equal for two runs only if their initial weights were equal. None from scratch.

    Where the start leaves something to be drawn (a Hugging Face decoder has no patches, embeddings may be fresh), the
    seed draws it and belongs to the start.
    """
    start = settings.start
    if settings.role == "branch":
        return {"trunk": settings.parent.run_id, "step": settings.parent.step}
    if start.kind == "scratch":
        return None
    plain = dataclasses.asdict(Start(kind="run", digest=start.digest))
    known = {k: v for k, v in dataclasses.asdict(start).items() if k != "path" and v != plain[k]}
    return {"kind": start.kind, "digest": start.digest, **known, **({"seed": settings.seed} if known else {})}


# ---------------------------------------------------------------------------------------------------------------------
# members that do not go together


def check_together(members: Sequence[Member], different_starts: str) -> None:
    """Raise ``ConfigError`` naming the member that differs from the first, and in what.

    ``different_starts`` accept lets members of different or unknown origin pass.
    """
    first = members[0]
    for other in members[1:]:
        _check_shape(first, other)
        if different_starts == "refuse" and (first.start is None or other.start != first.start):
            raise ConfigError(
                f"{first.directory} and {other.directory} did not begin with the same weights ({_said(first)}; "
                f"{_said(other)}): the mean of such models is usually no model at all. Fine-tune all members from one "
                "checkpoint (start=run start.path=RUN); different_starts=accept averages them all the same"
            )


def _said(member: Member) -> str:
    start = member.start
    if start is None:
        return "from scratch, or unknown"
    what = "branch of" if "trunk" in start else "start"
    details = [f"{k}={v}" for k, v in start.items() if k not in ("trunk", "digest")]
    return f"{what} {str(start.get('trunk') or start['digest'])[:12]} {' '.join(details)}".rstrip()


def _check_shape(first: Member, other: Member) -> None:
    one, two = _shape(first), _shape(other)
    differing = [
        f"{group}.{name}={two[group].get(name)} (not {value})"
        for group, values in one.items()
        for name, value in values.items()
        if name not in ("name", "paired") and two[group].get(name) != value
    ]
    if differing:
        raise ConfigError(
            f"{other.directory} is another model than {first.directory}: {', '.join(differing)}; weights of different "
            "models cannot be averaged"
        )


def _shape(member: Member) -> dict[str, dict[str, Any]]:
    settings = to_dict(member.settings)
    shape = run_shape(member.directory)
    shape["arch"] |= {name: settings["arch"][name] for name in _ARCH}
    return shape | {"data": {name: settings["data"][name] for name in _DATA}}


def check_words(members: Sequence[Member], shards: Shards, vocabulary: str) -> None:
    """Refuse members whose words have other ids than those of ``shards``, and pictures of another size.

    Raises ``ConfigError``, also for a member whose shards are not to be found, unless ``vocabulary`` is trust.
    """
    for member in members:
        data = member.settings.data
        if data.vocab_size != shards.vocab_size or data.image_size != shards.image_size:
            raise ConfigError(
                f"{member.directory} has a vocabulary of {data.vocab_size} and pictures of {data.image_size} pixels, "
                f"data={shards.root} of {shards.vocab_size} and {shards.image_size}; give shards of the same world"
            )
        if vocabulary == "check" and data.fingerprint != shards.fingerprint:
            own = _vocabulary(member)
            if own != shards.tokenizer.fingerprint:
                raise ConfigError(
                    f"{member.directory} was trained with another vocabulary than data={shards.root} has: the same "
                    "ids mean other words. Give shards of the same world"
                )


def _vocabulary(member: Member) -> str:
    """Fingerprint of the words that a member was trained with."""
    data = member.settings.data
    if data.sources:
        return open_tokenizer(data.tokenizer).fingerprint
    folder = Path(data.path)
    if not (folder / "manifest.json").is_file() or read_shards(folder)["fingerprint"] != data.fingerprint:
        raise ConfigError(
            f"{member.directory} was trained on shards {data.fingerprint[:12]}, which are not at {folder} any more, so "
            "nobody can compare its words; put them back, or say vocabulary=trust if you know that they are the same"
        )
    return load_tokenizer(folder / "tokenizer.json").fingerprint
