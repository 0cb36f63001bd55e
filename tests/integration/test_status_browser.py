"""The status page in a headless browser: its script runs, filters and follows the files."""

from __future__ import annotations

import html
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_sweep import behave_as, end_started, launch, make_record, plan_sweep, start, wait_for
from headless import NAMES, Browser, browser, find_chromium

from nmm.record import attempts, begin_attempt, publish
from sweeps.status.command import status_main


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    if find_chromium() is None:
        reason = f"none of {', '.join(NAMES)} is installed, so nobody looks at the page"
        if os.environ.get("NMM_REQUIRE_TOOLS") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
    with browser(tmp_path_factory.mktemp("profile")) as made:
        yield made


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "runs"
    end_started()


def rows(dom: str) -> dict[str, str]:
    """Run id -> state, of the table as it is shown."""
    found = re.findall(r'<tr data-run="([^"]*)"[^>]*><td><span class="state"[^>]*>(\w+)</span>', dom)
    return {html.unescape(run): state for run, state in found}


def curves(dom: str) -> dict[str, list[str]]:
    """Run id -> the kinds of lines drawn for it."""
    groups = re.findall(r'<g data-run="([^"]*)"[^>]*>(.*?)</g>', dom, re.S)
    return {html.unescape(run): re.findall(r'<path class="(\w+)" d="M[\d. ML-]+"', inner) for run, inner in groups}


def counts(dom: str) -> dict[str, int]:
    return {name: int(number) for name, number in re.findall(r'data-state="(\w+)"[^>]*><b>(\d+)</b>', dom)}


def write(directory: Path, page: Path) -> Path:
    assert status_main([str(directory), "--html", str(page)]) in (0, 1)
    return page


def log_losses(run: Path, steps: range, end: str = "") -> None:
    """An attempt with a loss at each of ``steps``, killed or ended by ``end``."""
    attempt = begin_attempt(run)
    for step in steps:
        attempt.log_metrics({"step": step, "train_loss": 5.0 / step**0.3, "tokens_per_second": 1e4})
    if end:
        attempt.end("failed", end, "oom")
    attempt.close()


def test_a_launched_sweep_is_shown_with_its_counts_curves_and_causes(
    chromium: Browser, directory: Path, tmp_path: Path
) -> None:
    entries = plan_sweep(directory)
    bad = entries[0]
    behave_as(directory, {bad.run_id: ["raise"]})
    assert launch(directory, "workers=1", "retries=0")[0] == 1
    log_losses(directory / entries[1].run_id, range(1, 40))
    chromium.open(write(directory, tmp_path / "page.html"))
    dom = chromium.dom()
    assert counts(dom) == {"done": 3, "failed": 1, "blocked": 2}
    assert len(rows(dom)) == 6 and rows(dom)[bad.run_id] == "failed"
    assert "was told to fail" in dom and f"nmm sweep launch {directory}" in dom
    assert curves(dom) == {entries[1].run_id: ["kept"]}
    assert "training loss (nats per token)" in dom and "training tokens (positions)" in dom


def test_a_resumed_run_is_one_curve_and_its_lost_work_shows(chromium: Browser, directory: Path, tmp_path: Path) -> None:
    entries = plan_sweep(directory)
    trunk = entries[0].run_id
    branch = next(e for e in entries if e.parent_id == trunk)
    log_losses(directory / trunk, range(1, 80))
    log_losses(directory / trunk, range(60, 201))
    first = branch.config.parent.step + 1
    log_losses(directory / branch.run_id, range(first, first + 20))
    chromium.open(write(directory, tmp_path / "page.html"))
    dom = chromium.dom()
    assert curves(dom) == {trunk: ["lost", "kept"], branch.run_id: ["joint", "kept"]}
    assert dom.count('class="resumed"') == 1 and "lost work, made again" in dom


def test_arms_have_a_column_and_a_colour_each(chromium: Browser, directory: Path, tmp_path: Path) -> None:
    arms = {"control": [], "gentle": ["schedule.warmup_steps=3"]}
    entries = plan_sweep(directory, arms=arms)
    trunks = {e.arm: e.run_id for e in entries if e.role == "trunk" and e.config.size.name == "d16"}
    for run in trunks.values():
        log_losses(directory / run, range(1, 30))
    chromium.open(write(directory, tmp_path / "page.html"))
    dom = chromium.dom()
    assert [name in dom for name in ('data-key="arm"', "<td>control</td>", "<td>gentle</td>")] == [True] * 3
    colours = dict(re.findall(r'<g data-run="([^"]*)" style="([^"]*)"', dom))
    assert len({colours[run] for run in trunks.values()}) == 2
    chromium.open(write(directory, tmp_path / "page.html"), "#q=gentle")
    assert set(rows(chromium.dom())) == {e.run_id for e in entries if e.arm == "gentle"}


@pytest.fixture
def mixed(directory: Path, tmp_path: Path) -> tuple[Path, str]:
    """A page of a done, a failed, a pending pair and a blocked pair of runs; and which one failed."""
    entries = plan_sweep(directory)
    small, large = (next(e for e in entries if e.role == "trunk" and e.config.size.name == s) for s in ("d16", "d32"))
    log_losses(directory / small.run_id, range(1, 30), end="MemoryError: too much")
    attempt = begin_attempt(directory / large.run_id)
    publish(directory / large.run_id, attempt, make_record(large.config, "done"))
    attempt.end("done")
    return write(directory, tmp_path / "page.html"), small.run_id


@pytest.mark.parametrize(
    ("fragment", "states"),
    [
        ("#state=failed", ["failed"]),
        ("#q=oom", ["failed"]),
        ("#q=d32%20trunk", ["done"]),
        ("#state=failed&q=d32", []),
        ("#sort=-state", ["blocked", "blocked", "failed", "pending", "pending", "done"]),
        ("#sort=state", ["done", "pending", "pending", "failed", "blocked", "blocked"]),
    ],
)
def test_the_address_filters_and_sorts(
    chromium: Browser, mixed: tuple[Path, str], fragment: str, states: list[str]
) -> None:
    page, failed = mixed
    chromium.open(page, fragment)
    dom = chromium.dom()
    assert list(rows(dom).values()) == states
    assert f"{len(states)} of 6 runs" in dom
    assert set(curves(dom)) == ({failed} if "failed" in states else set())


def test_clicks_and_words_filter_and_stay_in_the_address(chromium: Browser, mixed: tuple[Path, str]) -> None:
    page, failed = mixed
    chromium.open(page)
    chromium.run("document.querySelector('.counts a[data-state=failed]').click()")
    assert rows(chromium.dom()) == {failed: "failed"}
    assert chromium.run("location.hash") == "#state=failed"
    chromium.run("document.querySelector('.counts a[data-state=failed]').click()")
    assert len(rows(chromium.dom())) == 6
    chromium.run("const q = document.querySelector('#q'); q.value = 'branch'; q.oninput()")
    assert len(rows(chromium.dom())) == 4 and chromium.run("location.hash") == "#q=branch"
    chromium.run("document.querySelector('th[data-key=size]').onclick()")
    assert chromium.run("location.hash") == "#q=branch&sort=size"


def test_pointing_at_a_curve_names_its_run(chromium: Browser, mixed: tuple[Path, str]) -> None:
    page, failed = mixed
    chromium.open(page)
    box = "document.querySelector('#chart path.kept').getBoundingClientRect()"
    chromium.run("document.querySelector('#chart').scrollIntoView()")
    chromium.move(chromium.run(f"{box}.left + 3"), chromium.run(f"{box}.top + 3"))
    tip = chromium.wait("document.querySelector('#tip').textContent", "the run's name beside the pointer")
    assert tip.startswith(failed) and "1 attempt" in tip
    chromium.run("document.querySelector('#x').value = 'flops'; document.querySelector('#x').onchange()")
    assert "compute of the whole path (FLOPs)" in chromium.dom()


def test_names_from_files_stay_text(chromium: Browser, directory: Path, tmp_path: Path) -> None:
    entries = plan_sweep(directory, name="</script><b id=evil>")
    log_losses(directory / entries[0].run_id, range(1, 5), end="<img src=x onerror=\"document.title='owned'\"> broke")
    chromium.open(write(directory, tmp_path / "page.html"))
    dom = chromium.dom()
    assert chromium.run("document.title") == "0/6 done: </script><b id=evil>"
    assert chromium.run("document.querySelectorAll('img, #evil').length") == 0
    assert "&lt;img src=x" in dom and len(rows(dom)) == 6


def test_an_open_page_follows_its_file_and_keeps_what_was_chosen(
    chromium: Browser, directory: Path, tmp_path: Path
) -> None:
    entries = plan_sweep(directory, seeds=[0, 1])
    behave_as(directory, {entries[0].run_id: ["sleep"]})
    process = start(directory, "workers=1")
    wait_for(lambda: attempts(directory / entries[0].run_id), "the first run to begin")
    page = write(directory, tmp_path / "page.html")
    page.write_text(page.read_text().replace('"refresh_seconds":60.0', '"refresh_seconds":0.2'))
    chromium.open(page, "#sort=-run_id")
    assert counts(chromium.dom()) == {"running": 1, "pending": 11}
    chromium.run("window.old = true; scrollTo(0, 60)")
    chromium.wait("!window.old", "the page to read itself again")
    chromium.wait("Math.round(scrollY) === 60", "the page to stand where it stood")
    process.terminate()
    process.wait(timeout=60)
    behave_as(directory, {})
    assert launch(directory, "workers=1")[0] == 0
    write(directory, page)
    chromium.wait("document.querySelector('h1').textContent.includes('12 of 12')", "the finished sweep's numbers")
    dom = chromium.dom()
    assert counts(dom) == {"done": 12}
    assert list(rows(dom)) == sorted((e.run_id for e in entries), reverse=True)


def test_nobody_who_is_reading_is_interrupted(chromium: Browser, mixed: tuple[Path, str]) -> None:
    chromium.open(mixed[0])
    chromium.run("getSelection().selectAllChildren(document.querySelector('h1')); window.old = true; again()")
    chromium.move(300, 300)
    chromium.wait("touched > 0", "the page to notice the pointer")
    chromium.run("getSelection().removeAllRanges(); again()")
    assert chromium.run("window.old") is True
    chromium.wait("touched = -Infinity, again(), !window.old", "the page to read itself again")
