"""What single fields may be: choices, and numbers that must be positive or not negative."""

from __future__ import annotations


class ConfigError(ValueError):
    """A configuration a person has to mend: the message names the field, its value and what is allowed."""


CHOICES = {
    "role": ("run", "trunk", "branch"),
    "arch.fusion": ("early", "late"),
    "arch.pairing": ("flops", "params", "none"),
    "arch.connector": ("linear", "mlp"),
    "arch.image_attention": ("bidirectional", "causal"),
    "arch.routing": ("agnostic", "aware"),
    "arch.balancing": ("loss", "bias", "none"),
    "block.norm": ("rms", "layer"),
    "block.qk_norm": ("head", "width", "none"),
    "block.ffn": ("relu2", "swiglu"),
    "block.rope": ("1d", "2d"),
    "block.vision": ("vit", "swiglu"),
    "block.init": ("plain", "depth"),
    "start.kind": ("scratch", "hf", "run"),
    "start.embeddings": ("load", "fresh"),
    "start.transform": ("none", "shuffle", "rescaled_random", "covariance"),
    "stage.name": ("pretrain", "sft", "bridge", "rft"),
    "stage.objective": ("labels", "next_patch"),
    "stage.labels": ("random", "not_true", "truth"),
    "stage.classes": ("shape", "colour", "both"),
    "data.weights": ("tokens", "samples"),
    "optim.on_nonfinite": ("stop", "skip"),
    "optim.on_spike": ("skip", "stop"),
    "schedule.warmup_rule": ("fixed", "paper"),
    "schedule.cooldown_shape": ("linear", "one_minus_sqrt", "inverse_sqrt"),
    "trainer.strategy": ("ddp", "fsdp2"),
    "trainer.precision": ("auto", "fp32", "bf16"),
    "trainer.compile": ("auto", "on", "off"),
    "trainer.accelerator": ("cpu", "gpu"),
    "trainer.changed_code": ("refuse", "accept"),
    "logger.name": ("none", "wandb_offline"),
}

POSITIVE = {
    "arch": ("granularity", "moe_every"),
    "block": ("norm_eps", "hidden_multiple", "rope_theta"),
    "size": ("width", "depth", "num_heads", "mlp_ratio", "vision_width", "vision_depth", "vision_heads"),
    "data": ("image_size", "patch_size", "channels", "context_length", "eval_rows", "tiles"),
    "stage": ("lr_scale", "eval_questions", "eval_captions", "eval_images"),
    "optim": ("lr_width", "vision_lr_scale", "patch_lr_scale", "mup_width", "eps", "grad_clip"),
    "trainer": ("rows_per_step", "micro_batches", "devices", "num_nodes", "threads", "log_every_steps"),
}

NOT_NEGATIVE = {
    "arch": ("shared_experts", "balance_coef", "bias_rate", "router_z_coef"),
    "size": ("num_kv_heads", "head_dim", "hidden"),
    "data": ("picture_size",),
    "optim": ("mup_head_dim", "weight_decay", "z_loss_coef", "spike_factor", "max_skips"),
    "stage": ("num_classes", "labelled", "shift"),
    "schedule": ("warmup_steps",),
    "trainer": ("num_workers", "checkpoint_every_seconds", "checkpoint_every_steps", "eval_every_steps"),
    "intervention": ("charged_flops",),
}
