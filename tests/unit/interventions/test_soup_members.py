"""Who may not go into one soup, and what the refusal says."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lab import run_directory, train
from soup_lab import fine_tuned, moved, write_member

from nmm.config import ConfigError, RunConfig, to_dict
from nmm.data.shards import write_shards
from nmm.data.world import WorldConfig
from nmm.groups import Rft, Stage
from nmm.interventions.soup import make_soup
from nmm.interventions.soup_members import open_member, start_of
from nmm.interventions.soup_options import SoupOptions, check
from nmm.record import read_json, write_json

Make = Callable[..., RunConfig]


@pytest.fixture
def config(make_config: Make) -> RunConfig:
    return fine_tuned(make_config())


@pytest.fixture
def cook(tiny_shards: Path, tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """``cook(runs, **options)``: a soup under tmp_path/soup."""

    def make(*runs: str, **options: Any) -> dict[str, Any]:
        given = {
            "method": "uniform",
            "shards": str(tiny_shards),
            "out": str(tmp_path / "soup"),
            "rows": 4,
            "report": "train",
            "kinds": ("colour",),
            **options,
        }
        return make_soup(check(SoupOptions(runs=runs, **given)))

    return make


def two(tmp_path: Path, one: RunConfig, other: RunConfig, **of_second: Any) -> tuple[str, str]:
    first = write_member(tmp_path / "one", one, moved(one, 1))
    return first, write_member(tmp_path / "other", other, moved(other, 2), **of_second)


def test_another_checkpoint_is_refused_and_accepted_on_request(
    cook: Callable[..., Any], config: RunConfig, tmp_path: Path
) -> None:
    runs = two(tmp_path, config, fine_tuned(config, "e" * 64))
    with pytest.raises(ConfigError, match=r"did not begin with the same weights \(start dddddddddddd.*start eeeeeeee"):
        cook(*runs)
    made = cook(*runs, different_starts="accept")
    assert made["start"] is None
    with pytest.raises(ConfigError, match="model_stock needs the run or export that all members began with"):
        cook(*runs, different_starts="accept", method="model_stock", out=str(tmp_path / "stock"))


def test_a_start_that_nobody_knows_is_none(cook: Callable[..., Any], make_config: Make, tmp_path: Path) -> None:
    scratch = make_config()
    with pytest.raises(ConfigError, match="from scratch, or unknown; from scratch, or unknown"):
        cook(*two(tmp_path, scratch, scratch))


def test_what_a_seed_has_drawn_belongs_to_the_start(config: RunConfig) -> None:
    again = dataclasses.replace(config, seed=1)
    assert start_of(config) == start_of(again), "a run's weights are loaded whole: the seed draws none"
    change: Any
    for change in ({"kind": "hf"}, {"embeddings": "fresh"}, {"transform": "shuffled"}):
        one, other = (dataclasses.replace(c, start=dataclasses.replace(c.start, **change)) for c in (config, again))
        assert start_of(one) != start_of(other) and start_of(one) == start_of(one)


def test_branches_share_a_start_only_at_the_same_step(config: RunConfig) -> None:
    parents = [dataclasses.replace(config.parent, run_id="trunk", step=step) for step in (3, 3, 6)]
    one, same, later = (start_of(dataclasses.replace(config, role="branch", parent=p)) for p in parents)
    assert one == same != later


def test_members_that_look_at_pictures_otherwise_are_other_models(
    cook: Callable[..., Any], config: RunConfig, make_config: Make, tmp_path: Path
) -> None:
    causal = fine_tuned(make_config(arch={"image_attention": "causal"}))
    with pytest.raises(ConfigError, match=r"arch.image_attention=causal \(not bidirectional\)"):
        cook(*two(tmp_path, config, causal))


def test_other_shapes_are_refused_by_name(
    cook: Callable[..., Any], config: RunConfig, make_config: Make, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=r"is another model than .*size.width=24 \(not 16\)"):
        cook(*two(tmp_path, config, fine_tuned(make_config("early", "d24"))))
    with pytest.raises(ConfigError, match=r"arch.num_experts=8 \(not 0\)"):
        cook(*two(tmp_path / "more", config, fine_tuned(make_config("moe"))))
    with pytest.raises(ConfigError, match=r"data.pixel_mean=\[0.5, 0.5, 0.5\]"):
        other = make_config(data={"pixel_mean": [0.5, 0.5, 0.5]})
        cook(*two(tmp_path / "pixels", config, fine_tuned(other)))


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda w: w.pop("trunk.norm.weight"), "other lacks trunk.norm.weight"),
        (lambda w: w.update({"more.weight": torch.zeros(2)}), "other has besides more.weight"),
        (lambda w: w.update({"trunk.norm.weight": torch.ones(3)}), r"trunk.norm.weight has shape \(3,\)"),
        (lambda w: w["trunk.norm.weight"].fill_(float("inf")), "trunk.norm.weight holds values that are not finite"),
    ],
)
def test_files_that_do_not_hold_what_their_config_says(
    cook: Callable[..., Any], config: RunConfig, tmp_path: Path, spoil: Callable[[Any], Any], said: str
) -> None:
    first = write_member(tmp_path / "one", config, moved(config, 1))
    weights = moved(config, 2)
    spoil(weights)
    with pytest.raises(ConfigError, match=said):
        cook(first, write_member(tmp_path / "other", config, weights))


@pytest.mark.parametrize(
    ("result", "said"),
    [(None, "from a run that had not finished"), ({"error": "loss is nan"}, "diverged .loss is nan.; leave it out")],
)
def test_exports_of_runs_that_did_not_end_well(
    cook: Callable[..., Any], config: RunConfig, tmp_path: Path, result: Any, said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        cook(*two(tmp_path, config, config, result=result))


def test_what_an_export_cost_is_what_its_record_said(make_config: Make, tmp_path: Path) -> None:
    """Only where it kept nothing is it estimated; of a run tuned by rewards nobody could."""
    config = fine_tuned(make_config())
    tuned = dataclasses.replace(config, stage=Stage(name="rft", eval_questions=8), rft=Rft())

    def flops_of(name: str, settings: RunConfig, flops: float | None) -> float:
        def keep(content: dict[str, Any]) -> None:
            content["settings"] = to_dict(settings)
            content["export"] |= {} if flops is None else {"flops": flops}

        return open_member(Path(write_member(tmp_path / name, config, moved(config, 1), change=keep))).flops

    assert flops_of("said", config, 7e9) == flops_of("rewarded", tuned, 7e9) == 7e9
    assert flops_of("older", config, None) > 0
    with pytest.raises(ConfigError, match="does not say what it cost; export the run again"):
        flops_of("nobody", tuned, None)


def test_runs_that_are_not_done(tiny_config: Callable[..., RunConfig], tmp_path: Path) -> None:
    made = tiny_config()
    with pytest.raises(ConfigError, match="holds no config.json; give run directories"):
        open_member(run_directory(made))
    train(made)
    run = run_directory(made)
    assert open_member(run.parent).digest == open_member(run).digest, "a folder with just one run is that run"
    assert open_member(run).flops == read_json(run / "record.json")["flops"]["total"] > 0
    record = read_json(run / "record.json")
    write_json(run / "record.json", {**record, "status": "diverged"})
    with pytest.raises(ConfigError, match="is a run that diverged; leave it out"):
        open_member(run)
    write_json(run / "record.json", record)
    shutil.rmtree(run / "attempts")
    with pytest.raises(ConfigError, match="has no checkpoint of its last step any more"):
        open_member(run)
    (run / "record.json").unlink()
    with pytest.raises(ConfigError, match="is a run that is not finished"):
        open_member(run)


def test_other_words_are_refused_even_where_there_are_as_many(
    cook: Callable[..., Any], make_config: Make, tiny_shards: Path, tmp_path: Path
) -> None:
    counts = {"caption": {"train": 60, "val": 60, "test": 10}}
    folder = tmp_path / "renamed"
    write_shards(WorldConfig(num_entities=150, name_words=16), folder, counts, 128, progress=False)
    text = (folder / "tokenizer.json").read_text()
    (folder / "tokenizer.json").write_text(text.replace('"red"', '"RED"'))
    config = fine_tuned(make_config())
    data = dataclasses.replace(
        config.data, path=str(folder), fingerprint=read_json(folder / "manifest.json")["fingerprint"]
    )
    runs = two(tmp_path, config, dataclasses.replace(config, data=data))
    with pytest.raises(ConfigError, match="other was trained with another vocabulary"):
        cook(*runs)
    gone = dataclasses.replace(config, data=dataclasses.replace(data, path=str(tmp_path / "nowhere")))
    runs = two(tmp_path / "gone", config, gone)
    with pytest.raises(ConfigError, match="are not at .*nowhere any more.*vocabulary=trust"):
        cook(*runs)
    assert cook(*runs, vocabulary="trust")["chosen"] == [0, 1]


def test_shards_of_another_world_are_refused(cook: Callable[..., Any], config: RunConfig, tmp_path: Path) -> None:
    counts = {"caption": {"train": 60, "val": 60, "test": 10}}
    write_shards(WorldConfig(num_entities=20, name_words=8), tmp_path / "small", counts, 128, progress=False)
    with pytest.raises(ConfigError, match="vocabulary of .* give shards of the same world"):
        cook(*two(tmp_path, config, config), shards=str(tmp_path / "small"))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"method": "median"}, "method=median is not one of uniform, greedy"),
        ({"metric": "bleu"}, "metric=bleu is not one of accuracy, loss"),
        ({"out": ""}, "a soup needs out=DIR"),
        ({"shards": ""}, "a soup needs data=SHARDS"),
        ({"runs": ()}, "a soup needs members"),
        ({"runs": ("a", "b", "a")}, "runs names a twice"),
        ({"report": "val"}, "select=val is also report"),
        ({"method": "maximum", "best": 3}, "best=3 must lie in 1..2"),
        ({"kinds": ("caption",)}, "has no accuracy"),
        ({"rows": -1}, "rows=-1 must be at least 1"),
    ],
)
def test_impossible_options(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        check(SoupOptions(**{"runs": ("a", "b"), "shards": "s", "out": "o", **options}))
