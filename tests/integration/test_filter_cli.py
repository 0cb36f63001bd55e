"""`nmm filter` from the command line: kept shards that train, scores that are reused, a pass that was killed."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
from lab import child_environment, nmm, run_directory, tiny_config_on, train

from nmm.config import RunConfig
from nmm.data.derived import samples_of
from nmm.data.manifest import open_shards
from nmm.data.shards import write_shards
from nmm.data.world import WorldConfig

WORLD = {"num_entities": 60, "name_words": 12, "num_colours": 4, "serial": 0.5, "wrong": 0.3, "boilerplate": 0.1}
TRAIN, SHARD = 240, 32
CAPTIONS = {"data": {"mixture": {"caption": 1.0}, "eval_rows": 4}}


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("filter") / "pool"
    samples = {"caption": {"train": TRAIN, "val": 40}, "text": {"train": 20, "val": 40}}
    write_shards(WorldConfig.from_dict(WORLD), out, samples, SHARD, progress=False)
    return out


@pytest.fixture(scope="module")
def reference(pool: Path) -> RunConfig:
    apart = pool.parent / "apart"
    samples = {"caption": {"train": 120, "val": 40}}
    write_shards(WorldConfig.from_dict(WORLD), apart, samples, SHARD, progress=False, first_sample=10_000)
    config = tiny_config_on(apart, "early", "d16", **CAPTIONS, budget={"steps": 40}, out=str(pool.parent / "runs"))
    train(config)
    return config


def scores_of(pool: Path) -> dict[str, np.ndarray]:
    return {path.name: np.load(path)["nll"] for path in sorted((pool / ".scores").glob("*-image/*.npz"))}


def test_from_a_pool_to_a_run_on_what_was_kept(pool: Path, reference: RunConfig, tmp_path: Path) -> None:
    asked = (f"data={pool}", f"reference={run_directory(reference)}", "keep=0.25")
    first = nmm("filter", *asked, "out=lowest", cwd=tmp_path)
    assert first.returncode == 0, first.stderr
    assert first.stdout.splitlines()[-1].startswith(f"kept 60 of {TRAIN} caption samples ({TRAIN} scored now, ")
    report = json.loads((tmp_path / "lowest" / "filter.json").read_text())
    assert (report["samples"], report["kept"], report["reference"]) == (TRAIN, 60, run_directory(reference).name)
    assert report["cost"]["scoring_flops"] > 0 < report["cost"]["reference_flops"]
    assert report["cost"]["reference_flops_are"] == "of all its training"
    assert sum(one["pool"] for one in report["truth"]["labels"].values()) >= TRAIN
    table = pyarrow.parquet.read_table(tmp_path / "lowest" / "scores.parquet").to_pylist()
    kept = sorted(row["score"] for row in table if row["kept"])
    assert kept == sorted(row["score"] for row in table)[:60]
    shards = open_shards(tmp_path / "lowest", verify=True)
    held = [s.key for info in shards.split("caption", "train").shards for s in samples_of(shards, info)]
    assert held == [row["key"] for row in table if row["kept"]]
    page = (tmp_path / "lowest" / "filter.html").read_text()
    assert all(
        part in page for part in ("<svg", "Lowest scores", "Around the cut", "data:image/png;base64", "Precision")
    )
    assert "http://" not in page
    assert "<script" not in page

    again = nmm("filter", *asked, "out=highest", "band=highest", "table=jsonl", cwd=tmp_path)
    assert again.stdout.splitlines()[-1].startswith(f"kept 60 of {TRAIN} caption samples (scores were there)")
    rows = [json.loads(line) for line in (tmp_path / "highest" / "scores.jsonl").read_text().splitlines()]
    assert [row["score"] for row in rows] == [row["score"] for row in table]
    assert min(row["score"] for row in rows if row["kept"]) >= max(kept)

    config = tiny_config_on(tmp_path / "lowest", "early", "d16", **CAPTIONS, budget={"steps": 4}, out=str(tmp_path))
    grounded = train(config)["result"]["grounded"]
    assert 0 < grounded["entropy"] < grounded["loss"]  # whether looks are told at all is charged to the colour


def test_without_a_reference_and_without_pictures(pool: Path, tmp_path: Path) -> None:
    drawn = nmm("filter", f"data={pool}", "band=random", "keep=0.1", "out=random", "seed=3", cwd=tmp_path)
    assert drawn.stdout.splitlines()[-1].startswith(f"kept 24 of {TRAIN} caption samples: ")
    assert not (tmp_path / "random" / "scores.parquet").exists()
    bare = nmm("filter", f"data={pool}", "band=clean", "keep=0.1", "out=bare", "pictures=drop", cwd=tmp_path)
    assert bare.returncode == 0, bare.stderr
    assert json.loads((tmp_path / "bare" / "filter.json").read_text())["truth"]["precision"] == 1.0
    config = tiny_config_on(tmp_path / "bare", "early", "d16", **CAPTIONS, budget={"steps": 2}, out=str(tmp_path))
    train(config)
    asked = (f"data={pool}", f"reference={run_directory(config)}", "score=text_only", "scores_only=true", "out=scores")
    scored = nmm("filter", *asked, cwd=tmp_path)
    assert scored.stdout.splitlines()[-1].startswith(f"scored {TRAIN} caption samples")
    assert sorted(path.name for path in (tmp_path / "scores").iterdir()) == [
        "filter.html",
        "filter.json",
        "scores.parquet",
    ]


def test_a_killed_pass_goes_on(pool: Path, reference: RunConfig, tmp_path: Path) -> None:
    """Tars that were scored are not scored again, and the end is the same."""
    asked = [f"data={pool}", f"reference={run_directory(reference)}", "score=blind", "scores_only=true", "batch_rows=1"]
    command = [sys.executable, "-m", "nmm.cli", "filter", *asked]
    process = subprocess.Popen(
        [*command, "scores=killed", "out=a"], cwd=tmp_path, env=child_environment(), stdout=subprocess.DEVNULL
    )
    while not (before := list(tmp_path.glob("killed/*/*.npz"))) and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("killed/*/*.npz")}
    assert before
    for scores, out in (("killed", "b"), ("whole", "c")):
        ended = nmm("filter", *asked, f"scores={scores}", f"out={out}", cwd=tmp_path)
        assert ended.returncode == 0, ended.stderr
    assert all(path.stat().st_mtime_ns == written for path, written in before.items())
    tables = [pyarrow.parquet.read_table(tmp_path / out / "scores.parquet") for out in ("b", "c")]
    assert tables[0].equals(tables[1])
    assert not list(tmp_path.glob("killed/*/.*"))


def test_mistakes_end_in_one_line(pool: Path, reference: RunConfig, tmp_path: Path) -> None:
    write_shards(
        WorldConfig(num_entities=60, name_words=12), tmp_path / "other", {"caption": {"train": 40}}, progress=False
    )
    run = run_directory(reference)
    for arguments, said in (
        ((f"data={tmp_path / 'other'}", f"reference={run}"), "has another vocabulary"),
        ((f"data={tmp_path}", f"reference={run}"), "reads folders that `nmm shards data=world` rendered"),
        ((f"data={pool}", "reference=nowhere"), "reference=nowhere holds no config.json"),
        ((f"data={pool}", f"reference={run}", "source=interleaved"), "has no source 'interleaved'"),
        ((f"data={pool}", f"reference={run}", "kep=0.1"), "kep"),
    ):
        ended = nmm("filter", *arguments, "out=none", cwd=tmp_path)
        assert (ended.returncode, ended.stdout) == (2, "")
        assert said in ended.stderr
        assert "Traceback" not in ended.stderr
    assert not (tmp_path / "none").exists()
