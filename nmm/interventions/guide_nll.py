"""How well a guided model predicts held-out text: log-probabilities of given tokens, nothing is drawn.

Shape legend: B rows, T positions, G targets, V vocabulary of the base.

Every model reads a batch once, whatever the number of alphas. The probability of a token is that of the whole softmax
of the summed logits, as in ``nmm.evaluate``, so alpha 0 is the base's own held-out loss.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from nmm.batch import Batch
from nmm.config import RunConfig
from nmm.evaluate import CLASS_NAMES
from nmm.generate import evaluating
from nmm.interventions.guide import checked_same, combined, difference, shown_tokens
from nmm.interventions.guide_vocab import Vocabulary
from nmm.model.decode import Prompt, prompt_batch
from nmm.model.fusion import NativeMultimodalModel


@dataclass(frozen=True)
class GuidedLoss:
    """Mean loss (nats a token) at one alpha: by source with their plain mean ``avg``, and by class of token over all.

    ``excess``: by class, above the known entropy of the very same tokens; None where that is not known. Classes that do
    not occur are left out.
    """

    alpha: float
    loss: dict[str, float]
    classes: dict[str, float]
    excess: dict[str, float | None]
    targets: int


def guided_nll(
    base: NativeMultimodalModel,
    expert: NativeMultimodalModel | None,
    amateur: NativeMultimodalModel | None,
    batches: Mapping[str, Sequence[Batch]],
    alphas: Sequence[float],
    vocabulary: Vocabulary | None = None,
) -> list[GuidedLoss]:
    """The loss of base + alpha (expert - amateur) on batches of every source, one for each alpha.

    All models read the same rows, so their pictures must be of one size. Raises ValueError for a target that the guides
    rule out.
    """
    vocabulary = vocabulary or checked_same(base, expert, amateur)
    sums = {source: _Sums(len(alphas)) for source in batches}
    guides = [model for model in (expert, amateur) if model is not None]
    with evaluating(base, *guides):
        for source, several in batches.items():
            for batch in several:
                _add(sums[source], base, expert, amateur, batch, alphas, vocabulary)
    return [_loss(alpha, at, sums) for at, alpha in enumerate(alphas)]


def scored(config: RunConfig, prompts: Sequence[Prompt], continuations: Sequence[Sequence[int]]) -> Batch:
    """Rows of one prompt each and what shall follow it, of which every token is a target, as a Batch.

    Raises ValueError for a prompt without continuation, or too long with it.
    """
    for number, (prompt, tokens) in enumerate(zip(prompts, continuations, strict=True)):
        if not 0 < len(tokens) <= config.data.context_length + 1 - len(prompt.tokens):
            raise ValueError(
                f"prompt {number} of {len(prompt.tokens)} tokens is followed by {len(tokens)}; give at least 1, and no "
                f"more than data.context_length={config.data.context_length} leaves room for"
            )
    pairs = list(zip(prompts, continuations, strict=True))
    read = [Prompt([*prompt.tokens, *tokens[:-1]], prompt.patches) for prompt, tokens in pairs]
    batch = prompt_batch(config, read)
    targets, weights = batch.targets.clone(), batch.weights.clone()
    for row, tokens in enumerate(continuations):
        targets[row, -len(tokens) :] = torch.tensor(list(tokens))
        weights[row, -len(tokens) :] = 1.0
    return replace(batch, targets=targets, weights=weights)


class _Sums:
    """Over the targets of one source: nats at every alpha, and the same by class with the known log-probability."""

    def __init__(self, alphas: int) -> None:
        self.targets = 0
        self.nll_A = torch.zeros(alphas, dtype=torch.float64)
        self.by_class: dict[str, tuple[int, Tensor, float]] = {}

    def add(self, nll_AG: Tensor, letter_G: Tensor, logprob_G: Tensor) -> None:
        self.targets += nll_AG.shape[1]
        self.nll_A += nll_AG.sum(dim=1)
        for letter, name in CLASS_NAMES.items():
            chosen = (letter_G == ord(letter)) | (letter_G == ord(letter.upper()))  # capitals: entities of the tail
            count, nll_A, logprob = self.by_class.get(name, (0, torch.zeros_like(self.nll_A), 0.0))
            self.by_class[name] = (
                count + int(chosen.sum()),
                nll_A + nll_AG[:, chosen].sum(dim=1),
                logprob + float(logprob_G[chosen].sum()),
            )


def _add(
    sums: _Sums,
    base: NativeMultimodalModel,
    expert: NativeMultimodalModel | None,
    amateur: NativeMultimodalModel | None,
    batch: Batch,
    alphas: Sequence[float],
    vocabulary: Vocabulary,
) -> None:
    read = batch
    shown = shown_tokens(vocabulary, batch.tokens.device)
    if shown is not None:
        read = replace(batch, tokens=shown[batch.tokens])
    output = base(batch)
    plus, minus = (None if model is None else model(read).logits for model in (expert, amateur))
    targets_G = batch.targets.reshape(-1)[output.at]
    delta = difference(plus, minus, vocabulary)
    if delta is not None and len(targets_G) and int(targets_G.max()) >= delta.shape[-1]:
        raise ValueError(
            f"target {int(targets_G.max())} lies beyond the {delta.shape[-1]} tokens that base and guides share: "
            "it has no probability; score text that all models know"
        )
    logits = output.logits.float()
    nll = [F.cross_entropy(combined(logits, delta, alpha), targets_G, reduction="none") for alpha in alphas]
    letters, logprob = batch.classes.reshape(-1)[output.at], batch.logprobs.reshape(-1)[output.at]
    sums.add(torch.stack(nll).double().cpu(), letters.cpu(), logprob.double().cpu())


def _loss(alpha: float, at: int, sums: Mapping[str, _Sums]) -> GuidedLoss:
    loss = {source: float(each.nll_A[at]) / each.targets for source, each in sums.items()}
    classes: dict[str, float] = {}
    excess: dict[str, float | None] = {}
    for name in CLASS_NAMES.values():
        parts = [each.by_class[name] for each in sums.values() if name in each.by_class]
        count = sum(part[0] for part in parts)
        if count:
            classes[name] = sum(float(part[1][at]) for part in parts) / count
            known = sum(part[2] for part in parts)
            excess[name] = None if math.isnan(known) else classes[name] + known / count
    loss["avg"] = sum(loss.values()) / len(loss)
    return GuidedLoss(float(alpha), loss, classes, excess, sum(each.targets for each in sums.values()))
