"""Training: the loop.

The flow of a step, downwards:

    examples (batches.py) -> this process's share of them -> loss (objective.py) -> gradient, averaged
    -> optimiser and average (learner.py) -> now and then: log; held-out loss, figures, grid (held_out.py); checkpoint

Every draw follows from the seed and the number of the step or example, so a run that was stopped goes on as if it had
not been.
"""

from __future__ import annotations

import contextlib
import math
import time
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from .batches import Steps, batches, divide, load_examples, load_steps, with_guides
from .conversion import load_start
from .errors import UserError
from .held_out import Judge
from .learner import FROZEN_AT_ONCE, Learner, save_lora, start_over
from .memory import peak_memory
from .model_card import Card
from .objective import diffusion_loss, draw_step, frozen, loss_weight
from .pipeline import choose_device
from .processes import Processes, joined
from .sampling import seeded_generators
from .settings import TrainConfig as TrainConfig
from .state import Log, load_checkpoint, replace_folder, save_checkpoint, start_run


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
    processes.share(config.batch_size, config.accumulate)  # wrong sizes are told before the model is read
    device = choose_device(processes.device(config.device))
    pipeline = load_start(config, "cpu" if config.scratch else device)
    if config.scratch:
        start_over(pipeline, config.seed)
        pipeline.to(device)
    learner = Learner(config, pipeline, processes)
    first, losses, best = resume(learner)
    processes.wait()  # all have read the checkpoint before the first writes
    examples = load_steps(config, first, pipeline, processes)
    trained, fixed = learner.network.sizes()
    fixed += sum(parameter.numel() for parameter in pipeline.vae.parameters())
    card = Card(config, len(examples.data), trained, fixed, processes.count, device.type)
    judge = Judge(learner, card, with_guides(config, load_examples(config, pipeline, "held_out")), best)
    if processes.is_first:
        start_run(config.output, asdict(config), first)
    processes.wait()
    step_of = Step(learner, examples)

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
        Log(config.output if processes.is_first else None, first if config.tensorboard else None) as log,
    ):
        since, timed = time.perf_counter(), first
        for step, batch in enumerate(batches(config, examples, processes), start=first):
            done, last = step + 1, step + 1 == config.steps
            rate = config.learning_rate * learning_rate_factor(step, config)
            losses.append(step_of(step, batch, rate))
            progress.update()
            if done % config.log_every == 0 or last:
                speed = (done - timed) * config.batch_size / (time.perf_counter() - since)
                mean = torch.stack(losses).mean().item()
                line = {"step": done, "loss": mean, "learning_rate": rate, "pictures_per_second": speed}
                log.write("log", line | ({} if learner.scale.fixed else {"loss_scale": learner.scale.value}))
                held = f"{(peak_memory(device) or 0) / 1e9:.1f}GB"
                progress.set_postfix(loss=f"{mean:.4f}", pictures=f"{speed:.1f}/s", memory=held, refresh=False)
                losses, since, timed = [], time.perf_counter(), done
            judge(done, log, grid=done % config.sample_every == 0 or last, figures=done % config.held_out_every == 0)
            if done % config.checkpoint_every == 0 or last:
                state = learner.state() | {
                    "step": done,
                    "losses": torch.stack(losses).cpu() if losses else torch.empty(0),  # not in the log yet
                    "best": judge.best,
                }
                if processes.is_first:
                    save_checkpoint(config.output, state, config.keep_checkpoints)
    with learner.averaged() as averaged:
        if processes.is_first:
            card.save(averaged, "model")
            if config.lora_rank:
                replace_folder(config.output / "lora", partial(save_lora, averaged))
    processes.wait()
    return config.output / "model"


class Step:
    """Carries out steps: everything between a batch and the loss that is logged.

    Args:
        learner: what learns.
        examples: of the run, to name those of a step that went wrong.
    """

    def __init__(self, learner: Learner, examples: Steps) -> None:
        self.learner, self.examples = learner, examples
        self.unet: Any = learner.pipeline.unet
        if learner.config.compile:
            self.unet = torch.compile(self.unet)
        self.together = learner.processes.wrap(learner.network)

    def __call__(self, step: int, batch: dict[str, Tensor], rate: float) -> Tensor:
        """Take one.

        Args:
            step: its number, from 0.
            batch: this process's share.
            rate: the learning rate.

        Returns:
            The loss of the whole batch, on the device.

        Raises:
            UserError: if it or the gradient is not finite.
        """
        learner = self.learner
        config, pipeline, processes = learner.config, learner.pipeline, learner.processes
        share = processes.share(config.batch_size, config.accumulate)
        size, mine = share // config.accumulate, processes.rank * share
        # each step has its own generator, so that a resumed run draws what an uninterrupted one would have drawn;
        # of torch's global one draw only layers with dropout, which the models here have none of
        seed = config.seed * 1_000_003 + step
        generator = torch.Generator().manual_seed(seed)
        torch.manual_seed(seed + processes.rank * 500_009)
        pieces = [
            self.encoded(piece, self.posterior(step, mine + number * size, size))
            for number, piece in enumerate(divide(batch, config.accumulate))
        ]
        draws = draw_step(config.batch_size, pieces[0]["z_0"].shape[1:], config, pipeline.scheduler, generator)
        mean_weight = processes.mean(loss_weight(torch.cat([p["latent_mask"] for p in pieces]), config).mean())
        loss = torch.zeros((), device=pipeline.device)
        for number, piece in enumerate(pieces):
            arguments = pipeline, piece, config, draws.part(mine + number * size, size), self.unet, mean_weight
            with contextlib.nullcontext() if number == len(pieces) - 1 else processes.apart(self.together):
                part = self.together(partial(diffusion_loss, *arguments)) / config.accumulate
                (part * learner.scale.value).backward()
            loss += part.detach()
        loss = processes.mean(loss)
        if not torch.isfinite(loss):
            raise self.stopped(step, loss, torch.tensor(math.nan), rate)
        norm, fits = learner.step(rate)
        if not fits:
            raise self.stopped(step, loss, norm, rate)
        return loss

    def encoded(self, batch: dict[str, Tensor], generators: list[torch.Generator] | None) -> dict[str, Tensor]:
        """What the parts that do not learn make of examples, a few at once; see `frozen`."""
        pipeline = self.learner.pipeline
        parts = []
        for start in range(0, len(next(iter(batch.values()))), FROZEN_AT_ONCE):
            these = slice(start, start + FROZEN_AT_ONCE)
            few = {name: value[these].to(pipeline.device) for name, value in batch.items()}
            parts.append(frozen(pipeline, few, generators[these] if generators else None))
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

    def posterior(self, step: int, first: int, count: int) -> list[torch.Generator] | None:
        """Generators for examples of a batch, where latents are drawn."""
        config = self.learner.config
        if not config.sample_latents:
            return None
        number = step * config.batch_size + first
        return seeded_generators([(config.seed * 1_000_003 + number + i) * 2 + 1 for i in range(count)])

    def stopped(self, step: int, loss: Tensor, norm: Tensor, rate: float) -> UserError:
        """What is to be said of a step that went wrong; no checkpoint is ever written of its weights."""
        size = self.learner.config.batch_size
        items = [self.examples.item(number)[1] for number in range(step * size, (step + 1) * size)]
        what = "latents computed ahead" if self.learner.config.ahead else "data"
        return UserError(
            f"training stopped in step {step + 1} with a loss of {loss.item():g} and a gradient of {norm.item():g}"
            f" over examples {step * size} to {(step + 1) * size - 1} of the run, which are items"
            f" {', '.join(map(str, items))} of the {what}, counted from 0;"
            f" go on from the last checkpoint with a learning rate below {rate:g}"
        )


def resume(learner: Learner) -> tuple[int, list[Tensor], float]:
    """Take up the newest whole checkpoint if there is one.

    Returns:
        The step to go on with, 0 for a new run; the losses of the steps before it that are not in the log yet; and the
        least loss of held-out examples so far.

    Raises:
        DataError: if no checkpoint is whole, or the newest belongs to another network.
    """
    if (loaded := load_checkpoint(learner.config.output)) is None:
        return 0, [], math.inf
    path, state = loaded
    learner.load(state, path)
    waiting = list(state.get("losses", torch.empty(0)).to(learner.pipeline.device))
    return int(state["step"]), waiting, float(state.get("best", math.inf))
