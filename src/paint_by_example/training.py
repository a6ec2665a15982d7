"""Training: noise prediction on latents, the condition dropped per example for the learned null token.

The flow of a step, downwards:

    example -> latents (z_0, masked latent, mask) and condition -> add noise -> U-Net -> loss -> optimiser -> average

(Paint by Example, arXiv 2211.13227, equation 2 and section 3; dropping the condition for classifier-free guidance:
arXiv 2207.12598, algorithm 1.)

Every draw follows from the seed and the number of the step or example, so a run that was stopped goes on as if it had
not been, and the number of workers changes nothing.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, cast

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from .attention import collapse_cross_attention, dead_parameters
from .compat import latent_mask
from .data.composites import Composites
from .data.dataset import BoxDataset, Examples
from .data.latents import CHUNK, FIELDS, Latents, check_made_of, chunk_files, write_chunk
from .errors import DataError, ModelError, UserError
from .images import tensor_image
from .pipeline import PaintByExamplePipeline, choose_device, load_pipeline
from .sampling import Scheduler, add_noise, make_scheduler, seeded_generators
from .state import load_checkpoint, log_line, replace_folder, save_checkpoint, start_run, write_whole

T = TypeVar("T")

FROZEN = ("model", "backbone", "components")  # parts of either encoder that `features` runs; the rest is `decode`
SAMPLES = 16  # edits in a grid, at most
SAMPLE_STEPS = 20  # of dpm++


@dataclass
class TrainConfig:
    """Train a model on pictures with objects in them."""

    data: Path
    """Folder from `pbe prepare composites`, or an index of pictures and boxes (.jsonl)."""
    output: Path
    """Folder of the run: checkpoints, log, sample grids, and the model in model/ at the end."""
    init: str = "embedded"
    """Model to start from: a folder, the embedded one, or a name on the hub."""
    features: Path | None = None
    """Exemplar features of composites computed ahead (.npy); without them the encoder runs in every step."""
    ahead: int = 0
    """Examples whose latents are computed once, into latents/ of the run's folder, and trained on in turn: the model's
    frozen parts then cost nothing. 0 draws each example anew."""
    steps: int = 10_000
    """Optimiser steps in all."""
    batch_size: int = 64
    """Examples a step."""
    learning_rate: float = 1e-5
    """Of AdamW, after the warm-up. The paper's is 1e-5, for fine-tuning a pretrained model."""
    warmup_steps: int = 1000
    """Steps over which the learning rate rises from 0."""
    decay_steps: int = 0
    """Last steps, over which the learning rate falls to 0; 0 keeps it constant, as in the paper."""
    weight_decay: float = 0.01
    """Of AdamW."""
    drop_exemplar: float = 0.2
    """Probability, per example, that the null token takes the exemplar's place."""
    outside_weight: float = 1.0
    """Weight of the loss outside the mask, which an edit pastes over anyway; 1 as in the paper."""
    timestep_power: float = 1.0
    """Time steps are drawn as T (1 - u^p), u uniform: 1 is even, as in the paper; 2 favours the noisy ones, where the
    exemplar decides and a small model has most to learn."""
    ema_decay: float = 0.9999
    """Decay of the moving average of the weights; it warms up, so that the first steps are forgotten."""
    max_grad_norm: float = 1.0
    """The gradient is scaled down to this norm."""
    seed: int = 0
    """Of data, noise, time steps and dropping."""
    workers: int = 1
    """Processes that make the data."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Of the networks' products; weights, sums and the loss stay in float32. bfloat16 is faster where the processor has
    it (avx512_bf16, amx, a GPU)."""
    compile: bool = False
    """Compile the U-Net: some minutes at the start, faster steps."""
    checkpoint_every: int = 500
    """Steps between checkpoints."""
    keep_checkpoints: int = 3
    """How many of the newest checkpoints stay."""
    sample_every: int = 1000
    """Steps between grids of held-out edits."""
    log_every: int = 50
    """Steps between lines of log.jsonl."""
    device: str | None = None
    """cpu, cuda, ...; the best there is by default."""

    def __post_init__(self) -> None:
        positive = ("steps", "batch_size", "checkpoint_every", "keep_checkpoints", "sample_every", "log_every")
        whole = dict.fromkeys(positive, 1)
        whole |= dict.fromkeys(("ahead", "warmup_steps", "decay_steps", "seed", "workers"), 0)
        for name, least in whole.items():
            if getattr(self, name) < least:
                raise UserError(f"{name} must be at least {least}, got {getattr(self, name)}")
        for name in ("learning_rate", "max_grad_norm", "timestep_power"):
            if not 0 < getattr(self, name) < math.inf:
                raise UserError(f"{name} must be a number above 0, got {getattr(self, name)}")
        for name in ("weight_decay", "outside_weight"):
            if not 0 <= getattr(self, name) < math.inf:
                raise UserError(f"{name} must be a number of at least 0, got {getattr(self, name)}")
        if not 0 <= self.drop_exemplar <= 1:
            raise UserError(f"drop_exemplar is a probability, in [0, 1], got {self.drop_exemplar}")
        if not 0 <= self.ema_decay < 1:
            raise UserError(f"ema_decay must be in [0, 1), got {self.ema_decay}")


class Network(nn.Module):
    """All that is trained: the U-Net and the encoder's learned part, as one module with one set of names.

    Args:
        pipeline: the model; the pretrained part of its encoder is frozen.
    """

    def __init__(self, pipeline: PaintByExamplePipeline) -> None:
        super().__init__()
        self.unet = pipeline.unet
        self.encoder = pipeline.image_encoder
        for name in FROZEN:
            if (part := getattr(self.encoder, name, None)) is not None:
                part.requires_grad_(False)
        collapse_cross_attention(self.unet)
        for name in dead_parameters(self.unet):
            self.unet.get_parameter(name).requires_grad_(False)

    def trained(self) -> dict[str, nn.Parameter]:
        """The parameters that learn, by name, without the encoder's pretrained part and what one token makes idle."""
        return {name: parameter for name, parameter in self.named_parameters() if parameter.requires_grad}


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


class Steps(Dataset[dict[str, Any]]):
    """The data of a run from a given step on: item i is example i of the run, whatever the number of workers.

    Args:
        data: the examples of an epoch.
        first: example of the run to begin with.
        last: example of the run to end before.
        shuffle: seed of each epoch's order; None where the examples are drawn at random anyway.
    """

    def __init__(self, data: Examples, first: int, last: int, shuffle: int | None = None) -> None:
        self.data, self.first, self.last, self.shuffle = data, first, last, shuffle
        self.shuffled = -1, np.empty(0, np.int64)  # an epoch and its order, made once

    def __len__(self) -> int:
        return max(0, self.last - self.first)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Example ``first + index`` of the run, see `Examples`."""
        epoch, position = divmod(self.first + index, len(self.data))
        if self.shuffle is not None:
            if self.shuffled[0] != epoch:
                self.shuffled = epoch, np.random.default_rng((self.shuffle, epoch)).permutation(len(self.data))
            position = int(self.shuffled[1][position])
        self.data.epoch = epoch
        return self.data[position]


def learning_rate_factor(step: int, config: TrainConfig) -> float:
    """Share of the learning rate at a step: linear rise, constant, linear fall to 0.

    Returns:
        In [0, 1]; the first step has 1 / warmup_steps.
    """
    rise = min(1.0, (step + 1) / max(config.warmup_steps, 1))
    fall = min(1.0, (config.steps - step) / config.decay_steps) if config.decay_steps else 1.0
    return max(0.0, min(rise, fall))


def drop(condition: Tensor, null_condition: Tensor, probability: float, generator: torch.Generator) -> Tensor:
    """Put the null token in the exemplar's place, for each example by its own draw.

    Args:
        condition: (B, 1, D).
        null_condition: (1, 1, D).
        probability: in [0, 1].
        generator: source of randomness, on the CPU.

    Returns:
        (B, 1, D).
    """
    dropped = torch.rand(len(condition), generator=generator) < probability
    return torch.where(dropped.to(condition.device)[:, None, None], null_condition, condition)


def diffusion_loss(
    pipeline: PaintByExamplePipeline,
    batch: dict[str, Tensor],
    config: TrainConfig,
    generator: torch.Generator,
    unet: Any,
) -> Tensor:
    """Mean squared error of the prediction (ε, v or z_0, as the scheduler says) on noised latents.

    Args:
        pipeline: the model.
        batch: pictures as `frozen` takes them, or what it makes of them.
        config: the run's.
        generator: of time steps, noise and dropping, on the CPU.
        unet: the U-Net or its compiled form.

    Returns:
        A scalar; with the weights of `TrainConfig.outside_weight`, divided by their mean.

    Raises:
        ModelError: if the model predicts something else.
    """
    encoder, scheduler = pipeline.image_encoder, pipeline.scheduler
    latents = batch if "z_0" in batch else frozen(pipeline, batch)
    z_0, z_masked, m, features = (latents[name] for name in FIELDS)
    reduced = torch.autocast(z_0.device.type, getattr(torch, config.precision), enabled=config.precision != "float32")
    with reduced:
        condition = drop(encoder.decode(features), encoder.uncond_vector, config.drop_exemplar, generator)
    t = draw_timesteps(len(z_0), scheduler.config.num_train_timesteps, config.timestep_power, generator).to(z_0.device)
    noise = torch.randn(z_0.shape, generator=generator).to(z_0.device)
    z_t = add_noise(z_0, noise, t, scheduler)
    with reduced:
        predicted = unet(pipeline.unet_input(z_t, z_masked, m), t, condition).sample
    error = (predicted.float() - prediction_target(z_0, noise, t, scheduler)).square()
    weight = m + config.outside_weight * (1 - m)
    return cast(Tensor, (error * weight).mean() / weight.mean())


@torch.no_grad()
def frozen(pipeline: PaintByExamplePipeline, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """What the parts that do not learn make of a batch.

    Args:
        pipeline: the model.
        batch: ``source`` (B, 3, H, W) in [-1, 1], ``mask`` (B, 1, H, W) in {0, 1}, and ``features`` (B, F) or
            ``exemplar`` (B, E, E, 3) uint8.

    Returns:
        ``z_0`` and ``z_masked`` (B, C, h, w), ``latent_mask`` (B, 1, h, w), ``features`` (B, F).
    """
    source, mask = batch["source"], batch["mask"]
    z_0 = pipeline.encode_picture(source)
    if "features" in batch:
        features = batch["features"]
    else:
        pixels = pipeline.exemplar_tensor(batch["exemplar"].cpu().numpy())
        features = pipeline.image_encoder.features(pixels.to(z_0))
    return {
        "z_0": z_0,
        "z_masked": pipeline.encode_picture(source * (1 - mask)),
        "latent_mask": latent_mask(mask, z_0.shape[-2:]),
        "features": features,
    }


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


def train(config: TrainConfig) -> Path:
    """Train, or go on where the same run stopped.

    Args:
        config: the run's settings. The length and the learning rate may differ from those the run was started with.

    Returns:
        The folder of the trained model, with the averaged weights; `load_pipeline` takes it.

    Raises:
        UserError: for settings or data that cannot be used, and for a loss that is no longer finite, with its step.
    """
    device = choose_device(config.device)
    pipeline = load_pipeline(config.init, device=device, dtype=torch.float32)
    network = Network(pipeline).train()
    pipeline.unet.to(memory_format=torch.channels_last)
    parameters = network.trained()
    optimizer = torch.optim.AdamW(
        parameters.values(), lr=config.learning_rate, weight_decay=config.weight_decay, fused=True
    )
    average = MovingAverage(parameters, config.ema_decay)
    first, losses = resume(config.output, parameters, average, optimizer)
    data, held_out = batches(config, first, pipeline), load_examples(config, pipeline, "held_out")
    start_run(config.output, asdict(config), first)
    unet = torch.compile(pipeline.unet) if config.compile else pipeline.unet

    with (
        torch.random.fork_rng(),
        tqdm(total=config.steps, initial=first, desc="training", unit="step", mininterval=5) as progress,
        (config.output / "log.jsonl").open("ab", buffering=0) as log,
    ):
        since, timed = time.perf_counter(), first
        for step, batch in enumerate(data, start=first):
            done = step + 1
            rate = config.learning_rate * learning_rate_factor(step, config)
            for group in optimizer.param_groups:
                group["lr"] = rate
            # each step has its own generator, so that a resumed run draws what an uninterrupted one would have drawn;
            # of torch's global one draw only layers with dropout, which the models here have none of
            generator = torch.Generator().manual_seed(config.seed * 1_000_003 + step)
            torch.manual_seed(config.seed * 1_000_003 + step)
            batch = {name: value.to(device) for name, value in batch.items()}
            loss = diffusion_loss(pipeline, batch, config, generator, unet)
            optimizer.zero_grad()
            loss.backward()
            norm = torch.nn.utils.clip_grad_norm_(parameters.values(), config.max_grad_norm)
            if not torch.isfinite(loss + norm):  # before the step: no checkpoint is ever written of broken weights
                raise UserError(
                    f"training stopped in step {done} with a loss of {loss.item():g} and a gradient of {norm.item():g}"
                    f" over examples {step * config.batch_size} to {done * config.batch_size - 1} of the run;"
                    f" go on from the last checkpoint with a learning rate below {rate:g}"
                )
            optimizer.step()
            average.update(parameters)
            losses.append(loss.detach())
            progress.update()
            if done % config.log_every == 0 or done == config.steps:
                speed = (done - timed) * config.batch_size / (time.perf_counter() - since)
                mean = torch.stack(losses).mean().item()
                line = {"step": done, "loss": mean, "learning_rate": rate, "pictures_per_second": speed}
                log_line(log, line)
                progress.set_postfix(loss=f"{mean:.4f}", pictures=f"{speed:.1f}/s", refresh=False)
                losses, since, timed = [], time.perf_counter(), done
            if done % config.sample_every == 0 or done == config.steps:
                average.swap(parameters)
                sample_grid(pipeline, held_out, config.output / "samples" / f"step-{done:07d}.png")
                average.swap(parameters)
            if done % config.checkpoint_every == 0 or done == config.steps:
                state = {
                    "step": done,
                    "parameters": {name: parameter.detach() for name, parameter in parameters.items()},
                    "average": average.average,
                    "average_updates": average.updates,
                    "optimizer": optimizer.state_dict(),
                    "losses": torch.stack(losses).cpu() if losses else torch.empty(0),  # not in the log yet
                }
                save_checkpoint(config.output, state, config.keep_checkpoints)
    average.swap(parameters)
    network.eval()
    replace_folder(config.output / "model", pipeline.save_pretrained)
    return config.output / "model"


def batches(config: TrainConfig, first: int, pipeline: PaintByExamplePipeline) -> Iterator[dict[str, Tensor]]:
    """The batches of the run from step ``first`` to its end.

    Raises:
        DataError: if the data cannot be used.
    """
    data = load_examples(config, pipeline, "train")
    shuffle = config.seed if isinstance(data, BoxDataset) else None
    if config.ahead:
        compute_ahead(config, pipeline, data, shuffle)
        data, shuffle = Latents(config.output / "latents", config.ahead), config.seed
    examples = Steps(data, first * config.batch_size, config.steps * config.batch_size, shuffle)
    return with_plain_errors(DataLoader(examples, config.batch_size, num_workers=config.workers))


def compute_ahead(config: TrainConfig, pipeline: PaintByExamplePipeline, data: Examples, shuffle: int | None) -> None:
    """Write the latents of the run's first examples, as far as they are not there.

    Raises:
        DataError: if the data cannot be used, or what is there was made of other data.
    """
    folder = config.output / "latents"
    check_made_of(folder, {name: str(getattr(config, name)) for name in ("data", "features", "init", "seed")})
    files = chunk_files(folder, config.ahead)
    missing = [number for number, (path, _) in enumerate(files) if not path.exists()]
    with tqdm(total=sum(files[number][1] for number in missing), desc="latents", unit="picture", mininterval=5) as bar:
        for number in missing:
            path, length = files[number]
            examples = Steps(data, number * CHUNK, number * CHUNK + length, shuffle)
            made: list[dict[str, Tensor]] = []
            for batch in with_plain_errors(DataLoader(examples, config.batch_size, num_workers=config.workers)):
                batch = {name: value.to(pipeline.device) for name, value in batch.items()}
                made.append({name: value.cpu() for name, value in frozen(pipeline, batch).items()})
                bar.update(len(made[-1]["z_0"]))
            write_chunk(path, {name: torch.cat([part[name] for part in made]).numpy() for name in FIELDS})


def with_plain_errors(batches: Iterable[T]) -> Iterator[T]:
    """The same, but an error of a worker without the traceback that stands in front of its message.

    Raises:
        DataError: as the worker said it.
    """
    try:
        yield from batches
    except UserError as error:
        raise type(error)(str(error).rpartition(f"{type(error).__name__}: ")[2]) from None


def load_examples(config: TrainConfig, pipeline: PaintByExamplePipeline, split: str) -> Examples:
    """The run's data, in the sizes the model takes.

    Args:
        config: the run's.
        pipeline: the model.
        split: train or held_out; an index of pictures and boxes is not split.

    Raises:
        DataError: if they are not there or cannot be used.
    """
    sizes = pipeline.image_size, pipeline.image_encoder.image_size
    if not config.data.is_dir():
        if config.features is not None:
            raise DataError(
                f"features are of composites, and {config.data} is not a folder of them; leave features out"
            )
        return BoxDataset(config.data, *sizes, seed=config.seed)
    features = None
    if config.features is not None and split == "train":
        try:
            features = np.load(config.features, mmap_mode="r")
        except (OSError, ValueError) as error:
            raise DataError(f"cannot read the features {config.features}: {error}") from error
    return Composites(config.data, split, *sizes, seed=config.seed, features=features)


def resume(
    folder: Path, parameters: dict[str, nn.Parameter], average: MovingAverage, optimizer: torch.optim.Optimizer
) -> tuple[int, list[Tensor]]:
    """Take up the newest whole checkpoint if there is one.

    Returns:
        The step to go on with, 0 for a new run, and the losses of the steps before it that are not in the log yet.

    Raises:
        DataError: if no checkpoint is whole, or the newest belongs to another network.
    """
    if (loaded := load_checkpoint(folder)) is None:
        return 0, []
    path, state = loaded
    kept, averaged = state["parameters"], state["average"]
    if {name: value.shape for name, value in kept.items()} != {name: p.shape for name, p in parameters.items()}:
        raise DataError(f"{path} belongs to another network; choose another output folder or remove it")
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(kept[name])
            average.average[name].copy_(averaged[name])
    average.updates = state["average_updates"]
    optimizer.load_state_dict(state["optimizer"])
    device = next(iter(parameters.values())).device
    return int(state["step"]), list(state.get("losses", torch.empty(0)).to(device))


@torch.no_grad()
def sample_grid(pipeline: PaintByExamplePipeline, data: Examples, path: Path) -> None:
    """Save edits of the first examples: masked source, exemplar, result and truth side by side, two edits a row.

    Args:
        pipeline: the model.
        data: held-out examples with ``exemplar``.
        path: the picture to write.
    """
    items = [data[index] for index in range(min(SAMPLES, len(data)))]
    source, mask = (torch.from_numpy(np.stack([item[name] for item in items])) for name in ("source", "mask"))
    exemplars = np.stack([item["exemplar"] for item in items])
    z_0 = None
    for step in pipeline.paint(
        source,
        mask,
        pipeline.encode_exemplar(exemplars),
        steps=SAMPLE_STEPS,
        generators=seeded_generators(range(len(items))),
        scheduler=make_scheduler("dpm++", pipeline.scheduler),
    ):
        z_0 = step.z_t
    assert z_0 is not None  # there is at least one step
    painted = pipeline.decode_latent(z_0).cpu() * mask + source * (1 - mask)
    side = source.shape[-1]
    columns = [tensor_image(source * (1 - mask)), list(exemplars), tensor_image(painted), tensor_image(source)]
    rows = [
        np.hstack([np.asarray(Image.fromarray(picture).resize((side, side))) for picture in edit])
        for edit in zip(*columns, strict=True)
    ]
    rows += [np.full_like(rows[0], 255)] * (len(rows) % 2)
    sheet = np.vstack([np.hstack(rows[row : row + 2]) for row in range(0, len(rows), 2)])
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, lambda file: Image.fromarray(sheet).save(file, "PNG"))
