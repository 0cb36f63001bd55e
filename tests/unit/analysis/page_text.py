"""Whether a page stands alone, and what it says."""

from __future__ import annotations

import re
from html import unescape
from html.parser import HTMLParser

_VOID = {"meta", "link", "img", "source", "br"}


class _Checker(HTMLParser):
    """Collects tags and complains about any that are not closed in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href", "srcset")]
        if tag not in _VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def assert_stands_alone(page: str) -> None:
    """Fail on tags that are not closed in order, on scripts, and on any address outside the page."""
    checker = _Checker()
    checker.feed(page)
    assert checker.open == [] and "script" not in checker.tags
    assert checker.addresses and all(address.startswith("data:") for address in checker.addresses)


def words(page: str) -> str:
    """The text of a page, tags as single spaces."""
    return re.sub(r"\s+", " ", unescape(re.sub("<[^>]+>", " ", re.sub("<style>.*?</style>", "", page, flags=re.S))))
