"""What training minimises: noise prediction on latents, the condition now and then dropped for the learned null token.

    example -> latents (z_0, masked latent, mask) and condition -> add noise -> U-Net -> loss

(Paint by Example, arXiv 2211.13227, equation 2 and section 3; dropping the condition for classifier-free guidance:
arXiv 2207.12598, algorithm 1.)

What is drawn is drawn for a whole batch, so that it does not depend on how many processes
compute it, in how many pieces.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from .compat import latent_mask
from .data.latents import FIELDS
from .errors import ModelError
from .pipeline import PaintByExamplePipeline
from .sampling import Scheduler, add_noise
from .settings import TrainConfig

DROP_OF_SOURCE = 0.1  # probability that an example is told no structure, and that it is told no context
DROP_OF_CONTEXT = 0.5  # the latter where the U-Net learns too, which without context is to stay as good


@dataclass(frozen=True)
class Draws:
    """What is drawn for the examples of a step."""

    dropped: Tensor
    """(B,) bool: whether the null token takes the exemplar's place."""
    t: Tensor
    """Time steps, (B,) int64."""
    noise: Tensor
    """ε, (B, C, h, w)."""
    told: Tensor | None = None
    """(B, 2) bool, where a `SourceEncoder` learns: whether the U-Net is told of structure and context."""

    def part(self, start: int, count: int) -> Draws:
        """Those of some examples."""
        these = slice(start, start + count)
        told = None if self.told is None else self.told[these]
        return Draws(self.dropped[these], self.t[these], self.noise[these], told)


def draw_step(
    count: int, shape: Sequence[int], config: TrainConfig, scheduler: Scheduler, generator: torch.Generator
) -> Draws:
    """Draw for a whole batch, whoever computes which part of it.

    Args:
        count: B.
        shape: of one latent, (C, h, w).
        config: the run's.
        scheduler: the model's.
        generator: source of randomness, on the CPU.
    """
    groups = torch.rand(-(-count // config.drop_together), generator=generator) < config.drop_exemplar
    dropped = groups.repeat_interleave(config.drop_together)[:count]
    t = draw_timesteps(count, scheduler.config.num_train_timesteps, config.timestep_power, generator)
    noise = torch.randn((count, *shape), generator=generator)
    told = None
    if config.add:
        rates = torch.tensor([DROP_OF_SOURCE, DROP_OF_SOURCE if config.adds_alone else DROP_OF_CONTEXT])
        told = torch.rand((count, 2), generator=generator) >= rates
    return Draws(dropped, t, noise, told)


def drop(condition: Tensor, null_condition: Tensor, dropped: Tensor) -> Tensor:
    """Put the null token in the place of some exemplars.

    Args:
        condition: (B, 1, D).
        null_condition: (1, 1, D).
        dropped: (B,) bool.

    Returns:
        (B, 1, D).
    """
    return torch.where(dropped.to(condition.device)[:, None, None], null_condition, condition)


def loss_weight(mask: Tensor, config: TrainConfig) -> Tensor:
    """Weight of the loss at each place of a latent, from its mask (B, 1, h, w), see `TrainConfig.outside_weight`."""
    return mask + config.outside_weight * (1 - mask)


def diffusion_loss(
    pipeline: PaintByExamplePipeline,
    latents: dict[str, Tensor],
    config: TrainConfig,
    draws: Draws,
    unet: Any,
    mean_weight: Tensor | None = None,
) -> Tensor:
    """Mean squared error of the prediction (ε, v or z_0, as the scheduler says) on noised latents.

    Args:
        pipeline: the model.
        latents: from `frozen`.
        config: the run's.
        draws: for these examples.
        unet: the U-Net or its compiled form.
        mean_weight: mean of `loss_weight` over the whole batch, where these examples are a part of one.

    Returns:
        A scalar; with the weights of `TrainConfig.outside_weight`, divided by their mean.

    Raises:
        ModelError: if the model predicts something else.
    """
    encoder, scheduler = pipeline.image_encoder, pipeline.scheduler
    z_0, z_masked, m, features = (latents[name] for name in FIELDS)
    reduced = torch.autocast(z_0.device.type, getattr(torch, config.precision), enabled=config.precision != "float32")
    with reduced:
        condition = drop(encoder.decode(features), encoder.uncond_vector, draws.dropped)
    t, noise = draws.t.to(z_0.device), draws.noise.to(z_0.device)
    z_t = add_noise(z_0, noise, t, scheduler)
    with reduced:
        options: dict[str, Any] = {}
        if draws.told is not None:
            maps = latents.get("structure")
            hints = pipeline.source_encoder(z_masked, m, maps, "context" in config.added)
            structure, context = draws.told.to(z_0).T
            if maps is not None:
                structure = structure * (maps >= 0).all((1, 2, 3))
            options = hints.told(structure, context).options()
        predicted = unet(pipeline.unet_input(z_t, z_masked, m), t, condition, **options).sample
    error = (predicted.float() - prediction_target(z_0, noise, t, scheduler)).square()
    weight = loss_weight(m, config)
    return cast(Tensor, (error * weight).mean() / (weight.mean() if mean_weight is None else mean_weight))


@torch.no_grad()
def frozen(
    pipeline: PaintByExamplePipeline, batch: dict[str, Tensor], generators: Sequence[torch.Generator] | None = None
) -> dict[str, Tensor]:
    """What the parts that do not learn make of a batch; a batch of latents is that already.

    Args:
        pipeline: the model.
        batch: ``source`` (B, 3, H, W) in [-1, 1], ``mask`` (B, 1, H, W) in {0, 1}, and ``features`` (B, F) or
            ``exemplar`` (B, E, E, 3) uint8.
        generators: for each example, to draw its latents from the autoencoder's posterior; without them its mean is
            taken.

    Returns:
        ``z_0`` and ``z_masked`` (B, C, h, w), ``latent_mask`` (B, 1, h, w), ``features`` (B, F); ``structure``
        as it comes, where there is one.
    """
    if "z_0" in batch:
        return batch
    source, mask = batch["source"], batch["mask"]
    z_0 = pipeline.encode_picture(source, generators)
    if "features" in batch:
        features = batch["features"]
    else:
        pixels = pipeline.exemplar_tensor(batch["exemplar"].cpu().numpy())
        features = pipeline.image_encoder.features(pixels.to(z_0))
    made = {
        "z_0": z_0,
        "z_masked": pipeline.encode_picture(source * (1 - mask), generators),
        "latent_mask": latent_mask(mask, z_0.shape[-2:]),
        "features": features,
    }
    return made | ({"structure": batch["structure"]} if "structure" in batch else {})


def draw_timesteps(count: int, steps: int, power: float, generator: torch.Generator) -> Tensor:
    """Draw time steps as `TrainConfig.timestep_power` says.

    Args:
        count: B.
        steps: T, of the schedule.
        power: p.
        generator: source of randomness, on the CPU.

    Returns:
        (B,) int64 in 0 .. T - 1.
    """
    u = torch.rand(count, generator=generator, dtype=torch.float64)
    return (steps * (1 - u**power)).long().clamp(0, steps - 1)


def prediction_target(z_0: Tensor, noise: Tensor, t: Tensor, scheduler: Scheduler) -> Tensor:
    """What the U-Net should predict, as the scheduler's ``prediction_type`` says.

    Args:
        z_0: clean latents, (B, C, h, w).
        noise: ε, (B, C, h, w).
        t: time steps, (B,).
        scheduler: the model's.

    Returns:
        (B, C, h, w).

    Raises:
        ModelError: if the prediction type is not known.
    """
    match scheduler.config["prediction_type"]:
        case "epsilon":
            return noise
        case "v_prediction":  # √ᾱ_t ε - √(1 - ᾱ_t) z_0 (arXiv 2202.00512, appendix D): noising with the roles exchanged
            return add_noise(noise, -z_0, t, scheduler)
        case "sample":
            return z_0
        case other:
            raise ModelError(f"unknown prediction type {other!r}; expected epsilon, v_prediction or sample")
