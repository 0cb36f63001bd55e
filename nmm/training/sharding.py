"""FSDP2: the model shared out over the ranks, and every value of it put together again.

A sharded model has the same names, and what leaves this room (for a checkpoint, a digest, an evaluation) is plain whole
tensors: a run may go on with another strategy or number of ranks.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from nmm.model.fusion import NativeMultimodalModel
from nmm.training.numerics import blocks
from nmm.training.ranks import is_main


def shard(model: NativeMultimodalModel, device: torch.device, precision: str) -> None:
    """Share every parameter out over all ranks, in place; all ranks must hold the same values. Buffers stay whole.

    A block is gathered as one when it runs; embedding, head and what lies between the blocks are the root's. Weights,
    moments and sums of gradients are fp32. With ``precision`` bf16 a block's weights travel as bf16: autocast, which
    stays on, would cast its matrices anyway, but after sending twice the bytes, and would keep the casts of all blocks.
    Gains and routers, which autocast leaves alone, are rounded on the way as well.
    """
    mesh = init_device_mesh(device.type, (dist.get_world_size(),), mesh_dim_names=("rank",))
    travels_as = torch.bfloat16 if precision == "bf16" else None
    policy = MixedPrecisionPolicy(param_dtype=travels_as, reduce_dtype=torch.float32, cast_forward_inputs=False)
    for block in blocks(model):
        fully_shard(block, mesh=mesh, mp_policy=policy)
    fully_shard(model, mesh=mesh)


def is_sharded(model: nn.Module) -> bool:
    """True after ``shard``."""
    return isinstance(model, FSDPModule)


def whole(values: Any) -> Any:
    """``values`` (nested dicts and lists) with whole CPU tensors for sharded ones on rank 0, None for them elsewhere.

    Every rank must call it, with the same keys in the same order. One tensor is gathered at a time.
    """
    match values:
        case DTensor():
            full = values.full_tensor()
            return full.cpu() if is_main() else None
        case Mapping():
            return {key: whole(value) for key, value in values.items()}
        case list():
            return [whole(value) for value in values]
        case _:
            return values


def place_like(target: Tensor | None, full: Tensor) -> Tensor:
    """``full`` shared out as ``target`` is. Nothing is sent: every rank has the whole tensor and cuts out its part."""
    if not isinstance(target, DTensor):
        return full
    return distribute_tensor(full, target.device_mesh, target.placements, src_data_rank=None)


def unsharded(model: NativeMultimodalModel, device: torch.device) -> NativeMultimodalModel | None:
    """The model as one process would hold it on ``device``, to evaluate, decode or digest; None on ranks above 0.

    Under FSDP2 every rank must call it and rank 0 gets a copy, as a forward pass of the sharded model would need all
    ranks. Otherwise it is the model itself.
    """
    if not is_sharded(model):
        return model.to(device) if is_main() else None
    weights = whole(model.state_dict())
    if not is_main():
        return None
    with device:
        alone = NativeMultimodalModel(model.config)
    alone.load_state_dict(weights)
    return alone.train(model.training)
