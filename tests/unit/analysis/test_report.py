from __future__ import annotations

from pathlib import Path

import pytest
from page_text import assert_stands_alone, words
from picture_text import assert_readable

from analysis import plots
from analysis.report import forest
from analysis.report.answers import cards
from analysis.report.evidence import gather
from analysis.report.marks import sample_map, size_colours
from analysis.report.write import write_report
from analysis.rows.table import Columns, RunTable, load
from analysis.simulation.synthetic import simulate
from analysis.study import Options, Study, entropy_verdict, fit_study, load_study


@pytest.fixture(scope="module")
def page(study: Study, table: RunTable, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The page with every picture drawn, but only stand-ins for their SVG (they are drawn again further down)."""
    out = tmp_path_factory.mktemp("report")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plots, "to_svg", lambda figure: f"<svg>{len(figure.axes)}</svg>")
        path = write_report(table, study, out, date="2026-01-02", command="nmm report <x>", title="T & T")
    assert [p.name for p in out.iterdir()] == [path.name] == ["index.html"]
    return path.read_text(encoding="utf-8")


def test_the_page_stands_alone_and_is_well_formed(page: str) -> None:
    assert_stands_alone(page)
    assert "T &amp; T" in page and "nmm report &lt;x&gt;" in page and "2026-01-02" in page


def test_pictures_of_the_study_come_before_those_of_single_groups(page: str, study: Study) -> None:
    whole, *own = page[page.index(">Pictures<") : page.index(">Groups at equal compute<")].split("<details>")
    assert whole.count("<picture>") == 11 and "Not drawn" not in whole
    assert [part.count("<picture>") for part in own] == [4, 4, 4]
    for group, part in zip(study.groups, own, strict=True):
        assert part.startswith(f"<summary>Diagnostics of {group}<")
        assert "Not drawn: no isoFLOP slice: runs at nearly one compute have at most 3 sizes, four are needed." in part


def test_verdicts_come_first_with_interval_and_range(page: str, study: Study) -> None:
    verdicts = page[page.index(">Verdicts<") : page.index(">Pictures<")]
    assert verdicts.count('class="verdict') == 3 + 3 + 4 + 2
    text = words(verdicts)
    assert "tested range" in text and "FLOPs" in text and "% [" in text
    assert "How far beyond the fitted runs does it predict?" in text and "x C of" in text
    assert "What should a budget buy?" in text and "Is everything identified?" in text
    for group in study.groups:
        assert f"How does the loss of {group} fall?" in text


def test_every_fit_is_in_the_tables(page: str, study: Study) -> None:
    tables = page[page.index(">The laws<") :]
    for form in ("free", "known", "interaction"):
        assert tables.count(f"<td>{form}</td>") >= 6
    for fit in study.fits:
        assert fit.r2_log_excess is None or f"{fit.r2_log_excess:.4f}" in tables
    assert study.fits[0].digest in tables


def test_plateau_runs_are_named_and_refused() -> None:
    rows = simulate(seed=1)
    for row in rows[20:22]:
        row["on_plateau"], row["colour_excess"] = True, 1.5
    table = load(rows, Columns(targets=("avg",)))
    study = fit_study(table, Options(forms=("known",), draws=20))
    assert study.refused == {"late": (rows[20]["run_id"], rows[21]["run_id"])}
    assert {c.status for c in study.comparisons if "late" in (c.left, c.right)} == {"refused"}
    assert not {row["run_id"] for row in rows[20:22]} & set(table.sample("late", "avg")[0].run_ids)
    text = "".join(cards(table, study, gather(table, study, "avg")))
    assert "refused: 2 runs sit on the vision plateau" in text and rows[20]["run_id"] in text
    assert "no: 2 of 60 sit on it and are refused" in text


def test_rows_that_were_not_fitted_are_refused(study: Study, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="run nmm fit again"):
        write_report(simulate(seed=2), study, tmp_path)


def test_a_study_survives_its_file(study: Study, tmp_path: Path) -> None:
    study.save(tmp_path / "fits.json")
    back = load_study(tmp_path / "fits.json")
    assert back.comparisons == study.comparisons and back.columns == study.columns
    assert [f.ci for f in back.fits] == [f.ci for f in study.fits]
    assert "NaN" not in (tmp_path / "fits.json").read_text()
    (tmp_path / "other.json").write_text('{"version": "older"}')
    with pytest.raises(ValueError, match="written by 'older'"):
        load_study(tmp_path / "other.json")
    with pytest.raises(ValueError, match="nmm fit SWEEP_DIR --out"):
        load_study(tmp_path / "none.json")


def test_the_reading_of_e_is_honest(study: Study) -> None:
    for fit in study.fits:
        reading = entropy_verdict(fit)
        if fit.form == "known":
            assert reading.startswith("fixed to the known")
        elif "E" in fit.unidentified:
            assert reading.startswith("not identified: ") and "above E" in reading
        else:
            inside = fit.ci["E"].low <= (fit.known_entropy or 0) <= fit.ci["E"].high
            assert ("lies inside" in reading) == inside and ("biased" in reading) == (not inside)


@pytest.mark.parametrize("narrow", [False, True])
def test_no_text_of_a_picture_leaves_it_or_covers_other_text(study: Study, table: RunTable, narrow: bool) -> None:
    samples = sample_map(table, "avg")
    fits = {group: fit for group in study.groups if (fit := study.main_form(group, "avg"))}
    drawn = [
        plots.loss_vs_compute(samples, fits, study, "avg", narrow),
        plots.loss_vs_tokens(samples, fits, False, narrow),
        plots.loss_vs_tokens(samples, fits, True, narrow),
        plots.residuals(samples, fits, narrow),
        plots.vision_plateau(table, narrow),
        forest.exponents_forest(study, narrow),
        forest.entropy_forest(study, narrow),
    ]
    for figure in drawn:
        assert_readable(figure)


def test_svg_is_reproducible_and_holds_no_outside_address(study: Study) -> None:
    one, two = (plots.to_svg(forest.entropy_forest(study)) for _ in range(2))
    assert one == two and "<image" not in one


def test_sizes_go_from_light_to_dark() -> None:
    colours = size_colours([3e5, 1e4, 3e4, 1e4])
    brightness = [sum(colours[size][:3]) for size in (1e4, 3e4, 3e5)]
    assert len(colours) == 3 and brightness == sorted(brightness, reverse=True)


def test_a_table_needs_neither_entropy_nor_a_plateau_gauge(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [
        {"n": r["n_active_non_embedding"], "d": r["tokens"], "loss": r["loss_text"]}
        for r in simulate()
        if r["arch"] == "early"
    ]
    table = load(rows, Columns("n", "d", targets=("loss",)))
    study = fit_study(table, Options(draws=0))
    assert [f.form for f in study.fits] == ["free", "interaction"]
    assert study.skipped[0].form == "known" and "entropy" in study.skipped[0].reason
    monkeypatch.setattr(plots, "to_svg", lambda figure: "<svg/>")
    text = write_report(table, study, tmp_path).read_text()
    assert "no column" not in text and "How does the loss fall?" in text
    for title in ("Excess over the known entropy", "Vision plateau", "Fitted E and the known entropy"):
        assert title not in text
    assert "the fit has no bootstrap draws" in text and "No resamples were drawn" in text
