"""Distillation: a student that takes in one step what the model takes in several, and is told λ instead of guided.

The flow of a step, downwards:

    noise, a stretch of the noise levels, λ -> the student itself goes to where the stretch begins -> z_t
    -> the teacher takes K guided DDIM steps along the stretch -> the prediction whose one step gets as far
    -> squared error of the student's prediction, which is told λ

The student's N steps are the stretches. What is learned is progressive distillation (arXiv 2202.00512, algorithm 2)
with K teacher's steps to one at once, of a guided teacher (arXiv 2210.03142, section 3), from latents that the student
gets to and not from noised pictures (backward distillation, arXiv 2405.05224, section 3.1): in use it will see no
others. λ enters the student beside the time step, as `dial.embed_scale` through a linear layer that starts as zeros.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from .batches import batches, load_steps
from .compiled import predict
from .conversion import load_start
from .dial import embed_scale
from .errors import UserError
from .guidance import Predict, by_place
from .layout import calm_beside, draw_to_layout, own_guidance
from .learner import Learner, MovingAverage, make_optimizer, save_model
from .objective import frozen, loss_weight, prediction_target
from .pipeline import PaintByExamplePipeline, choose_device
from .processes import Processes
from .sampling import Scheduler, make_scheduler, predict_clean, predict_noise, scales, timesteps
from .settings import DistillConfig
from .state import Log, replace_folder, save_checkpoint, start_run
from .training import learning_rate_factor, resume

SCALE_SIZE = 64  # numbers that embed λ

Ask = Callable[[Tensor, Tensor, Tensor], Tensor]
"""A model's prediction of (B, C, h, w) at (B,) under (B, 1, D)."""


@dataclass(frozen=True)
class Draws:
    """What is drawn for the examples of a step."""

    stretch: Tensor
    """Which of the student's steps, (B,) int64."""
    scale: Tensor
    """λ, (B,)."""
    noise: Tensor
    """What the student starts from, ε, (B, C, h, w)."""


class Stretches:
    """The noise levels of a student and of its teacher: DDIM's, spaced evenly from the noisiest.

    Args:
        scheduler: the student's, see `student_scheduler`.
        student_steps: N.
        teacher_steps: K, to one of the student's.
    """

    def __init__(self, scheduler: Scheduler, student_steps: int, teacher_steps: int) -> None:
        self.scheduler, self.count, self.within = scheduler, student_steps, teacher_steps
        self.levels = timesteps(scheduler, student_steps * teacher_steps)
        alphas = scheduler.alphas_cumprod.double()
        self.alphas = torch.cat([alphas[self.levels], torch.as_tensor(scheduler.final_alpha_cumprod).double().view(1)])

    def level(self, stretch: Tensor, step: int = 0) -> Tensor:
        """The time step that the teacher's step within a stretch begins at, (B,)."""
        return self.levels[stretch * self.within + step]

    def alpha(self, stretch: Tensor, step: int, like: Tensor) -> Tensor:
        """ᾱ there, (B, 1, 1, 1); after a stretch's last step that of the next one's first, or of the clean latent."""
        return self.alphas[stretch * self.within + step].view(-1, 1, 1, 1).to(like)


def student_scheduler(scheduler: Scheduler) -> Scheduler:
    """DDIM on levels that start at the noisiest, whatever their number: a student of few steps needs that one."""
    return make_scheduler("ddim", {**scheduler.config, "timestep_spacing": "trailing"})


def tell_scale(unet: Any, size: int = SCALE_SIZE) -> None:
    """Give a U-Net the layer by which it is told λ; at first it changes nothing."""
    embedding = unet.time_embedding
    layer = nn.Linear(size, embedding.linear_1.in_features, bias=False)
    nn.init.zeros_(layer.weight)
    embedding.cond_proj = layer.to(embedding.linear_1.weight)
    unet.register_to_config(time_cond_proj_dim=size)


def ddim_step(z_t: Tensor, prediction: Tensor, t: Tensor, alpha: Tensor, scheduler: Scheduler) -> Tensor:
    """One DDIM step to where ᾱ is ``alpha``, (B, 1, 1, 1)."""
    z_0, noise = (guess(z_t, prediction, t, scheduler) for guess in (predict_clean, predict_noise))
    return alpha.sqrt() * z_0 + (1 - alpha).sqrt() * noise


@torch.no_grad()
def roll_out(student: Predict, z_T: Tensor, draws: Draws, stretches: Stretches) -> Tensor:
    """Let a student itself go to where its stretches begin.

    Args:
        student: predicts as the scheduler says.
        z_T: noise, (B, C, h, w).
        draws: the stretches.
        stretches: of the student.

    Returns:
        z_t, (B, C, h, w).
    """
    z = z_T
    for stretch in range(int(draws.stretch.max())):
        which = torch.full_like(draws.stretch, stretch)
        t = stretches.level(which).to(z.device)
        further = ddim_step(
            z, student(z, t).float(), t, stretches.alpha(which, stretches.within, z), stretches.scheduler
        )
        z = torch.where(by_place(draws.stretch > stretch).to(z.device), further, z)
    return z


@torch.no_grad()
def target(teacher: Ask, null: Tensor, condition: Tensor, z_t: Tensor, draws: Draws, stretches: Stretches) -> Tensor:
    """What the student should predict at the start of stretches.

    Args:
        teacher: predicts as the scheduler says.
        null: the null condition, (1, 1, D).
        condition: (B, 1, D).
        z_t: noised latents at the start, (B, C, h, w).
        draws: stretches and λ.
        stretches: of the student.

    Returns:
        (B, C, h, w): one DDIM step with it goes where the teacher's steps went.
    """
    scheduler, which = stretches.scheduler, draws.stretch
    scale = by_place(draws.scale).to(z_t)
    conditions = torch.cat([null.expand_as(condition), condition])
    z = z_t
    for step in range(stretches.within):
        t = stretches.level(which, step).to(z.device)
        if bool((scale == 1).all()):
            e = teacher(z, t, condition).float()
        else:
            e_null, e_condition = teacher(torch.cat([z, z]), torch.cat([t, t]), conditions).float().chunk(2)
            e = e_null + scale * (e_condition - e_null)
        z = ddim_step(z, e, t, stretches.alpha(which, step + 1, z), scheduler)
    before, after = stretches.alpha(which, 0, z), stretches.alpha(which, stretches.within, z)
    ratio = ((1 - after) / (1 - before)).sqrt()
    z_0 = (z - ratio * z_t) / (after.sqrt() - ratio * before.sqrt())  # arXiv 2202.00512, algorithm 2
    noise = (z_t - before.sqrt() * z_0) / (1 - before).sqrt()
    return prediction_target(z_0, noise, stretches.level(which).to(z.device), scheduler)


def error_weight(t: Tensor, scheduler: Scheduler, like: Tensor) -> Tensor:
    """What the squared error of a prediction is multiplied by to be that of v, whatever is predicted.

    Of ε it alone would hardly count at the noisiest level, where a student of few steps decides most (arXiv
    2202.00512, section 4: the weighting "SNR + 1").

    Args:
        t: (B,).
        scheduler: says what is predicted.
        like: of the type and number of dimensions of the result.

    Returns:
        (B, 1, 1, 1).
    """
    alpha, sigma = scales(t, scheduler, like)
    part = {"epsilon": alpha, "sample": sigma}.get(str(scheduler.config["prediction_type"]), torch.ones_like(alpha))
    return 1 / part.square()


def draw_step(config: DistillConfig, shape: tuple[int, ...], step: int) -> Draws:
    """Draw for a batch of latents of a shape (C, h, w); a step's draws do not depend on where a run was stopped."""
    generator = torch.Generator().manual_seed(config.seed * 1_000_003 + step)
    stretch = torch.randint(config.student_steps, (config.batch_size,), generator=generator)
    share = torch.rand(config.batch_size, generator=generator)
    scale = config.least_scale + share * (config.most_scale - config.least_scale)
    return Draws(stretch, scale, torch.randn((config.batch_size, *shape), generator=generator))


def distillation_loss(
    pipeline: PaintByExamplePipeline,
    student: Any,
    teacher: Any,
    latents: dict[str, Tensor],
    draws: Draws,
    stretches: Stretches,
    config: DistillConfig,
) -> Tensor:
    """Mean squared error of the student's prediction.

    Args:
        pipeline: gives the exemplar encoder.
        student: U-Net that is told λ, or its compiled form.
        teacher: U-Net that is guided.
        latents: from `frozen`.
        draws: for these examples.
        stretches: of the student.
        config: the run's.

    Returns:
        A scalar; where the picture is kept, errors count as in training.
    """
    z_masked, m, features = (latents[name] for name in ("z_masked", "latent_mask", "features"))
    encoder, device = pipeline.image_encoder, m.device
    reduced = torch.autocast(device.type, getattr(torch, config.precision), enabled=config.precision != "float32")
    with torch.no_grad(), reduced:
        condition = encoder.decode(features)
    scale = embed_scale(draws.scale, int(pipeline.unet.config.time_cond_proj_dim)).to(device)

    def drawn(prediction: Tensor, x: Tensor, t: Tensor, conditions: Tensor, last: Tensor) -> Tensor:
        unet, scheduler = pipeline.unet, pipeline.scheduler  # its map is the teacher's too: it does not learn
        return draw_to_layout(prediction, unet, x, t, conditions, scheduler, draws.scale, last=int(last))

    def told(z: Tensor, t: Tensor) -> Tensor:
        x = pipeline.unet_input(z, z_masked, m)
        with reduced:
            prediction = predict(student, x, t, condition, scale)
        return drawn(prediction, x, t, condition, stretches.levels[-stretches.within])

    def guided(z: Tensor, t: Tensor, conditions: Tensor) -> Tensor:
        repeats = len(z) // len(m)  # two where guidance needs both predictions
        x = pipeline.unet_input(z, z_masked.repeat(repeats, 1, 1, 1), m.repeat(repeats, 1, 1, 1))
        with reduced:
            prediction = predict(teacher, x, t, conditions)
        return drawn(prediction, x, t, conditions, stretches.levels[-1])

    z_t = roll_out(told, calm_beside(draws.noise.to(device), pipeline.unet, condition, m), draws, stretches)
    shown = replace(draws, scale=torch.as_tensor(own_guidance(draws.scale, pipeline.unet)))
    wanted = target(guided, encoder.uncond_vector.detach().to(condition), condition, z_t, shown, stretches)
    t = stretches.level(draws.stretch).to(device)
    found = told(z_t, t)
    weight = loss_weight(m, config.training())
    error = (found.float() - wanted).square() * error_weight(t, stretches.scheduler, wanted)
    return (error * weight).mean() / weight.mean()


def make_learner(config: DistillConfig, pipeline: PaintByExamplePipeline) -> Learner:
    """What learns: the student's U-Net or low-rank weights beside it, and the layer that tells it λ."""
    tell_scale(pipeline.unet)
    pipeline.image_encoder.requires_grad_(False)
    learner = Learner(config.training(), pipeline, Processes())
    if config.lora_rank:
        pipeline.unet.time_embedding.cond_proj.requires_grad_(True)
        learner.parameters = learner.network.trained()
        learner.optimizer = make_optimizer(learner.config, learner.parameters)
        learner.average = MovingAverage(learner.parameters, config.ema_decay)
    return learner


def distill(config: DistillConfig) -> Path:
    """Distil a model, or go on where the same run stopped.

    Args:
        config: the run's settings.

    Returns:
        The folder of the student, with the averaged weights; `load_pipeline` takes it.

    Raises:
        UserError: for settings or data that cannot be used, and for a loss that is no longer finite.
    """
    training = config.training()
    pipeline = load_start(training, choose_device(config.device))
    if pipeline.scale_size is not None:
        raise UserError(f"the model {config.init} is distilled already; start from one that is guided")
    teacher: Any = copy.deepcopy(pipeline.unet).eval().requires_grad_(False)
    learner = make_learner(config, pipeline)
    first, losses, _ = resume(learner)
    stretches = Stretches(student_scheduler(pipeline.scheduler), config.student_steps, config.teacher_steps)
    examples = load_steps(training, first, pipeline, learner.processes)
    start_run(config.output, asdict(config), first)
    student: Any = pipeline.unet
    if config.compile:
        student, teacher = torch.compile(student), torch.compile(teacher)
    bar = tqdm(total=config.steps, initial=first, desc="distilling", unit="step", mininterval=5)
    with bar, Log(config.output) as log:
        for step, batch in enumerate(batches(training, examples, learner.processes), start=first):
            done, last = step + 1, step + 1 == config.steps
            latents = frozen(pipeline, {name: value.to(pipeline.device) for name, value in batch.items()})
            draws = draw_step(config, tuple(latents["z_0"].shape[1:]), step)
            loss = distillation_loss(pipeline, student, teacher, latents, draws, stretches, config)
            (loss * learner.scale.value).backward()
            _, fits = learner.step(config.learning_rate * learning_rate_factor(step, training))
            if not fits:
                raise UserError(
                    f"distillation stopped in step {done} with a loss of {loss.item():g}; go on from the last"
                    f" checkpoint with a learning rate below {config.learning_rate:g}"
                )
            losses.append(loss.detach())
            bar.update()
            if done % config.log_every == 0 or last:
                log.write("log", {"step": done, "loss": torch.stack(losses).mean().item()})
                losses = []
            if done % config.checkpoint_every == 0 or last:
                waiting = torch.stack(losses).cpu() if losses else torch.empty(0)
                save_checkpoint(config.output, learner.state() | {"step": done, "losses": waiting}, keep=2)
    with learner.averaged() as averaged:
        averaged.register_modules(scheduler=stretches.scheduler)
        averaged.register_to_config(student_steps=config.student_steps)
        replace_folder(config.output / "model", partial(save_model, averaged))
    return config.output / "model"
