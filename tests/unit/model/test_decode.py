"""Next-token logits, cached and not, against the forward pass that training uses."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from lab import training_batch
from prompts import PROMPTS, VARIANTS, loud, pictures
from torch import Tensor

from nmm.batch import IMAGE_ID, PAD_ID, Batch
from nmm.config import RunConfig
from nmm.model.decode import Cached, Prompt, Uncached, check_prompt, prompt_batch

MakeConfig = Callable[..., RunConfig]


def documents(batch: Batch) -> Iterator[tuple[Tensor, Prompt]]:
    """(flat positions, the document as a prompt) of every document of a batch."""
    rows, width = batch.tokens.shape
    image_row = batch.patch_at[:, 0] // width
    for row in range(rows):
        for number in range(int(batch.document[row].max()) + 1):
            at = (batch.document[row] == number).nonzero().squeeze(1)
            shown = batch.image[row, at].unique()
            patches = batch.patches[image_row == row][shown[shown >= 0].long()]
            yield row * width + at, Prompt(batch.tokens[row, at].tolist(), patches)


@pytest.mark.parametrize("variant", [v for v in VARIANTS if v != "no document mask"])
def test_documents_score_as_in_a_packed_row(make_config: MakeConfig, variant: str) -> None:
    """Documents as one batch, begun with all up to their last image (or first word), then fed with their own words."""
    arch, groups = VARIANTS[variant]
    config = make_config(arch, **groups)
    model, batch = loud(config), training_batch(config)
    found = list(documents(batch))
    begun = [len(p.tokens) - p.tokens[::-1].index(IMAGE_ID) if len(p.patches) else 1 for _, p in found]
    steps = [len(p.tokens) - n for (_, p), n in zip(found, begun, strict=True)]
    decoder = Cached(
        model, [Prompt(p.tokens[:n], p.patches) for (_, p), n in zip(found, begun, strict=True)], 1 + max(steps)
    )
    with torch.no_grad():
        expected = model.head(model.features(batch)[0]).flatten(0, 1)
        logits = decoder.start()
        for step in range(max(steps) + 1):
            alive = [i for i, n in enumerate(steps) if n >= step]
            at = torch.stack([found[i][0][begun[i] - 1 + step] for i in alive])
            torch.testing.assert_close(logits[alive], expected[at], rtol=0, atol=1e-4)
            if step < max(steps):
                fed = [p.tokens[min(n + step, len(p.tokens) - 1)] for (_, p), n in zip(found, begun, strict=True)]
                logits = decoder.next(torch.tensor(fed))
    assert max(steps) > 10 and len({len(p.tokens) for _, p in found}) > 3


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_cache_changes_no_logit(make_config: MakeConfig, variant: str) -> None:
    """Also after rows were dropped; and neighbours and their padding are never seen."""
    arch, groups = VARIANTS[variant]
    model = loud(make_config(arch, **groups))
    fed = torch.randint(3, 100, (9, 4), generator=torch.Generator().manual_seed(2))
    cached, plain, alone = Cached(model, PROMPTS, 10), Uncached(model, PROMPTS, 10), Uncached(model, PROMPTS[2:3], 10)
    with torch.no_grad():
        logits = [decoder.start() for decoder in (cached, plain, alone)]
        for step in range(10):
            torch.testing.assert_close(logits[0], logits[1], rtol=0, atol=1e-5)
            torch.testing.assert_close(logits[0][-2 if step < 5 else 0], logits[2][0], rtol=0, atol=1e-5)
            if step == 9:
                break
            rows = torch.arange(4) if step < 4 else torch.tensor([2, 3])
            if step == 4:
                cached.keep(rows)
                plain.keep(rows)
            logits = [cached.next(fed[step, rows]), plain.next(fed[step, rows]), alone.next(fed[step, 2:3])]


def test_a_cached_step_reads_one_token(make_config: MakeConfig) -> None:
    model = loud(make_config("late"))
    decoder = Cached(model, PROMPTS, 4)
    sizes = []
    model.trunk.register_forward_pre_hook(lambda _, arguments: sizes.append(tuple(arguments[0].shape[:2])))
    seen = []
    model.vision.register_forward_hook(lambda *_: seen.append(1))
    with torch.no_grad():
        decoder.start()
        for _ in range(3):
            decoder.next(torch.tensor([5, 6, 7, 8]))
    assert sizes == [(4, 50), (4, 1), (4, 1), (4, 1)]
    assert len(seen) == 1


def test_prompts_stand_at_the_right_end(make_config: MakeConfig) -> None:
    config = make_config("early")
    batch = prompt_batch(config, [PROMPTS[3], Prompt([7, *[IMAGE_ID] * 32, 9], pictures(2)), PROMPTS[0]])
    assert batch.tokens.shape == (3, 34)
    assert batch.tokens[0].tolist() == [PAD_ID] * 30 + [20, 21, 22, 23]
    assert batch.document[0].tolist() == [-1] * 30 + [0] * 4
    assert batch.position[0].tolist() == [0] * 30 + [0, 1, 2, 3]
    assert batch.image[1].tolist() == [-1] + [0] * 16 + [1] * 16 + [-1]
    assert batch.image[2].tolist() == [-1] * 15 + [0] * 16 + [-1] * 3
    assert torch.equal(batch.patches, torch.cat([pictures(2), pictures(1)]))
    assert torch.equal(batch.patch_at[:, 0], torch.tensor([34 + 1, 34 + 17, 68 + 15]))
    assert torch.equal(batch.tokens.flatten()[batch.patch_at], torch.full((3, 16), IMAGE_ID))
    assert batch.weights.sum() == 0


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        (Prompt([]), "prompt 3 has 0 tokens, it needs 1..128"),
        (Prompt([5] * 129), "129 tokens, it needs 1..128: the model was trained with data.context_length=128"),
        (Prompt([5, PAD_ID]), "prompt 3 holds token 0; allowed are 1.."),
        (Prompt([5, -1]), "prompt 3 holds token -1"),
        (Prompt([5, 10_000]), "prompt 3 holds token 10000"),
        (Prompt([IMAGE_ID] * 16), r"prompt 3 has 0 images, but IMAGE_ID=1 in runs of \[16\]"),
        (Prompt([5], pictures(1)), r"prompt 3 has 1 images, but IMAGE_ID=1 in runs of \[\]"),
        (Prompt([IMAGE_ID] * 16, pictures(2)), r"2 images, but IMAGE_ID=1 in runs of \[16\]; every image is 16"),
        (Prompt([*[IMAGE_ID] * 8, 5, *[IMAGE_ID] * 8], pictures(1)), r"1 images, but IMAGE_ID=1 in runs of \[8, 8\]"),
        (Prompt([IMAGE_ID] * 16, pictures(1)[:, :4]), r"patches are torch.uint8 of shape \(1, 4, 192\), they must be"),
        (Prompt([IMAGE_ID] * 16, pictures(1).float()), "patches are torch.float32 of shape"),
        (Prompt([IMAGE_ID] * 16, np.zeros((16, 192), np.uint8)), r"shape \(16, 192\), they must be uint8 of shape"),
    ],
)  # fmt: skip
def test_impossible_prompts_are_refused(make_config: MakeConfig, prompt: Prompt, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_prompt(prompt, 3, make_config("early"))


def test_possible_prompts_pass(make_config: MakeConfig) -> None:
    for prompt in (
        *PROMPTS,
        Prompt([5] * 128),
        Prompt([IMAGE_ID] * 32, pictures(2).numpy()),
        Prompt((5,), pictures(0)),
    ):
        check_prompt(prompt, 0, make_config("early"))
