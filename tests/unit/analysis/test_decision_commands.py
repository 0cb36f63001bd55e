"""simulate -> fit -> predict, allocate, compare, design: the files of one command are the arguments of the next."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from analysis.commands.allocate import allocate_main
from analysis.commands.compare import compare_main
from analysis.commands.design import design_main
from analysis.commands.fit import fit_main
from analysis.commands.predict import predict_main
from analysis.commands.simulate import simulate_main

COLUMNS = ["--n", "N", "--d", "D", "--c", "C", "--run", "run", "--group", "group", "--loss", "loss"]
QUICK = [*COLUMNS, "--law", "chinchilla", "--bootstrap", "60"]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """early.csv, late.csv, both.csv and their fits."""
    path = tmp_path_factory.mktemp("laws")
    frames = []
    for seed, name in enumerate(("early", "late")):
        out = path / f"{name}.csv"
        given = ["--truth", name, "--paper-design", "--run-noise", "0.003", "--seed", str(seed), "--out", str(out)]
        assert simulate_main(given) == 0
        assert fit_main([str(out), *QUICK, "--json", str(path / f"{name}.json")]) == 0
        frames.append(pd.read_csv(out))
    pd.concat(frames).to_csv(path / "both.csv", index=False)
    assert fit_main([str(path / "both.csv"), *QUICK, "--json", str(path / "both.json")]) == 0
    return path


def printed(capsys: pytest.CaptureFixture[str]) -> str:
    return " ".join(capsys.readouterr().out.split())


def test_one_fit_is_the_top_of_its_json_and_two_are_a_list(home: Path) -> None:
    one, two = (json.loads((home / f"{name}.json").read_text()) for name in ("early", "both"))
    assert one["law"] == "chinchilla" and list(one["params"]) == ["E", "A", "alpha", "B", "beta"]
    low, high = one["ci"]["beta"]
    assert low < 0.335 < high and one["n_rows"] == 72 and one["status"] == "converged"
    assert {"objective_value", "ci_method", "seconds_fit", "seconds_bootstrap"} <= one.keys()
    assert "params" not in two and [s["group"] for s in two["summary"]] == ["early", "late"]


def test_predict_says_how_far_it_was_tested(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = home / "p.json"
    given = [str(home / "early.json"), "--n", "1e9,8e10", "--d", "1e11,3e12", "--json", str(out)]
    assert predict_main(given) == 0
    text = printed(capsys)
    assert "inside the data" in text and "beyond what was validated" in text and f"written to {out}" in text
    inside, outside = json.loads(out.read_text())
    truth = 1.904 + 270.0 * 1e9**-0.301 + 1860.0 * 1e11**-0.335
    assert inside["run_low"] < inside["low"] < truth < inside["high"] < inside["run_high"]
    assert outside["claims"][0]["kind"] != "inside"


def test_allocate_reports_the_optimum_and_the_extrapolation(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = home / "a.json"
    assert allocate_main([str(home / "early.json"), "--c", "1e21,1e24", "--json", str(out)]) == 0
    text = printed(capsys)
    assert "inside" in text and "extrapolates: C" in text and "closed form" in text
    first, second = json.loads(out.read_text())
    assert first["size"]["low"] < first["size"]["value"] < first["size"]["high"]
    assert 6 * first["size"]["value"] * first["tokens"]["value"] == pytest.approx(1e21, rel=1e-3)
    assert first["beyond"]["C"] == 1.0 and second["beyond"]["C"] > 10


@pytest.mark.parametrize("files", [["both.json"], ["early.json", "late.json"]])
def test_compare_one_study_or_two(home: Path, files: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    out = home / "c.json"
    assert compare_main([*(str(home / f) for f in files), "--json", str(out)]) == 0
    text = printed(capsys)
    assert "early / late, loss:" in text and "compute of late per compute of early" in text
    [found] = json.loads(out.read_text())
    assert found["status"] == "ok" and {"alpha", "beta", "a", "b"} <= {e["name"] for e in found["exponents"]}
    assert found["multiplier_curve"]["compute"]


def test_design_names_the_runs_and_their_price(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = home / "d.json"
    given = [str(home / "early.json"), "--quantity", "beta", "--budget", "1e21", "--max-runs", "4", "--json", str(out)]
    assert design_main(given) == 0
    assert "the interval of beta is expected to shrink to x 0." in printed(capsys)
    plan = json.loads(out.read_text())
    assert 0 < plan["spent"] <= 1e21 and 0 < plan["ratio"] < 1 and 1 <= len(plan["steps"]) <= 4


def test_a_law_of_the_users_own(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mine = tmp_path / "mine.py"
    mine.write_text(
        "from analysis.engine.law import Exponent, Offset, Scale, law_from\n\n\n"
        '@law_from(centre="K: c C", source="mine")\n'
        "def one_line(C, *, E: Offset, K: Scale, c: Exponent):\n"
        '    """L = E + K / C^c"""\n'
        "    return E + K * C**-c\n"
    )
    out = tmp_path / "mine.json"
    given = [str(home / "early.csv"), *COLUMNS, "--law", f"{mine}:one_line", "--bootstrap", "20", "--json", str(out)]
    assert fit_main(given) == 0
    assert "L = E + K / C^c (mine)" in printed(capsys)
    assert set(json.loads(out.read_text())["params"]) == {"E", "K", "c"}
    assert predict_main([str(out), "--c", "1e21"]) == 0


def test_sensitivity_is_one_flag(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = [str(home / "early.csv"), *COLUMNS, "--law", "chinchilla", "--bootstrap", "0", "--sensitivity"]
    assert fit_main([*given, "--json", str(home / "s.json")]) == 0
    text = printed(capsys)
    assert "lin-mse" in text and "log-lad" in text


def test_every_law_is_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert fit_main(["--laws"]) == 0
    text = capsys.readouterr().out
    assert "chinchilla" in text and "arXiv 2305.16264" in text and "multi_power" in text


@pytest.mark.parametrize(
    ("main", "arguments", "message"),
    [
        (predict_main, ["both.json", "--n", "1e9", "--d", "1e10"], "--group: name one; the fits have early, late"),
        (predict_main, ["early.json"], "no point given"),
        (predict_main, ["early.json", "--n", "1e9"], "also reads"),
        (predict_main, ["early.json", "--n", "1e9,2e9", "--d", "1,2,3"], "give 1 or 3"),
        (allocate_main, ["early.json", "--c", "much"], "--c has 'much'"),
        (allocate_main, ["none.json", "--c", "1e21"], "does not exist"),
        (compare_main, ["early.json"], "the single group early"),
        (compare_main, ["both.json", "--groups", "early,moe"], "'moe' is not there"),
        (design_main, ["early.json", "--quantity", "zeta", "--budget", "1e21"], "zeta"),
        (simulate_main, ["--law", "chinchilla", "--out", "x.csv"], "no design"),
        (simulate_main, ["--truth", "early", "--paper-design", "--out", "x.txt"], "must end in .csv or .parquet"),
        (fit_main, [], "no table given"),
        (fit_main, ["early.csv", "--fix", "E"], "write it as NAME=VALUE"),
        (fit_main, ["early.csv", *COLUMNS, "--keep", "__import__('os')"], "--keep"),
    ],
)
def test_mistakes_are_one_readable_error(
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    main: Callable[[list[str]], int],
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(home)
    assert main(arguments) == 2
    error = " ".join(capsys.readouterr().err.split())
    assert error.startswith("error: ") and message in error and "Traceback" not in error


@pytest.mark.parametrize(
    "main", [fit_main, predict_main, allocate_main, compare_main, design_main, simulate_main], ids=lambda m: m.__name__
)
def test_help_shows_an_example(main, capsys: pytest.CaptureFixture[str]) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(SystemExit) as stop:
        main(["--help"])
    assert stop.value.code == 0 and f"  nmm {main.__name__.removesuffix('_main')} " in capsys.readouterr().out
