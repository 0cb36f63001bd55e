"""What rows hold, counted from the lengths of documents alone.

Shape legend: p pieces of documents (one, if it is not cut); records are DOCUMENT records of pieces.
"""

from __future__ import annotations

import numpy as np

from nmm.data.corpus import TOTALS, Corpus
from nmm.data.mixture import Draw, SourceStream


def source_counts(
    draw: Draw, corpus: Corpus, window: int, m: int, here: np.ndarray, rest: np.ndarray
) -> dict[str, int]:
    """Totals of one source over all windows before ``window``, and over the (p,) pieces ``here`` of that window.

    ``rest`` are its other pieces, ``m`` the patches of an image. For the keys see ``RowSource.counts``.
    """
    stream = draw.stream
    epochs, into = divmod(draw.before(window), stream.samples)
    whole = corpus.totals.sum(axis=0)
    begun = _prefix(stream, corpus, epochs, into)
    sums = dict(zip(TOTALS, (epochs * whole + begun + _sums(here)).tolist(), strict=True))
    samples = epochs * stream.samples + into + int((here["begin"] == 0).sum())
    unique, unique_tokens = stream.samples, stream.tokens
    if not epochs:
        unique, unique_tokens = _unique(stream, into, int(begun[TOTALS.index("length")]), here, rest)
    image_tokens = sums["images"] * m
    return {
        "tokens": sums["length"],
        "text_tokens": sums["length"] - image_tokens,
        "image_tokens": image_tokens,
        "targets": sums["targets"],
        "samples": samples,
        "unique_samples": unique,
        "unique_tokens": unique_tokens,
        "epochs": -(-samples // stream.samples),
        "truncated": sums["truncated"],
    }


def _prefix(stream: SourceStream, corpus: Corpus, epoch: int, samples: int) -> np.ndarray:
    """(4,) sums of TOTALS over the first ``samples`` documents of an epoch."""
    order = stream.epoch(epoch)
    number = int(np.searchsorted(order.ends, samples, side="right"))
    whole = order.units[: order.last_unit[number - 1]] if number else order.units[:0]
    total = corpus.totals[whole].sum(axis=0)
    if samples > order.start(number):
        block = stream.block(epoch, number)
        total = total + _sums(block.records[: samples - order.start(number)])
    return np.asarray(total)


def _unique(stream: SourceStream, before: int, tokens: int, here: np.ndarray, rest: np.ndarray) -> tuple[int, int]:
    """Different samples and their tokens, in the first epoch or in a window that goes over its end."""
    new = here[here["ordinal"] < stream.samples]
    again = here[here["ordinal"] >= stream.samples]
    if len(again):  # all others of the first epoch were delivered, or stand in later rows of this window
        missing = rest[rest["ordinal"] < stream.samples]
        unseen = np.isin(_begun(missing), _begun(again), invert=True)
        return stream.samples - int(unseen.sum()), stream.tokens - _not_covered(missing, again)
    return before + len(_begun(new)), tokens + int(_own(new).sum())


def _begun(documents: np.ndarray) -> np.ndarray:
    """Ids of the samples whose first piece is there: that is where a sample counts."""
    return np.asarray(documents["id"][documents["begin"] == 0])


def _own(documents: np.ndarray) -> np.ndarray:
    """(p,) positions of pieces without those they repeat."""
    return np.asarray(documents["length"] - (documents["begin"] > 0))


def _sums(documents: np.ndarray) -> np.ndarray:
    """(4,) sums of TOTALS over pieces."""
    first = documents["begin"] == 0
    sums = {"length": _own(documents), "truncated": documents["truncated"] & first}
    return np.array([int(sums.get(name, documents[name]).sum()) for name in TOTALS])


def _not_covered(missing: np.ndarray, again: np.ndarray) -> int:
    """Positions of ``missing`` pieces that no piece of the same document in ``again`` holds."""
    held: dict[int, np.ndarray] = {}
    for piece in again[np.isin(again["id"], missing["id"])]:
        covered = held.setdefault(int(piece["id"]), np.zeros(int(piece["whole"]), bool))
        covered[_span(piece)] = True
    total = int(_own(missing).sum())
    return total - sum(int(held[int(p["id"])][_span(p)].sum()) for p in missing if int(p["id"]) in held)


def _span(piece: np.void) -> slice:
    begin = int(piece["begin"])
    return slice(begin, begin + int(piece["length"]) - (begin > 0))
