"""The page of POINTS' baseline pieces: every piece on against off, at equal tokens and at equal cost."""

from __future__ import annotations

from collections.abc import Sequence

from analysis.interventions import compose, curve
from analysis.interventions.blocks import Block, Heading, Table, Text, Verdict, table
from analysis.interventions.multiplier import Multiplier
from analysis.interventions.numbers import cost_text, estimate_text
from analysis.interventions.paired import Paired, mean, paired
from analysis.interventions.rows import Data

# piece -> (question, on, off); an architecture comes before each name
CLAIMED = {
    "tiles": ("Are tiles worth their positions where the thumbnail shows the details too?", "tiles", "thumb"),
    "tiles of blurred pictures": (
        "Are tiles worth their positions where details are lost without?",
        "blur-tiles",
        "blur",
    ),
    "pixel shuffle": ("Is pixel shuffle worth what it packs together?", "shuffle", "native"),
    "second encoder": ("Is a second encoder worth its FLOPs?", "dual", "native"),
}
CAUSES = (
    ("tiles", "fine", "as many positions as the picture has, but no more pixels than the thumbnail"),
    ("tiles", "native", "the same pixels in one image, without a thumbnail"),
    ("blur-tiles", "fine", "the same pixels in one image, without a thumbnail"),
    ("shuffle", "coarse", "as few positions by larger patches in the encoder"),
)
ARCHS = ("early", "late")
LADDERS = {  # pictures: each with the whole picture in the plain way, as far as an architecture has its arms
    "shuffle": ("native", "shuffle", "coarse", "dual"),
    "tiles": ("native", "thumb", "tiles", "fine"),
    "blur-tiles": ("native", "blur", "blur-tiles"),
}
LIMITS = (
    "Six comparisons and four seeds resolve large effects only; where all seeds agree and the interval is open, more "
    "seeds would decide (seeds= in sweeps/recipes/intervention_pieces.yaml).",
    "Pictures of 16 x 16 pixels and models of tens of thousands of parameters: what a detail is, and what an encoder "
    "can do with it, is another thing at 336 pixels.",
    "The second encoder begins at random like the first and sees the same patches; POINTS pretrained its own on other "
    "data, which is where its gain would come from.",
    "For early fusion pixel shuffle is a larger patch, exactly (a test holds both to the same logits).",
    "Equal cost means equal FLOPs by the exact formula; time differs, as few positions keep a processor less busy.",
)


def blocks(data: Data) -> list[Block]:
    """Verdicts, the multiplier of each piece, all arms, what separates causes, and the ladders."""
    compared = comparisons(data)
    gaps = [gap for _, gap in compared]
    return [
        *compose.opening(data, [_verdict(data, piece, gap) for piece, gap in compared], (*LIMITS, _length(data))),
        Heading("Every piece on and off, at the longest runs of both"),
        Text("At equal positions: a piece with more positions a picture has seen fewer pictures by then."),
        compose.paired_table(gaps),
        compose.paired_table([_gap(data, gap.arm, gap.control, len(gaps), "name") for gap in gaps]),
        compose.paired_table([_gap(data, gap.arm, gap.control, len(gaps), "caption") for gap in gaps]),
        Text(
            "Averaged over the whole ladder, which is less noisy than its end and asks about training from the start:"
        ),
        compose.paired_table([paired(data, g.arm, "", g.control, ("steps",), len(gaps)) for g in gaps]),
        *_multipliers(data, gaps),
        Heading("What separates causes"),
        *_causes(data),
        Heading("All arms"),
        _arms(data),
        *_ladders(data),
    ]


def comparisons(data: Data) -> list[tuple[str, Paired]]:
    """(piece, on minus off at the longest runs) wherever both arms were run; intervals for all of them together."""
    pairs = [
        (piece, f"{arch}-{on}", f"{arch}-{off}")
        for piece, (_, on, off) in CLAIMED.items()
        for arch in ARCHS
        if {f"{arch}-{on}", f"{arch}-{off}"} <= set(data.arms)
    ]
    return [(piece, _gap(data, on, off, len(pairs))) for piece, on, off in pairs]


def _gap(data: Data, arm: str, control: str, number: int, metric: str = "") -> Paired:
    return paired(data, arm, metric, control, comparisons=number, where={"steps": _longest(data, (arm, control))})


def _longest(data: Data, arms: Sequence[str]) -> int:
    """Steps of the longest runs that all of these arms have."""
    return int(max(set.intersection(*({row["steps"] for row in data.where(arm).rows} for arm in arms))))


def _length(data: Data) -> str:
    """How long was not long enough, and which arms went on."""
    common = _longest(data, data.arms)
    went_on = [arm for arm in data.arms if _longest(data, (arm,)) > common]
    longer = (
        f"{' and '.join(went_on)} were trained longer, on captions that then come back several times."
        if went_on
        else "No arm was trained longer here, so what details are worth once all else is learned is open."
    )
    return f"In {common:,} steps an arm is limited by how fast it learns, not by what its pixels hold. {longer}"


def _ladders(data: Data) -> list[Block]:
    """A picture an architecture and piece: all arms in one were not to be told apart."""
    found: list[Block] = []
    for arch in ARCHS:
        for piece, pieces in LADDERS.items():
            arms = [f"{arch}-{name}" for name in pieces if f"{arch}-{name}" in data.arms]
            if len(arms) > 1:
                title = f"{arch.capitalize()} fusion: {', '.join(arm.partition('-')[2] for arm in arms)}"
                found.append(
                    compose.curves_figure(data, f"ladder-{arch}-{piece}", arms=arms, rung="steps", title=title)
                )
    return found


def _verdict(data: Data, piece: str, gap: Paired) -> Verdict:
    question = f"{gap.arm.partition('-')[0].capitalize()} fusion, {piece}: {CLAIMED[piece][0]}"
    worth = curve.multiplier(data, gap.arm, "", "total", gap.control, "steps", comparisons=gap.comparisons)
    note = f"At equal total cost: {worth.sentence()} In captions seen: {_in_captions(data, gap).sentence()}"
    return compose.paired_verdict(gap, question, note)


def _in_captions(data: Data, gap: Paired) -> Multiplier:
    """What the piece makes of a picture, whatever its positions cost."""
    label = "captions seen (captions)"
    return curve.multiplier(
        data, gap.arm, "", "documents", gap.control, "steps", axis_label=label, comparisons=gap.comparisons
    )


def _multipliers(data: Data, gaps: Sequence[Paired]) -> list[Block]:
    """What a piece is worth in compute, from the measured ladders of on and off."""
    number = len(gaps)
    curves = [curve.multiplier(data, g.arm, "", "total", g.control, "steps", comparisons=number) for g in gaps]
    found: list[Block] = [
        Heading("Multipliers at equal total cost"),
        Text("Cost of off over cost of on for the same grounded excess; above 1 the piece saves compute."),
        compose.multiplier_table(curves, rows=3),
    ]
    for control in dict.fromkeys(worth.control for worth in curves):
        drawn = [w for w in curves if w.control == control and w.has_interval and w.observed().any()]
        if drawn:
            title = f"Multipliers against {control}"
            found.append(compose.multiplier_figure(f"multipliers-{control}", drawn, title, data=data))
    samples = [_in_captions(data, gap) for gap in gaps]
    found += [
        Heading("The same, counted in captions seen"),
        Text("What a piece makes of a picture, whatever its positions cost: captions of off over captions of on."),
        compose.multiplier_table(samples, rows=3),
    ]
    return found


def _causes(data: Data) -> list[Block]:
    """Each treatment against the arm that shares all but the supposed cause."""
    found = [
        (f"{arch}-{on}", f"{arch}-{off}", why)
        for on, off, why in CAUSES
        for arch in ARCHS
        if {f"{arch}-{on}", f"{arch}-{off}"} <= set(data.arms)
    ]
    gaps = [_gap(data, on, off, len(found)) for on, off, _ in found]
    lines = "; ".join(dict.fromkeys(f"{off.partition('-')[2]}: {why}" for _, off, why in found))
    return [compose.paired_table(gaps), Text(f"Compared with {lines}.", soft=True)] if gaps else []


def _arms(data: Data) -> Table:
    """Every arm at the longest runs that all have: documents seen, cost, and all kinds of words."""
    last = data.where(None, steps=_longest(data, data.arms))
    kinds = ("grounded", "colour", "shape", "size", "location", "name", "caption")
    rows = []
    for arm in last.arms:
        mine = last.where(arm)
        cells = [estimate_text(mean(mine.values(kind).tolist())) for kind in kinds]
        size = f"{mine.values('n')[0]:,.0f}"
        rows.append(
            (arm, size, f"{mine.values('documents').mean():,.0f}", cost_text(mine.values("total").tolist()), *cells)
        )
    header = ("arm", "parameters", "captions seen", "FLOPs", *kinds)
    notes = ["Excess over the known entropy, nats a word (caption: a token); mean and 95 % t interval over seeds."]
    return table(header, rows, "l" + "r" * (len(header) - 1), notes)
