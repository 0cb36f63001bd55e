"""A run of ours that tells pictures, as the function that ``recaption`` calls.

Shape legend: I pictures of a sample, S side of a picture in pixels, K images that a picture is cut into, M positions an
image, P pixel values a position.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from nmm.batch import END_ID, IMAGE_ID
from nmm.data.images import patchify
from nmm.data.sft import QUESTION_WORD
from nmm.data.tiles import tile_picture
from nmm.data.tokenizer import Tokenizer
from nmm.data.words import IMAGE
from nmm.generate import Prompt, generate
from nmm.interventions.caption_text import fuse, replaced
from nmm.interventions.guide_cost import generation_flops
from nmm.model.fusion import NativeMultimodalModel
from nmm.start import load_run


def load(run: Path, accelerator: str, threads: int) -> NativeMultimodalModel:
    """The model of a run or export, ready to generate. accelerator: cpu | gpu."""
    torch.set_num_threads(threads)
    return load_run(run).to("cuda" if accelerator == "gpu" else "cpu")


class Captioner:
    """(texts, pictures) -> texts, see ``nmm.interventions.recaption.Rewrite``; batched, with a KV cache.

    Args:
        model: From ``nmm.start.load_run``, on any device.
        tokenizer: Of the shards.
        merge: "replace": its caption alone; "fuse": with the facts of the old one.
        max_words: A caption that has not ended by then is not used, and the sample stays as it is.
        temperature, top_p, seed: As for ``nmm.generate.generate``; draws also depend on the first picture of a call.
        batch_rows: Pictures told together.

    A sample of no or several pictures stays as it is. ``flops`` counts what generation has taken.
    """

    def __init__(
        self,
        model: NativeMultimodalModel,
        tokenizer: Tokenizer,
        merge: str,
        max_words: int,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int = 0,
        batch_rows: int = 64,
    ) -> None:
        self.model, self.config, self.tokenizer, self.merge = model, model.config, tokenizer, merge
        self.max_words, self.temperature, self.top_p, self.seed = max_words, temperature, top_p, seed
        self.batch_rows = batch_rows
        self.stops = (END_ID, *([tokenizer.ids[QUESTION_WORD]] if QUESTION_WORD in tokenizer.ids else []))
        self.flops = 0.0

    def __call__(self, texts: Sequence[str], pictures: Sequence[np.ndarray]) -> list[str | None]:
        told = [place for place, some in enumerate(pictures) if len(some) == 1]
        found: list[str | None] = [None] * len(texts)
        if not told:
            return found
        prompts = [self.prompt(pictures[place][0]) for place in told]
        said = generate(
            self.model,
            prompts,
            self.max_words,
            self.stops,
            self.temperature,
            self.top_p,
            self._seed(prompts[0]),
            self.batch_rows,
        )
        for place, prompt, ids in zip(told, prompts, said, strict=True):
            self.flops += generation_flops(self.config, len(prompt.tokens), len(ids), len(prompt.patches))
            if ids[-1] in self.stops:
                words = f"{IMAGE} {self.tokenizer.decode(ids[:-1])}"
                found[place] = fuse(texts[place], words) if self.merge == "fuse" else replaced(words)
        return found

    def prompt(self, picture: np.ndarray) -> Prompt:
        """(S, S, 3) uint8 -> the picture alone, as the run was trained to see one."""
        data = self.config.data
        images = tile_picture(picture, data.image_size, data.tiles)
        patches = patchify(images, self.config.position_size)
        return Prompt([IMAGE_ID] * (len(images) * self.config.tokens_per_image), patches)

    def _seed(self, first: Prompt) -> int:
        """Calls differ in their draws, and a call that is made again has the same."""
        digest = hashlib.blake2b(np.ascontiguousarray(first.patches).tobytes(), digest_size=4).digest()
        return self.seed + int.from_bytes(digest)
