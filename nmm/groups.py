"""The groups of a run's config, one frozen dataclass each; every file of ``conf/GROUP/`` has exactly these fields.

``nmm.config`` puts them together and exports them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Arch:
    """Which family: how images enter, and whether the FFN is a mixture of experts.

    ``num_experts`` 0 is dense. ``granularity`` g cuts every expert into g experts of hidden / g, of which a token uses
    top_k * g (arXiv 2401.06066). ``pairing``: what late fusion holds equal to early of the same size.
    """

    name: str = "early"
    fusion: str = "early"  # early | late
    image_attention: str = "bidirectional"  # bidirectional | causal
    document_mask: bool = True
    # -- late fusion --
    pairing: str = "flops"  # flops | params | none: how the late decoder's FFN is chosen
    connector: str = "linear"  # linear | mlp
    vision_model: str = ""  # a timm name; empty: a ViT of size.vision_width, vision_depth and vision_heads
    vision_weights: str = ""  # a local file of pretrained weights for vision_model; empty: from scratch
    vision_digest: str = ""  # read from the file
    vision_facts: dict[str, float] = field(default_factory=dict)  # sizes and FLOPs of vision_model, counted by finalize
    vision_frozen: bool = False
    # -- pieces of POINTS (arXiv 2409.04828) --
    pixel_shuffle: int = 1  # 2: 2 x 2 neighbouring patches make one position, with four times the channels
    vision_model2: str = ""  # a second encoder whose features are averaged in: "sized" (as conf/size) or a timm name
    vision_mix: float = 0.5  # weight of the first encoder's features; the second one's have the rest
    vision_patch2: int = 0  # patch size of the second encoder; 0: data.patch_size
    vision_weights2: str = ""  # pretrained weights of vision_model2
    vision_digest2: str = ""  # read from the file
    vision_facts2: dict[str, float] = field(default_factory=dict)  # counted by finalize, as vision_facts
    vision_frozen2: bool = False
    # -- mixture of experts --
    num_experts: int = 0
    top_k: int = 1
    granularity: int = 1
    shared_experts: int = 0  # experts of hidden / granularity that every token passes through
    moe_every: int = 1  # every n-th block has experts, the last one of each n
    routing: str = "agnostic"  # agnostic | aware: image and text positions have experts of their own
    image_experts: int = 0  # aware: how many of num_experts belong to image positions
    balancing: str = "loss"  # loss | bias (arXiv 2408.15664) | none
    balance_coef: float = 0.01
    bias_rate: float = 0.001  # step of an expert's bias after every update
    router_z_coef: float = 0.0  # arXiv 2202.08906, eq. 5


@dataclass(frozen=True)
class Block:
    """How a block of the trunk is built, whatever the family."""

    name: str = "small"
    norm: str = "rms"  # rms | layer
    norm_eps: float = 1e-5
    qk_norm: str = "head"  # head | width | none
    ffn: str = "relu2"  # relu2 | swiglu
    hidden_multiple: int = 1  # the hidden width is rounded up to a multiple of it
    rope: str = "1d"  # 1d | 2d: patches have a row and a column
    rope_theta: float = 10_000.0
    tied_head: bool = False
    patch_position: bool = True  # a learned vector for every place in an image
    vision: str = "vit"  # vit (LayerNorm, GELU, biases) | swiglu (RMSNorm, QK-norm, no biases)
    init: str = "plain"  # plain | depth: outputs of attention and FFN start smaller by sqrt(2 depth)


@dataclass(frozen=True)
class Size:
    """Width and depth of the decoder, and of the vision encoder that late fusion puts before it.

    ``paired`` false: a late model of this size is taken as it is given, whatever ``arch.pairing`` says.
    """

    name: str = "d32"
    width: int = 32
    depth: int = 2
    num_heads: int = 2
    num_kv_heads: int = 0  # 0: as many as num_heads
    head_dim: int = 0  # 0: width / num_heads
    mlp_ratio: float = 4.0
    hidden: int = 0  # hidden width of the FFN; 0: from mlp_ratio and block.hidden_multiple
    vision_width: int = 16
    vision_depth: int = 1
    vision_heads: int = 1
    paired: bool = True
    lr: float | None = None  # peak learning rate of this size; null: optim decides


@dataclass(frozen=True)
class Data:
    """Shards, mixture weights, and how documents become rows. Pixels enter as (x / 255 - mean) / std.

    The two shares are expectations, of ``sources`` measured from their indexes; a record counts with the true ones.
    """

    path: str = ""  # a folder that `nmm shards` rendered; or, with sources, the folder their paths start from
    sources: dict[str, str] = field(default_factory=dict)  # name -> indexed tars: folder, glob, or several with "::"
    tokenizer: str = ""  # of sources: "bytes" or a tokenizer.json of Hugging Face tokenizers
    index_dir: str = ""  # where `nmm index --into` put the indexes; empty: beside the tars
    val_fraction: float = 0.0  # of the samples of every source are held out, by a digest of their keys
    crop_scale: float = 1.0  # training images are random crops of at least this share of the area; 1: centre crops
    flip: float = 0.0  # probability that a training image is mirrored
    max_skipped: float = 0.001  # of the delivered samples may turn out unreadable; more stop the run
    fingerprint: str = ""
    vocab_size: int = 0
    image_size: int = 32
    picture_size: int = 0  # side of the pictures in rendered shards where they are not of image_size; 0: they are
    tiles: int = 1  # a picture becomes at most so many tiles of image_size and a thumbnail; 1: one image
    patch_size: int = 8
    channels: int = 3
    pixel_mean: tuple[float, ...] = (0.2, 0.2, 0.2)
    pixel_std: tuple[float, ...] = (1 / 3, 1 / 3, 1 / 3)
    context_length: int = 128
    mixture: dict[str, float] = field(default_factory=lambda: {"caption": 0.45, "interleaved": 0.45, "text": 0.10})
    cut_text: bool = False  # training texts without images may be cut to fill rows; the rest follows in another row
    weights: str = "tokens"  # tokens | samples: what the shares of the mixture are shares of
    image_share: float = 0.40  # of the positions are patches: what pairing and budgets in FLOPs expect of the mixture
    target_share: float = 0.58  # of the positions are scored, their next token being text
    eval_rows: int = 256
    world: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Start:
    """Where the weights come from. ``digest`` is read from the files, so a run id knows what it began with."""

    kind: str = "scratch"  # scratch | hf: a Llama-style directory of safetensors | run: a run or export of ours
    path: str = ""
    digest: str = ""
    embeddings: str = "load"  # load | fresh: draw embedding and head anew, e.g. for another vocabulary
    transform: str = "none"  # none | shuffle | rescaled_random | covariance: controls (nmm.transform)
    fresh: tuple[str, ...] = ()  # parts that are drawn anew: patch (projection and positions), labels (their head)


@dataclass(frozen=True)
class Stage:
    """Pretraining on everything; instruction tuning: the loss is on answers and captions of question documents; bridge:
    pictures of one object with one label each, on a head of their own (arXiv 2604.01833), also for tuning and probing;
    rft: reinforcement by verified answers, with a group of its own.
    """

    name: str = "pretrain"  # pretrain | sft | bridge | rft
    lr_scale: float = 1.0  # times the peak learning rate of pretraining; optim.lr is taken as it is given
    eval_questions: int = 64  # sft: held-out questions of each kind that are answered by generation
    eval_captions: int = 128  # sft: held-out captions that are generated and scored by CIDEr
    # -- bridge --
    objective: str = "labels"  # labels | next_patch: the pixels of the next patch, no labels
    labels: str = "random"  # random: independent of the truth | not_true: never the true class | truth
    classes: str = "shape"  # shape | colour | both: what a picture's true class is
    num_classes: int = 0  # read from the shards
    labelled: int = 0  # training pictures that are used; 0: all there are
    train: str = "all"  # all | none | first:K | last:K | 0+3 (blocks by number): which blocks learn
    train_patch: bool = True  # patch projection and positions (in late fusion the encoder too) learn
    shift: int = 0  # pixels that a training picture is moved at most, each way, anew at every delivery
    eval_images: int = 512  # pictures whose class is asked: held-out ones, and as many of training


@dataclass(frozen=True)
class Rft:
    """Stage rft (`nmm rft`): answers are drawn to ``prompts`` questions a step, ``samples`` to each, and rewarded."""

    kinds: tuple[str, ...] = ()  # of questions that are asked; empty: all there are
    pool: int = 4096  # training questions of each kind
    prompts: int = 32
    samples: int = 8
    max_new_tokens: int = 32  # of an answer
    temperature: float = 1.0
    kl_coef: float = 0.01  # weight of the divergence from the start
    reward: str = "answer"  # answer: 1 for a right final answer | opposite: 1 for a wrong one | coin: 1 or 0 by chance


@dataclass(frozen=True)
class Optim:
    """Fully decoupled AdamW. The learning rate is ``lr``, else ``size.lr``, else ``lr_width / size.width``."""

    lr: float | None = None
    lr_width: float = 0.25
    vision_lr_scale: float = 0.25  # the vision encoder
    patch_lr_scale: float = 0.25  # what brings patches into the trunk: projection or connector, and patch positions
    mup: bool = False  # arXiv 2203.03466: rates and scales such that the best lr is the same for every width
    mup_width: int = 32  # the width at which muP changes nothing
    mup_head_dim: int = 0  # head_dim at mup_width where heads grow with the width; 0: all widths have heads of one size
    beta1: float = 0.9
    beta2: float = 0.98
    eps: float = 1e-8
    weight_decay: float = 0.0
    grad_clip: float = 1.0
    z_loss_coef: float = 0.0
    on_nonfinite: str = "stop"  # stop | skip: what a loss or gradient that is not finite does
    spike_factor: float = 0.0  # a loss above this multiple of its running mean is a spike; 0: never
    on_spike: str = "skip"  # skip | stop
    max_skips: int = 100  # more skipped updates than this end the run as diverged


@dataclass(frozen=True)
class Schedule:
    """Warmup, constant, cooldown: a pure function of (step, total, branch point)."""

    warmup_steps: int = 160
    warmup_rule: str = "fixed"  # fixed | paper: by the length of the run (nmm.resolve), at most warmup_steps
    cooldown_fraction: float = 0.25
    cooldown_shape: str = "linear"  # linear | one_minus_sqrt | inverse_sqrt


@dataclass(frozen=True)
class Budget:
    """How long: exactly one of the three is given by the user; ``resolve`` leaves only ``steps``."""

    tokens: int | None = None
    flops: float | None = None
    steps: int | None = None


@dataclass(frozen=True)
class Trainer:
    """How a step is executed. Fields below the line do not enter the run id."""

    rows_per_step: int = 4
    micro_batches: int = 1
    precision: str = "auto"  # auto | fp32 | bf16
    compile: str = "auto"  # auto | on | off
    accelerator: str = "cpu"  # cpu | gpu
    threads: int = 1
    # -- no effect on the result beyond rounding --
    devices: int = 1  # of one node
    num_nodes: int = 1
    strategy: str = "ddp"  # ddp | fsdp2: what several devices do
    activation_checkpointing: bool = False
    num_workers: int = 0
    checkpoint_every_seconds: float = 60.0
    checkpoint_every_steps: int = 0
    log_every_steps: int = 50
    eval_every_steps: int = 0
    progress: bool = True
    changed_code: str = "refuse"  # refuse | accept: going on from a checkpoint that other code made

    @property
    def world_size(self) -> int:
        """Ranks that share one step."""
        return self.devices * self.num_nodes


@dataclass(frozen=True)
class Parent:
    """A branch starts from the trunk's checkpoint at ``step``."""

    run_id: str = ""
    step: int = 0


@dataclass(frozen=True)
class Logger:
    """A mirror of metrics.jsonl, never the record."""

    name: str = "none"  # none | wandb_offline
    project: str = "nmm"


@dataclass(frozen=True)
class Intervention:
    """What this run is in a comparison of recipes. Labels: nothing here changes the run, or its id."""

    method: str = ""  # filter | soup | pieces | bridge | guide; empty: none
    arm: str = ""  # control, or the name of a treatment
    charged_flops: float = 0.0  # spent for this arm before its runs: scorers, references, bridges
