"""What the indexes say about a mixture before anything is trained: shares of images and targets, held-out tokens."""

from __future__ import annotations

from nmm.data.corpus import TOTALS
from nmm.data.indexed import IndexedCorpus, IndexedSources
from nmm.groups import Data


def _training_corpora(opened: IndexedSources, data: Data) -> list[IndexedCorpus]:
    """Of the sources a run draws from."""
    names = [name for name in opened.names if data.mixture.get(name, 0) > 0]
    return [IndexedCorpus(opened, name, "train", data.context_length, data.patch_size, None) for name in names]


def token_weights(opened: IndexedSources, data: Data) -> dict[str, float]:
    """What the weights of a mixture are as weights of tokens (any scale), whatever they are of."""
    if data.weights == "tokens":
        return dict(data.mixture)
    corpora = _training_corpora(opened, data)
    length = TOTALS.index("length")
    return {c.name: data.mixture[c.name] * float(c.totals[:, length].sum() / c.units.sum()) for c in corpora}


def mixture_shares(opened: IndexedSources, data: Data) -> tuple[float, float]:
    """Shares of the positions that are patches, and whose next token is text, in the mixture of a run."""
    weights, parts = token_weights(opened, data), []
    for corpus in _training_corpora(opened, data):
        length, images, targets, _ = corpus.totals.sum(axis=0).tolist()
        parts.append((weights[corpus.name], images * corpus.m / length, targets / length))
    total = sum(weight for weight, _, _ in parts)
    return sum(w * image for w, image, _ in parts) / total, sum(w * target for w, _, target in parts) / total


def held_out_tokens(opened: IndexedSources, data: Data) -> dict[str, int]:
    """Positions of all held-out documents of every source."""
    corpora = [IndexedCorpus(opened, n, "val", data.context_length, data.patch_size, None) for n in opened.names]
    return {corpus.name: int(corpus.totals[:, TOTALS.index("length")].sum()) for corpus in corpora}
