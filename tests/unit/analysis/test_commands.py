from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from analysis import plots
from analysis.commands.fit import fit_main
from analysis.commands.report import report_main
from analysis.simulation.synthetic import simulate


@pytest.fixture(scope="module")
def csv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("runs") / "runs.csv"
    pd.DataFrame(simulate()).to_csv(path, index=False)
    return path


@pytest.fixture
def _plain_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures are drawn but not turned into SVG, which test_report covers and takes seconds."""
    monkeypatch.setattr(plots, "to_svg", lambda figure: "<svg/>")


@pytest.mark.usefixtures("_plain_pictures")
def test_fit_then_report(csv: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fits = tmp_path / "fits.json"
    laws = ["--law", "chinchilla_excess,chinchilla"]
    arguments = [str(csv), "--out", str(fits), "--loss", "avg,text", "--bootstrap", "20", *laws]
    assert fit_main(arguments) == 0
    out = capsys.readouterr().out
    assert "early known" in out and "12 fits of 60 rows (0 with exclusions) written to" in out.replace("\n", " ")
    data = json.loads(fits.read_text())
    assert {(f["group"], f["target"], f["form"]) for f in data["fits"]} == {
        (g, t, f) for g in ("early", "late", "moe") for t in ("avg", "text") for f in ("known", "free")
    }
    wanted = {
        "law",
        "params",
        "objective_value",
        "status",
        "ci",
        "ci_method",
        "n_rows",
        "seconds_fit",
        "seconds_bootstrap",
    }
    assert all(wanted <= set(f) for f in data["fits"])
    assert report_main([str(csv), "--fits", str(fits), "--out", str(tmp_path / "report"), "--date", "2026-01-02"]) == 0
    assert "2026-01-02" in (tmp_path / "report" / "index.html").read_text()


@pytest.mark.usefixtures("_plain_pictures")
def test_any_table_with_named_columns(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [
        {"params": r["n_active_non_embedding"], "d": r["tokens"], "nats": r["loss_text"], "model": r["arch"]}
        for r in simulate()
    ]
    pd.DataFrame(rows).to_parquet(tmp_path / "any.parquet")
    arguments = [str(tmp_path / "any.parquet"), "--n", "params", "--d", "d", "--loss", "nats", "--group", "model",
                 "--bootstrap", "0", "--delta", "chinchilla", "--out", str(tmp_path / "f.json")]  # fmt: skip
    assert fit_main(arguments) == 0
    data = json.loads((tmp_path / "f.json").read_text())
    assert {f["group"] for f in data["fits"]} == {"early", "late", "moe"} and data["fits"][0]["delta"] == 1e-3
    assert "entropy_nats" in capsys.readouterr().out
    assert report_main([str(tmp_path / "any.parquet"), "--fits", str(tmp_path / "f.json"), "--out", str(tmp_path)]) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--n", "width"], "no column 'width' for --n; the columns are: run_id, sweep, arch"),
        (["--loss", "video"], "no column loss_video or video"),
        (["--law", "cubic"], "unknown law 'cubic'"),
        (["--bootstrap", "7"], "--bootstrap is 7"),
        (["--delta", "soft"], "delta is 'soft'"),
        (["--min-tokens", "7e6"], "all rows share one of the token counts D"),
        (["--min-tokens", "1e12"], "all 60 rows"),
    ],
)
def test_mistakes_are_one_readable_error(
    csv: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert fit_main([str(csv), "--out", str(tmp_path / "f.json"), *arguments]) == 2
    error = " ".join(capsys.readouterr().err.split())
    assert error.startswith("error: ") and message in error and "Traceback" not in error
    assert not (tmp_path / "f.json").exists()


def test_report_without_fits_says_how_to_make_them(
    csv: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert report_main([str(csv), "--fits", str(tmp_path / "none.json"), "--out", str(tmp_path)]) == 2
    assert "nmm fit SWEEP_DIR --out" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    ("main", "example"), [(fit_main, "nmm fit outputs/demo"), (report_main, "nmm report outputs/demo")]
)
def test_help_shows_an_example(main, example: str, capsys: pytest.CaptureFixture[str]) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(SystemExit) as stop:
        main(["--help"])
    assert stop.value.code == 0 and example in capsys.readouterr().out


def test_excluded_rows_are_listed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = simulate()
    rows[0]["tokens"] = -1.0
    pd.DataFrame(rows).to_csv(tmp_path / "r.csv", index=False)
    assert (
        fit_main([str(tmp_path / "r.csv"), "--loss", "avg", "--bootstrap", "0", "--out", str(tmp_path / "f.json")]) == 0
    )
    out = capsys.readouterr().out
    assert rows[0]["run_id"] in out and "tokens is -1.0, a positive number is needed" in out
    assert json.loads((tmp_path / "f.json").read_text())["exclusions"][0]["kind"] == "value"
