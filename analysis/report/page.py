"""The parts of a self-contained HTML page: style, tables that scroll in their own box, pictures for wide and narrow."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape as escape

STYLE = """
:root { --ink:#1b1f24; --soft:#57606a; --paper:#ffffff; --card:#f5f7f9; --line:#d5dae0; --accent:#0a5c94;
  --warn:#a33b00; }
@media (prefers-color-scheme: dark) { :root { --ink:#e6e9ec; --soft:#a3adb8; --paper:#14181d; --card:#1d232a;
  --line:#38414b; --accent:#72b9ea; --warn:#ffa06b; } }
* { box-sizing:border-box; }
body { margin:0; background:var(--paper); color:var(--ink);
  font:16px/1.5 system-ui,-apple-system,"Segoe UI",sans-serif; }
main { max-width:1160px; margin:0 auto; padding:1.6rem 1.2rem 4rem; }
h1 { font-size:1.7rem; line-height:1.2; margin:0 0 .2rem; }
h2 { font-size:1.25rem; margin:2.4rem 0 .6rem; }
h3 { font-size:1.02rem; margin:1.4rem 0 .4rem; }
p { margin:.4rem 0; max-width:52rem; overflow-wrap:anywhere; }
.soft { color:var(--soft); font-size:.92rem; }
.verdict { display:grid; grid-template-columns:minmax(0,2.2fr) minmax(0,2.4fr) minmax(0,1.8fr); gap:.1rem 1.2rem;
  padding:.6rem .9rem; border:1px solid var(--line); border-left:4px solid var(--accent); background:var(--card);
  border-radius:5px; margin:.5rem 0; overflow-wrap:anywhere; }
.verdict.alarm { border-left-color:var(--warn); }
.verdict .what { font-weight:650; }
.verdict .label { color:var(--soft); font-size:.8rem; font-weight:400; display:block; }
.verdict .both { grid-column:span 2; }
.verdict .note { grid-column:1/-1; color:var(--soft); font-size:.9rem; }
.scroll { overflow-x:auto; border:1px solid var(--line); border-radius:5px; margin:.5rem 0; }
table { border-collapse:collapse; font-size:.87rem; width:100%; }
th,td { text-align:left; padding:.34rem .6rem; border-bottom:1px solid var(--line); vertical-align:top;
  white-space:nowrap; }
td.wrap { white-space:normal; min-width:17rem; overflow-wrap:anywhere; }
th { background:var(--card); font-weight:650; }
tr:last-child td { border-bottom:0; }
figure { margin:.6rem 0 1.8rem; }
figure img { width:100%; height:auto; display:block; background:#fff; border-radius:5px; padding:8px;
  border:1px solid var(--line); }
figcaption { color:var(--soft); font-size:.92rem; margin-top:.4rem; max-width:52rem; }
.missing { border-left:4px solid var(--line); padding:.2rem .8rem; color:var(--soft); font-size:.92rem; }
.formula { font-family:ui-monospace,SFMono-Regular,Menlo,monospace; font-size:.9rem; margin:.2rem 0 .5rem; }
details summary { cursor:pointer; font-weight:650; margin:.6rem 0; }
@media (max-width:760px) {
  main { padding:1rem .8rem 3rem; }
  .verdict { grid-template-columns:minmax(0,1fr); }
  .verdict .both { grid-column:auto; }
}
"""


def document(title: str, body: str) -> str:
    """A whole page without scripts or outside files."""
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><link rel="icon" href="data:,">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head>\n<body><main>{body}</main></body></html>\n"
    )


def table(header: Sequence[str], rows: Sequence[Sequence[str]], wrap: Sequence[str] = ()) -> str:
    """A table in its own scroll box; columns named in ``wrap`` may break lines. Cells are escaped here."""
    head = "".join(f"<th>{escape(name)}</th>" for name in header)
    kinds = [' class="wrap"' if name in wrap else "" for name in header]
    body = "".join(
        "<tr>" + "".join(f"<td{kind}>{escape(cell)}</td>" for kind, cell in zip(kinds, row, strict=True)) + "</tr>"
        for row in rows
    )
    return f'<div class="scroll" tabindex="0"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


@dataclass(frozen=True)
class Card:
    """One answer: the question, the verdict, the numbers behind it (one per line), and where they were tested."""

    question: str
    verdict: str
    numbers: tuple[str, ...] = ()
    numbers_label: str = "95 % interval"
    tested: str = ""
    note: str = ""
    alarm: bool = False
    tested_label: str = "tested range"

    def html(self) -> str:
        """A row of three on wide windows, stacked on narrow ones."""
        cells = _cell(self.question, escape(self.verdict), "what")
        kind = "" if self.tested else "both"
        cells += _cell(self.numbers_label, "<br>".join(map(escape, self.numbers)), kind) if self.numbers else _EMPTY
        cells += _cell(self.tested_label, escape(self.tested)) if self.tested else ""
        remark = f'<div class="note">{escape(self.note)}</div>' if self.note else ""
        return f'<div class="verdict{" alarm" if self.alarm else ""}">{cells}{remark}</div>'


_EMPTY = "<div></div>"


def _cell(label: str, content: str, kind: str = "") -> str:
    return f'<div class="{kind}"><span class="label">{escape(label)}</span>{content}</div>'


def picture(title: str, caption: str, wide_svg: str, narrow_svg: str) -> str:
    """A figure with a layout for wide windows and one for narrow ones."""
    wide, narrow = (base64.b64encode(svg.encode()).decode() for svg in (wide_svg, narrow_svg))
    kind = "data:image/svg+xml;base64,"
    return (
        f'<h3>{escape(title)}</h3><figure><picture><source media="(max-width:760px)" srcset="{kind}{narrow}">'
        f'<img src="{kind}{wide}" alt="{escape(title)}. {escape(caption)}"></picture>'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )


def missing(title: str, why: str) -> str:
    """The heading of a picture that could not be drawn, and the reason."""
    return f'<h3>{escape(title)}</h3><p class="missing">Not drawn: {escape(why)}.</p>'.replace("..</p>", ".</p>")


def folded(title: str, *parts: str) -> str:
    """What stands under a title that opens it."""
    return f"<details><summary>{escape(title)}</summary>{''.join(parts)}</details>"


def formula(text: str) -> str:
    """A formula on its own line; a long one breaks."""
    return f'<p class="formula">{escape(text)}</p>'


def section(title: str, *parts: str) -> str:
    """A heading and what stands under it; nothing when there is nothing."""
    inner = "".join(part for part in parts if part)
    return f"<section><h2>{escape(title)}</h2>{inner}</section>" if inner else ""


def paragraph(text: str, kind: str = "") -> str:
    """One paragraph."""
    return f'<p class="{kind}">{escape(text)}</p>' if kind else f"<p>{escape(text)}</p>"
