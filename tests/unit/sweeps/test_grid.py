from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from nmm.config import ConfigError, RunConfig, run_id, validate
from sweeps.grid import expand
from sweeps.spec import SweepSpec, load_spec


def test_one_trunk_with_one_branch_a_token_count(make_spec: Callable[..., SweepSpec], composer, tmp_path: Path) -> None:
    runs = expand(make_spec(sizes=["d16"], seeds=[0, 1]), tmp_path, composer)
    assert [(c.role, c.seed) for c in runs] == [("trunk", 0), *[("branch", 0)] * 2, ("trunk", 1), *[("branch", 1)] * 2]
    trunk, short, long = runs[:3]
    # 25,600 and 51,200 tokens of 256 a step (2 rows of 128) are 100 and 200 steps; a quarter of each is cooldown
    assert (short.total_steps, long.total_steps) == (100, 200)
    assert trunk.keep_steps == (75, 150)
    assert trunk.total_steps == trunk.branch_step == 150
    assert trunk.schedule.cooldown_fraction == 0
    for branch, step in ((short, 75), (long, 150)):
        assert branch.parent.run_id == run_id(trunk)
        assert branch.parent.step == branch.branch_step == step
        assert branch.schedule.cooldown_fraction == 0.25


def test_every_run_is_valid_final_and_unique(make_spec, composer, shards: Path, tmp_path: Path) -> None:
    runs = expand(make_spec(archs=["early", "late", "moe"], seeds=[0, 1, 2]), tmp_path / "out", composer)
    assert len(runs) == 3 * 2 * 3 * 3
    assert len({run_id(c) for c in runs}) == len(runs)
    for config in runs:
        validate(config)
        assert config.sweep == "toy"
        assert config.data.fingerprint == "f" * 64
        assert config.data.vocab_size == 300
        assert Path(config.data.path).is_absolute()
        assert Path(config.out).is_absolute()
        assert not config.trainer.progress


def test_the_sweep_can_set_the_cooldown(make_spec, composer, tmp_path: Path) -> None:
    _, branch, _ = expand(make_spec(sizes=["d16"], cooldown_fraction=0.5), tmp_path, composer)
    assert branch.parent.step == 50
    assert branch.schedule.cooldown_fraction == 0.5


def test_a_warmup_rule_goes_by_the_longest_branch(make_spec, composer, tmp_path: Path) -> None:
    """Else trunk and branches would have three warmups, and no branch could begin from the trunk."""
    overrides = ["schedule.warmup_rule=paper", "schedule.warmup_steps=5000"]
    runs = expand(make_spec(sizes=["d16"], overrides=overrides), tmp_path, composer)
    assert [c.total_steps for c in runs] == [150, 100, 200]
    assert {(c.schedule.warmup_rule, c.schedule.warmup_steps) for c in runs} == {("fixed", 50)}


def test_a_limit_shortens_the_trunk(make_spec, composer, tmp_path: Path) -> None:
    runs = expand(make_spec(max_tokens={"d32": 30_000}), tmp_path, composer)
    assert [(c.size.name, c.role, c.total_steps) for c in runs if c.size.name == "d32"] == [
        ("d32", "trunk", 75),
        ("d32", "branch", 100),
    ]


@pytest.mark.parametrize(
    ("tokens", "overrides", "message"),
    [
        ([25_600, 25_650], [], "tokens 25600 and 25650 are both 100 steps of 256 tokens"),
        ([25_600], ["schedule.warmup_steps=80"], "begin after the warmup"),
        ([256], ["schedule.warmup_steps=0"], "last at least one step"),
    ],
)
def test_token_counts_that_make_no_sense(make_spec, composer, tmp_path: Path, tokens, overrides, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        expand(make_spec(tokens=tokens, overrides=overrides), tmp_path, composer)


def test_missing_shards_say_what_to_run(make_spec, composer, shards: Path, tmp_path: Path) -> None:
    (shards / "manifest.json").unlink()
    with pytest.raises(ConfigError, match="nmm shards data=world"):
        expand(make_spec(), tmp_path, composer)


@pytest.mark.parametrize("name", ["demo", "study", "tiny"])
def test_the_shipped_sweeps_expand_with_the_real_recipe(name: str, shards: Path, tmp_path: Path) -> None:
    fewer = ["archs=[moe]"] if name == "study" else []  # composing takes 0.1 s a combination
    runs: list[RunConfig] = expand(load_spec(name, [f"data.path={shards}", *fewer]), tmp_path)
    assert len({run_id(c) for c in runs}) == len(runs)
    assert {c.role for c in runs} == {"trunk", "branch"}
    if name == "demo":
        assert {c.arch.name for c in runs} == {"early", "late", "moe"}
        points = [c for c in runs if c.role == "branch" and c.arch.name == "early"]
        assert len({c.size.name for c in points}) >= 4
        assert len({c.total_steps for c in points}) >= 4


def test_an_unknown_config_key_is_explained(shards: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"optim\.speed"):
        expand(load_spec("tiny", [f"data.path={shards}", "optim.speed=3"]), tmp_path)
    with pytest.raises(ConfigError, match="early"):
        expand(load_spec("tiny", [f"data.path={shards}", "archs=[erly]"]), tmp_path)
