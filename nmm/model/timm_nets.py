"""A vision encoder by its timm name, and its pretrained weights from a local file. Nothing is ever downloaded.

Shape legend: I images, C channels, h w a net's grid, N its positions, W its width.
"""

from __future__ import annotations

import math
import pickle
import textwrap
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors import SafetensorError
from timm.layers import DropPath
from timm.models import load_state_dict
from torch import Tensor, nn

from nmm.config import ConfigError, RunConfig

# what timm raises for arguments, names or shapes that a net cannot take
_REFUSED = (RuntimeError, AssertionError, ValueError, TypeError, KeyError)


def make_net(config: RunConfig) -> nn.Module:
    """The net ``arch.vision_model`` without head and pooling, as timm initialises it, from the run's seed.

    Nothing is dropped at random. Raises ``ConfigError`` when timm has no such net, when it cannot take the images or
    does not give one feature for each position of an image, or when it mixes the images of a batch.
    """
    name = config.arch.vision_model
    if not timm.is_model(name):
        raise ConfigError(f"arch.vision_model={name!r} is not in timm; timm.list_models('*vit*') lists what is")
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            net = _create(config, global_pool="")
    except _REFUSED as reason:
        size = config.data.image_size
        raise ConfigError(
            f"timm cannot build arch.vision_model={name!r} for data.image_size={size}: {_short(reason)}"
        ) from reason
    for module in net.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        elif isinstance(module, DropPath):
            module.drop_prob = 0.0
    is_mixing = any(isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d) for module in net.modules())
    if is_mixing and not config.arch.vision_frozen:
        raise ConfigError(
            f"arch.vision_model={name!r} has batch norm, through which images of one batch change each other; freeze "
            "it (arch.vision_frozen=true) or take a net without"
        )
    _check_positions(net, config)
    return net


def _create(config: RunConfig, **options: Any) -> nn.Module:
    name, data = config.arch.vision_model, config.data
    settings = timm.get_pretrained_cfg(name)
    if settings is not None and settings.fixed_input_size:  # the others take any size
        options["img_size"] = data.image_size
    return timm.create_model(name, num_classes=0, in_chans=data.channels, **options)


def patch_features(net: nn.Module, image_ICHW: Tensor) -> Tensor:
    """(I, N, W): the net's last features, row by row, without class and register tokens."""
    features = net.forward_features(image_ICHW)  # type: ignore[operator]
    if features.ndim == 4:
        is_channels_last = getattr(net, "output_fmt", "NCHW") == "NHWC"
        return features.flatten(1, 2) if is_channels_last else features.flatten(2).mT
    return features[:, getattr(net, "num_prefix_tokens", 0) :]


def features_shape(net: nn.Module, config: RunConfig) -> tuple[int, int]:
    """(N, W) of one image, from a forward pass of zeros; on the meta device it costs nothing."""
    side, was_training = config.data.image_size, net.training
    net.eval()
    with torch.no_grad():
        device = next(net.parameters()).device
        features = patch_features(net, torch.zeros(1, config.data.channels, side, side, device=device))
    net.train(was_training)
    return features.shape[1], features.shape[2]


def _check_positions(net: nn.Module, config: RunConfig) -> None:
    name, data = config.arch.vision_model, config.data
    try:
        found, _ = features_shape(net, config)
    except _REFUSED as reason:
        raise ConfigError(
            f"arch.vision_model={name!r} cannot take images of data.image_size={data.image_size}: {_short(reason)}"
        ) from reason
    if found == config.patches_per_image:
        return
    side = math.isqrt(found)
    fits = side * side == found and data.image_size % side == 0
    hint = f"set data.patch_size={data.image_size // side}" if fits else "take another data.image_size or net"
    raise ConfigError(
        f"arch.vision_model={name!r} gives {found} features an image, but data.image_size={data.image_size} with "
        f"data.patch_size={data.patch_size} has {config.patches_per_image} positions for them; {hint}"
    )


# ---------------------------------------------------------------------------------------------------------------------
# pretrained weights


def load_pretrained(net: nn.Module, config: RunConfig) -> None:
    """Fill ``net`` from ``arch.vision_weights``: safetensors, or a .pth of tensors; pickled objects are refused.

    timm adapts the file to the net: names of other code bases, number of channels, resized positions and patches. Where
    the pretrained net normed pooled features, that norm is now applied to every feature, as timm does without pooling.
    Raises ``ConfigError`` naming the file and what does not fit.
    """
    name, path = config.arch.vision_model, config.arch.vision_weights
    content = _read(path)
    classifier = (timm.get_pretrained_cfg(name) or timm.models.PretrainedCfg()).classifier
    heads = (classifier,) if isinstance(classifier, str) else tuple(classifier or ())
    content = {k: v for k, v in content.items() if k.rpartition(".")[0] not in heads}
    try:
        # without the name of a classifier, which is gone already, timm insists on a value for every parameter
        nowhere_else = {"url": None, "hf_hub_id": None, "file": None, "custom_load": False}
        overlay = {"state_dict": content, "classifier": None, **nowhere_else}
        weights = _create(config, pretrained=True, pretrained_cfg_overlay=overlay).state_dict()
        wanted = net.state_dict()
        for end in ("weight", "bias"):
            if f"norm.{end}" in wanted and f"norm.{end}" not in weights and f"fc_norm.{end}" in weights:
                weights[f"norm.{end}"] = weights[f"fc_norm.{end}"]
        net.load_state_dict({k: v for k, v in weights.items() if k in wanted})
    except _REFUSED as reason:
        raise ConfigError(
            f"arch.vision_weights={path} does not fit arch.vision_model={name!r}: {_short(reason)}"
        ) from reason


def _read(path: str) -> dict[str, Any]:
    if not Path(path).is_file():
        raise ConfigError(f"arch.vision_weights={path} is not a file; give a .safetensors or .pth file on this machine")
    try:
        content = load_state_dict(path, weights_only=True)
    except (RuntimeError, pickle.UnpicklingError, EOFError, SafetensorError) as reason:
        raise ConfigError(
            f"arch.vision_weights={path} holds no plain tensors ({_short(reason)}). Pickled objects could run code and "
            "are never loaded; save the net's state_dict() as safetensors"
        ) from reason
    if not content or not all(isinstance(value, Tensor) for value in content.values()):
        raise ConfigError(f"arch.vision_weights={path} is no state_dict: a mapping of names to tensors is wanted")
    return content


def _short(reason: Exception) -> str:
    return textwrap.shorten(str(reason) or type(reason).__name__, 400, placeholder=" ...")
