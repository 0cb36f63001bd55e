"""Recaptioning with any function: what it is given, what is written, going on after a stop, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from lab import run_directory, train
from prompts import loud

from nmm.config import ConfigError, RunConfig
from nmm.data.derived import samples_of
from nmm.data.manifest import Shards, open_shards
from nmm.data.opening import open_data
from nmm.data.source import RowSource
from nmm.interventions.caption_text import TELLER
from nmm.interventions.captioner import Captioner
from nmm.interventions.recaption import CHUNK, pictures_of, recaption
from nmm.interventions.recaption_command import recaption_main
from nmm.record import read_json

MakeConfig = Callable[..., RunConfig]


@pytest.fixture(scope="module")
def shards(tiny_shards: Path) -> Shards:
    return open_shards(tiny_shards)


def texts_of(shards: Shards, split: str = "train") -> list[str]:
    return [sample.text for info in shards.split("caption", split).shards for sample in samples_of(shards, info)]


def first_word_only(texts: Sequence[str], pictures: Sequence[np.ndarray]) -> list[str | None]:
    """None for about a third."""
    return [f"<image> {text.split()[1]} . <end>" if len(text) % 3 else None for text in texts]


def test_a_function_of_ones_own_tells_the_training_captions_anew(shards: Shards, tmp_path: Path) -> None:
    made = recaption(shards, tmp_path / "out", first_word_only, {"rule": "first word"}, told=tmp_path / "told",
                     progress=False)  # fmt: skip
    new = open_shards(tmp_path / "out", verify=True)
    before, after = texts_of(shards), texts_of(new)
    expected = first_word_only(before, [])
    assert after == [old if text is None else text for old, text in zip(before, expected, strict=True)]
    assert (made.samples, made.kept, made.told_now) == (300, expected.count(None), 300)
    assert 50 < made.kept < 150
    assert texts_of(new, "val") == texts_of(shards, "val")
    assert new.manifest["derived"] == {"parent": shards.fingerprint, "source": "caption", "made_by": "recaption",
                                       "rule": "first word"}  # fmt: skip
    rows = RowSource(new, {"caption": 1.0}, 128, 8, seed=0).rows_at(0, 4)
    assert np.isnan(rows.logprobs[rows.weights > 0]).any(), "nobody knows the probability of such words"


def test_the_function_sees_the_pictures_of_its_texts(shards: Shards, tmp_path: Path) -> None:
    seen: list[tuple[str, np.ndarray]] = []

    def look(texts: Sequence[str], pictures: Sequence[np.ndarray]) -> list[str | None]:
        assert len(texts) <= CHUNK
        seen.extend(zip(texts, pictures, strict=True))
        return [None] * len(texts)

    recaption(shards, tmp_path / "out", look, {"rule": "look"}, "interleaved", tmp_path / "told", progress=False)
    samples = [s for info in shards.split("interleaved", "train").shards for s in samples_of(shards, info)]
    assert [text for text, _ in seen] == [sample.text for sample in samples]
    for (text, pictures), sample in zip(seen, samples, strict=True):
        assert pictures.shape == (text.split().count("<image>"), 32, 32, 3) and pictures.dtype == np.uint8
        assert np.array_equal(pictures, pictures_of(shards, sample))


def test_a_stopped_pass_goes_on_and_another_function_starts_anew(
    shards: Shards, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nmm.interventions.recaption.CHUNK", 50)
    calls = 0

    def stops(texts: Sequence[str], pictures: Sequence[np.ndarray]) -> list[str | None]:
        nonlocal calls
        calls += 1
        if calls == 4:
            raise KeyboardInterrupt
        return first_word_only(texts, pictures)

    told = tmp_path / "told"
    with pytest.raises(KeyboardInterrupt):
        recaption(shards, tmp_path / "out", stops, {"rule": "a"}, told=told, progress=False)
    made = recaption(
        shards, tmp_path / "out", stops, {"rule": "a"}, told=told, cost=lambda: float(calls), progress=False
    )
    assert (made.told_now, calls) == (300 - 128, 4 + 4), "chunks of 50, 50 and 28 a tar; three of them were kept"
    whole = recaption(shards, tmp_path / "whole", first_word_only, {"rule": "a"}, told=tmp_path / "b", progress=False)
    assert whole.manifest["fingerprint"] == made.manifest["fingerprint"]
    again = recaption(shards, tmp_path / "out", stops, {"rule": "a"}, told=told, progress=False)
    assert (again.told_now, calls, again.flops) == (0, 8, made.flops)
    with pytest.raises(ValueError, match="rule is a, asked for b"):
        recaption(shards, tmp_path / "out", first_word_only, {"rule": "b"}, told=told, progress=False)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<image> topleft nosuchword . <end>", "nosuchword"),
        ("topleft . <end>", "1 images, but <image> stands 0 times"),
        ("<image> <image> topleft . <end>", "1 images, but <image> stands 2 times"),
    ],
)
def test_texts_that_cannot_be_are_refused_at_once(shards: Shards, tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ValueError, match=f"sample caption-train-000000000, new text .*{message}"):
        recaption(shards, tmp_path / "out", lambda t, p: [text] * len(t), {}, told=tmp_path / "told", progress=False)
    with pytest.raises(ValueError, match="was given 128 samples and returned 1 texts"):
        recaption(shards, tmp_path / "out", lambda t, p: [None], {}, told=tmp_path / "told", progress=False)


@pytest.mark.parametrize("groups", [{}, {"data": {"picture_size": 32, "image_size": 16, "tiles": 4}}], ids=str)
def test_a_captioner_is_shown_what_it_was_trained_on(make_config: MakeConfig, groups: dict) -> None:
    """Its prompt for a picture is the beginning of the row that training makes of it, tiles and all."""
    config = make_config("late", "d16", **groups, arch={"pairing": "none"})
    shards = open_data(config.data)
    assert isinstance(shards, Shards)
    teller = Captioner(loud(config), shards.tokenizer, "replace", 8)
    rows = RowSource(shards, {"caption": 1.0}, 128, 8, seed=0, split="val", once_in_order=True)
    patches = {images.tobytes() for images in rows.rows_at(0, rows.rows_available()).patches}
    stored = open_shards(config.data.path)
    for sample in list(samples_of(stored, stored.split("caption", "val").shards[0]))[:4]:
        prompt = teller.prompt(pictures_of(stored, sample)[0])
        assert len(prompt.tokens) == len(prompt.patches) * config.tokens_per_image
        assert {image.tobytes() for image in prompt.patches} <= patches
    texts = ["<image> x <end>", "a text <end>"]
    picture = pictures_of(stored, sample)
    assert teller(texts, [picture, picture[:0]])[1] is None
    assert teller.flops > 0


def test_the_command(tiny_config: Callable[..., RunConfig], tiny_shards: Path, tmp_path: Path,
                     capsys: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    """A run of a few steps tells nothing yet: what it says is no caption, the old ones stay, and that is said."""
    config = tiny_config("early", "d16", budget={"steps": 2})
    train(config)
    arguments = [f"data={tiny_shards}", f"model={run_directory(config)}", f"out={tmp_path / 'out'}", "max_words=4"]
    assert recaption_main([*arguments, f"told={tmp_path / 'told'}", "progress=false"]) == 0
    assert "told 300 caption samples anew" in (said := capsys.readouterr().out) and "stayed as they were" in said
    report = read_json(tmp_path / "out" / "recaption.json")
    assert report["truth"]["before"]["true"] == 1.0 and report["flops"] > 0
    provenance = json.loads((tmp_path / "out" / "provenance.json").read_text())
    assert provenance["command"][:2] == ["recaption", arguments[0]]
    derived = read_json(tmp_path / "out" / "manifest.json")["derived"]
    assert derived["teller"] == TELLER, "what another version of the code told is not taken for this one's"
    (run_directory(config) / "record.json").unlink()
    with pytest.raises(ConfigError, match="^model=.* is a run that is not finished"):
        recaption_main(arguments)
