"""What a run will need, before it starts: its settings, what learns, and memory, accounted for from tensors.

The model is read as an outline, without its weights, and one step is taken on tensors that know their shape and type
and nothing else. What is alive at once is added up. It lacks what tensors do not show: work space of convolutions, the
allocator's rounding, a GPU's own context, and on the CPU Python and the libraries. Attention is counted as fused
kernels have it, without the matrix of scores.
"""

from __future__ import annotations

import json
import math
import weakref
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from .conversion import read_start
from .learner import FROZEN_AT_ONCE, Network
from .network import quiet
from .objective import Draws, diffusion_loss
from .pipeline import PaintByExamplePipeline
from .processes import Processes
from .settings import TrainConfig

RUNNING_MEANS = {"adamw": 2 * 4.0, "adamw8bit": 2 * (1 + 4 / 256)}  # bytes a parameter; 8 bits have a scale for 256
KEPT_WHOLE = 4096  # numbers in a tensor, below which 8-bit AdamW keeps 32 bits
NOTE = "without work space of convolutions, the allocator's rounding, and what libraries hold"


class Alive(TorchDispatchMode):
    """Adds up the storage of the tensors that are alive.

    Args:
        known: tensors that are not counted, nor views of them.
    """

    def __init__(self, known: Iterable[Tensor] = ()) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.peak = 0
        self.claimed = self.peak_with_claimed = 0
        self.sizes = {tensor.untyped_storage()._cdata: 0 for tensor in known}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                self.add(tensor.untyped_storage())
        return result

    def add(self, storage: torch.UntypedStorage) -> None:
        """Count a storage until it is gone."""
        key, size = storage._cdata, storage.nbytes()
        if key in self.sizes:
            return
        self.sizes[key] = size
        self.now += size
        self.peak = max(self.peak, self.now)
        self.peak_with_claimed = max(self.peak_with_claimed, self.now + self.claimed)
        weakref.finalize(storage, self.remove, key)

    def remove(self, key: int) -> None:
        """Forget a storage."""
        self.now -= self.sizes.pop(key, 0)

    def claim(self, tensor: Tensor) -> None:
        """Count a tensor that was added by itself from now on."""
        key = tensor.untyped_storage()._cdata
        size = self.sizes.get(key, 0)
        self.sizes[key] = 0
        self.now -= size
        self.claimed += size


@dataclass(frozen=True)
class Memory:
    """Bytes in each process."""

    weights: int
    gradients: int
    optimizer: int
    average: int
    activations: int
    """The most that is alive beside these in a step, the gradients of which come as activations go."""
    total: int
    """The most at once; less than the sum, since gradients and activations are not at their most together."""


@dataclass(frozen=True)
class Plan:
    """What a run will need."""

    config: TrainConfig
    trained: int
    """Parameters that learn."""
    frozen: int
    """Parameters that do not, the autoencoder's among them."""
    processes: int
    memory: Memory

    def as_dict(self) -> dict[str, Any]:
        """For a program."""
        settings: dict[str, Any] = json.loads(json.dumps(asdict(self.config), default=str))
        return {
            "settings": settings,
            "parameters": {"trained": self.trained, "frozen": self.frozen},
            "processes": self.processes,
            "memory_bytes": asdict(self.memory),
            "memory_is": f"of each process, {NOTE}",
        }

    def as_text(self) -> str:
        """For a reader."""
        rows = [(name, str(value)) for name, value in asdict(self.config).items()]
        rows += [("", ""), ("parameters that learn", f"{self.trained:,}"), ("that do not", f"{self.frozen:,}")]
        rows += [("", ""), (f"memory of each of {self.processes} process(es)", "GB")]
        rows += [(name, f"{size / 1e9:.3f}") for name, size in asdict(self.memory).items()]
        width = max(len(name) for name, _ in rows)
        lines = [f"{name:{width}}  {value}".rstrip() for name, value in rows]
        return "\n".join([*lines, f"({NOTE}; total is the most at once, less than the sum)"])


def plan(config: TrainConfig, processes: Processes | None = None) -> Plan:
    """Find out what a run will need, without its weights or data.

    Args:
        config: the run's settings.
        processes: of the run; as torchrun's variables say if not given.

    Raises:
        ModelError: if the model to start from cannot be found or read.
        UserError: if the batch cannot be divided.
    """
    processes = Processes.of_environment() if processes is None else processes
    size = processes.share(config.batch_size, config.accumulate) // config.accumulate
    pipeline = PaintByExamplePipeline(**read_start(config).outline())
    if config.added:
        with torch.device("meta"):
            pipeline.add_source_encoder(config.added, config.seed)
    return account(config, pipeline, size, processes.count)


def account(config: TrainConfig, pipeline: PaintByExamplePipeline, size: int, processes: int = 1) -> Plan:
    """Account for a run.

    Args:
        config: its settings.
        pipeline: the model's outline, on the meta device; it is used up.
        size: examples that are computed at once.
        processes: how many.
    """
    network = Network(pipeline, config.train, config.lora_rank, config.seed, config.added).train()
    if config.gradient_checkpointing:
        pipeline.unet.enable_gradient_checkpointing()
    with FakeTensorMode(allow_non_fake_inputs=True), quiet():
        for part in (pipeline.vae, network):
            part.to_empty(device="cpu")  # in float32, as training has them
        held = [*tensors(network), *tensors(pipeline.vae)]
        frozen = peak_of_frozen(pipeline, min(size, FROZEN_AT_ONCE), held)
        step = peak_of_step(config, pipeline, network, size, held)
    learning = list(network.trained().values())
    parts = processes if config.shard else 1
    gradients = total_bytes(learning) // parts
    optimizer = sum(running_means(config, parameter) for parameter in learning) // parts
    average = gradients if config.ema_decay else 0
    weights = total_bytes(held)
    if parts > 1:  # a part of all that is divided; what is outside of blocks, and the largest of them, put together
        whole = [total_bytes(tensors(block)) for block in network.blocks()]
        divided = total_bytes(network.parameters()) - total_bytes(network.pretrained())
        weights += divided // parts - divided + (divided - sum(whole)) + max(whole)
    together = gradients + step.peak if parts > 1 or config.accumulate > 1 else step.peak_with_claimed
    return Plan(
        config=config,
        trained=sum(parameter.numel() for parameter in learning),
        frozen=network.sizes()[1] + sum(parameter.numel() for parameter in pipeline.vae.parameters()),
        processes=processes,
        memory=Memory(
            weights=weights,
            gradients=gradients,
            optimizer=optimizer,
            average=average,
            activations=max(step.peak, frozen),
            total=weights + optimizer + average + max(frozen, together),
        ),
    )


def peak_of_frozen(pipeline: PaintByExamplePipeline, size: int, held: Iterable[Tensor]) -> int:
    """The most that is alive while the parts that do not learn work on a batch, bytes."""
    side, exemplar = pipeline.image_size, pipeline.image_encoder.image_size
    with torch.no_grad(), Alive(held) as alive:
        source = torch.empty(size, 3, side, side)
        latents = [pipeline.encode_picture(source), pipeline.encode_picture(source * 1)]
        features = pipeline.image_encoder.features(torch.empty(size, 3, exemplar, exemplar))
        del latents, features
    return int(alive.peak)


def peak_of_step(
    config: TrainConfig, pipeline: PaintByExamplePipeline, network: Network, size: int, held: Iterable[Tensor]
) -> Alive:
    """What is alive on the way from latents to gradients, which are claimed as they come."""
    channels, side = pipeline.unet.config.out_channels, pipeline.image_size // pipeline.latent_factor
    exemplar = pipeline.image_encoder.image_size
    with torch.no_grad():
        features = pipeline.image_encoder.features(torch.empty(size, 3, exemplar, exemplar))
    alive = Alive(held)

    def claim(parameter: Tensor) -> None:
        assert parameter.grad is not None
        alive.claim(parameter.grad)

    for parameter in network.trained().values():
        parameter.register_post_accumulate_grad_hook(claim)
    with alive:
        shape = (size, channels, side, side)
        latents = {"z_0": torch.empty(shape), "z_masked": torch.empty(shape)}
        latents |= {"latent_mask": torch.empty(size, 1, side, side), "features": features}
        draws = Draws(torch.zeros(size, dtype=torch.bool), torch.zeros(size, dtype=torch.int64), torch.empty(shape))
        if config.added:
            if "structure" in config.added:
                latents["structure"] = torch.empty(size, 1, pipeline.image_size, pipeline.image_size)
            draws = replace(draws, told=torch.ones(size, 2, dtype=torch.bool))
        loss = network(partial(diffusion_loss, pipeline, latents, config, draws, pipeline.unet))
        loss.backward()
    return alive


def running_means(config: TrainConfig, parameter: Tensor) -> int:
    """Bytes that the optimiser keeps for a parameter."""
    small = parameter.numel() < KEPT_WHOLE
    return math.ceil(parameter.numel() * RUNNING_MEANS["adamw" if small else config.optimizer])


def tensors(module: nn.Module) -> list[Tensor]:
    """Parameters and buffers."""
    return [*module.parameters(), *module.buffers()]


def total_bytes(several: Iterable[Tensor]) -> int:
    """Of tensors that share nothing."""
    return sum(tensor.numel() * tensor.element_size() for tensor in several)
