"""Held-out questions as a score: accuracy and loss by kind, from one forward pass over packed rows.

Shape legend: B rows, T positions, G learned positions, V vocabulary, R questions of a batch.

A greedy answer is right if and only if every word of the true answer is the likeliest one after the words before it,
and then "Q" or "<end>" is: so what ``nmm.sft`` finds by generating is read off one pass, for all questions of a row.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from nmm.batch import END_ID, IMAGE_ID, PAD_ID, Batch
from nmm.config import ConfigError, RunConfig
from nmm.data.loader import to_torch
from nmm.data.manifest import Shards
from nmm.data.sft import ANSWER, tuning
from nmm.data.source import RowSource
from nmm.flops import forward_flops
from nmm.model.fusion import NativeMultimodalModel
from nmm.model.loss import target_losses

BATCH_ROWS = 16
CAPTION = "caption"  # the kind of a caption's own words

Marks = dict[str, dict[str, float]]  # {"accuracy": {kind: ..., "avg": ...}, "loss": {...}, "questions": {kind: number}}


@dataclass(frozen=True)
class Sheet:
    """A batch and what its (G,) learned positions are: number of the kind (-1 for none), number of the question (-1 for
    none, 0..R-1), and whether the target ends an answer.
    """

    batch: Batch
    kind: Tensor
    question: Tensor
    is_end: Tensor


@dataclass(frozen=True)
class Paper:
    """Held-out questions of one split. ``kinds`` are numbered; ``facts`` say which questions these are."""

    sheets: Sequence[Sheet]
    kinds: tuple[str, ...]
    question_id: int
    facts: Mapping[str, Any]
    flops: float  # of one pass over them

    @torch.no_grad()
    def mark(self, model: NativeMultimodalModel) -> Marks:
        """The marks of a model, left as it was. Loss is nats a token of the answer (of a caption: of its words).

        Raises ValueError for a model whose loss is not finite.
        """
        right, asked = torch.zeros(len(self.kinds)).double(), torch.zeros(len(self.kinds)).double()
        nll, tokens = right.clone(), right.clone()
        for sheet in self.sheets:
            output = model(sheet.batch)
            scored = (sheet.kind >= 0) & ~sheet.is_end
            at = sheet.kind[scored].cpu()
            losses = target_losses(output, sheet.batch).double()[scored].cpu()
            nll.index_add_(0, at, losses)
            tokens.index_add_(0, at, torch.ones_like(losses))
            kind_R, right_R = self._answered(output.logits, sheet)
            right.index_add_(0, kind_R, right_R.double())
            asked.index_add_(0, kind_R, torch.ones_like(right_R, dtype=torch.double))
        if not torch.isfinite(nll).all():
            raise ValueError("the loss on held-out questions is not finite: these weights are those of no sound model")
        return self._marks(right / asked, nll / tokens, asked)

    def _answered(self, logits_GV: Tensor, sheet: Sheet) -> tuple[Tensor, Tensor]:
        """(R,) kind of every question and whether its greedy answer is the true one."""
        target_G = sheet.batch.targets.reshape(-1)[sheet.batch.weights.reshape(-1) > 0]
        not_text = torch.tensor([PAD_ID, IMAGE_ID], device=logits_GV.device)
        said_G = logits_GV.index_fill(1, not_text, -math.inf).argmax(dim=1)
        stops_G = (said_G == END_ID) | (said_G == self.question_id)
        right_G = torch.where(sheet.is_end, stops_G, said_G == target_G)
        inside = sheet.question >= 0
        number, right, kind = (x[inside].cpu() for x in (sheet.question, right_G, sheet.kind))
        count = int(number.max()) + 1 if len(number) else 0
        all_right_R = torch.ones(count, dtype=torch.long).scatter_reduce_(0, number, right.long(), "amin")
        return torch.zeros(count, dtype=torch.long).scatter_(0, number, kind), all_right_R

    def _marks(self, accuracy: Tensor, loss: Tensor, asked: Tensor) -> Marks:
        marks: Marks = {"accuracy": {}, "loss": {}, "questions": {}}
        for number, kind in enumerate(self.kinds):
            marks["loss"][kind] = loss[number].item()
            if kind != CAPTION:
                marks["accuracy"][kind] = accuracy[number].item()
                marks["questions"][kind] = asked[number].item()
        for values in (marks["accuracy"], marks["loss"]):
            if values:
                values["avg"] = sum(values.values()) / len(values)
        return marks


def make_paper(
    shards: Shards, config: RunConfig, split: str, sources: Sequence[str], kinds: Sequence[str], rows: int
) -> Paper:
    """The questions in the first ``rows`` packed rows (0: all) of every source: the same for every model.

    ``kinds``: the only ones that count; empty: every kind of question there is. Raises ValueError when there are fewer
    rows, and ``ConfigError`` for a kind that is not asked.
    """
    asked, names = tuning(shards.tokenizer).question_id, shards.tokenizer.words
    batches = [batch for source in sources for batch in _batches(shards, config, source, split, rows)]
    found = [_positions(batch, asked) for batch in batches]
    present = {names[i] for kind_G, _, _ in found for i in kind_G[kind_G > 0].unique().tolist()} | {CAPTION}
    missing = [kind for kind in kinds if kind not in present]
    if missing or present == {CAPTION}:
        raise ConfigError(
            f"{shards.root}: no question of kind {', '.join(missing) or 'any'} in {rows or 'all'} rows of "
            f"{', '.join(sources)} {split}; there are {', '.join(sorted(present))}. Ask for more rows, or render more"
        )
    chosen = tuple(kinds) or tuple(sorted(present - {CAPTION}))
    number = {(0 if kind == CAPTION else shards.tokenizer.ids[kind]): i for i, kind in enumerate(chosen)}
    sheets = [_sheet(batch, parts, number) for batch, parts in zip(batches, found, strict=True)]
    facts = {"shards": shards.fingerprint, "split": split, "sources": list(sources), "rows": rows,
             "kinds": list(chosen), "context_length": config.data.context_length}  # fmt: skip
    return Paper(sheets, chosen, asked, facts, _flops(config, batches))


def _batches(shards: Shards, config: RunConfig, source: str, split: str, rows: int) -> list[Batch]:
    data = config.row_data
    stream = RowSource(
        shards, {source: 1.0}, data.context_length, data.patch_size, 0, split, once_in_order=True, stage="sft"
    )
    available = stream.rows_available()
    if rows > available:
        raise ValueError(
            f"rows={rows}: {source} {split} of {shards.root} fills {available} rows of {data.context_length} positions"
            "; ask for fewer, or rows=0 for all"
        )
    rows = rows or available
    return [to_torch(stream.rows_at(at, min(BATCH_ROWS, rows - at))) for at in range(0, rows, BATCH_ROWS)]


def _positions(batch: Batch, question_id: int) -> tuple[Tensor, Tensor, Tensor]:
    """(G,) each: id of the word that names the kind (0: of a caption, -1: of nothing that is scored), number of the
    question (-1: none), and whether the target ends an answer. Answers that the end of the row cuts off are left out.
    """
    tokens, flat = batch.tokens.reshape(-1), torch.arange(batch.tokens.numel())
    at_G = batch.weights.reshape(-1).nonzero().squeeze(1)
    is_answer = batch.classes.reshape(-1)[at_G] == ANSWER
    follows = torch.zeros_like(is_answer)
    follows[1:] = (at_G[1:] == at_G[:-1] + 1) & is_answer[:-1]
    is_end = follows & ~is_answer
    opens = is_answer & ~follows
    number = torch.where(is_answer | is_end, opens.long().cumsum(0) - 1, -1)
    whole = torch.zeros(int(opens.sum()) + 1, dtype=torch.bool).index_fill_(0, number[is_end], True)
    whole[-1] = False  # number -1
    latest = torch.where(tokens == question_id, flat, -1).cummax(dim=0).values[at_G]
    named = tokens[(latest + 1).clamp(max=len(tokens) - 1)]
    kind = torch.where(number < 0, 0, torch.where(whole[number], named, -1))
    return kind, torch.where(whole[number], number, -1), is_end


def _sheet(batch: Batch, parts: tuple[Tensor, Tensor, Tensor], numbers: Mapping[int, int]) -> Sheet:
    """The batch with kinds by their numbers, others as none, and the remaining questions numbered from 0."""
    ids, question, is_end = parts
    table = torch.full((int(ids.max()) + 2,), -1)
    for word, number in numbers.items():
        if word < len(table) - 1:
            table[word] = number
    kind = table[ids]  # -1 is the last entry, which stays -1
    question = torch.where(kind >= 0, question, -1)
    has_none = int((question < 0).any())
    return Sheet(batch, kind, question.unique(return_inverse=True)[1] - has_none, is_end)


def _flops(config: RunConfig, batches: Sequence[Batch]) -> float:
    """Forward FLOPs of one pass over ``batches``."""
    positions = sum(batch.tokens.numel() for batch in batches)
    images = sum(int((batch.tokens == IMAGE_ID).sum()) for batch in batches)
    targets = sum(int((batch.weights > 0).sum()) for batch in batches)
    return forward_flops(config, images / positions, targets / positions).total * positions
