"""POINTS' pieces through the command line: shards of larger pictures, a run with all of them, what it says, and a page;
and a shard folder told anew by a run that has learned to look.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from lab import nmm

from nmm.record import read_json

PIECES = (
    "data.picture_size=32", "data.image_size=16", "data.tiles=4", "data.patch_size=4", "arch=late", "size=d16",
    "arch.pixel_shuffle=2", "arch.vision_model2=sized", "arch.vision_mix=0.7", "arch.pairing=none",
)  # fmt: skip
ONLY_CAPTIONS = ("~data.mixture.interleaved", "~data.mixture.text")
EASY = (
    "+data.world.num_entities=24", "+data.world.name_words=6", "+data.world.num_colours=4",
    "+data.world.object_counts=[1,0,0,0]", "+data.world.question_chain=[]", "+data.world.count_phrase=0",
    "+data.world.full_clause=1", "+data.world.tails=[0.5,0,0.5]",
)  # fmt: skip


def did(*arguments: str, cwd: Path) -> str:
    """What the command prints; it must succeed."""
    done = nmm(*arguments, cwd=cwd)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def the_run(folder: Path) -> Path:
    (run,) = (path.parent for path in folder.glob("*/record.json"))
    return run


@pytest.fixture(scope="module")
def tiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with shards of pictures of 32 pixels, and a run that sees them as tiles of 16."""
    folder = tmp_path_factory.mktemp("tiled")
    world = ("+data.world.num_entities=60", "+data.world.name_words=10", "sheet=false", "workers=1")
    size = ("data.picture_size=32", "data.image_size=16", "data.tiles=4")
    did("shards", "data=world", "out=shards", *size, *world, "train_tokens=9000", "eval_samples=40", cwd=folder)
    quick = ("budget.steps=6", "schedule.warmup_steps=2", "data.eval_rows=4", "trainer.compile=off")
    did("train", "data.path=shards", "out=runs", *PIECES, *quick, "trainer.progress=false", cwd=folder)
    return folder


def test_a_run_with_every_piece(tiled: Path) -> None:
    assert read_json(tiled / "shards" / "manifest.json")["image_size"] == 32
    record = read_json(the_run(tiled / "runs") / "record.json")
    assert record["status"] == "done"
    images = record["tokens"]["image"]
    assert images % (5 * 4) == 0 and images > 0
    assert record["params"]["vision_matrices"] == 2 * (4 * 16 * 16 + 2 * 16 * 64)


def test_it_says_something_of_tiled_pictures(tiled: Path) -> None:
    said = json.loads(did("generate", str(the_run(tiled / "runs")), "--count", "2", "--json", cwd=tiled))
    assert [one["prompt"].split().count("<image>") for one in said] == [5, 5]
    assert all(one["generated"] for one in said)


def test_the_page_shows_every_tile(tiled: Path) -> None:
    did("data", "view", "data.path=shards", *PIECES, "--rows", "2", cwd=tiled)
    page = (tiled / "rows.html").read_text()
    assert "4 tiles of 16 x 16 pixels at most and a thumbnail" in page
    assert page.count("<figure") > 10 and "2 x 2 patches" in page


def test_describe_counts_what_was_built(tiled: Path) -> None:
    facts = json.loads(did("describe", "data.path=shards", *PIECES, "budget.tokens=1e6", "--json", cwd=tiled))
    record = read_json(the_run(tiled / "runs") / "record.json")
    assert facts["parameters"]["total"] == record["params"]["total"]
    assert facts["run"]["tokens_per_image"] == 4
    config = read_json(the_run(tiled / "runs") / "config.json")["settings"]
    assert facts["flops_per_token"]["shares"]["image"] == config["data"]["image_share"]


def test_a_folder_is_told_anew_by_a_run_that_looks(tmp_path: Path) -> None:
    """Half of the pool's captions are of other pictures; after the telling fewer words are wrong, facts stay."""
    common = ("data=world", *ONLY_CAPTIONS, *EASY, "sheet=false", "workers=1")
    did("shards", *common, "out=clean", "train_tokens=90000", "eval_samples=60", cwd=tmp_path)
    noisy = ("train_tokens=4000", "eval_samples=60", "first_sample=500000", "+data.world.wrong=0.5")
    did("shards", *common, "out=pool", *noisy, cwd=tmp_path)
    quick = ("schedule.warmup_steps=40", "data.eval_rows=4", "trainer.compile=off", "trainer.progress=false")
    did("train", "data.path=clean", *ONLY_CAPTIONS, "size=d24", "budget.tokens=85000", "out=runs", *quick, cwd=tmp_path)
    arguments = ("recaption", "data=pool", f"model={the_run(tmp_path / 'runs')}", "merge=fuse", "out=fuse")
    said = did(*arguments, cwd=tmp_path)
    assert "samples anew" in said and "words true" in said and "told now" in said
    found = read_json(tmp_path / "fuse" / "recaption.json")
    before, after = found["truth"]["before"], found["truth"]["after"]
    assert before["true"] < 0.75 and after["true"] > before["true"] + 0.05
    assert 0 < after["facts"] < before["facts"]
    assert "told now" not in did(*arguments, cwd=tmp_path)
    assert read_json(tmp_path / "fuse" / "manifest.json")["derived"]["made_by"] == "recaption"
