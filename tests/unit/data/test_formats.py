"""Which members of a sample are read, and the document they make."""

from __future__ import annotations

import json
from typing import Any

import pytest

from nmm.data.formats import EXPECTED, Picture, UnknownFormat, line_format, parse, used_members
from nmm.data.reasons import BadSample

A, B = b"first image", b"second image"


def as_json(**record: Any) -> bytes:
    return json.dumps(record).encode()


@pytest.mark.parametrize(
    ("names", "used"),
    [
        (["jpg", "json", "txt"], ["jpg", "txt"]),  # img2dataset
        (["json", "webp"], ["webp", "json"]),
        (["JPG", "txt"], ["JPG", "txt"]),
        (["cls", "jpg", "npy", "txt"], ["jpg", "txt"]),  # what else lies beside a caption is not read
        (["input.png", "txt"], ["input.png", "txt"]),
        (["0.png", "1.png", "json", "txt"], ["json", "0.png", "1.png"]),  # our world
        (["0.png", "json", "txt"], ["json", "0.png"]),
        (["10.jpg", "2.jpg", "json"], ["json", "2.jpg", "10.jpg"]),
        (["0.png", "txt"], ["0.png", "txt"]),
        (["txt"], ["txt"]),
        (["json"], ["json"]),
        (["json", "txt"], ["txt", "json"]),
        (["jpg"], ["jpg"]),  # a caption that is missing: for ``parse`` to tell
        (["jsonl.gz"], ["jsonl.gz"]),
        (["0.jsonl", "1.jsonl"], ["0.jsonl", "1.jsonl"]),
    ],
)
def test_members_that_are_read(names: list[str], used: list[str]) -> None:
    assert used_members(names) == used


@pytest.mark.parametrize(
    "names",
    [["mp4", "txt"], ["npy"], ["jsonl", "txt"], ["jpg", "png", "txt"], ["0.jpg", "1.jpg"], ["gif", "json"], [""], []],
)
def test_unknown_members_are_named_with_what_is_expected(names: list[str]) -> None:
    with pytest.raises(UnknownFormat) as caught:
        used_members(names)
    assert EXPECTED in str(caught.value) and all(name in str(caught.value) for name in names)


def test_a_name_with_thousands_of_digits_sorts() -> None:
    long = "9" * 10_000 + ".jpg"
    assert used_members([long, "1.jpg", "json"]) == ["json", "1.jpg", long]


@pytest.mark.parametrize(
    ("name", "form"),
    [("a.jsonl", "jsonl"), ("b.0.JSONL.GZ", "jsonl.gz"), ("jsonl.zst", "jsonl.zst"), ("a.json", ""), ("xjsonl", "")],
)
def test_line_formats(name: str, form: str) -> None:
    assert line_format(name) == form


@pytest.mark.parametrize(
    ("parts", "kind", "segments"),
    [
        ({"jpg": A, "txt": b"a dog"}, "caption", (Picture("jpg", A), "a dog")),
        ({"JPG": A, "txt": b"\xef\xbb\xbfa dog"}, "caption", (Picture("jpg", A), "a dog")),
        ({"png": A, "json": as_json(caption="a cat", url="x")}, "caption", (Picture("png", A), "a cat")),
        ({"txt": b"some text\n"}, "text", ("some text\n",)),
        ({"txt": b"some text", "json": b'{"n": 1}'}, "text", ("some text",)),
        ({"json": as_json(text="some text")}, "text", ("some text",)),
        ({"jsonl": as_json(text="a line", id=3) + b"\r"}, "text", ("a line",)),
        (
            {
                "json": as_json(segments=[{"text": "see"}, {"image": "1.png"}, {"text": " "}, {"image": "0.png"}]),
                "0.png": A,
                "1.png": B,
            },
            "interleaved",
            ("see", Picture("png", B), Picture("png", A)),
        ),
        (
            {
                "json": as_json(texts=["x", None, "y", None], images=[None, "1.png", None, "0.png"]),
                "0.png": A,
                "1.png": B,
            },
            "interleaved",
            ("x", Picture("png", B), "y", Picture("png", A)),
        ),
        (
            {
                "json": as_json(texts=[None, "y", None], images=["http://b/q.jpg", None, "http://a"]),
                "0.jpg": A,
                "1.jpg": B,
            },
            "interleaved",
            (Picture("jpg", A), "y", Picture("jpg", B)),
        ),
        ({"jpg": A, "json": as_json(texts=[None, "y"], images=["u", None])}, "interleaved", (Picture("jpg", A), "y")),
        ({"json": as_json(segments=[{"text": "a"}, {"text": "b"}])}, "text", ("a", "b")),
    ],
)
def test_documents(parts: dict[str, bytes], kind: str, segments: tuple[Any, ...]) -> None:
    parsed = parse(parts, "caption")
    assert (parsed.kind, parsed.segments) == (kind, segments)


def test_the_caption_may_be_in_another_field() -> None:
    parts = {"jpg": A, "json": as_json(caption="short", alt="long")}
    assert parse(parts, "alt").segments == (Picture("jpg", A), "long")


DOWNLOADED = as_json(url="u", width=1, height=1, status="success", caption="a dog")


@pytest.mark.parametrize(
    ("parts", "reason", "words"),
    [
        ({"jpg": A}, "no_text", "'jpg' has neither txt nor json"),
        ({"jpg": A, "json": as_json(alt="x")}, "no_text", "--caption-field"),
        ({"jpg": A, "json": as_json(caption=None)}, "no_text", "'caption'"),
        ({"jpg": A, "json": as_json(caption=7)}, "bad_text", "int"),
        ({"jpg": A, "txt": b" \n"}, "empty_text", "blank"),
        ({"jpg": A, "txt": b"caf\xe9"}, "bad_text", "byte 3"),
        ({"jpg": A, "json": b'{"caption": "\\ud800"}'}, "bad_text", "surrogate"),
        ({"jpg": A, "json": b"{"}, "bad_text", "not JSON"),
        ({"jpg": A, "json": b"[" * 100_000}, "bad_text", "json"),
        ({"jpg": A, "json": b'{"n": ' + b"1" * 5000 + b"}"}, "bad_text", "not JSON"),
        ({"jpg": A, "json": b"[1]"}, "bad_text", "list"),
        ({"txt": b"a dog", "json": DOWNLOADED}, "no_image", "downloaded"),
        ({"json": DOWNLOADED}, "no_image", "downloaded"),
        ({"txt": b"a", "json": as_json(segments=[{"image": "0.png"}])}, "no_image", "'0.png'"),
        ({"json": as_json(title="x")}, "no_text", "title"),
        ({"json": as_json(text=["x"])}, "bad_text", "list"),
        ({"jsonl": b"{}"}, "no_text", "empty object"),
        ({"jsonl": b'{"text": ""}'}, "empty_text", "white space"),
        ({"0.png": A, "1.png": B, "json": as_json(caption="x")}, "bad_text", "segments"),
        ({"0.png": A, "json": as_json(segments=[{"image": "1.png"}, {"text": "x"}])}, "no_image", "there is 0.png"),
        ({"0.png": A, "json": as_json(segments=[{"image": "json"}, {"text": "x"}])}, "no_image", "'json'"),
        ({"0.png": A, "json": as_json(segments=[{"image": "0.png"}])}, "empty_text", "no text"),
        ({"0.png": A, "json": as_json(segments="0.png")}, "bad_text", "str"),
        ({"0.png": A, "json": as_json(segments=[["x"] * 10_000])}, "bad_text", "neither"),
        ({"0.png": A, "json": as_json(segments=[{"text": "x", "image": "0.png"}])}, "bad_text", "neither"),
        ({"0.png": A, "json": as_json(texts=["a"], images=["0.png"])}, "bad_text", "place 0"),
        ({"0.png": A, "json": as_json(texts=[None], images=[None])}, "bad_text", "place 0"),
        ({"0.png": A, "json": as_json(texts=["a", None], images=[None])}, "bad_text", "one length"),
        ({"0.png": A, "json": as_json(texts=["a", None], images=[None, {"u": 1}])}, "bad_text", "place 1"),
        ({"0.png": A, "json": as_json(texts=[None, None, "x"], images=["u", "v", None])}, "no_image", "2 images, 1"),
        ({"0.png": A, "1.png": B, "json": as_json(texts=[None, "x"], images=["u", None])}, "bad_text", "1 images"),
    ],
)
def test_bad_samples(parts: dict[str, bytes], reason: str, words: str) -> None:
    with pytest.raises(BadSample) as caught:
        parse(parts, "caption")
    assert caught.value.reason == reason and words in str(caught.value)
    assert len(str(caught.value)) < 400
