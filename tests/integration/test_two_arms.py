"""Two arms on a real tiny sweep, through the real command line: shards, plan, launch, table, fit, compare."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
from lab import nmm

SWEEP = """
name: two
archs: [early]
sizes: [d16]
tokens: [4_096, 8_192]
seeds: [0, 1]
cooldown_fraction: 0.25
overrides: [schedule.warmup_steps=2, data.eval_rows=4, trainer.log_every_steps=2, trainer.compile=off]
arms:
  control: [data.path={control}]
  other: [data.path={other}, intervention.charged_flops=1e9, intervention.method=filter]
"""


def test_from_shards_to_the_verdict(tiny_shards: Path, tmp_path: Path) -> None:
    def done(*arguments: str) -> str:
        ended = nmm(*arguments, cwd=tmp_path)
        assert ended.returncode == 0, ended.stdout + ended.stderr
        return ended.stdout

    done("shards", "data=world", "out=other", "train_tokens=20000", "eval_samples=60", "sheet=false", "workers=1",
         "+data.world.seed=1")  # fmt: skip
    (tmp_path / "two.yaml").write_text(SWEEP.format(control=tiny_shards, other=tmp_path / "other"))
    planned = done("sweep", "plan", "sweep=two.yaml", "out=runs")
    assert "wrote 12 runs" in planned
    assert "total: 4 trunks + 8 points" in planned
    done("sweep", "launch", "runs", "workers=1")
    assert "arms: control 6/6 done, other 6/6 done" in done("sweep", "status", "runs")
    done("sweep", "table", "runs", "--out", "runs.csv")

    table = pd.read_csv(tmp_path / "runs.csv")
    assert table.groupby("arm").charged_flops.agg(["min", "max", "size"]).to_dict("index") == {
        "control": {"min": 0.0, "max": 0.0, "size": 4},
        "other": {"min": 1e9, "max": 1e9, "size": 4},
    }
    record = json.loads((tmp_path / "runs" / table.run_id[0] / "record.json").read_text())
    assert record["schema"] == 5
    assert sorted(record["intervention"]) == ["arm", "charged_flops", "method"]

    # so short a run has not learned to see; a law would leave it out, so the table goes on without that column
    table.drop(columns=["colour_excess", "on_plateau"]).to_csv(tmp_path / "points.csv", index=False)
    done("fit", "points.csv", "--out", "fits.json", "--law", "power_C", "--loss", "avg", "--bootstrap", "100")
    fits = json.loads((tmp_path / "fits.json").read_text())
    assert [fit["group"] for fit in fits["fits"]] == ["control", "other"]
    assert fits["columns"]["group"] == "arm"
    compared = done("compare", "fits.json", "--json", "compared.json")
    assert "control / other, avg: " in compared
    (found,) = json.loads((tmp_path / "compared.json").read_text())
    assert (found["left"], found["right"]) == ("control", "other")
    assert found["verdict"]
