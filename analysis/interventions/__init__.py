"""What an intervention is worth, from the two files of a finished study, as a page. No torch.

A method's page is one function in ``analysis/interventions/METHOD.py``: data in, blocks out. A whole example:

    from analysis.interventions import compose, curve, lawfit, paired
    from analysis.interventions.blocks import Block, Heading, Text
    from analysis.interventions.rows import Data

    def blocks(data: Data) -> list[Block]:
        # 1. one law per arm with shared E, A, alpha (needs rows with n, d; two sizes or more, or one size and many d)
        laws = lawfit.fit_arms(data, entropy=1.23)             # entropy: known E, or None to fit it (shared)
        worth = laws.compute_multiplier("lowest")              # curve over its total cost, charged FLOPs included;
                                                               # its band holds for all arms of the fit together
        data_worth = laws.data_multiplier("lowest")            # tokens of the control per token of the arm
        # 2. or, without a law: metric against any one cost; the control's equivalent cost at the arm's metric
        labels = curve.multiplier(data, "bridge", metric="accuracy", axis="d", where={"stage": "probe"})
        compute = curve.multiplier(data, "bridge", metric="accuracy", axis="total")
        # 3. paired differences over seeds; the family is corrected for its size
        gaps = paired.paired_all(data, metric="accuracy", where={"steps": 800})
        return [
            *compose.opening(
                data,
                verdicts=[
                    compose.multiplier_verdict(worth, "Does the lowest-perplexity fifth save compute?"),
                    compose.paired_verdict(gaps[0], "Is it better at equal steps?"),
                ],
                limits=["Sizes 20k to 150k, one world; nothing is said outside them."],
            ),
            Heading("Loss against total cost"),
            compose.curves_figure(data, "curves", metric="loss", axis="total", title="...", caption="..."),
            compose.multiplier_figure("multiplier", [worth], title="...", caption="..."),
            compose.multiplier_table([worth]),
            compose.law_table(laws),                          # worth in data, both laws, whether the law fits each arm
            Heading("Differences, seed by seed"),
            compose.paired_table(gaps),
            compose.forest_figure("forest", gaps, title="...", caption="..."),
            Heading("All arms"),
            compose.means_table(data, ["loss", "accuracy"], where={"steps": 800}),
            compose.bars_figure(data, "bars", "accuracy", title="...", caption="...", where={"steps": 800}),
            Text("Any further remark.", soft=True),
        ]

``nmm intervention page DIR`` then writes DIR/page/index.html (one file) and DIR/page/README.md with its pictures.
A multiplier above 1 always means that the arm is cheaper than the control for the same result.
"""
