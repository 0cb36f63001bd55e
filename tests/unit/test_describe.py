"""`nmm describe`: what it finds, what it assumes and says so, and how it reads."""

from __future__ import annotations

import io
import json
import shlex
from pathlib import Path
from typing import Any

import pytest
from lab import composed
from rich.console import Console

from nmm.config import ConfigError
from nmm.describe import EXAMPLES, MFU, PEAK, describe, describe_main
from nmm.describe_tables import gib, show, si

KEYS = {
    "run": "arch size block width depth num_heads num_kv_heads head_dim ffn_hidden expert_hidden vocab_size "
    "context_length tokens_per_image tokens_per_step learning_rate",
    "parameters": "embedding head attention ffn norm router experts experts_active patch vision vision_matrices "
    "connector total active non_embedding active_non_embedding decoder_non_embedding paper paper_non_embedding "
    "paper_stored",
    "flops_per_token": "forward training shares",
    "memory": "ranks rows_in_flight accelerator precision ddp_kept ddp_checkpointed fsdp2_kept fsdp2_checkpointed",
    "budget": "steps tokens image_tokens tokens_per_parameter flops flops_6nd mfu peak_flops devices hours",
}
COMPONENTS = "attention_projections attention_scores ffn router experts head patch vision connector total"
BYTES = "weights copies gradients optimizer activations logits total"


def values(budget: dict[str, Any] | None = None, /, **options: str) -> dict[str, Any]:
    found = composed(**options)
    found["data"]["vocab_size"] = found["data"]["vocab_size"] or 300
    return found | ({"budget": budget} if budget else {})


def text_of(facts: dict[str, Any]) -> str:
    """The tables on a console of 100 columns."""
    console = Console(width=100, file=io.StringIO())
    show(facts, console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_keys_are_stable() -> None:
    facts = describe(values(arch="moe", size="d64"))
    assert list(facts) == [*KEYS, "notes"]
    assert {topic: list(facts[topic]) for topic in KEYS} == {topic: names.split() for topic, names in KEYS.items()}
    assert list(facts["flops_per_token"]["forward"]) == COMPONENTS.split()
    assert list(facts["flops_per_token"]["training"]) == [*COMPONENTS.split(), "6nd"]
    assert list(facts["memory"]["ddp_kept"]) == BYTES.split()
    assert json.loads(json.dumps(facts)) == facts


def test_the_paper_s_number_stands_beside_everything_stored() -> None:
    text = text_of(describe(values(arch="early", size="932m")))
    assert "N 931.7M: matrices, embedding and head, as arXiv 2504.07951 counts" in text
    assert "stored in all: 933.1M" in text
    moe = text_of(describe(values(arch="moe", size="275m")))
    assert "N 274.8M (1.204B with all experts): matrices" in moe
    late = text_of(describe(values(arch="late", size="289m")))
    assert "N 247.3M + 42.47M of the encoder: matrices" in late


@pytest.mark.parametrize("arch", ["early", "late", "moe"])
@pytest.mark.parametrize("size", ["d32", "3.4b"])
def test_tables_fit_100_columns_and_show_every_group_that_is_there(arch: str, size: str) -> None:
    facts = describe(values({"tokens": 10**9}, arch=arch, size=size, trainer="fsdp2"), devices=16)
    text = text_of(facts)
    assert max(len(line.rstrip()) for line in text.splitlines()) <= 100
    shown = {line.split()[0] for line in text.splitlines() if line.strip()}
    groups = "embedding head attention ffn experts router norm patch vision connector".split()  # noqa: SIM905
    assert {name for name in groups if facts["parameters"][name]} <= shown
    assert (arch == "moe") == ("experts" in shown) and (arch == "late") == ("connector" in shown)
    for column in ("ddp", "ddp, checkpointing", "fsdp2", "fsdp2, checkpointing"):
        assert column in text


def test_a_budget_of_tokens_in_steps_flops_and_hours() -> None:
    facts = describe(values({"tokens": 300_000_000_000}, size="275m"), mfu=0.4, peak=312e12, devices=8)
    budget, training = facts["budget"], facts["flops_per_token"]["training"]
    assert budget["steps"] == round(300e9 / (2048 * 1024))
    assert budget["tokens"] == budget["steps"] * 2048 * 1024
    assert budget["image_tokens"] == pytest.approx(0.544 * budget["tokens"])
    assert budget["flops"] == pytest.approx(training["total"] * budget["tokens"])
    assert budget["flops_6nd"] == pytest.approx(4.95e20, rel=1e-3)
    assert budget["hours"] == pytest.approx(budget["flops"] / (0.4 * 312e12 * 8) / 3600)
    assert (budget["mfu"], budget["peak_flops"], budget["devices"]) == (0.4, 312e12, 8)
    assert "on 8 devices at 40% of 312.0 TFLOP/s each" in text_of(facts)
    assert facts["notes"] == []


def test_a_budget_of_flops_is_met(tmp_path: Path) -> None:
    budget = describe(values({"flops": 1e21}, arch="moe", size="464m"))["budget"]
    assert budget["flops"] == pytest.approx(1e21, rel=1e-3)


def test_what_was_assumed_is_said() -> None:
    facts = describe(values(size="d16"))
    assert facts["notes"] == ["budget: 20 tokens a parameter, as none was given (budget.tokens=...)"]
    assert facts["budget"]["tokens_per_parameter"] == pytest.approx(20, rel=0.01)
    assert (facts["budget"]["mfu"], facts["budget"]["peak_flops"]) == (MFU, PEAK)
    text = text_of(facts)
    assert "at 50% of 989.0 TFLOP/s each (--devices, --mfu, --peak)" in text
    assert facts["notes"][0] in text


def test_the_vocabulary_comes_from_the_shards_or_the_default_world(tiny_shards: Path) -> None:
    found = composed(size="d16")
    found["data"]["path"] = str(tiny_shards)
    facts = describe(found)
    manifest = json.loads((tiny_shards / "manifest.json").read_text())
    assert facts["run"]["vocab_size"] == manifest["vocab_size"]
    assert facts["notes"][0] == f"vocabulary: that of the shards in {tiny_shards}"
    found["data"]["path"] = "nosuch"
    facts = describe(found)
    assert facts["run"]["vocab_size"] > 100
    assert facts["notes"][0] == "vocabulary: the world's default, as there are no shards (data.path=nosuch)"


def test_memory_by_rank_and_recomputation() -> None:
    facts = describe(values(size="932m", trainer="gpu"), devices=64)["memory"]
    assert (facts["ranks"], facts["rows_in_flight"], facts["precision"]) == (64, 32, "bf16")
    assert facts["fsdp2_kept"]["optimizer"] == facts["ddp_kept"]["optimizer"] / 64
    assert facts["ddp_checkpointed"]["activations"] < facts["ddp_kept"]["activations"] / 5
    for column in ("ddp_kept", "fsdp2_checkpointed"):
        assert facts[column]["total"] == pytest.approx(sum(v for k, v in facts[column].items() if k != "total"))


def test_a_timm_encoder_is_counted() -> None:
    found = values(arch="late", size="d16")
    found["arch"] |= {"vision_model": "test_vit", "pairing": "none"}
    found["data"] |= {"patch_size": 16}
    facts = describe(found)
    assert facts["parameters"]["vision"] > 300_000
    assert facts["flops_per_token"]["training"]["vision"] > 2.5 * facts["flops_per_token"]["forward"]["vision"] > 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mfu": 1.5}, r"--mfu 1.5 must lie in \(0, 1\]"),
        ({"mfu": 0.0}, "--mfu 0.0 must lie in"),
        ({"peak": -1.0}, "--peak -1 must be above 0"),
        ({"devices": -1}, "--devices -1 must be 1 or more"),
    ],
)
def test_impossible_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        describe(values(size="d16"), **options)


def test_impossible_configs_are_refused_before_anything_is_counted() -> None:
    found = values(size="d16")
    found["size"] |= {"num_heads": 0}
    with pytest.raises(ConfigError, match="size.num_heads=0 must be greater than 0"):
        describe(found)


def test_the_command_and_the_examples_of_its_help(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        describe_main(["--help"])
    assert ended.value.code == 0
    assert "--mfu" in capsys.readouterr().out
    commands = [line.strip() for line in EXAMPLES.splitlines() if line.strip().startswith("nmm describe")]
    assert len(commands) == 3
    for command in commands:
        arguments = shlex.split(command)[2:]
        assert describe_main([*arguments, "data.vocab_size=300"]) == 0
        shown = capsys.readouterr().out
        assert ("--json" in arguments) == shown.startswith("{")
        assert "300" in shown


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "0"),
        (512, "512"),
        (999.96, "1.000k"),
        (999, "999"),
        (1234, "1.234k"),
        (274_756_000, "274.8M"),
        (999_960_000, "1.000B"),
        (1_626_800_000, "1.627B"),
        (17_530_000_000, "17.53B"),
        (989e12, "989.0T"),
        (0.25, "0.250"),
        (12.5, "12.50"),
    ],
)
def test_si(number: float, text: str) -> None:
    assert si(number) == text


def test_bytes() -> None:
    assert gib(3 * 2**30) == "3.0 GiB"
    assert gib(2**29) == "512.0 MiB"
