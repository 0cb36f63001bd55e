"""The page of perplexity filtering: against the whole pool and a random fifth, in data and compute; what it loses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

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
from analysis.interventions.multiplier import Multiplier
from analysis.interventions.numbers import estimate_text, gap_text
from analysis.interventions.paired import Paired, by_seed, mean, means, paired
from analysis.interventions.rows import Data, RowsError, value_of

LADDER = ("full", "random", "lowest")
CHOICES = ("random", "lowest", "length_normalised", "summed", "text_only", "blind", "middle", "highest", "clean")
RARE = ("rare_full", "rare_random", "rare_lowest")
DULL = ("dull_full", "dull_random", "dull_lowest", "dull_middle")
TAIL = "loss_tail"
EPOCHS = 2.5  # of what an arm kept: runs beyond are no data for a law
LENGTHS = 3  # of training, that a law of an arm needs at least
CURVES = 4  # multipliers of measured ladders on the page
LIMITS = (
    "The noise is made for the filter to find: unguessable words and captions of other pictures. How much of a web "
    "pool is like that is not known here, and it decides most of the gain.",
    "Losses are of clean captions. A model of the noisy pool has learned how often captions are wrong, so part of its "
    "loss is a floor that no amount of the same data removes. A multiplier against it grows without bound as the loss "
    "falls, and is a bound where the whole pool never got there.",
    "Reference and kept fifth belong to one pool. Charged costs are those of a single use: a reference that scores "
    "many pools, or a kept fifth that trains many models, is closer to the amortised curve.",
    "Random fifths are drawn anew for every seed; pool and reference are one of each, so their luck is in no interval.",
    "Data are counted as tokens trained on. The fifth was chosen from a pool five times as large, by a reference that "
    "had read captions of its own; where captions are scarce, these are part of the price.",
    "The whole pool has a floor of its own, and laws here share one: the exponent beta of such an arm takes that up "
    "and is no exponent. Inside the tested range multipliers hold all the same.",
    "The study has six seeds because a first look at four left the difference from a random fifth open (-0.15 [-0.33, "
    "+0.03] for all comparisons, better in 4 of 4); an interval after a second look is a little too narrow.",
    "Models of some ten thousand parameters and at most a million tokens; nothing is said outside this range.",
)
ANY = ("better", "unresolved", "worse", "mixed", "no effect")


def blocks(data: Data) -> list[Block]:
    """The whole page."""
    even = _pool(data, "even")
    size = _middle(even)
    common = _positions(even, [arm for arm in CHOICES if arm in even.arms], size)
    at = {"size": size, "positions": common[-1]}
    gaps = _judged(data, even, at)
    ranked = [gaps[arm, "random", ""] for arm in ("full", *CHOICES) if (arm, "random", "") in gaps]
    worth = _worth(even, size)
    return [
        *opening(data, _verdicts(gaps, worth, size), (*LIMITS, _family(gaps))),
        Heading("What was kept"),
        _kept_table(data),
        Text("Precision: the share of kept captions without noise. Recall: the share of all captions without noise "
             "that is kept. Fixed: the fixed text; copies: repeated samples; tail: mentions of the rarer entities; "
             "FLOPs: charged for scoring and the reference. Means over the draws of the seeds, where there are any."),
        Heading(f"Every choice at equal tokens (size {size}, {at['positions']:,} positions)"),
        means_table(even, arms=[arm for arm in ("full", *CHOICES) if arm in even.arms], where=at),
        forest_figure("against_random", ranked),
        paired_table([*ranked, gaps["lowest", "full", ""]]),
        *_cost(even, size, worth),
        *_laws(even),
        Heading("Repeated epochs"),
        _epochs(even, size),
        Text("An epoch of a fifth is a fifth of the pool's: the lower the row, the more its captions are repeated, "
             "while the whole pool is hardly read once."),
        *_rare(data, gaps),
        *_dull(data, gaps),
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


def _judged(data: Data, even: Data, at: Mapping[str, object]) -> dict[tuple[str, str, str], Paired]:
    """(arm, control, metric) -> difference; all of the page are one family, so that boxes and tables say the same."""
    asked = [("even", arm, "random", "") for arm in even.arms if arm != "random"] + [("even", "lowest", "full", "")]
    if set(RARE) <= set(data.arms):
        asked += [("rare", "rare_lowest", "rare_random", metric) for metric in ("", TAIL)]
    if set(DULL) <= set(data.arms):
        asked += [("dull", arm, "dull_random", "") for arm in DULL if arm != "dull_random"]
    found = {}
    for pool, arm, control, metric in asked:
        where = at if pool == "even" else _last(data, pool)
        found[arm, control, metric] = paired(_pool(data, pool), arm, metric, control, (), len(asked), where)
    return found


def _family(gaps: Mapping[tuple[str, str, str], Paired]) -> str:
    return (
        f"Verdicts are for the page as one family: intervals of differences hold for all {len(gaps)} of them together, "
        f"bands of measured multipliers for all {CURVES} of them (Bonferroni), in boxes and tables alike. Bands of "
        "laws, about which no box is, are for the arms of their fit."
    )


def _worth(even: Data, size: str) -> dict[str, Multiplier]:
    """What the lowest fifth is worth in total cost, in training alone and in data; and a random one in training."""
    where = {"size": size}
    found = {
        axis: curve.multiplier(even, "lowest", axis=axis, rung="positions", where=where, comparisons=CURVES)
        for axis in ("total", "flops", "d")
    }
    random = curve.multiplier(even, "random", axis="flops", rung="positions", where=where, comparisons=CURVES)
    return {**found, "random": random}


def _verdicts(gaps: Mapping[tuple[str, str, str], Paired], worth: Mapping[str, Multiplier], size: str) -> list[Verdict]:
    found = [
        paired_verdict(
            gaps["lowest", "full", ""],
            f"Is the least surprising fifth better than the whole pool, at equal tokens ({size})?",
        ),
        paired_verdict(
            gaps["lowest", "random", ""], "Is it better than a random fifth, the control that the paper lacks?"
        ),
        multiplier_verdict(
            worth["d"],
            "What is it worth in data?",
            "Tokens of the whole pool for the same loss. Not counted: the fifth comes from a pool five times as large, "
            "and the reference read captions of its own.",
        ),
        multiplier_verdict(
            worth["total"],
            "And in compute, if it pays for its scoring and for the reference?",
        ),
        multiplier_verdict(worth["flops"], "And if somebody else has paid for these (amortised)?"),
        paired_verdict(
            gaps["blind", "random", ""], "Does the ranking need the picture? The same reference, blind:", expected=ANY
        ),
    ]
    for key, question, note in (
        (
            ("rare_lowest", "rare_random", TAIL),
            "Where most entities are rare: what becomes of them?",
            "On the words about rarer entities only.",
        ),
        (
            ("dull_lowest", "dull_random", ""),
            "Where one fixed text fills a fifth of the pool: does the filter help?",
            "",
        ),
    ):
        if key in gaps:
            found.append(paired_verdict(gaps[key], question, note))
    return found


def _last(data: Data, pool: str) -> dict[str, object]:
    """The longest training in a pool."""
    return {"positions": max(_pool(data, pool).levels("positions"))}


def _kept_table(data: Data) -> Table:
    """One row an arm: what its choice holds, on average where every seed has a draw of its own."""
    shares = ("share_clean", "recall", "share_serial", "share_wrong", "share_boilerplate", "share_repeated")
    rows = []
    for arm in data.arms:
        said = {
            name: mean(list(by_seed(data, arm, name).values())).value
            for name in ("samples", *shares, "entities", "tail_share", "charged")
        }
        cells = [f"{said['samples']:,.0f}", *(f"{said[name]:.1%}" for name in shares), f"{said['entities']:.4g}"]
        rows.append((arm, *cells, f"{said['tail_share']:.1%}", f"{said['charged']:.2g}" if said["charged"] else "0"))
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


def _cost(even: Data, size: str, worth: Mapping[str, Multiplier]) -> list[Block]:
    where = {"size": size}
    arms = [arm for arm in LADDER if arm in even.arms]
    return [
        Heading(f"Loss against what was spent ({size})"),
        curves_figure(even, "cost", arms=arms, axis="total", rung="positions", where=where, log_y=True,
                      title="With scoring and the reference's training charged"),
        curves_figure(even, "cost_amortised", arms=arms, axis="flops", rung="positions", where=where, log_y=True,
                      title="Training alone (amortised)"),
        multiplier_figure("worth", [worth["total"]], title="Compute multiplier, everything charged", data=even),
        multiplier_table([worth["total"]]),
        multiplier_figure("worth_amortised", [worth["flops"], worth["random"]], data=even,
                          title="Compute multiplier of training alone: the lowest fifth and a random one"),
        multiplier_table([worth["flops"], worth["random"]]),
        multiplier_figure("worth_data", [worth["d"]], title="Data multiplier", data=even),
        multiplier_table([worth["d"]]),
    ]  # fmt: skip


def _laws(even: Data) -> list[Block]:
    """One law per arm over all sizes, with a shared floor and size term; charged and amortised. Of few epochs only."""
    title = Heading("One law per arm, over all sizes")
    arms = [arm for arm in LADDER if arm in even.arms]
    every = even.where(arms)
    few = Data(even.study, tuple(row for row in every.rows if value_of(row, "epochs") <= EPOCHS))
    said = Text(
        f"Fitted to the {len(few.rows)} of {len(every.rows)} runs that read what their arm kept at most {EPOCHS:g} "
        "times: beyond, D would count captions read again as if they were new. Laws share one floor: an arm with a "
        "floor of its own, as the whole pool, takes it up in its beta, which is then no exponent."
    )
    if short := [arm for arm in arms if len(few.where(arm).levels("positions")) < LENGTHS]:
        return [title, said, Text(f"That leaves {short[0]} fewer than {LENGTHS} lengths of training, so no law.")]
    free = Data(few.study, tuple({**row, "charged": 0.0} for row in few.rows))
    try:
        laws, amortised = (lawfit.fit_arms(rows, arms=arms) for rows in (few, free))
        curves = [one.compute_multiplier("lowest") for one in (laws, amortised)]
    except (FitError, RowsError) as error:
        return [title, said, Text(f"These runs carry no law: {error}")]
    return [
        title,
        said,
        law_table(laws),
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
    header = (
        "positions",
        *(text for arm in LADDER for text in (f"{arm}: epochs", "loss")),
        "lowest - random, 95 % alone",
    )
    return table(header, rows)


def _rare(data: Data, gaps: Mapping[tuple[str, str, str], Paired]) -> list[Block]:
    if not set(RARE) <= set(data.arms):
        return []
    rare, last = _pool(data, "rare"), _last(data, "rare")
    return [
        Heading("Where most entities are rare"),
        Text("The same noise, but 200 entities of Zipf popularity instead of 48 that are about as common. Names of "
             "rare entities surprise the reference, so the least surprising fifth tells of the popular ones."),
        means_table(rare, arms=RARE, where=last),
        bars_figure(rare, "rare_tail", metric=TAIL, arms=RARE, where=last, title="Loss on the rarer entities' words"),
        paired_table([gaps["rare_lowest", "rare_random", metric] for metric in ("", TAIL)]),
    ]  # fmt: skip


def _dull(data: Data, gaps: Mapping[tuple[str, str, str], Paired]) -> list[Block]:
    if not set(DULL) <= set(data.arms):
        return []
    dull, last = _pool(data, "dull"), _last(data, "dull")
    return [
        Heading("Where a fixed text fills a fifth of the pool"),
        Text("Nothing is less surprising than a text that the reference has seen a thousand times, and the rule has no "
             "lower cut: the lowest fifth is mostly that text and copies of the same few samples."),
        means_table(dull, arms=DULL, where=last),
        bars_figure(dull, "dull", arms=DULL, where=last, title="Grounded loss"),
        paired_table([gaps[arm, "dull_random", ""] for arm in DULL if arm != "dull_random"]),
    ]  # fmt: skip
