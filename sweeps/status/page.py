"""The status as one HTML file that follows the sweep: it reads itself again from disk, no server and no network."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from html import escape
from pathlib import Path

from sweeps.plan import big, duration
from sweeps.status.curves import MOST_CURVES, MOST_POINTS, Curve
from sweeps.status.report import Problem, Report
from sweeps.status.states import STATES
from sweeps.status.text import closing

LEFT_ALONE_SECONDS = 60.0  # a page that nobody writes again looks for a newer one now and then
MOST_NAMED = 8
TITLES = {
    "alarm": "ALARM: two attempts of one run finished with different results",
    "exit": "failed (exit): ended without a word, killed or lost",
    "error": "failed (error): an exception",
    "oom": "failed (oom): out of memory",
    "nan": "diverged",
    "disk": "failed (disk): no room to write",
    "data": "failed (data): training data",
    "timeout": "failed (timeout): ran out of time",
    "config": "failed (config): not a possible run",
    "stale": "stale: held, but silent",
    "unreadable": "unreadable: damaged files",
}
COLOURS = {"nan": "diverged", "stale": "stale", "unreadable": "unreadable"}


def page(report: Report, curves: Mapping[str, Curve], seconds: float | None) -> str:
    """The whole page; ``seconds``: how often it is written again, None for once.

    Everything that comes from files is escaped, and the page forbids itself network and foreign scripts.
    """
    folder = Path(__file__).parent
    script, style = ((folder / f"page.{kind}").read_text(encoding="utf-8") for kind in ("js", "css"))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    again = seconds or LEFT_ALONE_SECONDS
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><link rel="icon" href="data:,">'
        f'<noscript><meta http-equiv="refresh" content="{max(1, round(again))}"></noscript>'
        f"<title>{escape(_title(report))}</title><style>{style}</style></head>\n<body><main>"
        f"{_head(report, seconds)}{_problems(report)}{_curves(report, curves)}{_table()}</main>\n"
        f'<script type="application/json" id="data">{_data(report, curves, again)}</script>\n'
        f"<script>{script}</script></body></html>\n"
    )


def _title(report: Report) -> str:
    return f"{report.counts.get('done', 0)}/{len(report.states)} done: {report.sweep}"


def _data(report: Report, curves: Mapping[str, Curve], again: float) -> str:
    values = {
        "runs": report.as_json()["runs"],
        "order": list(STATES),
        "curves": {run: asdict(curve) for run, curve in curves.items()},
        "refresh_seconds": again,
    }
    text = json.dumps(values, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _head(report: Report, seconds: float | None) -> str:
    total = len(report.states)
    bar = "".join(f'<i style="--s:var(--{name});flex:{number}"></i>' for name, number in report.counts.items())
    cards = "".join(_card(name, number, report) for name, number in report.counts.items())
    often = f"written again every {seconds:g} s" if seconds else "written once; with --watch it follows the runs"
    notes = "".join(f'<p class="soft">note: {escape(warning)}</p>' for warning in report.warnings)
    return (
        f"<h1>{escape(report.sweep)}: {report.counts.get('done', 0):,} of {total:,} runs done</h1>"
        f'<p class="soft">{escape(str(report.directory))}<br>as of {escape(report.written)}, {escape(often)}</p>'
        f'<div class="bar">{bar}</div><ul class="counts">{cards}</ul>{notes}{_facts(report)}'
    )


def _card(name: str, number: int, report: Report) -> str:
    causes = ", ".join(f"{count} {cause}" for cause, count in report.causes.items()) if name == "failed" else ""
    more = f"<small>{escape(causes)}</small>" if causes else ""
    address = f'href="#state={name}" data-state="{name}" style="--s:var(--{name})"'
    return f"<li><a {address}><b>{number:,}</b>{name}{more}</a></li>"


def _facts(report: Report) -> str:
    share = report.flops_useful / report.flops_planned if report.flops_planned else 0.0
    lost = report.flops_spent - report.flops_useful
    again = f", {lost:.2e} of them on steps made again" if lost > 0 else ""
    most = ", ".join(f"{run} {count}" for run, count in report.most_attempts)
    facts = {
        "FLOPs": f"{share:.0%} done: {report.flops_spent:.2e} spent{again}, {report.flops_planned:.2e} planned",
        "speed now": f"{big(report.tokens_per_second)} tokens/s" if report.counts.get("running") else "nothing runs",
        "work left": f"{duration(report.seconds_left)} for one worker" if report.seconds_left else "none",
        "attempts": f"{report.attempts:,} of all runs{f'; most: {most}' if most else ''}",
        "next": closing(report),
    }
    entries = "".join(
        f"<div{' class=whole' if name == 'next' else ''}><dt>{escape(name)}</dt><dd>{_ticked(text)}</dd></div>"
        for name, text in facts.items()
    )
    return f'<dl class="facts">{entries}</dl>'


def _ticked(text: str) -> str:
    """Escaped, with what stands between backticks as code."""
    parts = escape(text).split("`")
    return "".join(f"<code>{part}</code>" if number % 2 else part for number, part in enumerate(parts))


def _problems(report: Report) -> str:
    if not report.problems:
        return ""
    cards = "".join(map(_problem, report.problems))
    return f'<section id="problems"><h2>Why runs stand still</h2><div class="troubles">{cards}</div></section>'


def _problem(problem: Problem) -> str:
    others = problem.runs[1:]
    more = f" and {len(others) - MOST_NAMED} more" if len(others) > MOST_NAMED else ""
    also = f'<p class="soft">also {escape(", ".join(others[:MOST_NAMED]))}{more}</p>' if others else ""
    log = f'<p class="soft">log: {escape(problem.log)}</p>' if problem.log else ""
    return (
        f'<div class="trouble{" alarm" if problem.kind == "alarm" else ""}" data-kind="{escape(problem.kind)}" '
        f'style="--s:var(--{COLOURS.get(problem.kind, "failed")})">'
        f"<h3>{escape(TITLES.get(problem.kind, problem.kind))}: {len(problem.runs):,} "
        f"run{'s' if others else ''}</h3>"
        f'<p class="soft">{escape(problem.runs[0])}</p><pre>{escape(problem.error)}</pre>'
        f"{log}{also}<p>what to do: {_ticked(problem.fix)}</p></div>"
    )


def _curves(report: Report, curves: Mapping[str, Curve]) -> str:
    begun = sum(state.attempts > 0 for state in report.states)
    points = max((len(curve.kept[0]) for curve in curves.values()), default=0)
    some = "All runs that have logged a loss"
    if len(curves) < begun:
        which = " (those in trouble and at work, then evenly chosen ones)" if begun > MOST_CURVES else ""
        some = f"Curves of {len(curves):,} of the {begun:,} runs that began{which}"
    return (
        f'<section><h2>Loss curves</h2><p class="soft">{some}, at most {points or MOST_POINTS} points each; '
        " a branch begins where it leaves its trunk. The filter below holds here too; point at a curve to "
        "see whose it is.</p>"
        '<div class="tools"><label>against <select id="x"><option value="tokens">training tokens</option>'
        '<option value="flops">compute (FLOPs)</option><option value="step">steps</option></select></label></div>'
        '<div class="legend" id="legend"></div><div id="chart"><div id="tip"></div></div>'
        '<p class="soft" id="nocurves" hidden>No run chosen here has logged a loss yet.</p></section>'
    )


def _table() -> str:
    return (
        '<section><h2>Runs</h2><div class="tools"><label>filter <input id="q" type="search" size="28" '
        'placeholder="words: d64 failed seed ..."></label><span class="soft" id="shown"></span>'
        '<button id="all" hidden>show all</button></div><noscript><p>The table and the curves need JavaScript; the '
        "numbers above do not.</p></noscript>"
        '<div class="scroll" tabindex="0"><table><thead id="head"></thead><tbody id="rows"></tbody></table></div>'
        "</section>"
    )
