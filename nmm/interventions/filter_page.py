"""OUT/filter.html: what a filter kept, for the eye. Self-contained, without scripts."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from nmm.data.derived import SPLIT, samples_of
from nmm.data.manifest import Shards
from nmm.interventions.filter_truth import Facts
from nmm.record import write_atomic

COLOURS = {
    "clean": "#2a9187", "serial": "#d9822b", "wrong": "#c2506b", "boilerplate": "#7a5bb0", "repeated": "#8a7a2d",
    "several": "#22272e", "not labelled": "#2f6fb3",
}  # fmt: skip
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
BINS, WIDTH, HEIGHT = 60, 900, 260
EXAMPLES = 8
STYLE = """
body { font:16px/1.5 system-ui,sans-serif; color:#1d2126; background:#fbfaf7; margin:0; }
main { max-width:1000px; margin:0 auto; padding:1.5rem 1rem 4rem; }
h1 { font-size:1.6rem; margin:0; } h2 { font-size:1.2rem; margin:2rem 0 .4rem; }
p { margin:.3rem 0; } .soft { color:#626a73; }
table { border-collapse:collapse; margin:.6rem 0; } th,td { padding:.2rem .9rem .2rem 0; text-align:right; }
th:first-child,td:first-child { text-align:left; } tr { border-bottom:1px solid #dcd9d1; }
svg { width:100%; height:auto; background:#fff; border:1px solid #dcd9d1; border-radius:6px; }
.legend span { display:inline-block; margin-right:1rem; } .legend i { display:inline-block; width:.8em; height:.8em;
  border-radius:3px; margin-right:.35em; }
.cards { display:grid; grid-template-columns:repeat(auto-fill,minmax(280px,1fr)); gap:.7rem; }
.card { background:#fff; border:1px solid #dcd9d1; border-radius:6px; padding:.5rem .7rem; display:flex; gap:.7rem; }
.card img { width:72px; height:72px; image-rendering:pixelated; flex:none; border-radius:3px; }
.card p { font-size:.88rem; margin:0; overflow-wrap:anywhere; }
"""


def write_page(
    path: Path,
    shards: Shards,
    report: Mapping[str, Any],
    facts: Sequence[Facts],
    scores: np.ndarray | None,
    kept: np.ndarray,
) -> None:
    """Write the page; ``report`` is what filter.json holds."""
    parts = [f"<h1>{escape(_title(report))}</h1>", *(f"<p>{escape(line)}</p>" for line in _lines(report))]
    if scores is not None:
        parts += ["<h2>Scores</h2>", histogram(scores, kept, [kind_of(one) for one in facts])]
    parts += _truth(report) + _coverage(report)
    if scores is not None:
        parts += _examples(shards, report["asked"]["source"], facts, scores, kept)
    head = f'<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>nmm filter</title><style>{STYLE}</style>'
    policy = f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
    page = f"{head}{policy}</head><body><main>{''.join(parts)}</main></body></html>\n"
    write_atomic(path, lambda file: file.write(page.encode()))


def kind_of(one: Facts) -> str:
    """The one label that a colour stands for."""
    if one.labels is None:
        return "not labelled"
    return "clean" if not one.labels else one.labels[0] if len(one.labels) == 1 else "several"


def _title(report: Mapping[str, Any]) -> str:
    asked = report["asked"]
    return f"{report['kept']:,} of {report['samples']:,} {asked['source']} samples: {asked['band']} {asked['keep']:.0%}"


def _lines(report: Mapping[str, Any]) -> list[str]:
    asked, cost = report["asked"], report["cost"]
    lines = [
        f"Score: {asked['score']}, by {report['reference']}." if report["reference"] else "No scores: drawn at random."
    ]
    if cost["scoring_flops"]:
        training = "not known" if cost["reference_flops"] is None else f"{cost['reference_flops']:.3g} FLOPs"
        covers = cost["reference_flops_are"]
        lines.append(
            f"Cost: {cost['scoring_flops']:.3g} FLOPs for scoring; the reference's training {training} ({covers})."
        )
    if report["truncated"]:
        lines.append(f"{report['truncated']:,} samples are longer than a row of the reference and were scored in part.")
    return lines


def histogram(scores: np.ndarray, kept: np.ndarray, kinds: Sequence[str]) -> str:
    """Stacked bars by kind over the score; the kept stretch is marked below. The last bins hold what lies beyond."""
    found = np.isfinite(scores)
    low, high = np.quantile(scores[found], [0.0, 0.999])
    edges = np.linspace(low, high if high > low else low + 1, BINS + 1)
    place = np.clip(np.searchsorted(edges, scores, side="right") - 1, 0, BINS - 1)
    names = [name for name in COLOURS if name in set(kinds)]
    label = np.array([names.index(kind) for kind in kinds])
    counts = np.array([np.bincount(place[found & (label == n)], minlength=BINS) for n in range(len(names))])
    tops = np.cumsum(counts, axis=0)
    scale = (HEIGHT - 40) / max(1, tops[-1].max())
    wide = WIDTH / BINS
    bars = [
        f'<rect x="{b * wide:.1f}" y="{HEIGHT - 30 - tops[n, b] * scale:.1f}" width="{wide - 1:.1f}" '
        f'height="{counts[n, b] * scale:.2f}" fill="{COLOURS[name]}"/>'
        for n, name in enumerate(names)
        for b in range(BINS)
        if counts[n, b]
    ]
    share = [kept[found & (place == b)].mean() if (found & (place == b)).any() else 0 for b in range(BINS)]
    strip = [
        f'<rect x="{b * wide:.1f}" y="{HEIGHT - 27}" width="{wide:.1f}" height="6" fill="#1d2126" opacity="{s:.2f}"/>'
        for b, s in enumerate(share)
        if s
    ]
    marks = ((2, edges[0], "start"), (WIDTH / 2, edges[BINS // 2], "middle"), (WIDTH - 2, edges[-1], "end"))
    ticks = [
        f'<text x="{x:.0f}" y="{HEIGHT - 5}" font-size="13" text-anchor="{anchor}" fill="#626a73">{value:.3g}</text>'
        for x, value, anchor in marks
    ]
    legend = "".join(f'<span><i style="background:{COLOURS[name]}"></i>{name}</span>' for name in names)
    drawn = "".join([*bars, *strip, *ticks])
    svg = f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="histogram of scores">{drawn}</svg>'
    return f'<p class="legend">{legend}<span class="soft">dark strip: kept</span></p>{svg}'


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{escape(cell)}</th>" for cell in header)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><tr>{head}</tr>{body}</table>"


def _truth(report: Mapping[str, Any]) -> list[str]:
    truth = report["truth"]
    if truth is None:
        return ["<h2>Truth</h2><p class='soft'>The samples carry no labels of noise.</p>"]
    whole, part = report["samples"], report["kept"]
    rows = [
        (name, f"{n['pool']:,}", f"{n['pool'] / whole:.1%}", f"{n['kept']:,}", f"{n['kept'] / part:.1%}")
        for name, n in truth["labels"].items()
    ]
    recall = "-" if truth["recall"] is None else f"{truth['recall']:.1%}"
    best = min(1.0, truth["labels"].get("clean", {"pool": 0})["pool"] / report["kept"])
    return [
        "<h2>Truth</h2>",
        _table(("label", "pool", "share", "kept", "share"), rows),
        f"<p>Precision: {truth['precision']:.1%} of the kept samples are clean (at most {best:.1%} could be). Recall: "
        f"{recall} of the clean samples are kept. A sample with several kinds of noise counts for each.</p>",
    ]


def _coverage(report: Mapping[str, Any]) -> list[str]:
    pool, kept = report["coverage"]["pool"], report["coverage"]["kept"]
    names = {
        "entities": "distinct entities",
        "entity_entropy": "entropy of entities (nats)",
        "colour_entropy": "entropy of colours (nats)",
        "shape_entropy": "entropy of shapes (nats)",
        "tail_share": f"share of entities from rank {report['first_of_tail']} on",
    }
    rows = [(label, f"{pool[name]:,.4g}", f"{kept[name]:,.4g}") for name, label in names.items()]
    return ["<h2>Coverage of the pictures</h2>", _table(("", "pool", "kept"), rows)]


def _examples(shards: Shards, source: str, facts: Sequence[Facts], scores: np.ndarray, kept: np.ndarray) -> list[str]:
    order = np.argsort(scores, kind="stable")
    order = order[np.isfinite(scores[order])]
    edges = np.flatnonzero(np.diff(kept[order].astype(int)))
    cut = int(edges[-1]) + 1 if len(edges) else len(order) // 2
    around = order[max(0, cut - EXAMPLES // 2) : cut + EXAMPLES // 2]
    groups = {"Lowest scores": order[:EXAMPLES], "Around the cut": around, "Highest scores": order[-EXAMPLES:]}
    pictures = _pictures(shards, source, {int(n) for numbers in groups.values() for n in numbers})
    parts = []
    for title, numbers in groups.items():
        cards = "".join(_card(facts[n], scores[n], bool(kept[n]), pictures[n]) for n in map(int, numbers))
        parts.append(f'<h2>{title}</h2><div class="cards">{cards}</div>')
    return parts


def _card(one: Facts, score: float, is_kept: bool, pictures: Sequence[str]) -> str:
    shown = "".join(f'<img alt="" src="{uri}">' for uri in pictures)
    label = "" if one.labels is None else f" &middot; {escape(' + '.join(one.labels) or 'clean')}"
    said = escape(one.text.replace("<image>", "").strip())
    return (
        f'<div class="card">{shown}<p><b>{score:.3f}</b> {"kept" if is_kept else "left out"}{label}<br>{said}</p></div>'
    )


def _pictures(shards: Shards, source: str, wanted: set[int]) -> dict[int, list[str]]:
    """Sample number -> data URIs of its pictures."""
    found: dict[int, list[str]] = {}
    first = 0
    for info in shards.split(source, SPLIT).shards:
        if any(first <= n < first + info.samples for n in wanted):
            for place, sample in enumerate(samples_of(shards, info)):
                if first + place in wanted:
                    found[first + place] = [
                        f"data:image/{kind.rpartition('.')[2]};base64,{base64.b64encode(body).decode()}"
                        for kind, body in sample.members.items()
                        if kind.rpartition(".")[2] in ("png", "jpg", "jpeg", "webp")
                    ]
        first += info.samples
    return found
