"""Which expert takes what: load, entropies, modality shares and both specialisation metrics of arXiv 2504.07951.

Shares and metrics are computed from whole counts, so they do not depend on how the positions were batched. ``None``
stands where a number has no meaning (no position of a modality, an expert without slots), as JSON has no NaN.

Shape legend: E experts, M modality (text, image).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from nmm.model.moe import Routing

MODALITIES = ("text", "image")


@dataclass(frozen=True)
class Counts:
    """What one layer did with some positions; counts of different positions can be added.

    slots (M, E) int64: slots of the modality that chose the expert. positions: how many there are. entropy: sum of the
    router's entropies in nats. All three without padding. dropped: slots that asked for an expert, padding included,
    less those that the experts computed.
    """

    slots: Tensor
    positions: int
    entropy: float
    dropped: int

    def __add__(self, other: Counts) -> Counts:
        return Counts(
            self.slots + other.slots,
            self.positions + other.positions,
            self.entropy + other.entropy,
            self.dropped + other.dropped,
        )


def counts_of(routing: Routing) -> Counts:
    """The counts of one layer on one batch."""
    num_experts = routing.logits.shape[-1]
    is_valid = routing.valid > 0
    by_modality = [routing.expert[is_valid & is_it].reshape(-1) for is_it in (~routing.is_image, routing.is_image)]
    slots_ME = torch.stack([experts.bincount(minlength=num_experts) for experts in by_modality])
    entropy = torch.special.entr(routing.probability[is_valid].double()).sum()
    dropped = routing.expert.numel() - int(routing.ends[-1])
    return Counts(slots_ME.cpu(), int(is_valid.sum()), entropy.item(), dropped)


def added(parts: Sequence[Sequence[Counts]]) -> list[Counts]:
    """Layer by layer, the counts of several batches as those of one."""
    return [sum(layer[1:], start=layer[0]) for layer in zip(*parts, strict=True)]


def describe(counts: Counts) -> dict[str, Any]:
    """The numbers of one layer, ready for JSON.

    load: share of all slots by expert, with ``load_max`` and ``load_min``. load_entropy: of that share, in nats, and
    ``load_evenness`` the same divided by log E (1: even, 0: one expert has all). router_entropy: mean over positions of
    the entropy of the router's probabilities, in nats. dropped: see ``Counts``; 0 as no layer of ours has a capacity.
    image_share: by expert, the part of its slots that are images. of_text, of_image: share of the modality's slots by
    expert. unused: experts without a slot. specialisation, imbalance_text, imbalance_image: the functions below.
    """
    slots_E = counts.slots.sum(dim=0)
    load = _shares(slots_E)
    entropy = None if load is None else sum(-p * math.log(p) for p in load if p)
    numbers: dict[str, Any] = {
        "load": load,
        "load_max": None if load is None else max(load),
        "load_min": None if load is None else min(load),
        "load_entropy": entropy,
        "load_evenness": None if entropy is None else entropy / math.log(len(slots_E)),
        "router_entropy": counts.entropy / counts.positions if counts.positions else None,
        "dropped": counts.dropped,
        "unused": int((slots_E == 0).sum()),
        "image_share": image_shares(counts.slots),
        "specialisation": specialisation(counts.slots),
    }
    for modality, slots in zip(MODALITIES, counts.slots, strict=True):
        numbers |= {f"of_{modality}": _shares(slots), f"imbalance_{modality}": imbalance(slots)}
    return numbers


def image_shares(slots_ME: Tensor) -> list[float | None]:
    """Of every expert's slots, the part that are image positions; None for an expert without slots."""
    return [image / (text + image) if text + image else None for text, image in slots_ME.T.tolist()]


def specialisation(slots_ME: Tensor) -> float | None:
    """Mean over experts of 1 - H2(p), p the expert's image share and H2 the binary entropy in bits.

    1: every expert serves one modality alone; 0: every expert serves both alike (arXiv 2504.07951, section 4.4 and
    figure 12). Experts without slots have no p and are left out of the mean; None if that leaves none.
    """
    known = [1 - _bits(p) - _bits(1 - p) for p in image_shares(slots_ME) if p is not None]
    return sum(known) / len(known) if known else None


def imbalance(slots_E: Tensor) -> float | None:
    """Mean over all experts of |share of the slots - 1 / E|, for the slots of one modality.

    0: the modality is spread evenly; 2 (E - 1) / E^2: one expert has all of it (arXiv 2504.07951, appendix E.2 and
    figure 25). None without a slot. E counts all experts, also those that the modality cannot choose.
    """
    shares = _shares(slots_E)
    return None if shares is None else sum(abs(p - 1 / len(shares)) for p in shares) / len(shares)


def _shares(slots_E: Tensor) -> list[float] | None:
    slots = slots_E.tolist()
    whole = sum(slots)
    return [n / whole for n in slots] if whole else None


def _bits(p: float) -> float:
    return -p * math.log2(p) if p else 0.0
