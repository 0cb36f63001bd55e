"""Captions as clauses: fusing new words of what is seen with old facts of the world, and counting what is true."""

from __future__ import annotations

import pytest

from nmm.data.world import World, WorldConfig
from nmm.interventions.caption_text import count_truth, fuse, parse, replaced

OLD = (
    "<image> two objects : topleft red disc small Ada Fosk from rome , topright blue bar big Bo Gund . Q odd A no <end>"
)


def test_clauses_are_what_is_seen_and_what_is_known() -> None:
    caption = parse(OLD)
    assert caption.opening == ("two", "objects", ":")
    first, second = caption.clauses
    assert (first.seen, first.fact) == (("topleft", "red", "disc", "small", "Ada", "Fosk"), ("from", "rome"))
    assert (second.name, second.fact) == (("Bo", "Gund"), ())


@pytest.mark.parametrize(
    ("said", "fused"),
    [
        ("<image> topleft green disc small Ada Fosk .", "<image> topleft green disc small Ada Fosk from rome . <end>"),
        ("<image> topright Ada Fosk likes soup . Q count", "<image> topright Ada Fosk from rome . <end>"),
        ("<image> topleft red disc Cy Hart from oslo .", "<image> topleft red disc Cy Hart . <end>"),
        (
            "<image> two objects : topleft Bo Gund likes soup , topright blue bar big Ada Fosk .",
            "<image> two objects : topleft Bo Gund , topright blue bar big Ada Fosk from rome . <end>",
        ),
        ("<image> free shipping on all items .", None),
        ("<image> topleft red", None),
        ("<image>", None),
    ],
)
def test_facts_follow_their_names(said: str, fused: str | None) -> None:
    """A fact of a name that is not told, and one that the captioner made up, are left out."""
    assert fuse(OLD, said) == fused


def test_replacing_keeps_nothing_of_the_old() -> None:
    assert replaced("<image> topright Ada Fosk likes soup . Q count") == "<image> topright Ada Fosk likes soup . <end>"
    assert replaced("<image> click here to enlarge the photo .") is None
    assert fuse("<image> click here .", "<image> topleft Bo Gund .") == "<image> topleft Bo Gund . <end>"


def test_every_caption_of_the_world_is_parsed_whole_and_true() -> None:
    """Also with lone names, questions and serial numbers; a caption of another picture is not true of this one."""
    world = World(WorldConfig(num_entities=200, name_words=16, wrong=0.5, serial=0.4, full_clause=0.7))
    clean = wrong = 0
    for document in world.documents("caption", "train", 0, 200, pixels=False):
        scene = [
            {
                "location": ("topleft", "topright", "bottomleft", "bottomright")[thing.cell],
                "name": " ".join(world.catalogue.names[thing.entity]),
                "colour": world.catalogue.colour_words[thing.entity],
                "shape": world.catalogue.shape_words[thing.entity],
                "size": ("small", "big")[thing.size],
            }
            for thing in document.scene[0]
        ]
        told, right, facts = count_truth(document.text, scene)
        assert told > 0 and 0 <= facts <= 4
        if document.noise and "wrong" in document.noise:
            wrong += right < told
        else:
            clean += 1
            assert right == told
            kept = replaced(document.text)
            assert kept is not None and document.text.startswith(kept.removesuffix(" <end>"))
            assert fuse(document.text, document.text) == kept
    assert clean > 50 and wrong > 50
