"""Reports of studies that are not ours: one group, two groups, laws without N and D, laws with more columns."""

from __future__ import annotations

import re
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from page_text import assert_stands_alone, words
from picture_text import assert_readable
from rich.console import Console

from analysis import plots
from analysis.decisions.usual import usual_values
from analysis.report import gallery
from analysis.report.evidence import Missing, gather
from analysis.report.gallery import chapters, titles
from analysis.report.terminal import print_fit, print_study
from analysis.report.write import write_report
from analysis.rows.table import Columns, RunTable, load
from analysis.simulation.simulator import Noise, crossed, grid, isoflop, rows_design, simulate_rows
from analysis.simulation.surfaces import CHINCHILLA, EARLY, LATE
from analysis.study import Options, Study, fit_study

Made = tuple[RunTable, Study]
_COLUMNS = {"size": "N", "tokens": "D", "compute": "C", "group": "group", "cluster": "run", "targets": ("loss",)}
_REPEATS = {"E": 1.87, "A": 521.0, "alpha": 0.353, "B": 1488.0, "beta": 0.353}


def _one() -> Made:
    rows = simulate_rows("chinchilla", CHINCHILLA.params, isoflop([1e19, 1e20, 1e21, 1e22]), Noise(0, 0.002), seed=1)
    table = load([{**row, "group": "all"} for row in rows], Columns(**_COLUMNS), keep="rank(loss) > 1")
    return table, fit_study(table, Options(("free",), 1e-3, draws=40))


def _two() -> Made:
    design = grid(np.geomspace(3e8, 3e9, 4).tolist(), np.geomspace(3e9, 6e11, 5).tolist())
    rows = [
        row
        for i, truth in enumerate((EARLY, LATE))
        for row in simulate_rows("chinchilla", truth.params, design, Noise(0, 0.002), group=truth.name, seed=i)
    ]
    table = load(rows, Columns(**_COLUMNS))
    return table, fit_study(table, Options(("free",), draws=40))


def _compute() -> Made:
    flops = np.geomspace(1e17, 1e21, 14)
    loss = (1.7 + 80 * flops**-0.107) * np.exp(0.002 * np.random.default_rng(0).standard_normal(14))
    table = load([{"flops": c, "loss": y} for c, y in zip(flops, loss, strict=True)],
                 Columns(compute="flops", targets=("loss",)), needed=("C",))  # fmt: skip
    return table, fit_study(table, Options(("power_C_offset",), draws=40))


def _accuracy() -> Made:
    loss = np.linspace(2.2, 4.5, 20)
    noise = 0.004 * np.random.default_rng(0).standard_normal(20)
    rows = [
        {"task": x, "acc": y} for x, y in zip(loss, 0.25 + 0.6 / (1 + np.exp(3 * (loss - 2.8))) + noise, strict=True)
    ]
    columns = Columns(targets=("acc",), extra=(("L", "task"),))
    table = load(rows, columns, needed=("L",), positive_loss=False)
    return table, fit_study(table, Options(("accuracy_sigmoid",), objective="lin-huber", draws=40))


def _repeats() -> Made:
    design = crossed(grid([1e7, 1e8, 1e9], [1e9, 6e9, 4e10]), U=[2.5e8, 1e9, 4e10])
    truth = {**_REPEATS, "R_D": 15.4, "R_N": 5.3}
    rows = simulate_rows("data_constrained", truth, design, Noise(0, 0.003), group="all")
    table = load(rows, Columns(**_COLUMNS, extra=(("U", "U"),)), needed=("N", "D", "U"))
    return table, fit_study(table, Options(("data_constrained",), fixed=_REPEATS, draws=40))


_KINDS = {"one": _one, "two": _two, "compute": _compute, "accuracy": _accuracy, "repeats": _repeats}
_NO_SLICES = "no isoFLOP slice: runs at nearly one compute have at most 1 size, four are needed"
_NOT_DRAWN = {
    "one": {},
    "two": {"IsoFLOP slices, early": "no isoFLOP slice", "IsoFLOP slices, late": "no isoFLOP slice"},
    "compute": {},
    "accuracy": {
        "Loss against compute, acc": "law accuracy_sigmoid does not say how loss falls with compute",
        "Predicted and observed": "the rows have no N, D or C along which",
    },
    "repeats": {"Three approaches to the best split": "this is data_constrained", "IsoFLOP slices": _NO_SLICES},
}


@pytest.fixture(scope="module")
def made() -> dict[str, Made]:
    return {name: make() for name, make in _KINDS.items()}


@pytest.fixture(scope="module")
def pages(made: dict[str, Made], tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Every picture drawn wide and narrow, most of the narrow ones checked for text that cannot be read; stand-ins
    for their SVG."""

    def checked(figure: plots.Figure) -> str:
        if figure.get_figwidth() < 5:
            assert_readable(figure)
        return "<svg/>"

    found = {}
    with pytest.MonkeyPatch.context() as patch:
        for name, (table, study) in made.items():
            patch.setattr(plots, "to_svg", checked if name != "two" else lambda figure: "<svg/>")
            out: Path = tmp_path_factory.mktemp(name)
            found[name] = write_report(table, study, out, command="nmm report").read_text(encoding="utf-8")
    return found


@pytest.mark.parametrize("kind", _KINDS)
def test_every_picture_is_there_or_says_why_not(kind: str, made: dict[str, Made], pages: dict[str, str]) -> None:
    page = pages[kind]
    assert_stands_alone(page)
    table, study = made[kind]
    expected = titles(chapters(table, study, gather(table, study, study.targets[0])))
    missing = dict(re.findall(r'<h3>([^<]+)</h3><p class="missing">Not drawn: ([^<]+)</p>', page))
    assert page.count("<picture>") == len(expected) - len(missing) and missing.keys() == _NOT_DRAWN[kind].keys()
    assert all(why in missing[title] for title, why in _NOT_DRAWN[kind].items())
    assert all(f"<h3>{title}</h3>" in page for title in expected)


def test_one_group_reads_from_the_law_to_what_was_left_out(pages: dict[str, str]) -> None:
    text = words(pages["one"])
    order = ("Verdicts", "How does the loss fall?", "L = 1.8", "Is everything identified?", "How far beyond",
             "What should a budget buy?", "Do the three approaches agree", "bootstrap sandwich profile", "Pictures",
             "IsoFLOP slices", "The laws", "Best split of a budget", "Left out", "How it was done",
             "Provenance")  # fmt: skip
    places = [text.index(part) for part in order]
    assert places == sorted(places)
    assert "tokens per parameter" in text and "2 isoFLOP, corrected: " in text and "loss of all" not in text
    assert "extrapolates 10-fold" in text or "beyond what was validated" in text
    assert "keep 1 " in text and "row filter rank(loss) > 1" in text


def test_two_groups_are_compared_on_one_page(pages: dict[str, str]) -> None:
    text = words(pages["two"])
    assert "early or late at equal compute?" in text and "Exponents of the pairs" in text
    assert "Compute for equal loss" in text and "Diagnostics of late" in text
    assert text.index("early or late") < text.index("How does the loss of early fall?") < text.index("Pictures")


def test_laws_without_sizes_split_no_budget(pages: dict[str, str]) -> None:
    for kind, reads in (("compute", "C"), ("accuracy", "L")):
        text = words(pages[kind])
        assert f"reads {reads}; it splits no budget" in text and "What should a budget buy?" not in text
    assert re.search(r"acc = 0\.8\d+ - 0\.\d+ / \(1", words(pages["accuracy"]))
    assert re.search(r"L = 1\.\d+ \+ \d+\.?\d* / C\^0\.1", words(pages["compute"]))


def test_further_columns_are_held_where_most_rows_are(made: dict[str, Made], pages: dict[str, str]) -> None:
    table, study = made["repeats"]
    one = gather(table, study, "loss")["all"]
    assert one.given == usual_values(one.fit.shape, [one.sample]) == {"U": 1e9}
    assert len(one.near) == 9 and not isinstance(one.rolled, Missing)
    text = words(pages["repeats"])
    assert "at U = 1e+09" in text and "most frequent values of the other columns: U = 1e+09" in text
    assert "R_D 1" in text and "0.353 fixed fixed fixed" in text


def test_what_is_not_identified_has_no_digits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = simulate_rows(
        "chinchilla", EARLY.params, grid([1e9, 1.1e9, 1.2e9], [1e10, 2e10, 4e10, 8e10]), Noise(0, 0.01)
    )
    table = load([{**row, "group": "all"} for row in rows], Columns(**_COLUMNS))
    study = fit_study(table, Options(("free",), draws=20))
    assert study.fits[0].unidentified
    monkeypatch.setattr(gallery, "pictures", lambda *given: [])
    text = words(write_report(table, study, tmp_path).read_text(encoding="utf-8"))
    assert "cannot be read" in text and "no numbers, because they hang on" in text
    assert all(f"{name} not identified" in text for name in study.fits[0].unidentified)


def test_rows_of_one_design_point_make_no_picture_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    design = rows_design(N=np.repeat([1e8, 1e9], 4), D=np.tile([1e9, 3e9, 1e10, 3e10], 2))
    table = load(simulate_rows("chinchilla", EARLY.params, design, Noise(0, 0.001), group="all"), Columns(**_COLUMNS))
    monkeypatch.setattr(plots, "to_svg", lambda figure: "<svg/>")
    page = write_report(table, fit_study(table, Options(("free",), draws=0)), tmp_path).read_text(encoding="utf-8")
    assert "an envelope needs at least 4" in page and "no cut leaves enough rows below it" in page


def test_groups_under_a_law_with_more_columns_are_compared_where_most_rows_are() -> None:
    design = crossed(grid([1e7, 1e8, 1e9], [1e9, 6e9, 4e10]), U=[2.5e8, 4e10, 4e10])
    truth = {**_REPEATS, "R_D": 15.4, "R_N": 5.3}
    rows = [
        row
        for group, factor in (("left", 1.0), ("right", 1.05))
        for row in simulate_rows("data_constrained", {**truth, "A": factor * 521}, design, Noise(0, 0.003), group=group)
    ]
    table = load([{**row, "run": f"{row['group']} {i}"} for i, row in enumerate(rows)],
                 Columns(**_COLUMNS, extra=(("U", "U"),)), needed=("N", "D", "U"))  # fmt: skip
    fixed = {name: value for name, value in truth.items() if name not in ("A", "B")}
    study = fit_study(table, Options(("data_constrained",), fixed=fixed, draws=20))
    assert [c.status for c in study.comparisons] == ["ok"]
    assert "groups are compared at U = 4e+10, which most rows have" in study.notes


def test_profiles_and_sandwich_reach_the_terminal(made: dict[str, Made]) -> None:
    table, _ = made["compute"]
    (fit,) = fit_study(table, Options(("power_C_offset",), draws=20, profile=True)).fits
    assert set(fit.profile_ci) == set(fit.sandwich_ci) == {"E", "A", "alpha"}
    console = Console(width=140, record=True, file=StringIO())
    print_fit(fit, console)
    line = next(line for line in console.export_text().splitlines() if line.strip().startswith("alpha"))
    assert line.count("[") == 3


@pytest.mark.parametrize(("bad", "shown"), [(3, "tokens is -1.0"), (9, "left out 9 by value, such as row-0")])
def test_many_exclusions_become_one_line_a_kind(bad: int, shown: str) -> None:
    rows = simulate_rows("chinchilla", EARLY.params, grid([1e8, 1e9, 3e9], [1e9, 1e10, 1e11], 4), Noise(0, 0.01))
    rows = [{"n": r["N"], "tokens": -1.0 if i < bad else r["D"], "loss": r["loss"]} for i, r in enumerate(rows)]
    study = fit_study(load(rows, Columns("n", "tokens", targets=("loss",))), Options(("free",), draws=0))
    console = Console(width=200, record=True, file=StringIO())
    print_study(study, console)
    text = console.export_text()
    assert shown in text and text.count("left out") == (bad if bad <= 8 else 2)
