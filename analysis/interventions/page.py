"""Blocks written as a page: index.html (one file, no scripts) and README.md with its pictures, which GitHub shows.

The same blocks give the same bytes: no date, no path, no random number goes into a page.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from analysis import plots
from analysis.interventions.blocks import Block, Bullets, Figure, Heading, Table, Text, Verdict
from analysis.plots.intervention import to_png
from analysis.report import page

_SIDES = {"l": "left", "r": "right", "c": "center"}
_RULES = {"l": ":---", "r": "---:", "c": ":---:"}


def write_page(
    title: str, blocks: Sequence[Block], out: Path, on_picture: Callable[[str, int], None] = lambda title, total: None
) -> Path:
    """Write out/index.html, out/README.md and out/NAME.png of every picture; returns the path of index.html.

    on_picture(title, total): called before each picture. Raises ``ValueError`` when two pictures share a name.
    """
    names = [block.name for block in blocks if isinstance(block, Figure)]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"two pictures of the page are called {twice[0]!r}; each becomes a file of its name")
    out.mkdir(parents=True, exist_ok=True)
    parts = [f"<h1>{page.escape(title)}</h1>"]
    for block in blocks:
        if isinstance(block, Figure):
            on_picture(block.title, len(names))
            wide = block.draw(False)
            _write(out / f"{block.name}.png", to_png(wide))
            parts.append(page.picture(block.title, block.caption, plots.to_svg(wide), plots.to_svg(block.draw(True))))
        else:
            parts.append(html_of(block))
    _write(out / "README.md", markdown(title, blocks).encode())
    _write(out / "index.html", page.document(title, "".join(parts)).encode())
    return out / "index.html"


def _write(path: Path, content: bytes) -> None:
    staged = path.with_name(f".{path.name}.tmp")
    staged.write_bytes(content)
    staged.replace(path)


def html_of(block: Heading | Text | Bullets | Verdict | Table) -> str:
    """One block that is no picture, as HTML."""
    match block:
        case Heading(text, level):
            return f"<h{level}>{page.escape(text)}</h{level}>"
        case Text(text, soft):
            return page.paragraph(text, "soft" if soft else "")
        case Bullets(items):
            return "<ul>" + "".join(f"<li><p>{page.escape(item)}</p></li>" for item in items) + "</ul>"
        case Verdict():
            return page.Card(
                block.question, block.verdict, block.numbers, block.numbers_label, block.tested, block.note, block.alarm
            ).html()
        case Table():
            return _html_table(block) + "".join(page.paragraph(note, "soft") for note in block.notes)


def _html_table(block: Table) -> str:
    def cell(tag: str, text: str, name: str, side: str) -> str:
        kind = ' class="wrap"' if name in block.wrap and tag == "td" else ""
        turn = f' style="text-align:{_SIDES[side]}"' if side != "l" else ""
        return f"<{tag}{kind}{turn}>{page.escape(text)}</{tag}>"

    def line(tag: str, texts: Sequence[str]) -> str:
        cells = zip(texts, block.header, block.alignment, strict=True)
        return "<tr>" + "".join(cell(tag, *one) for one in cells) + "</tr>"

    body = "".join(line("td", row) for row in block.rows)
    head = f"<thead>{line('th', block.header)}</thead>"
    return f'<div class="scroll" tabindex="0"><table>{head}<tbody>{body}</tbody></table></div>'


def markdown(title: str, blocks: Sequence[Block]) -> str:
    """The page as Markdown; pictures are NAME.png beside it."""
    return "\n\n".join([f"# {_plain(title)}", *map(_markdown_of, blocks)]) + "\n"


def _markdown_of(block: Block) -> str:
    match block:
        case Heading(text, level):
            return f"{'#' * level} {_plain(text)}"
        case Text(text, _):
            return _plain(text)
        case Bullets(items):
            return "\n".join(f"- {_plain(item)}" for item in items)
        case Verdict():
            return _markdown_verdict(block)
        case Table():
            return _markdown_table(block)
        case Figure(name, heading, caption, _):
            alt = _plain(f"{heading}. {caption}").replace("[", "(").replace("]", ")")
            return f"### {_plain(heading)}\n\n![{alt}]({name}.png)\n\n{_plain(caption)}"


def _markdown_verdict(block: Verdict) -> str:
    mark = "⚠ " if block.alarm else ""
    lines = [f"**{_plain(block.question)}**", f"{mark}{_plain(block.verdict)}"]
    if block.numbers:
        lines.append(f"{_plain(block.numbers_label)}: {'; '.join(map(_plain, block.numbers))}")
    if block.tested:
        lines.append(f"tested: {_plain(block.tested)}")
    if block.note:
        lines.append(f"*{_plain(block.note)}*")
    return "\n>\n".join(f"> {line}" for line in lines)


def _markdown_table(block: Table) -> str:
    rule = "| " + " | ".join(_RULES[side] for side in block.alignment) + " |"
    rows = ["| " + " | ".join(_cell(text) for text in row) + " |" for row in (block.header, *block.rows)]
    notes = [f"\n{_plain(note)}" for note in block.notes]
    return "\n".join([rows[0], rule, *rows[1:], *notes])


def _cell(text: str) -> str:
    return _plain(text).replace("|", "\\|") or " "


def _plain(text: str) -> str:
    """Text that Markdown does not read as markup: stars, underscores, angle brackets and backticks escaped."""
    for sign in ("\\", "*", "_", "`", "<", "~~"):
        text = text.replace(sign, "".join("\\" + c for c in sign))
    return " ".join(text.split())
