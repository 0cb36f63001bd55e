"""The page as text; what a browser makes of it is in tests/integration/test_status_browser.py."""

from __future__ import annotations

import dataclasses
import json
import re
from html.parser import HTMLParser

from status_lab import Lab

from sweeps.status.curves import Curves
from sweeps.status.page import page

EVIL = '</script><script>document.title="owned"</script><img src=x onerror=alert(1)> `a` & "b"'


class Tags(HTMLParser):
    """Every start tag of a page, and the text in <script>."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))


def made(sweep: Lab, seconds: float | None = None) -> str:
    report = sweep.report()
    return page(report, Curves(sweep.directory).read(report.states), seconds)


def embedded(text: str) -> dict:
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.S)[1])


def test_the_numbers_stand_in_the_page_without_its_script(sweep: Lab) -> None:
    sweep.finish(0)
    sweep.failed(1, "disk", "OSError: [Errno 28] No space left on device")
    text = made(sweep).partition("<script")[0]
    assert "1 of 6 runs done" in text and "<b>1</b>failed<small>1 disk</small>" in text
    assert "No space left on device" in text and f"<code>nmm sweep launch {sweep.directory}</code>" in text


def test_names_and_errors_from_files_cannot_become_markup(sweep: Lab) -> None:
    sweep.failed(0, "error", EVIL)
    sweep.attempt(1, range(1, 3))
    report = sweep.report()
    states = [dataclasses.replace(s, run=dataclasses.replace(s.run, sweep=EVIL, arch=EVIL)) for s in report.states]
    text = page(dataclasses.replace(report, states=states, sweep=EVIL, warnings=[EVIL]), {}, None)
    tags = Tags(text).seen
    assert not [attributes for tag, attributes in tags if tag == "img" or "onerror" in attributes]
    assert len([tag for tag, _ in tags if tag == "script"]) == 2
    assert embedded(text)["runs"][0]["arch"] == EVIL


def test_nothing_is_fetched_from_outside(sweep: Lab) -> None:
    sweep.attempt(0, range(1, 3))
    text = made(sweep)
    for _, attributes in Tags(text).seen:
        assert not str(attributes.get("src") or "").startswith("http")
        assert not str(attributes.get("href") or "").startswith("http")
    assert "default-src 'none'" in text and "script-src 'sha256-" in text


def test_curves_and_their_lost_parts_are_embedded(sweep: Lab) -> None:
    sweep.killed(0, range(1, 6))
    sweep.attempt(0, range(4, 9))
    curve = embedded(made(sweep))["curves"][sweep.entries[0].run_id]
    assert curve["kept"][0] == [1, 2, 3, 4, 5, 6, 7, 8]
    assert curve["lost"][0][0] == [3, 4, 5] and curve["resumed_at"] == [4]


def test_it_reads_itself_again_as_often_as_it_is_written(sweep: Lab) -> None:
    assert embedded(made(sweep, 2.5))["refresh_seconds"] == 2.5
    assert embedded(made(sweep, None))["refresh_seconds"] == 60.0
    assert "written again every 2.5 s" in made(sweep, 2.5)


def test_that_curves_are_left_out_is_said(sweep: Lab, monkeypatch) -> None:
    monkeypatch.setattr("sweeps.status.curves.MOST_CURVES", 2)
    monkeypatch.setattr("sweeps.status.page.MOST_CURVES", 2)
    for number in range(4):
        sweep.attempt(number, range(1, 4))
    assert "Curves of 2 of the 4 runs that began" in made(sweep)
