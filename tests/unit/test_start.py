"""Weights from a Hugging Face directory, a run of ours and an export, and everything that is refused."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lab import run_directory, tiny_config_on, train, training_batch
from safetensors.torch import load_file, save_file

from nmm.config import ConfigError, RunConfig, run_id
from nmm.export import export_main
from nmm.model.build import build
from nmm.origin import run_digest
from nmm.record import read_json
from nmm.start import export, load_run, load_start, run_weights

MakeConfig = Callable[..., RunConfig]
VOCABULARY = 48
SMALL: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "initializer_range": 0.1,
}


def save_decoder(folder: Path, kind: str = "llama", **changes: Any) -> Any:
    """A random tiny decoder made and written by transformers itself."""
    import transformers

    names = {"llama": "Llama", "qwen3": "Qwen3", "mistral": "Mistral"}
    extra = {"sliding_window": None} if kind == "mistral" else {}
    torch.manual_seed(3)
    config = getattr(transformers, f"{names[kind]}Config")(**{**SMALL, **extra, **changes})
    model = getattr(transformers, f"{names[kind]}ForCausalLM")(config).eval()
    for name, parameter in model.named_parameters():
        if "norm" in name:  # gains of one would hide an exchanged norm
            torch.nn.init.uniform_(parameter, 0.5, 1.5)
    model.save_pretrained(folder)
    return model


def starting_from(shards: Path, folder: Path, kind: str, **groups: Any) -> RunConfig:
    """A config that leaves its shape to the start."""
    adopted = {"block": {"name": "from_start"}, "size": {"name": "from_start"}}
    if kind == "run":
        adopted["arch"] = {"name": "from_start"}
    start = {"kind": kind, "path": str(folder), **groups.pop("start", {})}
    return tiny_config_on(shards, "early", "d16", **{**adopted, **groups, "start": start})


def with_vocabulary(config: RunConfig, size: int = VOCABULARY) -> RunConfig:
    return dataclasses.replace(config, data=dataclasses.replace(config.data, vocab_size=size))


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("llama", {}),
        ("llama", {"tie_word_embeddings": True, "rope_parameters": {"rope_type": "default", "rope_theta": 500.0}}),
        ("llama", {"num_key_value_heads": 4, "rms_norm_eps": 1e-3}),
        ("mistral", {"num_key_value_heads": 1}),
        ("qwen3", {"head_dim": 16}),
    ],
)
def test_logits_are_those_of_transformers(
    tiny_shards: Path, tmp_path: Path, kind: str, changes: dict[str, Any]
) -> None:
    theirs = save_decoder(tmp_path / "hf", kind, **changes)
    config = with_vocabulary(starting_from(tiny_shards, tmp_path / "hf", "hf"))
    ours = build(config)
    load_start(ours, config)
    tokens = torch.randint(3, VOCABULARY, (3, 24), generator=torch.Generator().manual_seed(0))
    batch = text_only(config, tokens)
    with torch.no_grad():
        x_BTD, _ = ours.features(batch)
        expected = theirs(input_ids=tokens).logits
        assert (ours.head(x_BTD) - expected).abs().max() < 1e-5
    assert expected.std() > 0.1  # not a comparison of zeros


def text_only(config: RunConfig, tokens: torch.Tensor) -> Any:
    """Rows of one text document each."""
    batch = training_batch(config)
    B, T = tokens.shape
    return dataclasses.replace(
        batch,
        tokens=tokens,
        patches=batch.patches[:0],
        patch_at=batch.patch_at[:0],
        document=torch.zeros(B, T, dtype=torch.int32),
        image=torch.full((B, T), -1, dtype=torch.int32),
        position=torch.arange(T).expand(B, T),
    )


def test_shards_of_a_hugging_face_directory(tiny_shards: Path, tmp_path: Path) -> None:
    save_decoder(tmp_path / "hf")
    tensors = load_file(tmp_path / "hf" / "model.safetensors")
    names = sorted(tensors)
    parts = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for file, held in parts.items():
        save_file({name: tensors[name] for name in held}, tmp_path / "hf" / file)
    (tmp_path / "hf" / "model.safetensors").rename(tmp_path / "whole.safetensors")
    weight_map = {name: file for file, held in parts.items() for name in held}
    (tmp_path / "hf" / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    config = with_vocabulary(starting_from(tiny_shards, tmp_path / "hf", "hf"))
    model = build(config)
    load_start(model, config)
    assert torch.equal(model.trunk.blocks[1].ffn.down.weight, tensors["model.layers.1.mlp.down_proj.weight"])
    (tmp_path / "hf" / "b.safetensors").unlink()
    with pytest.raises(ConfigError, match="lacks b.safetensors"):
        starting_from(tiny_shards, tmp_path / "hf", "hf")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "gpt2"}, "model_type='gpt2' is not one of llama, mistral, qwen3"),
        ({"hidden_act": "gelu"}, "hidden_act='gelu' is not supported, only 'silu'"),
        ({"attention_bias": True}, "attention_bias=True is not supported"),
        ({"rope_parameters": {"rope_type": "llama3", "rope_theta": 1e4}}, "rope_type='llama3' is not supported"),
        ({"rope_parameters": None, "rope_scaling": {"type": "linear"}}, "rope_type='linear' is not supported"),
        ({"model_type": "mistral", "sliding_window": 512}, "sliding_window=512 is not supported, only None"),
    ],
)
def test_what_we_would_compute_otherwise_is_refused(
    tiny_shards: Path, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    save_decoder(tmp_path / "hf")
    file = tmp_path / "hf" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(ConfigError, match=message):
        starting_from(tiny_shards, tmp_path / "hf", "hf")


def test_tensors_that_nothing_reads_and_other_vocabularies_are_refused(tiny_shards: Path, tmp_path: Path) -> None:
    save_decoder(tmp_path / "hf")
    config = starting_from(tiny_shards, tmp_path / "hf", "hf")
    with pytest.raises(ConfigError, match=r"embedding.weight has shape \(48, 32\).*start.embeddings=fresh"):
        load_start(build(config), config)
    fresh = starting_from(tiny_shards, tmp_path / "hf", "hf", start={"embeddings": "fresh"})
    model = build(fresh)
    drawn = model.embedding.weight.clone()
    load_start(model, fresh)
    assert torch.equal(model.embedding.weight, drawn)
    tensors = load_file(tmp_path / "hf" / "model.safetensors")
    save_file({**tensors, "model.layers.0.self_attn.q_proj.bias": torch.zeros(32)}, tmp_path / "hf/model.safetensors")
    with pytest.raises(ConfigError, match="no part of our decoder uses: model.layers.0.self_attn.q_proj.bias"):
        load_start(model, fresh)


def test_pickled_weights_are_never_opened(tiny_shards: Path, tmp_path: Path) -> None:
    save_decoder(tmp_path / "hf")
    (tmp_path / "hf" / "model.safetensors").rename(tmp_path / "hf" / "pytorch_model.bin")
    with pytest.raises(ConfigError, match="pytorch_model.bin is pickled code, which is never executed"):
        starting_from(tiny_shards, tmp_path / "hf", "hf")


@pytest.mark.parametrize("arch", ["early", "late", "moe"])
def test_a_run_and_its_export_give_the_same_start(tiny_shards: Path, tmp_path: Path, arch: str) -> None:
    first = tiny_config_on(tiny_shards, arch, out=str(tmp_path / "runs"), budget={"steps": 3})
    train(first)
    weights = run_weights(run_directory(first))
    exported = export(run_directory(first), tmp_path / "export")
    kept, record = (read_json(path) for path in (exported / "config.json", run_directory(first) / "record.json"))
    assert kept["export"]["flops"] == record["flops"]["total"]
    for folder in (run_directory(first), exported):
        second = starting_from(tiny_shards, folder, "run", out=str(tmp_path / "runs"), seed=5)
        assert (second.arch, second.size, second.block) == (first.arch, first.size, first.block)
        model = build(second)
        load_start(model, second)
        assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    half = export(run_directory(first), tmp_path / "half", "bf16")
    assert load_file(half / "model.safetensors")["head.weight"].dtype == torch.bfloat16
    assert torch.allclose(load_run(half).embedding.weight, weights["embedding.weight"], rtol=1e-2)


def test_the_export_of_a_run_with_an_alarm_warns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "early-run"
    run.mkdir()
    monkeypatch.setattr("nmm.start.export", lambda directory, out, dtype: directory)
    assert export_main([str(run)]) == 0 and capsys.readouterr().err == ""
    (run / "alarm-0002.json").write_text("{}")
    assert export_main([str(run)]) == 0
    assert "warning: early-run finished again with another result" in (said := capsys.readouterr().err)
    assert str(run / "alarm-0002.json") in said and len(said.splitlines()) == 1


def test_a_started_run_trains_and_its_id_knows_the_weights(tiny_shards: Path, tmp_path: Path) -> None:
    first = tiny_config_on(tiny_shards, out=str(tmp_path / "runs"), budget={"steps": 3})
    train(first)
    second = starting_from(tiny_shards, run_directory(first), "run", out=str(tmp_path / "runs"), budget={"steps": 2})
    record = train(second)
    assert record["status"] == "done"
    assert run_id(second) != run_id(tiny_config_on(tiny_shards, out=str(tmp_path / "runs"), budget={"steps": 2}))
    other = tiny_config_on(tiny_shards, out=str(tmp_path / "runs"), budget={"steps": 3}, seed=9)
    train(other)
    third = starting_from(tiny_shards, run_directory(other), "run", out=str(tmp_path / "runs"), budget={"steps": 2})
    assert run_id(third) != run_id(second)


def test_another_shape_than_the_start_is_refused(tiny_shards: Path, tmp_path: Path) -> None:
    first = tiny_config_on(tiny_shards, out=str(tmp_path / "runs"), budget={"steps": 2})
    train(first)
    with pytest.raises(ConfigError, match=r"another model than the config asks for: size.width=24 \(it has 16\)"):
        tiny_config_on(tiny_shards, "early", "d24", start={"kind": "run", "path": str(run_directory(first))})
    with pytest.raises(ConfigError, match="data.pixel_mean=.*would see other pixels"):
        starting_from(tiny_shards, run_directory(first), "run", data={"pixel_mean": [0.5, 0.5, 0.5]})


def test_starts_that_are_not_there_are_refused(tiny_shards: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="holds no config.json; start=run needs a run directory"):
        starting_from(tiny_shards, tmp_path, "run")
    with pytest.raises(ConfigError, match="size=from_start needs a start"):
        tiny_config_on(tiny_shards, size={"name": "from_start"})
    unfinished = tiny_config_on(tiny_shards, out=str(tmp_path / "runs"), budget={"steps": 3})
    train(unfinished)
    (run_directory(unfinished) / "record.json").unlink()
    with pytest.raises(ConfigError, match="^start.path=.* is a run that is not finished; finish it first"):
        starting_from(tiny_shards, run_directory(unfinished), "run")
    with pytest.raises(ConfigError, match="^reference=.* is a run that is not finished"):
        run_digest(run_directory(unfinished), "reference")
    with pytest.raises(ConfigError, match=f"^{run_directory(unfinished)} is a run that is not finished"):
        run_digest(run_directory(unfinished))


def test_a_start_that_has_changed_is_refused(tiny_shards: Path, tmp_path: Path) -> None:
    save_decoder(tmp_path / "hf")
    config = starting_from(tiny_shards, tmp_path / "hf", "hf")
    tensors = load_file(tmp_path / "hf" / "model.safetensors")
    save_file({name: value + 1 for name, value in tensors.items()}, tmp_path / "hf" / "model.safetensors")
    from nmm.resolve import finalize

    with pytest.raises(ConfigError, match="now holds weights"):
        finalize(config)
