"""The page of perplexity filtering: against the whole pool and a random fifth, in data and compute; what it loses."""

from __future__ import annotations

from collections.abc import Sequence

from analysis.fit import FitError
from analysis.interventions import curve, lawfit
from analysis.interventions.blocks import Block, Heading, Table, Text, Verdict, table
from analysis.interventions.compose import (
    bars_figure,
    curves_figure,
    forest_figure,
    law_table,
    means_table,
    multiplier_figure,
    multiplier_table,
    multiplier_verdict,
    opening,
    paired_table,
    paired_verdict,
)
from analysis.interventions.numbers import estimate_text, gap_text
from analysis.interventions.paired import mean, means, paired, paired_all
from analysis.interventions.rows import Data, RowsError

LADDER = ("full", "random", "lowest")
CHOICES = ("random", "lowest", "length_normalised", "summed", "text_only", "blind", "middle", "highest", "clean")
RARE = ("rare_full", "rare_random", "rare_lowest")
DULL = ("dull_full", "dull_random", "dull_lowest", "dull_middle")
TAIL = "loss_tail"
LIMITS = (
    "The noise is made for the filter to find: unguessable words and captions of other pictures. How much of a web "
    "pool is like that is not known here, and it decides most of the gain.",
    "Losses are of clean captions. A model of the noisy pool has learned how often captions are wrong, so part of its "
    "loss is a floor that no amount of the same data removes. A multiplier against it grows without bound as the loss "
    "falls, and is a bound where the whole pool never got there.",
    "Reference and kept fifth belong to one pool. Charged costs are those of a single use: a reference that scores "
    "many pools, or a kept fifth that trains many models, is closer to the amortised curve.",
    "Random fifths are drawn anew for every seed; pool and reference are one of each, so their luck is in no interval.",
    "Models of some ten thousand parameters and at most a million tokens; nothing is said outside this range.",
)
ANY = ("better", "unresolved", "worse", "mixed", "no effect")


def blocks(data: Data) -> list[Block]:
    """The whole page."""
    even = _pool(data, "even")
    size = _middle(even)
    common = _positions(even, [arm for arm in CHOICES if arm in even.arms], size)
    at = {"size": size, "positions": common[-1]}
    gaps = paired_all(even, control="random", arms=["full", *(arm for arm in CHOICES if arm != "random")], where=at)
    return [
        *opening(data, _verdicts(data, even, size, at), LIMITS),
        Heading("What was kept"),
        _kept_table(data),
        Text("Precision: the share of kept captions without noise. Recall: the share of all captions without noise "
             "that is kept. Fixed: the fixed text; copies: repeated samples; tail: mentions of the rarer entities; "
             "FLOPs: charged for scoring and the reference."),
        Heading(f"Every choice at equal tokens (size {size}, {at['positions']:,} positions)"),
        means_table(even, arms=[arm for arm in ("full", *CHOICES) if arm in even.arms], where=at),
        forest_figure("against_random", gaps),
        paired_table(gaps),
        *_cost(even, size),
        *_laws(even),
        Heading("Repeated epochs"),
        _epochs(even, size),
        Text("An epoch of a fifth is a fifth of the pool's: the lower the row, the more its captions are repeated, "
             "while the whole pool is hardly read once."),
        *_rare(data),
        *_dull(data),
    ]  # fmt: skip


def _pool(data: Data, pool: str) -> Data:
    return data.where(None, pool=pool)


def _middle(data: Data) -> str:
    """The size at which every arm was trained."""
    sizes = [size for size in data.levels("size") if set(data.where(None, size=size).arms) == set(data.arms)]
    if not sizes:
        raise RowsError("no size was trained in every arm; run the study again")
    return str(sizes[0])


def _positions(data: Data, arms: Sequence[str], size: str) -> list[int]:
    """Lengths of training that all these arms have, ascending."""
    found = [set(data.where(arm, size=size).levels("positions")) for arm in arms]
    return sorted(set.intersection(*found))


def _verdicts(data: Data, even: Data, size: str, at: dict[str, object]) -> list[Verdict]:
    """The three differences were named beforehand and are corrected for each other; the table has the whole family."""
    where = {"size": size}
    total, flops, tokens = (
        curve.multiplier(even, "lowest", axis=axis, rung="positions", where=where, comparisons=3)
        for axis in ("total", "flops", "d")
    )
    asked = {
        (arm, control): paired(even, arm, control=control, comparisons=3, where=at)
        for arm, control in (("lowest", "full"), ("lowest", "random"), ("blind", "random"))
    }
    found = [
        paired_verdict(
            asked["lowest", "full"],
            f"Is the least surprising fifth better than the whole pool, at equal tokens ({size})?",
        ),
        paired_verdict(
            asked["lowest", "random"], "Is it better than a random fifth, the control that the paper lacks?"
        ),
        multiplier_verdict(tokens, "What is it worth in data?", "Tokens of the whole pool for the same loss."),
        multiplier_verdict(
            total, "And in compute, if it pays for its scoring and for the reference?", expected=("better", "no effect")
        ),
        multiplier_verdict(flops, "And if somebody else has paid for these (amortised)?"),
        paired_verdict(
            asked["blind", "random"], "Does the ranking need the picture? The same reference, blind:", expected=ANY
        ),
    ]
    for pool, metric, question, note in (
        (
            "rare",
            TAIL,
            "Where most entities are rare: what becomes of them?",
            "On the words about rarer entities only.",
        ),
        ("dull", "", "Where one fixed text fills a fifth of the pool: does the filter help?", ""),
    ):
        if f"{pool}_lowest" in data.arms:
            gap = paired(_pool(data, pool), f"{pool}_lowest", metric, f"{pool}_random", where=_last(data, pool))
            found.append(paired_verdict(gap, question, note))
    return found


def _last(data: Data, pool: str) -> dict[str, object]:
    """The longest training in a pool."""
    return {"positions": max(_pool(data, pool).levels("positions"))}


def _kept_table(data: Data) -> Table:
    """One row an arm: what its choice holds; nothing here depends on seeds."""
    names = ("share_clean", "recall", "share_serial", "share_wrong", "share_boilerplate", "share_repeated")
    rows = []
    for arm in data.arms:
        row = data.where(arm).rows[0]
        cells = [f"{row['samples']:,}", *(f"{row[name]:.1%}" for name in names), str(row["entities"])]
        rows.append((arm, *cells, f"{row['tail_share']:.1%}", f"{row['charged']:.2g}" if row["charged"] else "0"))
    header = (
        "arm",
        "captions",
        "precision",
        "recall",
        "serial",
        "wrong",
        "fixed",
        "copies",
        "entities",
        "tail",
        "FLOPs",
    )
    return table(header, rows)


def _cost(even: Data, size: str) -> list[Block]:
    where = {"size": size}
    arms = [arm for arm in LADDER if arm in even.arms]
    worth = {
        axis: curve.multiplier(even, "lowest", axis=axis, rung="positions", where=where) for axis in ("total", "flops")
    }
    random = curve.multiplier(even, "random", axis="flops", rung="positions", where=where)
    return [
        Heading(f"Loss against what was spent ({size})"),
        curves_figure(even, "cost", arms=arms, axis="total", rung="positions", where=where, log_y=True,
                      title="With scoring and the reference's training charged"),
        curves_figure(even, "cost_amortised", arms=arms, axis="flops", rung="positions", where=where, log_y=True,
                      title="Training alone (amortised)"),
        multiplier_figure("worth", [worth["total"]], title="Compute multiplier, everything charged", data=even),
        multiplier_table([worth["total"]]),
        multiplier_figure("worth_amortised", [worth["flops"], random], data=even,
                          title="Compute multiplier of training alone: the lowest fifth and a random one"),
        multiplier_table([worth["flops"], random]),
    ]  # fmt: skip


def _laws(even: Data) -> list[Block]:
    """One law per arm over all sizes, with a shared floor and size term; charged and amortised."""
    title = Heading("One law per arm, over all sizes")
    arms = [arm for arm in LADDER if arm in even.arms]
    free = Data(even.study, tuple({**row, "charged": 0.0} for row in even.rows))
    try:
        laws, amortised = (lawfit.fit_arms(rows, arms=arms) for rows in (even, free))
        curves = [laws.compute_multiplier("lowest"), amortised.compute_multiplier("lowest")]
    except (FitError, RowsError) as error:
        return [title, Text(f"These runs carry no law: {error}")]
    return [
        title,
        law_table(laws),
        Text(laws.why),
        multiplier_figure(
            "law_worth", [curves[0]], title="Compute multiplier by the laws, everything charged", data=even
        ),
        multiplier_table([curves[0]]),
        multiplier_figure("law_worth_amortised", [curves[1]], title="The same, amortised", data=even),
        multiplier_table([curves[1]]),
        multiplier_figure("law_data", [laws.data_curve("lowest")], title="Data multiplier by the laws", data=even),
    ]


def _epochs(even: Data, size: str) -> Table:
    """Loss by length of training, with epochs over what each arm has, and the lowest fifth's lead."""
    rows = []
    for positions in _positions(even, LADDER, size):
        where = {"size": size, "positions": positions}
        said = means(even, arms=LADDER, where=where)
        epochs = [f"{mean(even.where(arm, **where).values('epochs')).value:.1f}" for arm in LADDER]
        gap = paired(even, "lowest", control="random", where=where)
        cells = [text for arm, epoch in zip(LADDER, epochs, strict=True) for text in (epoch, estimate_text(said[arm]))]
        rows.append((f"{positions:,}", *cells, gap_text(gap.difference)))
    header = ("positions", *(text for arm in LADDER for text in (f"{arm}: epochs", "loss")), "lowest - random")
    return table(header, rows)


def _rare(data: Data) -> list[Block]:
    if not set(RARE) <= set(data.arms):
        return []
    rare, last = _pool(data, "rare"), _last(data, "rare")
    gaps = [
        paired(rare, "rare_lowest", name, "rare_random", comparisons=2, where=last) for name in ("loss_grounded", TAIL)
    ]
    return [
        Heading("Where most entities are rare"),
        Text("The same noise, but 200 entities of Zipf popularity instead of 48 that are about as common. Names of "
             "rare entities surprise the reference, so the least surprising fifth tells of the popular ones."),
        means_table(rare, arms=RARE, where=last),
        bars_figure(rare, "rare_tail", metric=TAIL, arms=RARE, where=last, title="Loss on the rarer entities' words"),
        paired_table(gaps),
    ]  # fmt: skip


def _dull(data: Data) -> list[Block]:
    if not set(DULL) <= set(data.arms):
        return []
    dull, last = _pool(data, "dull"), _last(data, "dull")
    gaps = paired_all(dull, control="dull_random", arms=[arm for arm in DULL if arm != "dull_random"], where=last)
    return [
        Heading("Where a fixed text fills a fifth of the pool"),
        Text("Nothing is less surprising than a text that the reference has seen a thousand times, and the rule has no "
             "lower cut: the lowest fifth is mostly that text and copies of the same few samples."),
        means_table(dull, arms=DULL, where=last),
        bars_figure(dull, "dull", arms=DULL, where=last, title="Grounded loss"),
        paired_table(gaps),
    ]  # fmt: skip
