"""A page as a list of blocks. What one says is decided where it is made; ``page`` makes HTML and Markdown of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from analysis import plots


@dataclass(frozen=True)
class Heading:
    """A heading; level 2 for a section, 3 within one."""

    text: str
    level: int = 2


@dataclass(frozen=True)
class Text:
    """A paragraph; ``soft`` for remarks."""

    text: str
    soft: bool = False


@dataclass(frozen=True)
class Bullets:
    """Short sentences one below the other."""

    items: tuple[str, ...]


@dataclass(frozen=True)
class Verdict:
    """One answer in a box: the question, the verdict in words, the numbers behind it, where it was tested, a remark.

    alarm: the answer contradicts the claim, or is a warning.
    """

    question: str
    verdict: str
    numbers: tuple[str, ...] = ()
    numbers_label: str = "95 % interval"
    tested: str = ""
    note: str = ""
    alarm: bool = False


@dataclass(frozen=True)
class Table:
    """A table of texts. align: one of "l", "r", "c" per column, by default left for the first and right for the rest.

    notes: sentences printed below it. wrap: headers of columns with long texts, which may break lines.
    Raises ``ValueError`` when a row or ``align`` does not have as many entries as the header.
    """

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    align: str = ""
    notes: tuple[str, ...] = ()
    wrap: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        width = len(self.header)
        if bad := [row for row in self.rows if len(row) != width]:
            raise ValueError(f"a table of {width} columns has a row of {len(bad[0])}: {bad[0]}")
        if self.align and (len(self.align) != width or set(self.align) - set("lrc")):
            raise ValueError(f"align is {self.align!r}; it needs one of l, r, c for each of the {width} columns")

    @property
    def alignment(self) -> str:
        """One letter per column."""
        return self.align or "l" + "r" * (len(self.header) - 1)


@dataclass(frozen=True)
class Figure:
    """A picture: file name without ending, title, caption, and a function that draws it (wide or narrow).

    ``draw(narrow)`` must return the same figure for the same data; title and caption together are its alt text.
    Raises ``ValueError`` for a name that is no plain file name.
    """

    name: str
    title: str
    caption: str
    draw: Callable[[bool], plots.Figure]

    def __post_init__(self) -> None:
        if not self.name.replace("_", "").replace("-", "").isalnum():
            raise ValueError(f"picture name {self.name!r}: use letters, digits, - and _ (it becomes NAME.png)")


Block: TypeAlias = Heading | Text | Bullets | Verdict | Table | Figure


def table(header: Sequence[str], rows: Sequence[Sequence[str]], align: str = "", notes: Sequence[str] = (),
          wrap: Sequence[str] = ()) -> Table:  # fmt: skip
    """A ``Table`` from any sequences."""
    return Table(tuple(header), tuple(map(tuple, rows)), align, tuple(notes), tuple(wrap))
