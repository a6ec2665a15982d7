"""What learns in training, the average that is kept of it, and the optimiser."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .attention import collapse_cross_attention, dead_parameters
from .errors import UserError
from .pipeline import PaintByExamplePipeline
from .settings import TrainConfig

FROZEN = ("model", "backbone", "components")  # parts of either encoder that `features` runs; the rest is `decode`
PROJECTIONS = ("to_q", "to_k", "to_v", "to_out.0")  # of an attention, which low-rank weights are added to


class Network(nn.Module):
    """All that is trained: the U-Net and the encoder's learned part, as one module with one set of names.

    Args:
        pipeline: the model; the pretrained part of its encoder is frozen.
        train: full, or mapper for the encoder's learned part alone.
        lora_rank: of low-rank weights that are added to the U-Net's attention and learn instead of all else; 0 for
            none.
        seed: of their start.

    Raises:
        UserError: if peft is needed and not installed.
    """

    def __init__(
        self, pipeline: PaintByExamplePipeline, train: str = "full", lora_rank: int = 0, seed: int = 0
    ) -> None:
        super().__init__()
        self.unet = pipeline.unet
        self.encoder = pipeline.image_encoder
        for name in FROZEN:
            if (part := getattr(self.encoder, name, None)) is not None:
                part.requires_grad_(False)
        collapse_cross_attention(self.unet)
        for name in dead_parameters(self.unet):
            self.unet.get_parameter(name).requires_grad_(False)
        if train == "mapper" or lora_rank:
            self.unet.requires_grad_(False)
        if lora_rank:
            self.encoder.requires_grad_(False)
            add_lora(self.unet, lora_rank, seed)

    def trained(self) -> dict[str, nn.Parameter]:
        """The parameters that learn, by name, without the encoder's pretrained part and what one token makes idle."""
        return {name: parameter for name, parameter in self.named_parameters() if parameter.requires_grad}

    def forward(self, loss: Callable[[], Tensor]) -> Tensor:
        """Compute a loss. It goes through here because that is where several processes prepare to share gradients.

        Args:
            loss: computes it with this network.
        """
        return loss()


def add_lora(unet: Any, rank: int, seed: int) -> None:
    """Put low-rank weights (arXiv 2106.09685) beside the projections of a U-Net's attention, as far as they matter.

    Args:
        unet: the U-Net; the new weights alone learn.
        rank: of the added matrices.
        seed: of their start; at first they add nothing.

    Raises:
        UserError: if peft is not installed.
    """
    try:
        from peft import LoraConfig
    except ImportError as error:
        raise UserError("lora_rank needs the package peft; install it, or paint-by-example[lora]") from error
    idle = {name.rpartition(".")[0] for name in dead_parameters(unet)}
    targets = [
        name
        for name, part in unet.named_modules()
        if name.endswith(PROJECTIONS) and isinstance(part, nn.Linear) and name not in idle
    ]
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        unet.add_adapter(LoraConfig(r=rank, lora_alpha=rank, target_modules=targets, init_lora_weights="gaussian"))


def save_lora(pipeline: PaintByExamplePipeline, folder: Path) -> None:
    """Write a U-Net's low-rank weights as ``load_lora_weights`` takes them, of this package and of diffusers."""
    from diffusers.loaders import StableDiffusionLoraLoaderMixin
    from diffusers.utils import convert_state_dict_to_diffusers
    from peft.utils import get_peft_model_state_dict

    layers = convert_state_dict_to_diffusers(get_peft_model_state_dict(pipeline.unet))
    StableDiffusionLoraLoaderMixin.save_lora_weights(folder, unet_lora_layers=layers)


def save_model(pipeline: PaintByExamplePipeline, folder: Path) -> None:
    """Write the whole model, with low-rank weights, where it has them, added to those they stand beside."""
    unet = pipeline.unet
    if getattr(unet, "peft_config", None):
        merged = copy.deepcopy(unet)
        merged.fuse_lora()
        merged.unload_lora()
        pipeline.unet = merged
    try:
        pipeline.save_pretrained(folder)
    finally:
        pipeline.unet = unet


def make_optimizer(config: TrainConfig, parameters: dict[str, nn.Parameter]) -> torch.optim.Optimizer:
    """AdamW, in full precision or in 8 bits.

    Raises:
        UserError: if bitsandbytes is needed and not installed.
    """
    settings: dict[str, Any] = {"lr": config.learning_rate, "weight_decay": config.weight_decay}
    if config.optimizer == "adamw":
        return torch.optim.AdamW(parameters.values(), fused=True, **settings)
    try:
        from bitsandbytes.optim import AdamW8bit
    except ImportError as error:
        raise UserError(
            "optimizer adamw8bit needs the package bitsandbytes; install it, or paint-by-example[8bit]"
        ) from error
    optimizer: torch.optim.Optimizer = AdamW8bit(parameters.values(), **settings)
    return optimizer


class MovingAverage:
    """Exponential moving average of parameters, its decay warmed up as (1 + n) / (10 + n).

    Args:
        parameters: what is averaged, by name; the average starts as a copy.
        decay: largest decay, in [0, 1).
    """

    def __init__(self, parameters: dict[str, nn.Parameter], decay: float) -> None:
        self.decay, self.updates = decay, 0
        self.average = {name: parameter.detach().clone() for name, parameter in parameters.items()}

    @torch.no_grad()
    def update(self, parameters: dict[str, nn.Parameter]) -> None:
        """Move the average towards the parameters by one step."""
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        averages = [self.average[name] for name in parameters]
        torch._foreach_lerp_(averages, [p.detach() for p in parameters.values()], 1 - decay)

    @torch.no_grad()
    def swap(self, parameters: dict[str, nn.Parameter]) -> None:
        """Exchange the average with the parameters; a second call exchanges them back."""
        for name, parameter in parameters.items():
            kept = parameter.detach().clone()
            parameter.copy_(self.average[name])
            self.average[name].copy_(kept)
