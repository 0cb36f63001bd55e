"""A soup: select on one split, average, report on another; written as an export that every other command reads.

OUT/model.safetensors  fp32 weights       OUT/soup.json     members, weights, every trial, marks, FLOPs
OUT/config.json        settings, lineage  OUT/scores.jsonl  marks of every trial by content, so that a soup goes on
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from nmm.config import CODE_NUMERICS, ConfigError, canonical_json, to_dict
from nmm.data.late_bar import LateBar
from nmm.data.manifest import Shards, open_shards
from nmm.interventions.soup_members import Member, check_together, check_words, open_member
from nmm.interventions.soup_options import SoupOptions
from nmm.interventions.soup_pot import Pot
from nmm.interventions.soup_score import Marks, Paper, make_paper
from nmm.interventions.soup_select import Members, Trials, passes_to_choose, select
from nmm.origin import WEIGHTS
from nmm.record import read_json, write_atomic, write_json

SCHEMA = 2
SOUP_FILE = "soup.json"
_NOT_ASKED = ("runs", "shards", "out", "scores", "list", "start")  # change no number, or are asked by content


def make_soup(options: SoupOptions) -> dict[str, Any]:
    """Make the soup that ``options`` (checked) describe and return soup.json; made before, it is only read.

    Raises ``ConfigError`` for members that do not go together and for an OUT that holds something else.
    """
    members = [open_member(Path(run)) for run in options.runs]
    check_together(members, options.different_starts)
    if options.method == "model_stock" and not _have_one_start(members):
        raise ConfigError("method=model_stock needs the run or export that all members began with (start=run); "
                          "these members have none in common")  # fmt: skip
    shards = open_shards(options.shards)
    check_words(members, shards, options.vocabulary)
    asked = _asked(options, members, shards)
    done = _made_before(Path(options.out), asked)
    return done if done is not None else _make(options, members, shards, asked)


def _have_one_start(members: Sequence[Member]) -> bool:
    start = members[0].start
    return start is not None and "trunk" not in start and all(member.start == start for member in members)


def _asked(options: SoupOptions, members: Sequence[Member], shards: Shards) -> dict[str, Any]:
    """What the soup depends on, by content."""
    kept = {k: v for k, v in dataclasses.asdict(options).items() if k not in _NOT_ASKED}
    if options.method != "maximum":
        kept.pop("best")
    asked = {**kept, "members": [member.digest for member in members], "shards": shards.fingerprint}
    return dict(json.loads(canonical_json(asked)))


def _made_before(out: Path, asked: Mapping[str, Any]) -> dict[str, Any] | None:
    if not (out / SOUP_FILE).is_file():
        config = out / "config.json"
        if config.exists() and "soup" not in read_json(config):
            raise ConfigError(f"out={out} is another run or export; give a soup a folder of its own")
        return None
    found: dict[str, Any] = read_json(out / SOUP_FILE)
    if found["asked"] == asked:
        return found if found["schema"] == SCHEMA else None  # made again, from the scores that are kept
    differing = [key for key in {*asked, *found["asked"]} if asked.get(key) != found["asked"].get(key)]
    raise ConfigError(f"out={out} holds another soup ({', '.join(sorted(differing))} differ); give another out=")


# ---------------------------------------------------------------------------------------------------------------------


class _Scores:
    """Marks of soups on two splits, each computed once: kept in a file by the content of members and questions."""

    def __init__(self, options: SoupOptions, pot: Pot, papers: Sequence[Paper], bar: LateBar) -> None:
        self.pot, self.papers, self.bar = pot, papers, bar
        self.metric, self.asked = options.metric, tuple(set[str]() for _ in papers)
        self.file = Path(options.scores) if options.scores else Path(options.out) / "scores.jsonl"
        self.known = _read_scores(self.file)

    def score(self, members: Members) -> float:
        """Of the split that decides."""
        return self.marks(members, 0)[self.metric]["avg"]

    def both(self, members: Members, is_stock: bool = False) -> dict[str, Marks]:
        """Marks by split. ``is_stock``: of what Model Stock left in the model, not of the mean."""
        return {str(paper.facts["split"]): self.marks(members, n, is_stock) for n, paper in enumerate(self.papers)}

    def marks(self, members: Members, number: int, is_stock: bool = False) -> Marks:
        """Marks of the mean of ``members`` on paper ``number``."""
        paper = self.papers[number]
        asked = {"members": [self.pot.members[i].digest for i in members], "code": CODE_NUMERICS, **paper.facts}
        if is_stock:
            asked["stock"] = self.pot.members[0].start
        key = hashlib.sha256(canonical_json(asked).encode()).hexdigest()
        self.asked[number].add(key)
        if key not in self.known:
            if not is_stock:
                self.pot.load(members)
            self.known[key] = paper.mark(self.pot.model)
            _append(self.file, json.dumps({"key": key, "marks": self.known[key]}))
        self.bar.advance()
        return self.known[key]


def _read_scores(file: Path) -> dict[str, Marks]:
    """Marks by key; a line that a stopped process left half written does not count."""
    if not file.is_file():
        return {}
    known = {}
    for line in file.read_text(encoding="utf-8").splitlines():
        with contextlib.suppress(json.JSONDecodeError):
            entry = json.loads(line)
            known[entry["key"]] = entry["marks"]
    return known


def _append(file: Path, line: str) -> None:
    """One line more, which begins anew if the last one was left half written."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with open(file, "ab+") as out:
        if out.tell():
            out.seek(-1, os.SEEK_END)
            line = line if out.read(1) == b"\n" else f"\n{line}"
        out.write(f"{line}\n".encode())


def _make(options: SoupOptions, members: Sequence[Member], shards: Shards, asked: dict[str, Any]) -> dict[str, Any]:
    """Select, average, mark, write."""
    sources = options.sources or tuple(s for s in ("caption", "interleaved") if s in shards.sources)
    decides = make_paper(shards, members[0].settings, options.select, sources, options.kinds, options.rows)
    reports = make_paper(shards, members[0].settings, options.report, sources, decides.kinds, options.rows)
    papers = (decides, reports)
    pot, out, count = Pot(members), Path(options.out), len(members)
    rounds = count * (count + 1) // 2 if options.method == "individual_select" else 2 * count - 1
    with contextlib.closing(LateBar(f"soup {out.name}: passes", rounds + 4, every=1)) as bar:
        scores = _Scores(options, pot, papers, bar)
        trials = Trials(scores.score, options.is_higher_better)
        chosen = select(options.method, count, trials, options.best)
        top = trials.ranked(count)[0]
        best = {"member": top, "marks": scores.both((top,))}
        is_stock = options.method == "model_stock"
        ratios = pot.stock(chosen, options.start) if is_stock else None
        marks = scores.both(chosen, is_stock)
        if not is_stock:
            pot.load(chosen)
    passes = (passes_to_choose(options.method, trials), len(scores.asked[1]))
    selection, report = (n * paper.flops for n, paper in zip(passes, papers, strict=True))
    fine_tunes = sum(member.flops for member in members)
    content = {
        "schema": SCHEMA,
        "asked": asked,
        "members": [{**m.facts(), "weight": 1 / len(chosen) if i in chosen else 0.0} for i, m in enumerate(members)],
        "chosen": list(chosen),
        "trials": [{"members": list(tried), "score": score} for tried, score in trials.tried.items()],
        "marks": marks,
        "best_single": best,
        "evaluations": dict(zip((options.select, options.report), passes, strict=True)),
        "flops": {
            "pass": dict(zip((options.select, options.report), (paper.flops for paper in papers), strict=True)),
            "fine_tunes": fine_tunes,
            "selection": selection,
            "report": report,
            "total": fine_tunes + selection,  # what the soup cost; to know how good it is costs more passes
        },
        "start": members[0].start if all(m.start == members[0].start for m in members) else None,
        "ratios": ratios,
    }
    _write(out, pot, content, to_dict(members[chosen[0]].settings))
    return content


def _write(out: Path, pot: Pot, content: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
    """soup.json last: it means that the soup is whole."""
    out.mkdir(parents=True, exist_ok=True)
    pot.empty()  # the model has them; writing takes room as well
    write_atomic(out / WEIGHTS, lambda file: save_file(pot.weights, file.name, metadata={"format": "pt"}))
    lineage = {
        "method": content["asked"]["method"],
        "members": [content["members"][i]["name"] for i in content["chosen"]],
        "start": content["start"],
        "flops": content["flops"]["total"],
        "result": content["marks"],
    }
    write_json(out / "config.json", {"settings": settings, "soup": lineage})
    write_json(out / SOUP_FILE, content)
