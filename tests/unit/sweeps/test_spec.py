from __future__ import annotations

from pathlib import Path

import pytest

from nmm.config import ConfigError
from sweeps.spec import available, load_spec, spec_from_dict

TEXT = """
name: mine
archs: [early, moe]
sizes: [d16, d96]
tokens: [1e6, 500_000]
max_tokens: {moe/d96: 600_000}
overrides: [optim.lr_width=0.2]
"""


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "mine.yaml"
    path.write_text(TEXT)
    return str(path)


def test_a_file_is_read_with_its_defaults(file: str) -> None:
    spec = load_spec(file)
    assert (spec.name, spec.archs, spec.seeds, spec.cooldown_fraction) == ("mine", ("early", "moe"), (0,), None)
    assert spec.tokens == (1_000_000, 500_000)
    assert spec.overrides == ("optim.lr_width=0.2",)


def test_overrides_change_sweep_keys_or_go_to_every_run(file: str) -> None:
    spec = load_spec(file, ["sizes=[d96]", "seeds=[3,4]", "max_tokens.d96=7e5", "data.path=x", "arch.top_k=2"])
    assert spec.sizes == ("d96",)
    assert spec.seeds == (3, 4)
    assert spec.max_tokens == {"moe/d96": 600_000, "d96": 700_000}
    assert spec.overrides == ("optim.lr_width=0.2", "data.path=x", "arch.top_k=2")


def test_the_most_specific_limit_and_list_win() -> None:
    spec = spec_from_dict(
        {
            "name": "n",
            "archs": ["early", "moe"],
            "sizes": ["a", "b"],
            "tokens": [1, 2, 3],
            "max_tokens": {"b": 2, "moe/b": 1},
            "tokens_of": {"early/a": [9, 8]},
        }
    )
    assert spec.tokens_for("early", "a") == (8, 9)
    assert spec.tokens_for("moe", "a") == (1, 2, 3)
    assert spec.tokens_for("early", "b") == (1, 2)
    assert spec.tokens_for("moe", "b") == (1,)


def test_a_limit_below_every_token_count_is_an_error() -> None:
    spec = spec_from_dict({"name": "n", "archs": ["e"], "sizes": ["a"], "tokens": [5], "max_tokens": {"a": 4}})
    with pytest.raises(ConfigError, match="e/a has no token count left"):
        spec.tokens_for("e", "a")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("arch=moe", r"use archs=\[...\]"),
        ("size=d16", r"use sizes=\[...\]"),
        ("+seed=1", r"use seeds=\[...\]"),
        ("budget.tokens=5", r"use tokens=\[...\]"),
        ("schedule.cooldown_fraction=0.1", "use cooldown_fraction="),
        ("seeds=[0,0]", "names a value twice"),
        ("seeds=[-1]", "whole number of at least 0"),
        ("tokens=[0.5]", "whole number of at least 1"),
        ("tokens=5", "must be a list"),
        ("archs=[]", "lacks archs"),
        ("sizes=[d16,d16]", "names something twice"),
        ("cooldown_fraction=1", "between 0 and 1"),
        ("max_tokens.d97=5", "no such size"),
        ("tokens_of.late/d16=[5]", "no such size in this sweep"),
        ("sizes=[d16", "sweep "),
    ],
)
def test_mistakes_name_the_key_and_the_way_out(file: str, override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_spec(file, [override])


def test_unknown_keys_sweeps_and_files_are_errors(tmp_path: Path) -> None:
    (tmp_path / "odd.yaml").write_text("name: x\narchs: [a]\nsizes: [b]\ntokens: [1]\ntoken: [2]\n")
    (tmp_path / "list.yaml").write_text("[1, 2]\n")
    (tmp_path / "twice.yaml").write_text("name: x\nname: y\n")
    with pytest.raises(ConfigError, match="unknown sweep key token; allowed: name, archs"):
        load_spec(str(tmp_path / "odd.yaml"))
    with pytest.raises(ConfigError, match="holds a list"):
        load_spec(str(tmp_path / "list.yaml"))
    with pytest.raises(ConfigError, match="twice.yaml"):
        load_spec(str(tmp_path / "twice.yaml"))
    with pytest.raises(ConfigError, match="no such file"):
        load_spec(str(tmp_path / "absent.yaml"))
    with pytest.raises(ConfigError, match="there are .*demo"):
        load_spec("dmeo")


@pytest.mark.parametrize("name", ["demo", "study", "tiny"])
def test_the_shipped_sweeps_load(name: str) -> None:
    assert name in available()
    assert load_spec(name).name == name
