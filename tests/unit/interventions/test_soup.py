"""Whole soups of made-up members: what is written, what is asked once, and that a stopped one goes on."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from soup_lab import fine_tuned, moved, write_member

from nmm.config import ConfigError, RunConfig
from nmm.interventions.soup import make_soup
from nmm.interventions.soup_options import SoupOptions, check, soups_of
from nmm.interventions.soup_pot import Pot
from nmm.interventions.soup_score import Paper
from nmm.interventions.soup_select import Trials, select
from nmm.origin import run_digest
from nmm.record import read_json, write_json
from nmm.start import export, load_run, run_weights

Make = Callable[..., RunConfig]
TIED = {"block": {"tied_head": True}}
BIASED = {"arch": {"balancing": "bias"}}


@pytest.fixture
def cook(tiny_shards: Path, tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """``cook(name, runs, **options)``: a soup in tmp_path/name."""

    def make(name: str, runs: list[str], **options: Any) -> dict[str, Any]:
        given = {
            "method": "uniform",
            "metric": "loss",
            "shards": str(tiny_shards),
            "rows": 6,
            "report": "train",
            **options,
        }
        return make_soup(check(SoupOptions(runs=tuple(runs), out=str(tmp_path / name), **given)))

    return make


@pytest.fixture
def members(make_config: Make, tmp_path: Path) -> list[str]:
    config = fine_tuned(make_config())
    return [write_member(tmp_path / f"m{i}", config, moved(config, i, 0.02 * (i + 1))) for i in range(4)]


@pytest.mark.parametrize(
    ("arch", "groups"), [("early", {}), ("early", TIED), ("late", {}), ("moe", BIASED), ("moe_aware", {})]
)
def test_a_soup_of_equal_members_is_the_member_whatever_the_architecture(
    make_config: Make, cook: Callable[..., Any], tmp_path: Path, arch: str, groups: dict[str, Any]
) -> None:
    config = fine_tuned(make_config(arch, **groups))
    weights = moved(config, 1)
    cook("soup", [write_member(tmp_path / f"m{i}", config, weights) for i in range(3)])
    found = load_run(tmp_path / "soup").state_dict()
    assert found.keys() == weights.keys()
    assert all(torch.equal(found[name], weights[name]) for name in weights)


@pytest.mark.parametrize(("arch", "groups"), [("early", TIED), ("late", {}), ("moe", BIASED)])
def test_the_mean_of_two_is_in_the_file_tied_heads_and_offsets_of_experts_too(
    make_config: Make, cook: Callable[..., Any], tmp_path: Path, arch: str, groups: dict[str, Any]
) -> None:
    config = fine_tuned(make_config(arch, **groups))
    one, two = moved(config, 1), moved(config, 2)
    cook("soup", [write_member(tmp_path / f"m{i}", config, w) for i, w in enumerate((one, two))])
    found = load_run(tmp_path / "soup").state_dict()
    assert all(torch.equal(found[name], (one[name] + two[name]) / 2) for name in one)
    in_file = load_file(str(tmp_path / "soup" / "model.safetensors"))
    assert ("head.weight" in in_file) == (not config.block.tied_head)
    if arch == "moe":
        assert any(name.endswith(".bias") for name in in_file)


def test_bf16_exports_are_averaged_in_fp32(make_config: Make, cook: Callable[..., Any], tmp_path: Path) -> None:
    config = fine_tuned(make_config())
    both = [moved(config, seed) for seed in (1, 2)]
    cook("soup", [write_member(tmp_path / f"m{i}", config, w, torch.bfloat16) for i, w in enumerate(both)])
    for name, value in load_file(str(tmp_path / "soup" / "model.safetensors")).items():
        one, two = (w[name].bfloat16().float() for w in both)
        assert value.dtype == torch.float32 and torch.equal(value, (one + two) / 2)


@pytest.mark.parametrize("method", ("greedy", "individual_select", "maximum"))
def test_what_was_chosen_follows_from_the_scores_of_soups_made_by_hand(
    cook: Callable[..., Any], members: list[str], method: str
) -> None:
    made = cook("soup", members, method=method)
    numbers = {run: i for i, run in enumerate(members)}

    def by_hand(chosen: tuple[int, ...]) -> float:
        name = "-".join(map(str, chosen))
        runs = [run for i in chosen for run in members if numbers[run] == i]
        return float(cook(f"hand-{method}-{name}", runs)["marks"]["val"]["loss"]["avg"])

    expected = select(method, 4, Trials(by_hand, False), 2)
    assert tuple(made["chosen"]) == expected
    assert made["marks"]["val"]["loss"]["avg"] == by_hand(expected)
    scores = {tuple(trial["members"]): trial["score"] for trial in made["trials"]}
    assert scores[made["best_single"]["member"],] == min(scores[i,] for i in range(4))
    assert sum(m["weight"] for m in made["members"]) == pytest.approx(1.0)
    assert made["marks"]["train"] != made["marks"]["val"], "numbers are of another split"


def test_costs_are_the_members_training_and_every_pass_that_the_choice_needs(
    cook: Callable[..., Any], members: list[str]
) -> None:
    """What is scored to compare, and not to choose, is no cost of the soup; what was scored once is not paid twice."""
    made, mean, two, one = (
        cook("greedy", members, method="greedy"),
        cook("mean", members),
        cook("two", members, method="maximum"),
        cook("one", members[:1]),
    )
    flops = made["flops"]
    assert flops["fine_tunes"] == pytest.approx(4 * one["flops"]["fine_tunes"])
    assert made["evaluations"] == {"val": 4 + 3, "train": 2 if len(made["chosen"]) > 1 else 1}
    assert (mean["evaluations"], mean["flops"]["selection"]) == ({"val": 0, "train": 2}, 0.0)
    assert two["evaluations"] == {"val": 4, "train": 2} and one["evaluations"] == {"val": 0, "train": 1}
    assert flops["selection"] == 7 * flops["pass"]["val"] and flops["pass"] == one["flops"]["pass"]
    assert flops["total"] == flops["fine_tunes"] + flops["selection"]


def test_a_soup_counted_by_older_code_is_counted_again_without_a_pass(
    cook: Callable[..., Any], members: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    made = cook("soup", members, method="greedy")
    write_json(tmp_path / "soup" / "soup.json", {**made, "schema": 1, "evaluations": {"val": 9, "train": 2}})
    monkeypatch.setattr(Paper, "mark", lambda paper, model: pytest.fail("scored again"))
    assert cook("soup", members, method="greedy") == made == read_json(tmp_path / "soup" / "soup.json")


def test_a_stopped_soup_scores_nothing_twice_and_a_finished_one_nothing(
    cook: Callable[..., Any], members: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    passes: list[str] = []
    mark = Paper.mark

    def counted(paper: Paper, model: Any) -> Any:
        if len(passes) == limit:
            raise KeyboardInterrupt
        passes.append(paper.facts["split"])
        return mark(paper, model)

    monkeypatch.setattr(Paper, "mark", counted)
    limit = 5
    with pytest.raises(KeyboardInterrupt):
        cook("soup", members, method="greedy")
    with open(tmp_path / "soup" / "scores.jsonl", "a", encoding="utf-8") as file:
        file.write('{"key": "half a li')
    limit = 100
    made = cook("soup", members, method="greedy")
    undisturbed = len(set(passes)) and len(passes)
    passes.clear()
    assert cook("soup", members, method="greedy") == made and passes == []
    (tmp_path / "soup" / "soup.json").unlink()
    assert cook("soup", members, method="greedy") == made and passes == [], "a torn line costs no line after it"
    fresh = cook("fresh", members, method="greedy")
    assert len(passes) == undisturbed, "going on repeats no pass"
    assert {k: v for k, v in fresh.items() if k != "asked"} == {k: v for k, v in made.items() if k != "asked"}
    assert run_digest(tmp_path / "fresh") == run_digest(tmp_path / "soup")


def test_soups_can_share_their_scores(
    cook: Callable[..., Any], members: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    shared = str(tmp_path / "scores.jsonl")
    made = cook("first", members, method="greedy", scores=shared)
    monkeypatch.setattr(Paper, "mark", lambda paper, model: pytest.fail("scored again"))
    assert cook("second", members, method="greedy", scores=shared)["trials"] == made["trials"]


def test_a_folder_with_something_else_is_left_alone(
    cook: Callable[..., Any], members: list[str], tmp_path: Path
) -> None:
    cook("soup", members)
    with pytest.raises(ConfigError, match=r"out=.* holds another soup \(method differ\)"):
        cook("soup", members, method="greedy")
    with pytest.raises(ConfigError, match="is another run or export"):
        cook("m0", members[1:])


def test_model_stock_goes_back_to_the_start_where_members_disagree(
    make_config: Make, cook: Callable[..., Any], tmp_path: Path
) -> None:
    config = make_config()
    start = moved(config, 9, 0.1)
    write_member(tmp_path / "start", config, start)
    begun = fine_tuned(config, run_digest(tmp_path / "start"))
    begun = dataclasses.replace(begun, start=dataclasses.replace(begun.start, path=str(tmp_path / "start")))
    step = moved(config, 5)["trunk.norm.weight"]
    one, two = ({**start, "trunk.norm.weight": start["trunk.norm.weight"] + sign * step} for sign in (1, 1))
    two["head.weight"] = start["head.weight"] + 0.1
    runs = [write_member(tmp_path / f"m{i}", begun, w) for i, w in enumerate((one, two))]
    made = cook("soup", runs, method="model_stock")
    found = run_weights(tmp_path / "soup")
    assert made["ratios"]["trunk.norm.weight"] == pytest.approx(1.0)
    assert torch.allclose(found["trunk.norm.weight"], one["trunk.norm.weight"], atol=1e-6)
    assert made["ratios"]["head.weight"] == 0.0, "one has moved, the other has not"
    assert torch.equal(found["head.weight"], start["head.weight"])
    (tmp_path / "start").rename(tmp_path / "elsewhere")
    with pytest.raises(Exception, match="start"):
        cook("again", runs, method="model_stock")
    assert cook("again", runs, method="model_stock", start=str(tmp_path / "elsewhere"))["ratios"] == made["ratios"]


def test_a_soup_is_an_export_with_lineage_and_can_be_a_member(
    cook: Callable[..., Any], members: list[str], tmp_path: Path
) -> None:
    made = cook("soup", members)
    soup = read_json(tmp_path / "soup" / "config.json")["soup"]
    assert soup["start"] == made["start"] == {"kind": "run", "digest": "d" * 64} and soup["method"] == "uniform"
    export(tmp_path / "soup", tmp_path / "copy", "bf16")
    content = read_json(tmp_path / "copy" / "config.json")
    assert content["soup"] == soup and content["export"]["run_id"] is None
    again = cook("again", [str(tmp_path / "soup"), members[0]])
    assert again["members"][0]["flops"] == made["flops"]["total"]


def test_at_most_two_models_are_kept_beside_the_one_that_is_read(members: list[str]) -> None:
    from nmm.interventions.soup_members import open_member

    pot = Pot([open_member(Path(run)) for run in members])
    for chosen in ((0,), (1,), (0, 1), (0, 1, 2), (0, 1, 3), (2, 0)):
        pot.load(chosen)
        assert pot.pool == (chosen[:-1] if len(chosen) > 1 else ())
        assert set(pot.mean) in (set(), set(pot.weights)), "one mean, or none"
        expected = torch.stack([run_weights(Path(members[i]))["head.weight"].double() for i in chosen]).mean(dim=0)
        assert torch.allclose(pot.model.head.weight.double(), expected, atol=1e-6)


def test_a_list_of_soups_shares_keys_and_names_the_line_that_is_wrong(tmp_path: Path) -> None:
    file = tmp_path / "list.jsonl"
    lines = [{"runs": ["a", "b"], "out": "x"}, {"runs": ["c"], "out": "y", "method": "uniform"}]
    file.write_text("\n".join(map(json.dumps, lines)) + "\n")
    soups = soups_of(SoupOptions(list=str(file), shards="s", metric="loss"))
    assert [(s.runs, s.method, s.metric, s.out) for s in soups] == [
        (("a", "b"), "greedy", "loss", "x"),
        (("c",), "uniform", "loss", "y"),
    ]
    for line, said in (
        ('{"runs": ["a"], "out": "z", "methods": "x"}', "line 3: unknown key methods"),
        ('{"runs": ["a"], "out": "x"}', "two soups are to be written to x"),
        ("[1]", "line 3: .* is not an object"),
        ("{", "line 3: "),
    ):
        file.write_text("\n".join([*map(json.dumps, lines), line]))
        with pytest.raises(ConfigError, match=said):
            soups_of(SoupOptions(list=str(file), shards="s"))
