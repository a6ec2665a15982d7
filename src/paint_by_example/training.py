"""Training: the loop, its data, and what learns.

The flow of a step, downwards:

    examples -> this process's share of them -> loss (objective.py) -> gradient, averaged -> optimiser -> average

Every draw follows from the seed and the number of the step or example, so a run that was stopped goes on as if it had
not been, and the number of workers changes nothing.
"""

from __future__ import annotations

import contextlib
import math
import os
import resource
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import IO, Any, TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, default_collate
from tqdm import tqdm

from .data.composites import Composites
from .data.dataset import BoxDataset, Examples
from .data.latents import CHUNK, FIELDS, Latents, check_made_of, chunk_files, write_chunk
from .errors import DataError, UserError
from .images import tensor_image
from .learner import MovingAverage, Network, make_optimizer, save_lora, save_model
from .objective import diffusion_loss, draw_step, frozen, loss_weight
from .pipeline import PaintByExamplePipeline, choose_device, load_pipeline
from .processes import Processes, Shares, joined
from .sampling import make_scheduler, seeded_generators
from .settings import TrainConfig as TrainConfig
from .state import load_checkpoint, log_line, replace_folder, save_checkpoint, start_run, write_whole

T = TypeVar("T")

HELD_OUT, HELD_OUT_BATCH = 64, 16  # examples whose loss is compared between steps, and how many at once
SAMPLES = 16  # edits in a grid, at most
SAMPLE_STEPS = 20  # of dpm++


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


def train(config: TrainConfig) -> Path:
    """Train, or go on where the same run stopped.

    Args:
        config: the run's settings. The length and the learning rate may differ from those the run was started with.

    Returns:
        The folder of the trained model, with the averaged weights; `load_pipeline` takes it.

    Raises:
        UserError: for settings or data that cannot be used, and for a loss that is no longer finite, with its step.
    """
    with joined(config.device) as processes:
        return train_together(config, processes)


def train_together(config: TrainConfig, processes: Processes) -> Path:
    """The part of `train` that one of its processes does."""
    device = choose_device(processes.device(config.device))
    share = processes.share(config.batch_size, config.accumulate)
    pipeline = load_pipeline(config.init, device=device, dtype=torch.float32)
    network = Network(pipeline, config.train, config.lora_rank, config.seed).train()
    pipeline.unet.to(memory_format=torch.channels_last)
    if config.gradient_checkpointing:
        pipeline.unet.enable_gradient_checkpointing()
    parameters = network.trained()
    optimizer = make_optimizer(config, parameters)
    average = MovingAverage(parameters, config.ema_decay)
    first, losses, best = resume(config.output, parameters, average, optimizer)
    processes.wait()  # all have read the checkpoint before the first writes
    data, held_out = batches(config, first, pipeline, processes), load_examples(config, pipeline, "held_out")
    if processes.is_first:
        start_run(config.output, asdict(config), first)
    processes.wait()
    unet = torch.compile(pipeline.unet) if config.compile else pipeline.unet
    together = processes.wrap(network)

    with (
        torch.random.fork_rng(),
        tqdm(
            total=config.steps,
            initial=first,
            desc="training",
            unit="step",
            mininterval=5,
            disable=not processes.is_first,
        ) as progress,
        open_log(config.output, processes) as log,
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
            torch.manual_seed(config.seed * 1_000_003 + step + processes.rank * 500_009)
            pieces = [
                frozen(pipeline, {name: value.to(device) for name, value in piece.items()})
                for piece in divide(batch, config.accumulate)
            ]
            draws = draw_step(config.batch_size, pieces[0]["z_0"].shape[1:], config, pipeline.scheduler, generator)
            mean_weight = processes.mean(loss_weight(torch.cat([p["latent_mask"] for p in pieces]), config).mean())
            optimizer.zero_grad()
            loss = torch.zeros((), device=device)
            for number, piece in enumerate(pieces):
                size = share // config.accumulate
                drawn = draws.part(processes.rank * share + number * size, size)
                arguments = pipeline, piece, config, drawn, unet, mean_weight
                last = number == len(pieces) - 1
                with contextlib.nullcontext() if last else processes.apart(together):
                    part = together(partial(diffusion_loss, *arguments)) / config.accumulate
                    part.backward()
                loss += part.detach()
            loss = processes.mean(loss)
            norm = torch.nn.utils.clip_grad_norm_(parameters.values(), config.max_grad_norm)
            if not torch.isfinite(loss + norm):  # before the step: no checkpoint is ever written of broken weights
                raise UserError(
                    f"training stopped in step {done} with a loss of {loss.item():g} and a gradient of {norm.item():g}"
                    f" over examples {step * config.batch_size} to {done * config.batch_size - 1} of the run;"
                    f" go on from the last checkpoint with a learning rate below {rate:g}"
                )
            optimizer.step()
            average.update(parameters)
            losses.append(loss)
            progress.update()
            if done % config.log_every == 0 or done == config.steps:
                speed = (done - timed) * config.batch_size / (time.perf_counter() - since)
                mean = torch.stack(losses).mean().item()
                line = {"step": done, "loss": mean, "learning_rate": rate, "pictures_per_second": speed}
                log_line(log, line)
                progress.set_postfix(
                    loss=f"{mean:.4f}", pictures=f"{speed:.1f}/s", memory=f"{peak_memory(device):.1f}GB", refresh=False
                )
                losses, since, timed = [], time.perf_counter(), done
            if (done % config.sample_every == 0 or done == config.steps) and processes.is_first:
                average.swap(parameters)
                sample_grid(pipeline, held_out, config.output / "samples" / f"step-{done:07d}.png")
                average.swap(parameters)
            if done % config.held_out_every == 0 and processes.is_first:
                average.swap(parameters)
                held_out_value = held_out_loss(pipeline, held_out, config)
                if held_out_value < best:
                    best = held_out_value
                    replace_folder(config.output / "best", partial(save_model, pipeline))
                average.swap(parameters)
                with (config.output / "held_out.jsonl").open("ab", buffering=0) as held_out_log:
                    log_line(held_out_log, {"step": done, "loss": held_out_value, "best": best})
            if (done % config.checkpoint_every == 0 or done == config.steps) and processes.is_first:
                state = {
                    "step": done,
                    "parameters": {name: parameter.detach() for name, parameter in parameters.items()},
                    "average": average.average,
                    "average_updates": average.updates,
                    "optimizer": optimizer.state_dict(),
                    "losses": torch.stack(losses).cpu() if losses else torch.empty(0),  # not in the log yet
                    "best": best,
                }
                save_checkpoint(config.output, state, config.keep_checkpoints)
    average.swap(parameters)
    network.eval()
    if processes.is_first:
        if config.lora_rank:
            replace_folder(config.output / "lora", lambda folder: save_lora(pipeline, folder))
        replace_folder(config.output / "model", partial(save_model, pipeline))
    processes.wait()
    return config.output / "model"


def divide(batch: dict[str, Tensor], pieces: int) -> list[dict[str, Tensor]]:
    """A batch as that many equal ones, in order."""
    split = {name: value.chunk(pieces) for name, value in batch.items()}
    return [{name: values[number] for name, values in split.items()} for number in range(pieces)]


def open_log(run: Path, processes: Processes) -> IO[bytes]:
    """The run's log, for the first process; whatever the others write is lost."""
    return (run / "log.jsonl" if processes.is_first else Path(os.devnull)).open("ab", buffering=0)


def peak_memory(device: torch.device) -> float:
    """The most memory this process has held, GB: of the GPU, or else of the machine."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak * (1 if sys.platform == "darwin" else 1024) / 1e9


def batches(
    config: TrainConfig, first: int, pipeline: PaintByExamplePipeline, processes: Processes
) -> Iterator[dict[str, Tensor]]:
    """This process's share of each batch of the run from step ``first`` to its end.

    Raises:
        DataError: if the data cannot be used.
    """
    data = load_examples(config, pipeline, "train")
    shuffle = config.seed if isinstance(data, BoxDataset) else None
    if config.ahead:
        if processes.is_first:
            compute_ahead(config, pipeline, data, shuffle)
        processes.wait()
        data, shuffle = Latents(config.output / "latents", config.ahead), config.seed
    examples = Steps(data, first * config.batch_size, config.steps * config.batch_size, shuffle)
    share = processes.share(config.batch_size, config.accumulate)
    shares = Shares(max(0, config.steps - first), config.batch_size, share, processes.rank)
    return with_plain_errors(DataLoader(examples, batch_sampler=shares, num_workers=config.workers))


def compute_ahead(config: TrainConfig, pipeline: PaintByExamplePipeline, data: Examples, shuffle: int | None) -> None:
    """Write the latents of the run's first examples, as far as they are not there.

    Raises:
        DataError: if the data cannot be used, or what is there was made of other data.
    """
    folder = config.output / "latents"
    if not any(folder.glob("*.npy")):  # its writing may have been killed, and says nothing about none
        (folder / "made_of.json").unlink(missing_ok=True)
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
) -> tuple[int, list[Tensor], float]:
    """Take up the newest whole checkpoint if there is one.

    Returns:
        The step to go on with, 0 for a new run; the losses of the steps before it that are not in the log yet; and the
        least loss of held-out examples so far.

    Raises:
        DataError: if no checkpoint is whole, or the newest belongs to another network.
    """
    if (loaded := load_checkpoint(folder)) is None:
        return 0, [], math.inf
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
    waiting = list(state.get("losses", torch.empty(0)).to(device))
    return int(state["step"]), waiting, float(state.get("best", math.inf))


@torch.no_grad()
def held_out_loss(pipeline: PaintByExamplePipeline, data: Examples, config: TrainConfig) -> float:
    """Loss of the first held-out examples, at even time steps, none dropped, with the same draws whenever it is asked.

    Args:
        pipeline: the model.
        data: held-out examples.
        config: the run's.
    """
    config = replace(config, drop_exemplar=0.0, timestep_power=1.0)
    generator, total = torch.Generator().manual_seed(0), 0.0
    count = min(HELD_OUT, len(data))
    for start in range(0, count, HELD_OUT_BATCH):
        items = [data[index] for index in range(start, min(start + HELD_OUT_BATCH, count))]
        batch = {name: value.to(pipeline.device) for name, value in default_collate(items).items()}
        latents = frozen(pipeline, batch)
        draws = draw_step(len(items), latents["z_0"].shape[1:], config, pipeline.scheduler, generator)
        total += diffusion_loss(pipeline, latents, config, draws, pipeline.unet).item() * len(items)
    return total / count


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
