"""The study of POINTS' baseline pieces: tiles with a thumbnail, pixel shuffle and a second encoder, each on and off.

Pictures of 16 x 16 pixels whose objects differ in single pixels; a model that takes images of 8 x 8 sees them as a
thumbnail, or as four tiles and a thumbnail. One sweep an architecture: OUT/early and OUT/late, every arm a ladder of
token counts; positions, encoders and projections are in each run's own FLOPs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sweeps.interventions.building import recipe, records, row_of, sweep_steps
from sweeps.interventions.protocol import WORKERS, Arm, Metric, Step, Study

GROUNDED = ("colour", "shape", "size", "location", "name")
CAPTIONS = ("~data.mixture.interleaved", "~data.mixture.text")
WORLD = (
    "+data.world.num_entities=400", "+data.world.name_words=30", "+data.world.num_colours=8",
    "+data.world.object_counts=[0.4,0.3,0.2,0.1]", "+data.world.big_probability=0",
    "+data.world.lone_object_fills=false", "+data.world.jitter=1", "+data.world.noise=10",
    "+data.world.question_chain=[]", "+data.world.tails=[0,0,1]", "+data.world.full_clause=1",
    "+data.world.count_phrase=0",
)  # fmt: skip
SMALL = ("data.picture_size=16", "data.image_size=8")
SMALLEST = ("data.picture_size=16", "data.image_size=4", "data.patch_size=2")
PIECES: dict[str, tuple[str, ...]] = {
    "native": ("data.image_size=16",),
    "shuffle": ("data.image_size=16", "arch.pixel_shuffle=2"),
    "thumb": SMALL,
    "tiles": (*SMALL, "data.tiles=4"),
    "fine": (*SMALL, "data.patch_size=2"),
    "blur": SMALLEST,
    "blur-tiles": (*SMALLEST, "data.tiles=4"),
    "coarse": ("data.image_size=16", "data.patch_size=8"),
    "dual": ("data.image_size=16", "arch.vision_model2=sized"),
}
OF_ARCH = {
    "early": ("native", "shuffle", "thumb", "tiles", "fine", "blur", "blur-tiles"),
    "late": ("native", "shuffle", "coarse", "dual", "blur", "blur-tiles"),
}
LONG = "long"
LONG_ARMS = ("blur", "blur-tiles")  # of early fusion: what the thumbnail has lost shows only once all else is learned
LONG_TOKENS = (2_000_000, 4_000_000)
TINY = {"early": ("native", "thumb", "tiles"), "late": ("native", "shuffle", "dual")}
POSITIONS = {"native": 16, "shuffle": 4, "thumb": 4, "tiles": 20, "fine": 16, "blur": 4, "blur-tiles": 20, "coarse": 4,
             "dual": 16}  # of a picture  # fmt: skip
TEXT_TOKENS = 15  # of a caption of this world, about: rows of validation are to hold the same documents in every arm

WHAT = {
    "native": "the whole picture in patches of 4 x 4 pixels: 16 positions",
    "shuffle": "the same patches, 2 x 2 of them in one position: 4 positions",
    "coarse": "the whole picture in patches of 8 x 8 pixels: 4 positions without pixel shuffle",
    "dual": "as native, with a second encoder of the same shape, features averaged",
    "thumb": "the picture made smaller to 8 x 8 pixels: 4 positions",
    "tiles": "four tiles of 8 x 8 pixels and the thumbnail: 20 positions",
    "fine": "the thumbnail in patches of 2 x 2 pixels: 16 positions, no more pixels",
    "blur": "the picture made smaller to 4 x 4 pixels, an object is one or two of them: 4 positions",
    "blur-tiles": "four tiles of 4 x 4 pixels, 8 x 8 in all, and that thumbnail: 20 positions",
}
ROLES: Mapping[str, Any] = {
    "native": "control", "thumb": "control", "blur": "control", "shuffle": "treatment", "tiles": "treatment",
    "blur-tiles": "treatment", "dual": "treatment", "fine": "baseline", "coarse": "baseline",
}  # fmt: skip
CLAIM = (
    "POINTS (arXiv 2409.04828, table 1; mean of 8 benchmarks of a 9B model): dynamic tiles that keep the aspect, with "
    "a thumbnail and pixel shuffle, 51.1 -> 53.4; a second vision encoder whose features are averaged in, 53.4 -> "
    "55.5. One run each, not at equal cost. There the second encoder was pretrained on 30M captions, most of text in "
    "pictures; here both begin at random."
)
MEASURED_ON = (
    "Captions of a procedural world (16 x 16 pixels, objects of 4 x 4 pixels in jittered places, names told apart by "
    "single pixels), early and late fusion, width 32, 2 blocks (late: the same decoder and encoders of width 16, one "
    "block), no pretrained encoder. Grounded excess: loss above the world's known entropy on the words for colour, "
    "shape, size, place and name, mean over the five, of held-out captions, about the same ones for every arm."
)


def study(out: Path, scale: str) -> Study:
    """The study in ``out``; scale tiny is for looking at the machinery."""
    grid, arms = recipe("intervention_pieces"), TINY if scale == "tiny" else OF_ARCH
    if scale == "tiny":
        tiny = ["schedule.warmup_steps=2", "trainer.compile=off", "arch.pairing=none"]
        grid |= {"sizes": ["d16"], "tokens": [2_048, 4_096], "seeds": [0, 1], "overrides": tiny}
    documents = 40 if scale == "tiny" else 1_200  # of validation
    return Study(
        method="pieces",
        title="POINTS' baseline pieces: tiles, pixel shuffle, two encoders",
        acts_on="architecture",
        claim=CLAIM,
        control="early-native",
        arms=tuple(
            Arm(f"{arch}-{piece}", ROLES[piece], f"{arch} fusion; {WHAT[piece]}")
            for arch, pieces in arms.items()
            for piece in pieces
        ),
        metrics=(
            Metric("grounded", "grounded excess (nats a word)", "lower"),
            Metric("name", "excess on names (nats a word)", "lower"),
            Metric("caption", "excess of captions (nats a token)", "lower"),
        ),
        measured_on=MEASURED_ON,
        steps=steps(out, grid, arms, documents, LONG_TOKENS if scale == "cpu" else ()),
        collect=collect,
    )


def steps(
    out: Path, grid: Mapping[str, Any], arms: Mapping[str, Sequence[str]], documents: int, longer: Sequence[int]
) -> tuple[Step, ...]:
    """Shards, one sweep an architecture, and one of ``longer`` runs of LONG_ARMS, which see captions several times."""
    most = max(grid["tokens"])
    render = (
        "shards", "data=world", f"out={out / 'shards'}", *SMALL, "data.patch_size=4", *CAPTIONS, *WORLD, "sheet=true",
        f"train_tokens={most}", f"eval_samples={round(documents * 1.3)}", f"workers={WORKERS}",
    )  # fmt: skip
    made = Step("shards", render, out / "shards" / "manifest.json")
    files = {arch: sweep(out, arch, grid, pieces, documents) for arch, pieces in arms.items()}
    if longer:
        more = {**grid, "tokens": list(longer)}
        files[LONG] = sweep(out, "early", more, LONG_ARMS, documents) | {"name": f"pieces_{LONG}"}
    return (made, *(step for name, file in files.items() for step in sweep_steps(out, name, file)))


def sweep(out: Path, arch: str, grid: Mapping[str, Any], pieces: Sequence[str], documents: int) -> dict[str, Any]:
    """The sweep file of one architecture. ``documents``: held-out captions that every arm is measured on, about."""
    context = 128
    arms = {}
    for piece in pieces:
        length = POSITIONS[piece] + TEXT_TOKENS
        rows = -(-documents // (context // length))
        arms[f"{arch}-{piece}"] = [*PIECES[piece], f"data.eval_rows={rows}"]
    own = [f"data.path={out / 'shards'}", *CAPTIONS, "data.patch_size=4", "intervention.method=pieces"]
    return {**grid, "name": f"pieces_{arch}", "archs": [arch], "arms": arms, "overrides": [*own, *grid["overrides"]]}


def collect(out: Path) -> list[dict[str, Any]]:
    """One row a run: excess over the known entropy by kind of word; ``steps`` tells rungs apart."""
    made = [out / name for name in (*OF_ARCH, LONG) if (out / f"{name}.yaml").is_file()]
    return [row_of_run(record) for runs in made for record in records(runs)]


def row_of_run(record: Mapping[str, Any]) -> dict[str, Any]:
    """The row of a run that finished."""
    result = record["result"]
    excess = {name: result["class_excess"][name] for name in GROUNDED}
    measured = {
        "grounded": sum(excess.values()) / len(excess),
        "caption": result["loss"]["caption"] - result["entropy"]["caption"],
        **excess,
    }
    source = record["tokens"]["by_source"]["caption"]
    more = {"steps": record["steps"], "documents": source["samples"], "positions": record["tokens"]["positions"]}
    return row_of(record, **measured, **more)
