"""The progress bar of one run at a terminal; a log file or a launcher's worker never sees it."""

from __future__ import annotations

import time
from typing import Any

import lightning
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from nmm.config import RunConfig
from nmm.training.module import TrainingModule

SHOW_AFTER_SECONDS = 3.0
REFRESH_SECONDS = 0.2


class ProgressBar(lightning.Callback):
    """Steps, loss, tokens a second and time left on stderr, shown once the run has taken longer than three seconds."""

    def __init__(self, config: RunConfig, console: Console | None = None) -> None:
        self.config = config
        self.console = console or Console(stderr=True)
        self.began_at = self.drawn_at = 0.0
        self.began_step = 0
        self._bar: Progress | None = None

    def on_train_start(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        assert isinstance(module, TrainingModule)
        self.began_at, self.began_step = time.monotonic(), module.step

    def on_train_batch_end(self, trainer: lightning.Trainer, module: Any, *ignored: Any) -> None:
        now = time.monotonic()
        if now - self.began_at < SHOW_AFTER_SECONDS or now - self.drawn_at < REFRESH_SECONDS:
            return
        self.drawn_at = now
        bar = self._bar or self._show()
        speed = (module.step - self.began_step) * self.config.tokens_per_step / (now - self.began_at)
        bar.update(bar.task_ids[0], completed=module.step, loss=f"{module.last['loss']:.3f}", speed=f"{speed:,.0f}")

    def on_train_end(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        self._hide()

    def on_exception(self, trainer: lightning.Trainer, module: Any, exception: BaseException) -> None:
        self._hide()

    def _show(self) -> Progress:
        columns = ("{task.description}", "loss {task.fields[loss]}", "{task.fields[speed]} tokens/s")
        name, *rest = (TextColumn(text) for text in columns)
        self._bar = Progress(
            name, BarColumn(), MofNCompleteColumn(), *rest, TimeRemainingColumn(), console=self.console, transient=True
        )
        label = f"{self.config.arch.name} {self.config.size.name}"
        self._bar.add_task(label, total=self.config.total_steps, completed=self.began_step, loss="", speed="")
        self._bar.start()
        return self._bar

    def _hide(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
