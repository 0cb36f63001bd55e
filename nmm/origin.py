"""What a start other than scratch says about the model: its shape, its block, and a digest of its files. No torch.

``start=hf`` is a Hugging Face directory of a Llama-style decoder (config.json + safetensors); ``start=run`` a finished
run of ours, or what `nmm export` wrote. ``nmm.start`` loads the weights.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nmm.config import ConfigError, RunConfig, canonical_json, from_dict
from nmm.record import file_sha256, newest_checkpoint, read_json, read_record

ADOPT = "from_start"  # the name of conf/{arch,block,size}/from_start.yaml: take what the start has
HF_TYPES = ("llama", "mistral", "qwen3")
WEIGHTS = "model.safetensors"


def adopt(config: RunConfig) -> RunConfig:
    """Fill arch, block and size from the start where the config leaves them to it, and the digest of its files.

    Raises ``ConfigError`` when the start is not there, is of another shape than the config says, or has changed since
    the digest was taken. Idempotent; from scratch nothing happens.
    """
    start = config.start
    if start.kind == "scratch":
        for name in ("arch", "block", "size"):
            if getattr(config, name).name == ADOPT:
                raise ConfigError(f"{name}={ADOPT} needs a start: add start=run start.path=DIR, or start=hf")
        return config
    directory = only_one(Path(start.path))
    if not (directory / "config.json").is_file():
        raise ConfigError(f"start.path={start.path} holds no config.json; {_expected(start.kind)}")
    shape = hf_shape(directory) if start.kind == "hf" else run_shape(directory)
    digest = hf_digest(directory) if start.kind == "hf" else run_digest(directory, "start.path")
    if start.digest not in ("", digest):
        raise ConfigError(
            f"start.path={start.path} now holds weights {digest[:12]}, but this config was made for "
            f"{start.digest[:12]}; point start.path at the old ones or plan again"
        )
    if start.kind == "run":
        _check_pixels(config, run_settings(directory))
    groups = {name: _group(config, name, given) for name, given in shape.items()}
    path = os.path.abspath(directory)
    return dataclasses.replace(config, **groups, start=dataclasses.replace(start, path=path, digest=digest))


def only_one(folder: Path) -> Path:
    """``folder``, or the only run directory in it: a run's name is known once it is composed, its folder before."""
    inside = [] if (folder / "config.json").is_file() else sorted(folder.glob("*/config.json"))
    return inside[0].parent if len(inside) == 1 else folder


def _expected(kind: str) -> str:
    if kind == "hf":
        return "start=hf needs a Hugging Face directory with config.json and safetensors"
    return "start=run needs a run directory (the one with record.json), a folder with just one, or one of `nmm export`"


def _group(config: RunConfig, name: str, given: Mapping[str, Any]) -> Any:
    """The config's group with what the start has; refused where the config says otherwise."""
    group = getattr(config, name)
    if group.name == ADOPT:
        return dataclasses.replace(group, **given)
    differing = {k: v for k, v in given.items() if k != "name" and getattr(group, k) != v}
    if differing:
        said = ", ".join(f"{name}.{k}={getattr(group, k)} (it has {v})" for k, v in differing.items())
        raise ConfigError(
            f"start.path={config.start.path} is another model than the config asks for: {said}. "
            f"Leave out {name}=..., then it follows the start"
        )
    return group


def _check_pixels(config: RunConfig, origin: RunConfig) -> None:
    for name in ("patch_size", "channels", "pixel_mean", "pixel_std"):
        mine, theirs = getattr(config.data, name), getattr(origin.data, name)
        if mine != theirs:
            raise ConfigError(
                f"data.{name}={mine}, but start.path={config.start.path} was trained with {theirs}: its weights would "
                "see other pixels; use the same"
            )


# ---------------------------------------------------------------------------------------------------------------------
# a run or an export of ours

# what may differ between a run and what starts from it, because no weight depends on it
_FREE = {"vision_weights", "vision_digest", "vision_frozen", "balance_coef", "bias_rate", "router_z_coef"}
_FREE |= {"vision_weights2", "vision_digest2", "vision_frozen2"}
_FREE |= {"vision_facts", "vision_facts2"}  # counted again: what is frozen has no backward pass
_FREE |= {"image_attention", "document_mask", "lr"}


def run_settings(directory: Path) -> RunConfig:
    """The config that a run or export was made with. Raises ``ConfigError`` for another kind of directory."""
    content = read_json(directory / "config.json")
    if not isinstance(content, dict) or "settings" not in content:
        raise ConfigError(f"{directory} is not one of our runs; {_expected('run')}")
    return from_dict(content["settings"])


def run_shape(directory: Path) -> dict[str, dict[str, Any]]:
    """Fields of arch, block and size that the weights depend on."""
    settings = run_settings(directory)
    groups: dict[str, Any] = {"arch": settings.arch, "block": settings.block, "size": settings.size}
    return {
        name: {k: v for k, v in dataclasses.asdict(group).items() if k not in _FREE} for name, group in groups.items()
    }


def run_digest(directory: Path, option: str = "") -> str:
    """sha256 of the weights: of the export, or of the newest checkpoint of a finished run.

    ``option`` is where a user named the directory, as messages call it. Raises ``ConfigError`` for a run that is not
    finished, or of which only the record is left.
    """
    if (directory / WEIGHTS).is_file():
        return cached_sha256(directory / WEIGHTS)
    record, named = read_record(directory), f"{option}={directory}" if option else str(directory)
    if record is None or record["status"] != "done":
        raise ConfigError(
            f"{named} is a run that is {'not finished' if record is None else record['status']}; "
            "finish it first (run its command again), or export it with `nmm export`"
        )
    found = newest_checkpoint(directory)
    if found is None or found[0] != record["steps"]:
        raise ConfigError(f"{named} has no checkpoint of its last step any more; only its record is left")
    return str(read_json(found[1].with_suffix(".json"))["sha256"])


# ---------------------------------------------------------------------------------------------------------------------
# a Hugging Face directory


def hf_shape(directory: Path) -> dict[str, dict[str, Any]]:
    """Fields of block and size from a Llama-style config.json.

    Raises ``ConfigError`` for what our blocks would compute otherwise.
    """
    content: dict[str, Any] = read_json(directory / "config.json")
    kind = content.get("model_type")
    if kind not in HF_TYPES:
        raise ConfigError(f"{directory}/config.json: model_type={kind!r} is not one of {', '.join(HF_TYPES)}")
    rope = content.get("rope_parameters") or content.get("rope_scaling") or {}
    wanted: dict[str, tuple[Any, tuple[Any, ...]]] = {
        "hidden_act": (content.get("hidden_act"), ("silu",)),
        "attention_bias": (content.get("attention_bias", False), (False,)),
        "mlp_bias": (content.get("mlp_bias", False), (False,)),
        "rope_type": (rope.get("rope_type", rope.get("type", "default")), ("default",)),
        "partial_rotary_factor": (rope.get("partial_rotary_factor", 1.0), (1.0,)),
    }
    if content.get("use_sliding_window", kind == "mistral"):
        wanted["sliding_window"] = (content.get("sliding_window"), (None,))
    for name, (value, allowed) in wanted.items():
        if value not in allowed:
            raise ConfigError(f"{directory}/config.json: {name}={value!r} is not supported, only {allowed[0]!r}")
    heads = int(content["num_attention_heads"])
    return {
        "size": {
            "name": directory.resolve().name,
            "width": int(content["hidden_size"]),
            "depth": int(content["num_hidden_layers"]),
            "num_heads": heads,
            "num_kv_heads": int(content.get("num_key_value_heads") or heads),
            "head_dim": int(content.get("head_dim") or content["hidden_size"] // heads),
            "hidden": int(content["intermediate_size"]),
        },
        "block": {
            "name": "llama",
            "norm": "rms",
            "norm_eps": float(content["rms_norm_eps"]),
            "qk_norm": "head" if kind == "qwen3" else "none",
            "ffn": "swiglu",
            "rope": "1d",
            "rope_theta": float(rope.get("rope_theta", content.get("rope_theta", 10_000.0))),
            "tied_head": bool(content.get("tie_word_embeddings", False)),
        },
    }


def hf_files(directory: Path) -> list[Path]:
    """The safetensors files of a Hugging Face directory, in order. Raises ``ConfigError`` when there are none."""
    index = directory / "model.safetensors.index.json"
    if index.is_file():
        names = sorted(set(read_json(index)["weight_map"].values()))
        outside = [name for name in names if Path(name).name != name]
        if outside:
            raise ConfigError(f"{index} names files outside its directory: {', '.join(outside)}")
    else:
        names = [WEIGHTS]
    missing = [name for name in names if not (directory / name).is_file()]
    if missing:
        others = sorted(p.name for p in directory.glob("*.bin"))
        hint = f" ({', '.join(others)} is pickled code, which is never executed; convert it first)" if others else ""
        raise ConfigError(f"{directory} lacks {', '.join(missing)}{hint}")
    return [directory / name for name in names]


def hf_digest(directory: Path) -> str:
    """One sha256 over the weights and config.json."""
    parts = [(path.name, cached_sha256(path)) for path in (*hf_files(directory), directory / "config.json")]
    return hashlib.sha256(canonical_json(parts).encode()).hexdigest()


def cached_sha256(path: Path) -> str:
    """sha256 of a file, read once as long as it does not change."""
    stat = path.stat()
    return _sha256(str(path), stat.st_size, stat.st_mtime_ns)


@functools.lru_cache(maxsize=64)
def _sha256(path: str, size: int, changed: int) -> str:
    return file_sha256(Path(path))
