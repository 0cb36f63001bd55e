"""The study of random-label bridges: a decoder that has read texts, labels that mean nothing, then pictures that do.

One language run a seed, shared by all arms; every arm's chain is (init) -> bridge -> classification with true labels ->
and from the bridge also a probe. In every name init and bridge stand side by side: rand | lm | shuffle | rescaled, then
none | random (all blocks) | first | last | not_true | truth | next_patch | shift.

    OUT/shards   OUT/runs/lm   OUT/runs/bridge   OUT/runs/after      the last three are sweeps (``bridge_chain``)
"""

from __future__ import annotations

from pathlib import Path

from sweeps.interventions.bridge_chain import Chain
from sweeps.interventions.bridge_rows import collect
from sweeps.interventions.bridge_scale import Scale, scale_of
from sweeps.interventions.protocol import Arm, Metric, Step, Study

WORLD = (
    "data=world", "sheet=false", "workers=1", "data.image_size=16", "data.patch_size=4",
    "data.mixture={caption: 0.6, text: 0.4, interleaved: 0}", "+data.world.num_entities=200",
    "+data.world.name_words=16", "+data.world.zipf_exponent=0.3", "+data.world.object_counts=[1,0,0,0]",
    "+data.world.lone_object_fills=false", "+data.world.jitter=1",
)  # fmt: skip

CLAIM = (
    "Random-label bridge training (arXiv 2604.01833): a stage in which a language-pretrained decoder learns random "
    "labels of pictures prepares it for vision: it then learns true labels better than without (an author's page gives "
    "+2.4 points on CIFAR-100), and bridging only the first blocks is as good or better. The paper explains it by the "
    "different shares of outlier weights in language and vision models. The evident code runs one seed, and no control "
    "that is shuffled, rescaled or of equal compute. 2006.10455 is the theory of random labels behind it."
)
MEASURED_ON = (
    "A procedural world: 16 x 16 pictures of one object (8 shapes, of two sizes, anywhere in the picture), 16 patches. "
    "Early fusion, width 32, 4 blocks, causal; language runs on the world's texts. Class: the shape. Accuracy on "
    "held-out pictures with true labels, where nothing else is said at an arm's last step; a constant learning rate; "
    "the head of labels is new at every stage. The learning rate of the bridge was chosen on a seed that is not among "
    "these."
)

ARMS = (
    Arm("lm_none", "control", "language weights, no bridge"),
    Arm("lm_random", "treatment", "language weights, bridge with random labels in all blocks"),
    Arm("lm_first", "treatment", "the same in the first half of the blocks"),
    Arm("lm_last", "treatment", "the same in the last half of the blocks"),
    Arm("lm_not_true", "treatment", "all blocks, labels that are never the true one (as published)"),
    Arm("lm_shift", "treatment", "first half, pictures moved by up to a pixel at every delivery"),
    Arm("lm_next_patch", "baseline", "as many steps of predicting the next patch in place of labels"),
    Arm("lm_more", "baseline", "no bridge, its FLOPs spent on more classification steps"),
    Arm("lm_truth", "ceiling", "bridge with the true labels of its pictures"),
    Arm("rand_none", "baseline", "from scratch, no bridge"),
    Arm("rand_random", "baseline", "from scratch, random labels in all blocks"),
    Arm("rand_first", "baseline", "from scratch, random labels, first half"),
    Arm("rand_last", "baseline", "from scratch, random labels, last half"),
    Arm("rand_not_true", "baseline", "from scratch, labels that are never the true one"),
    Arm("rand_truth", "ceiling", "from scratch, bridge with true labels"),
    Arm("rand_more", "baseline", "from scratch, a bridge's FLOPs spent on more classification steps"),
    Arm("rand_covariance", "baseline", "from scratch, patch projection drawn with the covariance of rand_random's"),
    Arm("shuffle_none", "baseline", "language weights shuffled within tensors: same values, no structure"),
    Arm("shuffle_first", "baseline", "the same, then random labels, first half"),
    Arm("rescaled_none", "baseline", "fresh weights rescaled to the language run's norms, tensor by tensor"),
    Arm("rescaled_first", "baseline", "the same, then random labels, first half"),
)
METRICS = (
    Metric("accuracy", "held-out accuracy (share of pictures)", "higher"),
    Metric("accuracy_early", "held-out accuracy after a quarter of the steps (share of pictures)", "higher"),
    Metric("accuracy_half", "held-out accuracy after half of the steps (share of pictures)", "higher"),
    Metric("probe", "held-out accuracy of a probe (share of pictures)", "higher"),
    Metric("steps_to_target", "steps to half right, of those all arms have (steps)", "lower"),
    Metric("fit", "training labels right after the bridge (share of pictures)", "higher"),
    Metric("forgetting", "text loss after the bridge minus before (nats a token)", "lower"),
    Metric("caption_loss", "caption loss of image-text training (nats a token)", "lower"),
    Metric("grounded", "excess of colour and shape words of image-text training (nats)", "lower"),
)


def study(out: Path, scale: str) -> Study:
    """The study in ``out``; scale tiny is for looking at the machinery."""
    plan = scale_of(scale)
    return Study(
        method="bridge",
        title="Random-label bridge: meaningless labels between language and vision",
        acts_on="initialisation",
        claim=CLAIM,
        control="lm_none",
        arms=ARMS,
        metrics=METRICS,
        measured_on=MEASURED_ON,
        steps=steps(out, plan),
        collect=lambda folder: collect(folder, plan, [arm.name for arm in ARMS]),
    )


def steps(out: Path, plan: Scale) -> tuple[Step, ...]:
    """Shards, then three sweeps: language runs, bridges, and everything that follows them."""
    chain = Chain(out, plan)
    shards = (*WORLD, f"out={out / 'shards'}", f"train_tokens={plan.train_tokens}", f"eval_samples={plan.eval_samples}")
    return (
        Step("shards", ("shards", *shards), out / "shards" / "manifest.json"),
        chain.launch("lm", chain.language),
        chain.launch("bridge", chain.bridges),
        chain.launch("after", chain.after),
    )
