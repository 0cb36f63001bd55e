"""Weights from elsewhere: a Hugging Face decoder, a run of ours, an export; and the export itself.

Only tensors are read: safetensors, or our checkpoints with ``weights_only``. No file can execute code.

Shape legend: V vocabulary, D width, H heads, G heads of keys and values, K head dim, F hidden.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from nmm.config import ConfigError, RunConfig, run_id, to_dict
from nmm.model.build import build
from nmm.model.fusion import NativeMultimodalModel
from nmm.model.vision import load_vision
from nmm.origin import WEIGHTS, hf_files, run_settings
from nmm.record import RecordError, newest_checkpoint, read_json, read_record, write_atomic, write_json
from nmm.transform import transformed

EMBEDDINGS = ("embedding.weight", "head.weight")
PATCH = ("connector.", "patch_position")
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def initial_model(config: RunConfig) -> NativeMultimodalModel:
    """The model of ``config`` as its training begins: initial weights, pretrained encoders, its start."""
    model = build(config)
    load_vision(model.vision, config)
    load_start(model, config)
    return model


def load_start(model: NativeMultimodalModel, config: RunConfig) -> None:
    """Replace initial weights by those of ``config.start``; nothing to do from scratch.

    What a Hugging Face decoder has no counterpart for (patches, encoder, connector), and what start.fresh names,
    keeps its initial values. The head of a bridge is taken where both have one. Raises ``ConfigError`` naming the
    tensors that are missing, left over or of another shape.
    """
    start = config.start
    optional: tuple[str, ...] = ("bridge_head.",)
    match start.kind:
        case "scratch":
            return
        case "hf":
            weights = hf_weights(Path(start.path), config)
            optional = (*optional, "vision.", *PATCH)
        case _:
            weights = run_weights(Path(start.path))
    expected = model.state_dict()
    if start.embeddings == "fresh":
        optional = (*optional, *EMBEDDINGS)
        weights = {name: value for name, value in weights.items() if name not in EMBEDDINGS}
    fresh = tuple(prefix for part in start.fresh for prefix in (PATCH if part == "patch" else ("bridge_head.",)))
    if config.bridge is None:  # the head belongs to a stage that is over
        fresh = (*fresh, "bridge_head.")
    optional = (*optional, *fresh)
    weights = {name: value for name, value in weights.items() if not name.startswith(fresh)}
    if start.transform != "none":
        weights = transformed(weights, expected, start.transform, config.seed)
        optional = ("",) if start.transform == "covariance" else optional
    _check(expected, weights, optional, config)
    model.load_state_dict(weights, strict=False)


def _check(
    expected: Mapping[str, Tensor], weights: Mapping[str, Tensor], optional: tuple[str, ...], config: RunConfig
) -> None:
    missing = [name for name in expected if name not in weights and not name.startswith(optional)]
    extra = [name for name in weights if name not in expected]
    if missing or extra:
        raise ConfigError(
            f"start.path={config.start.path}: missing {', '.join(missing[:5]) or 'nothing'}, left over "
            f"{', '.join(extra[:5]) or 'nothing'} ({len(missing)} and {len(extra)} tensors); it is another model"
        )
    for name, value in weights.items():
        if value.shape != expected[name].shape:
            hint = "; start.embeddings=fresh draws them anew for your vocabulary" if name in EMBEDDINGS else ""
            hint = "; start.fresh=[labels] draws it anew for your classes" if name == "bridge_head.weight" else hint
            raise ConfigError(
                f"start.path={config.start.path}: {name} has shape {tuple(value.shape)}, the model of this config "
                f"{tuple(expected[name].shape)}{hint}"
            )


# ---------------------------------------------------------------------------------------------------------------------
# ours


def load_run(directory: Path) -> NativeMultimodalModel:
    """The model of a run (at its newest checkpoint) or of an export, on the CPU and in evaluation mode."""
    model = build(run_settings(directory))
    model.load_state_dict(run_weights(directory))
    return model.eval()


def run_weights(directory: Path) -> dict[str, Tensor]:
    """Parameters and buffers by name, on the CPU, of an export or of the newest valid checkpoint of a run."""
    if (directory / WEIGHTS).is_file():
        return _read_safetensors(directory / WEIGHTS)
    found = newest_checkpoint(directory)
    if found is None:
        raise RecordError(f"{directory} has no checkpoint; is it a run directory, and has the run begun?")
    content: dict[str, Any] = torch.load(found[1], map_location="cpu", weights_only=True, mmap=True)
    weights: dict[str, Tensor] = content["model"]
    return weights


def export(directory: Path, out: Path, dtype: str = "fp32") -> Path:
    """Write the newest weights of a run as ``out``/model.safetensors with config.json beside it; returns ``out``.

    ``dtype`` (fp32 or bf16) is that of the matrices; gains and biases stay fp32. Raises ``ConfigError`` for another
    dtype or a directory that is no run.
    """
    if dtype not in DTYPES:
        raise ConfigError(f"--dtype {dtype!r} is not one of {', '.join(DTYPES)}")
    settings = run_settings(directory)
    weights = run_weights(directory)
    tied = settings.block.tied_head
    tensors = {
        name: (value.to(DTYPES[dtype]) if value.ndim >= 2 else value).contiguous().clone()
        for name, value in weights.items()
        if not (tied and name == "head.weight")
    }
    record = read_record(directory)
    soup = {key: value for key, value in read_json(directory / "config.json").items() if key == "soup"}
    name = None if soup else run_id(settings)  # the settings of a soup are those of one of its members
    facts = {"run_id": name, "dtype": dtype, "result": record["result"] if record else None,
             "flops": record["flops"]["total"] if record else None}  # fmt: skip
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "config.json", {"settings": to_dict(settings), "export": facts, **soup})
    write_atomic(out / WEIGHTS, lambda file: save_file(tensors, file.name, metadata={"format": "pt"}))
    return out


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    with safe_open(str(path), framework="pt", device="cpu") as file:
        weights = {name: file.get_tensor(name).float() for name in sorted(file.keys())}
    if "head.weight" not in weights and "embedding.weight" in weights:
        weights["head.weight"] = weights["embedding.weight"]
    return weights


# ---------------------------------------------------------------------------------------------------------------------
# Hugging Face


def hf_weights(directory: Path, config: RunConfig) -> dict[str, Tensor]:
    """A Llama-style decoder's tensors under our names, fp32.

    q, k, v (H K, D), (G K, D), (G K, D) become one matrix, as do gate and up (F, D) each; heads and rotary pairs are
    laid out alike in both, so nothing is permuted.
    """
    if config.arch.num_experts:
        raise ConfigError("start=hf gives a dense decoder; it cannot fill experts (arch.num_experts must be 0)")
    where = _locate(directory)
    unread = set(where)

    def get(name: str) -> Tensor:
        if name not in where:
            raise ConfigError(f"start.path={directory} has no tensor {name}; is it a Llama-style decoder?")
        unread.discard(name)
        with safe_open(str(where[name]), framework="pt", device="cpu") as file:
            return file.get_tensor(name).float()

    weights = {"embedding.weight": get("model.embed_tokens.weight"), "trunk.norm.weight": get("model.norm.weight")}
    tied = config.block.tied_head
    weights["head.weight"] = weights["embedding.weight"] if tied else get("lm_head.weight")
    for layer in range(config.size.depth):
        weights |= _hf_layer(get, layer, config.block.qk_norm == "head")
    surplus = sorted(
        n for n in unread if not n.endswith("rotary_emb.inv_freq") and not (tied and n == "lm_head.weight")
    )
    if surplus:
        raise ConfigError(
            f"start.path={directory} holds tensors that no part of our decoder uses: {', '.join(surplus)}"
        )
    return weights


def _hf_layer(get: Callable[[str], Tensor], layer: int, has_qk_norm: bool) -> dict[str, Tensor]:
    theirs, ours = f"model.layers.{layer}.", f"trunk.blocks.{layer}."

    def stacked(*names: str) -> Tensor:
        return torch.cat([get(f"{theirs}{name}.weight") for name in names])

    attention = "self_attn."
    weights = {
        "attention_norm.weight": stacked("input_layernorm"),
        "attention.qkv.weight": stacked(*(f"{attention}{kind}_proj" for kind in "qkv")),
        "attention.out.weight": stacked(f"{attention}o_proj"),
        "ffn_norm.weight": stacked("post_attention_layernorm"),
        "ffn.up.weight": stacked("mlp.gate_proj", "mlp.up_proj"),
        "ffn.down.weight": stacked("mlp.down_proj"),
    }
    if has_qk_norm:
        weights["attention.query_norm.weight"] = stacked(f"{attention}q_norm")
        weights["attention.key_norm.weight"] = stacked(f"{attention}k_norm")
    return {ours + name: value for name, value in weights.items()}


def _locate(directory: Path) -> dict[str, Path]:
    """Tensor name -> the file that holds it."""
    where: dict[str, Path] = {}
    for path in hf_files(directory):
        with safe_open(str(path), framework="pt", device="cpu") as file:
            where |= dict.fromkeys(file.keys(), path)
    return where
