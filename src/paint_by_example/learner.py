"""What learns in training, the average that is kept of it, the optimiser, and the state of all three."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .activations import keep_less
from .attention import collapse_cross_attention, dead_parameters
from .conversion import load_start
from .errors import DataError, UserError
from .pipeline import PaintByExamplePipeline
from .processes import Processes
from .settings import TrainConfig

# Parts of an encoder that `features` runs; the rest is `decode`
FROZEN = ("model", "backbone", "matte", "latents", "components")
FROZEN_AT_ONCE = 8  # examples such parts are run on together: their widest maps are the most of a step's memory else
PROJECTIONS = ("to_q", "to_k", "to_v", "to_out.0")  # of an attention, which low-rank weights are added to


class Network(nn.Module):
    """All that is trained: the U-Net and the encoder's learned part, as one module with one set of names.

    Args:
        pipeline: the model; the pretrained part of its encoder is frozen.
        train: full, or mapper for the encoder's learned part alone; None is full, or with `add` the new parts alone.
        lora_rank: of low-rank weights that are added to the U-Net's attention and learn instead of all else; 0 for
            none.
        seed: of their start.
        add: parts of the source's encoder, which learn too.

    Raises:
        UserError: if peft is needed and not installed.
    """

    def __init__(
        self,
        pipeline: PaintByExamplePipeline,
        train: str | None = None,
        lora_rank: int = 0,
        seed: int = 0,
        add: Sequence[str] = (),
    ) -> None:
        super().__init__()
        self.unet = pipeline.unet
        self.encoder = pipeline.image_encoder
        if add:
            self.source = pipeline.source_encoder
        for name in FROZEN:
            if (part := getattr(self.encoder, name, None)) is not None:
                part.requires_grad_(False)
        collapse_cross_attention(self.unet)
        keep_less(self.unet)
        dead = dead_parameters(self.unet) if getattr(self.encoder, "tokens", 1) == 1 else set()
        for name in dead:
            self.unet.get_parameter(name).requires_grad_(False)
        alone = bool(add) and train is None
        if train == "mapper" or lora_rank or alone:
            self.unet.requires_grad_(False)
        if add:
            self.source.requires_grad_(False)
            for part in self.source.learning(add):
                part.requires_grad_(True)
        if lora_rank or alone:
            self.encoder.requires_grad_(False)
        if lora_rank:
            add_lora(self.unet, lora_rank, seed, dead)

    def trained(self) -> dict[str, nn.Parameter]:
        """The parameters that learn, by name, without the encoder's pretrained part and what one token makes idle."""
        return {name: parameter for name, parameter in self.named_parameters() if parameter.requires_grad}

    def sizes(self) -> tuple[int, int]:
        """How many parameters learn, and how many do not."""
        counts = [0, 0]
        for parameter in self.parameters():
            counts[not parameter.requires_grad] += parameter.numel()
        return counts[0], counts[1]

    def pretrained(self) -> list[nn.Parameter]:
        """The encoder's pretrained part, which never learns."""
        parts = [part for name in FROZEN if (part := getattr(self.encoder, name, None)) is not None]
        return [parameter for part in parts for parameter in part.parameters()]

    def blocks(self) -> list[nn.Module]:
        """The U-Net's blocks, one level each."""
        middle = [] if self.unet.mid_block is None else [self.unet.mid_block]
        return [*self.unet.down_blocks, *middle, *self.unet.up_blocks]

    def forward(self, loss: Callable[[], Tensor]) -> Tensor:
        """Compute a loss. It goes through here because that is where several processes prepare to share gradients.

        Args:
            loss: computes it with this network.
        """
        return loss()


def start_over(pipeline: PaintByExamplePipeline, seed: int) -> None:
    """Draw all that the paper trains anew, in place, as it is before any training; the pretrained parts stay.

    Args:
        pipeline: the model, on the CPU.
        seed: of the random numbers.
    """
    encoder = pipeline.image_encoder
    learnt = [part for name, part in encoder.named_children() if name not in FROZEN]
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        for part in (pipeline.unet, *learnt):
            for layer in part.modules():
                if hasattr(layer, "reset_parameters"):
                    layer.reset_parameters()
        encoder.uncond_vector.normal_()


def add_lora(unet: Any, rank: int, seed: int, dead: set[str]) -> None:
    """Put low-rank weights (arXiv 2106.09685) beside the projections of a U-Net's attention, as far as they matter.

    Args:
        unet: the U-Net; the new weights alone learn.
        rank: of the added matrices.
        seed: of their start; at first they add nothing.
        dead: names of parameters that change nothing, see `dead_parameters`.

    Raises:
        UserError: if peft is not installed.
    """
    try:
        from peft import LoraConfig
    except ImportError as error:
        raise UserError("lora_rank needs the package peft; install it, or paint-by-example[lora]") from error
    idle = {name.rpartition(".")[0] for name in dead}
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
        decay: largest decay, in [0, 1). With 0 the average is the parameters themselves, and nothing is kept.
    """

    def __init__(self, parameters: dict[str, nn.Parameter], decay: float) -> None:
        self.decay, self.updates = decay, 0
        self.average = {name: parameter.detach().clone() for name, parameter in parameters.items()} if decay else {}

    @torch.no_grad()
    def update(self, parameters: dict[str, nn.Parameter]) -> None:
        """Move the average towards the parameters by one step."""
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        averages = list(self.average.values())
        if averages:
            torch._foreach_lerp_(averages, [parameters[name].detach() for name in self.average], 1 - decay)

    @torch.no_grad()
    def swap(self, parameters: dict[str, nn.Parameter]) -> None:
        """Exchange the average with the parameters; a second call exchanges them back."""
        for name, average in self.average.items():
            kept = parameters[name].detach().clone()
            parameters[name].copy_(average)
            average.copy_(kept)


class LossScale:
    """What the loss is multiplied by and the gradient divided by, so that float16 holds it (arXiv 1710.03740, 3.2).

    The factor doubles after `PATIENCE` steps that fitted, and halves after one that did not, which is then left out.

    Args:
        precision: of the run; in all but float16 the factor is 1.
    """

    FIRST, PATIENCE = 2.0**16, 2000

    def __init__(self, precision: str) -> None:
        self.value = self.FIRST if precision == "float16" else 1.0
        self.fixed = precision != "float16"
        self.fitted = 0

    def update(self, fits: bool) -> bool:
        """Note whether a step's gradient was finite.

        Returns:
            Whether the run can go on: a gradient that is not finite without a factor never will be.
        """
        if self.fixed:
            return fits
        self.fitted = self.fitted + 1 if fits else 0
        if not fits:
            self.value /= 2
        elif self.fitted == self.PATIENCE:
            self.value, self.fitted = self.value * 2, 0
        return self.value >= 1


class Learner:
    """All that changes in a run, as one of its processes holds it.

    Args:
        config: the run's.
        pipeline: the model; its networks learn in place.
        processes: of the run.
    """

    def __init__(self, config: TrainConfig, pipeline: PaintByExamplePipeline, processes: Processes) -> None:
        self.config, self.pipeline, self.processes = config, pipeline, processes
        self.network = Network(pipeline, config.train, config.lora_rank, config.seed, config.added).train()
        if config.gradient_checkpointing:
            pipeline.unet.enable_gradient_checkpointing()
        if config.shard and processes.count > 1:
            processes.shard(self.network, self.network.blocks(), self.network.pretrained())
        else:
            self.lay_out()
        self.is_divided = config.shard and processes.count > 1
        self.parameters = self.network.trained()
        self.optimizer = make_optimizer(config, self.parameters)
        self.average = MovingAverage(self.parameters, config.ema_decay)
        self.scale = LossScale(config.precision)
        self.shown: PaintByExamplePipeline | None = None  # of divided ones, a whole model in the first process

    def lay_out(self) -> None:
        """Put the weights of the U-Net's convolutions into memory as these are quickest."""
        self.network.unet.to(memory_format=torch.channels_last)

    def step(self, rate: float) -> tuple[Tensor, bool]:
        """Follow the gradient, as far as it is finite; no broken weights are ever made.

        Args:
            rate: the learning rate.

        Returns:
            The gradient's norm before it was scaled down, and whether the run can go on.
        """
        gradients = [parameter.grad for parameter in self.parameters.values() if parameter.grad is not None]
        norm = self.processes.norm(gradients) / self.scale.value
        limit = self.config.max_grad_norm
        finite = bool(torch.isfinite(norm))
        if finite:
            factor = (limit / (norm + 1e-6)).clamp(max=1.0) if limit else torch.ones_like(norm)
            if (scaled := (factor / self.scale.value).item()) != 1:
                torch._foreach_mul_(gradients, scaled)
            for group in self.optimizer.param_groups:
                group["lr"] = rate
            self.optimizer.step()
            if self.config.optimizer == "adamw8bit" and not self.is_divided:
                self.lay_out()  # bitsandbytes leaves weights in the usual order, which convolutions round differently
            self.average.update(self.parameters)
        self.optimizer.zero_grad()  # and not later, so that the gradients are gone while the next batch is encoded
        return norm, self.scale.update(finite)

    @contextlib.contextmanager
    def averaged(self) -> Iterator[PaintByExamplePipeline]:
        """The model with the averaged weights, whole in the first process; all processes have to ask for it."""
        if not self.is_divided:
            self.average.swap(self.parameters)
            try:
                yield self.pipeline
            finally:
                self.average.swap(self.parameters)
            return
        values = {
            name: self.processes.whole(self.average.average.get(name, parameter))
            for name, parameter in self.parameters.items()
        }
        if not self.processes.is_first:
            yield self.pipeline
            return
        if self.shown is None:
            self.shown = load_start(self.config, "cpu")
            Network(self.shown, self.config.train, self.config.lora_rank, self.config.seed, self.config.added)
        named = {"unet": self.shown.unet, "encoder": self.shown.image_encoder, "source": self.shown.source_encoder}
        with torch.no_grad():
            for name, value in values.items():
                part, _, rest = name.partition(".")
                named[part].get_parameter(rest).copy_(value)
        self.shown.to(self.pipeline.device)
        try:
            yield self.shown
        finally:
            self.shown.to("cpu")

    def state(self) -> dict[str, Any]:
        """What `load` goes on from, whole; all processes have to ask for it."""
        whole = self.processes.all_whole
        return {
            "parameters": whole(dict(self.parameters)),
            "average": whole(self.average.average),
            "average_updates": self.average.updates,
            "optimizer": whole(self.optimizer.state_dict()),
            "loss_scale": [self.scale.value, self.scale.fitted],
        }

    @torch.no_grad()
    def load(self, state: dict[str, Any], path: Path) -> None:
        """Go on from a state.

        Args:
            state: from `state`.
            path: of the file it was read from, for messages.

        Raises:
            DataError: if it belongs to another network.
        """
        kept, averaged, divided = state["parameters"], state["average"], self.processes.divided
        if {name: value.shape for name, value in kept.items()} != {n: p.shape for n, p in self.parameters.items()}:
            raise DataError(f"{path} belongs to another network; choose another output folder or remove it")
        for name, parameter in self.parameters.items():
            parameter.copy_(divided(kept[name], parameter))
        for name, average in self.average.average.items():
            average.copy_(divided(averaged.get(name, kept[name]), average))
        self.average.updates = state["average_updates"]
        optimizer = state["optimizer"]
        parameters = list(self.parameters.values())
        for number, values in optimizer["state"].items():
            like = parameters[number]
            for name, value in values.items():
                if isinstance(value, Tensor) and value.shape == like.shape:  # not the number of steps
                    values[name] = divided(value, like)
        self.optimizer.load_state_dict(optimizer)
        if "loss_scale" in state and not self.scale.fixed:
            self.scale.value, self.scale.fitted = state["loss_scale"]
