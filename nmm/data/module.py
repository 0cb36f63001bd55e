"""The training rows as a LightningDataModule."""

from __future__ import annotations

import lightning

from nmm.data.loader import TrainLoader
from nmm.data.source import RowSource


class RowsModule(lightning.LightningDataModule):
    """Hands the trainer one TrainLoader with the trainer's own rank and world size.

    Lightning saves and restores the loader's state by itself (from rank 0, which is right: it is the same everywhere).
    """

    def __init__(self, rows: RowSource, rows_per_step: int, total_steps: int, num_workers: int = 0) -> None:
        super().__init__()
        self.rows, self.rows_per_step, self.total_steps = rows, rows_per_step, total_steps
        self.num_workers = num_workers
        self.loader: TrainLoader | None = None

    def train_dataloader(self) -> TrainLoader:
        rank, world = (self.trainer.global_rank, self.trainer.world_size) if self.trainer is not None else (0, 1)
        self.loader = TrainLoader(self.rows, self.rows_per_step, self.total_steps, rank, world, self.num_workers)
        return self.loader
