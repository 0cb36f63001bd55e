"""Lightning stops, saves and resumes with this loader: no batch lost, none twice, wherever it stopped."""

from __future__ import annotations

from pathlib import Path

import lightning
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from nmm.batch import Batch
from nmm.data.manifest import open_shards
from nmm.data.module import RowsModule
from nmm.data.source import RowSource

TOTAL_STEPS, ROWS = 10, 3
pytestmark = [
    pytest.mark.filterwarnings("ignore:Checkpoint directory"),
    pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`"),
]


class Recorder(lightning.LightningModule):
    """Notes the rows of every step it is given; one optimizer step a batch."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen: list[list[int]] = []
        self.epochs_ended = 0

    def on_train_epoch_end(self) -> None:
        self.epochs_ended += 1

    def training_step(self, batch: Batch, batch_idx: int) -> torch.Tensor:
        self.seen.append(batch.row_ids.tolist())
        return self.weight * batch.weights.sum()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.0)


def fit(
    root: Path, folder: Path, stop: int, total: int = TOTAL_STEPS, workers: int = 0, resume: Path | None = None
) -> tuple[list, Path]:
    """Train up to step ``stop`` of ``total``; returns the rows of each step and the checkpoint written at the stop."""
    rows = RowSource(open_shards(root), {"caption": 45, "interleaved": 45, "text": 10}, 64, 4, seed=0)
    saver = ModelCheckpoint(folder, filename="{step}", every_n_train_steps=stop, save_top_k=-1)
    trainer = lightning.Trainer(
        accelerator="cpu",
        devices=1,
        max_steps=stop,
        max_epochs=-1,
        callbacks=[saver],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    model = Recorder()
    trainer.fit(model, datamodule=RowsModule(rows, ROWS, total, workers), ckpt_path=resume, weights_only=True)
    assert model.epochs_ended == 1, "Lightning must not take the end of a part for the end of an epoch"
    return model.seen, folder / f"step={stop}.ckpt"


@pytest.fixture(scope="module")
def uninterrupted(tiny_root: Path, tmp_path_factory: pytest.TempPathFactory) -> list[list[int]]:
    return fit(tiny_root, tmp_path_factory.mktemp("whole"), TOTAL_STEPS)[0]


@pytest.mark.parametrize(("stops", "workers"), [((2,), 0), ((8,), 0), ((3, 6, 9), 0), ((7,), 2)])
def test_resume_sees_the_next_batch(
    tiny_root: Path, tmp_path: Path, uninterrupted: list, stops: tuple, workers: int
) -> None:
    seen: list[list[int]] = []
    checkpoint = None
    for stop in (*stops, TOTAL_STEPS):
        more, checkpoint = fit(tiny_root, tmp_path, stop, workers=workers, resume=checkpoint)
        seen += more
    assert seen == uninterrupted
    assert len(seen) == TOTAL_STEPS


def test_branch_with_another_length_goes_on_in_the_same_order(
    tiny_root: Path, tmp_path: Path, uninterrupted: list
) -> None:
    _, checkpoint = fit(tiny_root, tmp_path, 4)
    longer, _ = fit(tiny_root, tmp_path / "long", 14, total=14, resume=checkpoint)
    shorter, _ = fit(tiny_root, tmp_path / "short", 6, total=6, resume=checkpoint)
    assert longer[:6] == uninterrupted[4:]
    assert len(longer) == 10
    assert shorter == uninterrupted[4:6]


def test_loader_state_is_in_the_checkpoint(tiny_root: Path, tmp_path: Path) -> None:
    _, checkpoint = fit(tiny_root, tmp_path, 4)
    state = torch.load(checkpoint, weights_only=True)["loops"]["fit_loop"]["state_dict"]["combined_loader"][0]
    assert state["cursor"] == 4 * ROWS
