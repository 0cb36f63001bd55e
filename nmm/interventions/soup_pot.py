"""The weights of a soup in the making: the running mean of a pool, and the model that holds the trial.

At most three models are in memory: these two, and the member that is read meanwhile, of an export tensor by tensor, of
a run's checkpoint as a mapped file. Model Stock needs the common start as well, and maps the checkpoints of all.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from nmm.config import ConfigError
from nmm.interventions.soup_mean import averaged, blend, fp32, stock
from nmm.interventions.soup_members import Member
from nmm.interventions.soup_select import Members
from nmm.model.fusion import NativeMultimodalModel
from nmm.origin import WEIGHTS, run_digest
from nmm.start import initial_model, run_weights


class Stored(Mapping[str, Tensor]):
    """The tensors of a safetensors file, each read when it is asked for and not kept, so that nothing stays mapped."""

    def __init__(self, file: Path) -> None:
        self.file = str(file)
        with safe_open(self.file, framework="pt", device="cpu") as opened:
            self.shapes = {name: tuple(opened.get_slice(name).get_shape()) for name in opened.keys()}  # noqa: SIM118

    def __getitem__(self, name: str) -> Tensor:
        with safe_open(self.file, framework="pt", device="cpu") as opened:
            return opened.get_tensor(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self.shapes)

    def __len__(self) -> int:
        return len(self.shapes)


class Pot:
    """``model`` holds the mean of the members numbered in ``loaded``; ``mean`` the fp32 mean of those in ``pool``."""

    def __init__(self, members: Sequence[Member]) -> None:
        self.members = members
        self.model = NativeMultimodalModel(members[0].settings).eval()  # a member's weights replace all it has
        tied = members[0].settings.block.tied_head
        self.second_name = {"head.weight"} if tied else set()
        self.weights = {k: v for k, v in self.model.state_dict().items() if k not in self.second_name}
        self.means = averaged(self.model)
        self.loaded: Members = ()
        self.pool: Members = ()
        self.mean: dict[str, Tensor] = {}

    def load(self, members: Members) -> None:
        """Give the model the mean of ``members``. Pool and mean become those of all but the last, who is only read.

        Raises ``ConfigError`` when weights are not those of the others, or not finite.
        """
        if self.loaded == members:
            return
        self.loaded = ()
        one = self._open(members[-1])
        if len(members) == 1:
            self.empty()
            self._fill(one)
        else:
            self.advance(members[:-1])
            blend(self.weights, self.mean, len(self.pool), one, self.means)
        for name, value in self.weights.items():
            if not torch.isfinite(value).all():
                directory = self.members[members[-1]].directory
                raise ConfigError(f"{directory}: {name} holds values that are not finite; it diverged, leave it out")
        self.loaded = members

    def advance(self, members: Members) -> None:
        """Bring pool and mean to ``members``, from where they are if that is how these begin."""
        if not self.pool or members[: len(self.pool)] != self.pool:
            self.empty()
        for number in members[len(self.pool) :]:
            one = self._open(number)
            if self.pool:
                blend(self.mean, self.mean, len(self.pool), one, self.means)
            else:
                self.mean = fp32(one, self.weights)
            self.pool = (*self.pool, number)
            del one  # not two of them at a time

    def stock(self, chosen: Members, start: str = "") -> dict[str, float]:
        """Give the model the Model Stock of ``chosen``; returns the ratio of every tensor.

        ``start``: where the weights are that all began with, if not where their configs say. Raises ``ConfigError``
        when there is no such place, or it holds other weights.
        """
        settings = self.members[0].settings
        origin = dataclasses.replace(settings.start, path=start or settings.start.path)
        if origin.kind == "run" and run_digest(Path(origin.path), "start") != origin.digest:
            raise ConfigError(f"{origin.path} does not hold the weights that the members began with; give start=DIR")
        self.advance(chosen)
        anchor = initial_model(dataclasses.replace(settings, start=origin)).state_dict()
        ratios = stock(self.mean, anchor, [self._open(number) for number in chosen], self.means)
        self._fill(self.mean)
        self.loaded = ()  # no mean
        self.empty()
        return ratios

    def empty(self) -> None:
        """Forget the pool and its mean."""
        self.pool, self.mean = (), {}

    def _fill(self, weights: Mapping[str, Tensor]) -> None:
        for name, target in self.weights.items():
            target.copy_(weights[name])

    def _open(self, number: int) -> Mapping[str, Tensor]:
        """A member's weights, not yet read. Raises ``ConfigError`` when they are not those of the others."""
        directory = self.members[number].directory
        file = directory / WEIGHTS
        weights: Mapping[str, Tensor] = Stored(file) if file.is_file() else run_weights(directory)
        for name in sorted((set(weights) - self.second_name) ^ self.weights.keys()):
            where = "lacks" if name in self.weights else "has besides"
            raise ConfigError(f"{directory} {where} {name}; weights of different models cannot be averaged")
        for name, value in self.weights.items():
            shape = weights.shapes[name] if isinstance(weights, Stored) else tuple(weights[name].shape)
            if shape != tuple(value.shape):
                raise ConfigError(
                    f"{directory}: {name} has shape {shape}, the model of its config {tuple(value.shape)}; weights of "
                    "different models cannot be averaged"
                )
        return weights
