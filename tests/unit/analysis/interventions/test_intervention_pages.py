from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import made_up
import numpy as np
import pytest
from picture_text import assert_readable

from analysis.commands import intervention as command
from analysis.interventions import compose, curve, lawfit, paired
from analysis.interventions.blocks import Block, Bullets, Figure, Heading, Table, Text, Verdict, table
from analysis.interventions.page import html_of, markdown, write_page
from analysis.interventions.paired import Estimate
from analysis.interventions.rows import Data
from analysis.plots import intervention as pictures
from analysis.plots import worth as worth_pictures
from nmm import cli

LAST = {"n": 120_000, "d": 8_000_000}
ONE = {"n": 120_000}


def composed(data: Data) -> list[Block]:
    """One of everything."""
    laws = lawfit.fit_arms(data, draws=40, own_beta=False)
    worths = [laws.compute_multiplier(arm) for arm in ("lowest", "random")]
    ladder, gaps = curve.multiplier(data, "lowest", where=ONE), paired.paired_all(data, "accuracy", where=LAST)
    return [
        *compose.opening(
            data,
            [
                compose.multiplier_verdict(worths[0], "Does it save compute?"),
                compose.multiplier_verdict(worths[1], "And a random one, scored for nothing?", expected=("worse",)),
                compose.paired_verdict(gaps[0], "Is it better at equal steps?", note="n = 4"),
            ],
            ["One world."],
        ),
        Heading("Curves"),
        compose.curves_figure(data, "curves", where=ONE),
        compose.curves_figure(data, "log", where=ONE, log_y=True, axis="d", title="Loss against data"),
        compose.multiplier_figure("worths", worths, data=data),
        compose.multiplier_figure("ladder", [ladder], data=data),
        compose.multiplier_table([worths[0], ladder]),
        compose.law_table(laws),
        compose.paired_table(gaps),
        compose.forest_figure("forest", gaps),
        compose.means_table(data, where=LAST),
        compose.bars_figure(data, "bars", "accuracy", where=LAST),
        compose.bars_figure(data, "groups", where=ONE, group="d"),
        Text("That is all.", soft=True),
    ]


@pytest.fixture(scope="module")
def data() -> Data:
    """The made-up study with the texts of study.json."""
    return Data(replace(made_up.worth_two().study, title="Is a filter worth its scoring?"), made_up.worth_two().rows)


@pytest.fixture(scope="module")
def blocks(data: Data) -> list[Block]:
    """The whole page."""
    return composed(data)


def figures(blocks: list[Block]) -> list[Figure]:
    return [block for block in blocks if isinstance(block, Figure)]


@pytest.mark.parametrize("narrow", [False, True])
def test_every_picture_is_readable_and_its_axes_have_units(blocks: list[Block], narrow: bool) -> None:
    for block in figures(blocks):
        drawn = block.draw(narrow)
        assert_readable(drawn)
        labels = [axis.label.get_text() for panel in drawn.axes for axis in (panel.xaxis, panel.yaxis)]
        assert any(re.search(r"\(|accuracy", text) for text in (*labels, drawn.get_supxlabel())), block.name


def test_the_page_is_written_twice_with_the_same_bytes(blocks: list[Block], tmp_path: Path) -> None:
    few = [block for block in blocks if not isinstance(block, Figure) or block.name in ("curves", "worths", "forest")]
    first, second = (write_page("A page", few, tmp_path / name) for name in ("a", "b"))
    names = sorted(path.name for path in first.parent.iterdir())
    assert names == ["README.md", "curves.png", "forest.png", "index.html", "worths.png"]
    for name in names:
        assert (first.parent / name).read_bytes() == (second.parent / name).read_bytes(), name


def test_the_html_is_one_file_and_the_markdown_points_at_its_pictures(blocks: list[Block], tmp_path: Path) -> None:
    few = [block for block in blocks if not isinstance(block, Figure) or block.name in ("bars", "groups")]
    path = write_page("A page", few, tmp_path)
    html, text = path.read_text(), (tmp_path / "README.md").read_text()
    assert not re.search(r'(src|href)="(?!data:)', html) and "<script" not in html
    assert html.count("<figure>") == 2 == len(re.findall(r"!\[[^\]]+\]\(([\w-]+)\.png\)", text))
    assert str(tmp_path) not in html + text


def test_the_opening_has_verdicts_claim_arms_and_limits_in_this_order(blocks: list[Block]) -> None:
    text = markdown("A page", blocks)
    places = [text.index(words) for words in (
        "**Does it save compute?**", "lowest is cheaper than control", "## What was claimed", "## The arms", "2.0e11",
        "## What it was measured on", "acts on: data", "## Where it stops holding", "- One world.",
    )]  # fmt: skip
    assert places == sorted(places)
    verdicts = [block for block in blocks if isinstance(block, Verdict)]
    assert [v.alarm for v in verdicts] == [False, False, False]
    assert verdicts[1].verdict.startswith("random costs more than control")
    assert "95 % for all 2 comparisons" in verdicts[2].numbers_label


def test_an_outcome_that_was_not_expected_is_an_alarm(data: Data) -> None:
    gap = paired.paired(data, "control", control="lowest", where=LAST)
    assert compose.paired_verdict(gap, "?").alarm and not compose.paired_verdict(gap, "?", expected=("worse",)).alarm
    one = paired.paired(data.where(seed=0), "lowest", where=LAST)
    verdict = compose.paired_verdict(one, "?")
    assert verdict.alarm and verdict.verdict.startswith("No verdict") and verdict.numbers[0].endswith("(1 seed)")


def test_signs_of_markup_in_texts_are_escaped() -> None:
    block = table(("arm_a", "what"), [("x|y", "<b>*bold*</b>")])
    assert markdown("t", [block]).splitlines()[2:] == [
        "| arm\\_a | what |", "| :--- | ---: |", "| x\\|y | \\<b>\\*bold\\*\\</b> |",
    ]  # fmt: skip
    html = html_of(block)
    assert "&lt;b&gt;" in html and html.count("text-align:right") == 2
    assert html_of(Bullets(("a<b",))) == "<ul><li><p>a&lt;b</p></li></ul>"


def test_a_table_or_picture_that_cannot_be_is_refused(blocks: list[Block], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="2 columns has a row of 1"):
        Table(("a", "b"), (("x",),))
    with pytest.raises(ValueError, match="align is 'lx'"):
        Table(("a", "b"), (), "lx")
    with pytest.raises(ValueError, match="picture name '../x'"):
        Figure("../x", "t", "c", figures(blocks)[0].draw)
    with pytest.raises(ValueError, match="two pictures of the page are called 'curves'"):
        write_page("t", [*figures(blocks)[:1], *figures(blocks)[:1]], tmp_path)


def test_means_show_their_count_where_seeds_differ(data: Data) -> None:
    part = Data(data.study, tuple(r for r in data.rows if r["arm"] != "random" or r["seed"] == 0))
    rows = {row[0]: row[1] for row in compose.means_table(part, ["loss"], where=LAST).rows}
    assert rows["lowest"].endswith("(n = 4)") and rows["random"].endswith("(1 seed)")


def test_arms_keep_their_colours_on_all_pictures(data: Data) -> None:
    colours = pictures.arm_colours(data.arms, data.control)
    assert colours["control"] == pictures.CONTROL and len(set(colours.values())) == 3
    many = [f"arm {k}" for k in range(20)]
    few = pictures.arm_colours(many, "arm 0", ["arm 1", "arm 9", "arm 17"])
    assert len(set(few.values())) == 4 and few["arm 1"] == pictures.arm_colours(many, "arm 0")["arm 1"]
    gap = pictures.Gap("a", 0.1, 0.05, 0.15, 0.0, 0.2, np.array([0.1]), "unresolved", 3)
    assert_readable(pictures.paired_forest([gap], "gap (nats)", "lower"))


def test_a_band_of_two_seeds_does_not_hide_what_was_measured() -> None:
    cost, seeds = np.array([1e9, 1e10]), np.array([[0.1, 0.2], [0.3, 0.3]])
    line = pictures.Line("a", cost, seeds.mean(axis=1), np.array([-5.0, 0.2]), np.array([5.0, 0.4]), seeds)
    drawn = pictures.metric_curves([line], {"a": "#000000"}, "cost (FLOPs)", "accuracy")
    low, high = drawn.axes[0].get_ylim()
    assert low >= -0.1 - 1e-9 and high <= 0.5 + 1e-9
    assert_readable(drawn)


def test_nothing_to_draw_is_a_sentence() -> None:
    none = np.full(2, np.nan)
    zero = np.zeros(2)
    worth = worth_pictures.Worth("a", zero + 1, none, none, none, none, none, zero, zero > 0, True)
    drawn = worth_pictures.worth_curves([worth], {"a": "#000000"}, "x", "control")
    assert "no multiplier to draw" in drawn.axes[0].texts[0].get_text()
    line = pictures.Line("a", zero + 1, none, none, none, none[:, None])
    assert "no curve to draw" in pictures.metric_curves([line], {"a": "#000000"}, "x", "y").axes[0].texts[0].get_text()


def test_many_arms_get_a_legend_instead_of_labels() -> None:
    cost = np.array([1e9, 1e10])
    lines = [
        pictures.Line(f"arm {k}", cost, np.array([2.0, 1.0 + 0.01 * k]), cost * np.nan, cost * np.nan, np.ones((2, 1)))
        for k in range(10)
    ]
    colours = pictures.arm_colours([line.arm for line in lines], "arm 0")
    drawn = pictures.metric_curves(lines, colours, "cost (FLOPs)", "loss (nats)")
    assert_readable(drawn)
    assert len(drawn.legends[0].get_texts()) == 10


def test_the_command_draws_the_page_of_the_two_files(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = made_up.write(tmp_path / "study")
    monkeypatch.setattr(command, "blocks_of", lambda found: [compose.arms_table(found)])
    assert cli.main(["intervention", "page", str(folder)]) == 0
    assert "page of filter: 144 rows of 3 arms written to" in capsys.readouterr().out
    text = (folder / "page" / "README.md").read_text()
    assert text.startswith("# Is a filter worth its scoring?") and "Without a row, and so on no picture: dream." in text
    assert command.page_main([str(folder), "--out", str(tmp_path / "other")]) == 0
    assert (tmp_path / "other" / "index.html").read_bytes() == (folder / "page" / "index.html").read_bytes()


def test_the_command_says_what_is_wrong_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.page_main([str(tmp_path)]) == 2
    assert "study.json is not there" in " ".join(capsys.readouterr().err.split())
    made_up.write(tmp_path, method="magic")
    assert command.page_main([str(tmp_path)]) == 2
    assert "method is 'magic'; pages exist for filter, soup" in " ".join(capsys.readouterr().err.split())


def test_numbers_say_when_there_is_no_interval() -> None:
    from analysis.interventions.numbers import amount_text, cost_text, estimate_text, gap_text

    lone, flat = Estimate(0.5, np.nan, np.nan, 1), Estimate(0.5, 0.5, 0.5, 3)
    assert estimate_text(lone) == "0.5 (1 seed)" and estimate_text(flat) == "0.5 [all equal]"
    assert gap_text(Estimate(-0.012, -0.02, -0.004, 3)) == "-0.012 [-0.020, -0.004]"
    assert gap_text(flat) == "+0.5 [all equal]" and cost_text([0.0]) == "0" and cost_text([0.0, 2e9]) == "0 to 2.0e9"
    assert [amount_text(v) for v in (0.5, 30.0, 8_000.0, 3e12)] == ["0.5", "30", "8,000", "3.0e12"]
