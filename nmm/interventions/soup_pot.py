"""The weights of a soup in the making: the running mean of a pool, and the model that holds the trial.

At most three models are in memory: these two, and the member that is read from its file meanwhile. Model Stock needs
the common start as well, and maps the files of all members at once.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from nmm.config import ConfigError
from nmm.interventions.soup_mean import averaged, blend, fp32, stock
from nmm.interventions.soup_members import Member
from nmm.interventions.soup_select import Members
from nmm.model.fusion import NativeMultimodalModel
from nmm.origin import run_digest
from nmm.start import initial_model, run_weights


class Pot:
    """``model`` holds what was loaded last; ``mean`` the fp32 mean of the members numbered in ``pool``."""

    def __init__(self, members: Sequence[Member]) -> None:
        self.members = members
        self.model = NativeMultimodalModel(members[0].settings).eval()  # a member's weights replace all it has
        self.weights = self._once(self.model.state_dict())
        self.means = averaged(self.model)
        self.pool: Members = ()
        self.mean: dict[str, Tensor] = {}

    def load(self, members: Members) -> None:
        """Give the model the mean of ``members``. Pool and mean become those of all but the last, who is only read."""
        if len(members) == 1:
            self._empty()
            self._fill(self._read(members[0]))
            return
        self.advance(members[:-1])
        blend(self.weights, self.mean, len(self.pool), self._read(members[-1]), self.means)

    def advance(self, members: Members) -> None:
        """Bring pool and mean to ``members``, from where they are if that is how these begin."""
        if not self.pool or members[: len(self.pool)] != self.pool:
            self._empty()
        for number in members[len(self.pool) :]:
            self._add(number)

    def stock(self, chosen: Members, start: str = "") -> dict[str, float]:
        """Model Stock of ``chosen`` in model and mean; returns the ratio of every tensor.

        ``start``: where the weights are that all began with, if not where their configs say. Raises ``ConfigError``
        when there is no such place, or it holds other weights.
        """
        settings = self.members[0].settings
        origin = dataclasses.replace(settings.start, path=start or settings.start.path)
        if origin.kind == "run" and run_digest(Path(origin.path)) != origin.digest:
            raise ConfigError(f"{origin.path} does not hold the weights that the members began with; give start=DIR")
        self.advance(chosen)
        anchor = self._once(initial_model(dataclasses.replace(settings, start=origin)).state_dict())
        ratios = stock(self.mean, anchor, [self._read(number) for number in chosen], self.means)
        self._fill(self.mean)
        self.pool = ()  # what is left is no mean
        return ratios

    def _add(self, number: int) -> None:
        one = self._read(number)
        if self.pool:
            blend(self.mean, self.mean, len(self.pool), one, self.means)
        else:
            self.mean = fp32(one)
        self.pool = (*self.pool, number)

    def _empty(self) -> None:
        self.pool, self.mean = (), {}

    def _fill(self, weights: Mapping[str, Tensor]) -> None:
        for name, target in self.weights.items():
            target.copy_(weights[name])

    def _once(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Without the second name of a tied head."""
        tied = self.members[0].settings.block.tied_head
        return {name: value for name, value in weights.items() if not (tied and name == "head.weight")}

    def _read(self, number: int) -> dict[str, Tensor]:
        """A member's weights. Raises ``ConfigError`` when they are not those of the others, or not finite."""
        directory = self.members[number].directory
        weights = self._once(run_weights(directory))
        for name in sorted(weights.keys() ^ self.weights.keys()):
            where = "lacks" if name in self.weights else "has besides"
            raise ConfigError(f"{directory} {where} {name}; weights of different models cannot be averaged")
        for name, value in weights.items():
            if value.shape != self.weights[name].shape:
                raise ConfigError(
                    f"{directory}: {name} has shape {tuple(value.shape)}, the model of its config "
                    f"{tuple(self.weights[name].shape)}; weights of different models cannot be averaged"
                )
            if not torch.isfinite(value).all():
                raise ConfigError(f"{directory}: {name} holds values that are not finite; it diverged, leave it out")
        return weights
