"""Training steps a second and their memory: this package's, and a plain loop of diffusers and accelerate.

    python benchmarks/training.py [--json] [--rounds 3] [--no-full-size]

Both train the same network, the embedded model's, on the same batches, in one process of one thread; they take turns,
and medians over the turns are printed. Time is the thread's own, so other work on the machine counts little. The plain
loop is what one writes from the documentation: the U-Net as diffusers makes it, `Accelerator.prepare`, AdamW over all
of its parameters and the encoder's, `EMAModel`, the frozen parts run in every step. Ours does the same work; the lines
below it use what the plain loop has not. Loading data is left out of both. Where the processor has no bfloat16 of its
own, the lines with it are left out.

Memory of these steps is counted from their tensors: weights, gradients, optimiser, average, and what else is alive at
once; the batch itself is in no count. For the released model's size nothing is run: a step is taken on tensors without
values, see `plan`.
"""

from __future__ import annotations

import json
import platform
import statistics
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import tyro
from accelerate import Accelerator
from diffusers import AutoencoderKL, PNDMScheduler, UNet2DConditionModel
from diffusers.training_utils import EMAModel
from memory import CLIP, UNET, VAE
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from tqdm import tqdm
from transformers import CLIPVisionConfig

from paint_by_example import PaintByExampleImageEncoder, PaintByExamplePipeline, load_pipeline
from paint_by_example.batches import Steps
from paint_by_example.checkpoint import released_feature_extractor
from paint_by_example.compat import latent_mask
from paint_by_example.data.latents import FIELDS
from paint_by_example.learner import FROZEN, Learner
from paint_by_example.network import quiet
from paint_by_example.objective import frozen, prediction_target
from paint_by_example.plan import Alive, account, peak_of_frozen, tensors, total_bytes
from paint_by_example.processes import Processes
from paint_by_example.sampling import add_noise
from paint_by_example.settings import TrainConfig
from paint_by_example.training import Step


@dataclass
class Options:
    """Time and count both."""

    model: str = "embedded"
    """Whose network is trained."""
    batch_size: int = 64
    """Examples a step; what the recipe `default` takes."""
    rounds: int = 3
    """Turns of each way."""
    steps: int = 1
    """Steps a turn."""
    full_size: bool = True
    """Also account for the memory at the released model's size."""
    json: bool = False
    """Print one JSON object."""


Batch = dict[str, Tensor]


def plain_parameters(pipeline: PaintByExamplePipeline) -> list[nn.Parameter]:
    """What the plain loop trains: all of the U-Net and of the encoder but its pretrained part."""
    for name in FROZEN:
        if (part := getattr(pipeline.image_encoder, name, None)) is not None:
            part.requires_grad_(False)
    return [*pipeline.unet.parameters(), *(p for p in pipeline.image_encoder.parameters() if p.requires_grad)]


def plain_loss(pipeline: PaintByExamplePipeline, unet: Any, encoder: Any, batch: Batch) -> Tensor:
    """Noise prediction, the exemplar dropped for 1 in 5."""
    z_0, z_masked, mask = batch["z_0"], batch["z_masked"], batch["latent_mask"]
    condition = encoder.decode(batch["features"])
    condition = torch.where(torch.rand(len(z_0), 1, 1) < 0.2, encoder.uncond_vector, condition)
    t, noise = torch.randint(pipeline.scheduler.config.num_train_timesteps, (len(z_0),)), torch.randn_like(z_0)
    z_t = add_noise(z_0, noise, t, pipeline.scheduler)
    predicted = unet(pipeline.unet_input(z_t, z_masked, mask), t, condition).sample
    return torch.nn.functional.mse_loss(predicted.float(), prediction_target(z_0, noise, t, pipeline.scheduler))


class Plain:
    """The plain loop."""

    def __init__(self, model: str, precision: str) -> None:
        self.pipeline = load_pipeline(model, device="cpu", dtype=torch.float32)
        self.parameters = plain_parameters(self.pipeline)
        self.accelerator = Accelerator(cpu=True)
        # as its mixed_precision does, which is one for all loops of a process
        self.reduced = torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16")
        optimizer = torch.optim.AdamW(self.parameters, lr=1e-5, weight_decay=0.01)
        self.unet, self.optimizer = self.accelerator.prepare(self.pipeline.unet, optimizer)
        self.average = EMAModel(self.parameters, decay=0.9999)
        self.held = [*tensors(self.pipeline.unet), *tensors(self.pipeline.image_encoder), *tensors(self.pipeline.vae)]

    def step(self, batch: Batch) -> float:
        """Take one step; gives its loss."""
        with torch.no_grad():
            source, mask = batch["source"], batch["mask"]
            latents = {"z_0": self.pipeline.encode_picture(source)}
            latents["z_masked"] = self.pipeline.encode_picture(source * (1 - mask))
            latents["latent_mask"] = latent_mask(mask, latents["z_0"].shape[-2:])
            pixels = self.pipeline.exemplar_tensor(batch["exemplar"].numpy())
            latents["features"] = self.pipeline.image_encoder.features(pixels)
        with self.reduced:
            loss = plain_loss(self.pipeline, self.unet, self.pipeline.image_encoder, latents)
        self.accelerator.backward(loss)
        self.accelerator.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.average.step(self.parameters)
        return loss.item()


class Ours:
    """The trainer's own steps."""

    def __init__(self, model: str, precision: str, size: int, latents: bool = False, **given: Any) -> None:
        settings: dict[str, Any] = {"data": Path(), "output": Path(), "init": model, "batch_size": size}
        config = TrainConfig(**settings, precision=precision, device="cpu", **given)
        self.pipeline = load_pipeline(model, device="cpu", dtype=torch.float32)
        self.learner = Learner(config, self.pipeline, Processes())
        self.take = Step(self.learner, Steps([], 0, 0))  # type: ignore[arg-type]
        self.latents, self.done = latents, 0
        self.held = [*tensors(self.learner.network), *tensors(self.pipeline.vae)]

    def step(self, batch: Batch) -> float:
        """Take one step; gives its loss."""
        self.done += 1
        kept = {name: value for name, value in batch.items() if (name in FIELDS) == self.latents}
        return self.take(self.done, kept, 1e-5).item()


def make_batch(pipeline: PaintByExamplePipeline, size: int) -> Batch:
    """Pictures of noise, whose content changes nothing about the cost, and their latents."""
    side, exemplar = pipeline.image_size, pipeline.image_encoder.image_size
    generator = torch.Generator().manual_seed(0)
    mask = torch.zeros(size, 1, side, side)
    mask[:, :, side // 4 : side // 2, side // 4 : side // 2] = 1
    batch = {
        "source": torch.rand(size, 3, side, side, generator=generator) * 2 - 1,
        "mask": mask,
        "exemplar": torch.randint(256, (size, exemplar, exemplar, 3), generator=generator, dtype=torch.uint8),
    }
    return batch | frozen(pipeline, batch)


def measure(options: Options) -> dict[str, Any]:
    """Pictures a second and memory of all ways."""
    size = options.batch_size
    torch.set_num_threads(1)
    ways: dict[str, Callable[[], Any]] = {
        "plain, float32": lambda: Plain(options.model, "float32"),
        "ours, float32": lambda: Ours(options.model, "float32", size),
    }
    if has_bfloat16():
        ways |= {
            "plain, bfloat16": lambda: Plain(options.model, "bfloat16"),
            "ours, bfloat16": lambda: Ours(options.model, "bfloat16", size),
            "ours, bfloat16, latents ahead": lambda: Ours(options.model, "bfloat16", size, latents=True),
            "ours, bfloat16, in 4 pieces": lambda: Ours(options.model, "bfloat16", size, accumulate=4),
            "ours, bfloat16, checkpointing": lambda: Ours(options.model, "bfloat16", size, gradient_checkpointing=True),
        }
    else:
        ways["ours, float32, latents ahead"] = lambda: Ours(options.model, "float32", size, latents=True)
        ways["ours, float32, in 4 pieces"] = lambda: Ours(options.model, "float32", size, accumulate=4)
    made = {name: make() for name, make in ways.items()}
    batch = make_batch(load_pipeline(options.model, device="cpu"), size)
    memory = {name: memory_of(way, batch) for name, way in made.items()}  # and warms up
    speeds: dict[str, list[float]] = {name: [] for name in made}
    for _ in tqdm(range(options.rounds), desc="rounds"):
        for name, way in made.items():
            since = time.thread_time()
            for _ in range(options.steps):
                way.step(batch)
            speeds[name].append(options.steps * size / (time.thread_time() - since))
    base = speeds["plain, float32"]
    return {
        name: {
            "pictures_per_second": round(statistics.median(speeds[name]), 2),
            "times_plain": round(statistics.median(a / b for a, b in zip(speeds[name], base, strict=True)), 2),
            "memory_mb": round(memory[name] / 1e6, 1),
            "of_plain_memory": round(memory[name] / memory["plain, float32"], 2),
        }
        for name in made
    }


def memory_of(way: Any, batch: Batch) -> int:
    """The most that is alive at once in the second step, the weights and what the first left included, bytes."""
    way.step(batch)
    kept = [tensor for several in way_state(way) for tensor in several]
    with Alive([*way.held, *kept, *batch.values()]) as alive:
        way.step(batch)
    return total_bytes([*way.held, *kept]) + alive.peak


def way_state(way: Any) -> list[list[Tensor]]:
    """What a way keeps between steps beside the weights: optimiser, average, and gradients where they stay."""
    if isinstance(way, Plain):
        optimizer, average, parameters = way.optimizer.optimizer, way.average.shadow_params, way.parameters
    else:
        learner = way.learner
        optimizer, average = learner.optimizer, list(learner.average.average.values())
        parameters = list(learner.parameters.values())
    kept = [value for values in optimizer.state.values() for value in values.values() if isinstance(value, Tensor)]
    return [kept, list(average), [p.grad for p in parameters if p.grad is not None]]


def has_bfloat16() -> bool:
    """Whether the processor multiplies bfloat16 itself."""
    cpuinfo = Path("/proc/cpuinfo")
    return cpuinfo.exists() and any(word in cpuinfo.read_text() for word in ("avx512_bf16", "amx_bf16"))


# --- the released model's size, without running it --------------------------------------------------------------------


def released() -> PaintByExamplePipeline:
    """The released model without its weights."""
    with torch.device("meta"), quiet():
        return PaintByExamplePipeline(
            vae=AutoencoderKL(**VAE).eval(),
            image_encoder=PaintByExampleImageEncoder(CLIPVisionConfig(**CLIP)).eval(),
            unet=UNet2DConditionModel(**UNET).eval(),
            scheduler=PNDMScheduler(
                beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", skip_prk_steps=True, steps_offset=1
            ),
            feature_extractor=released_feature_extractor(),
        )


def plain_full_size(size: int, precision: str) -> int:
    """The most memory of the plain loop's step, bytes."""
    reduced = torch.autocast("cpu", torch.bfloat16) if precision == "bfloat16" else nullcontext()
    pipeline = released()
    with FakeTensorMode(allow_non_fake_inputs=True), quiet():
        for part in (pipeline.vae, pipeline.image_encoder, pipeline.unet):
            part.to_empty(device="cpu")
        parameters = plain_parameters(pipeline)
        held = [*tensors(pipeline.unet), *tensors(pipeline.image_encoder), *tensors(pipeline.vae)]
        other = peak_of_frozen(pipeline, size, held)
        alive = Alive(held)
        for parameter in parameters:
            parameter.register_post_accumulate_grad_hook(lambda one: alive.claim(one.grad))
        with alive:
            shape = (size, 4, 64, 64)
            latents = {"z_0": torch.empty(shape), "z_masked": torch.empty(shape)}
            latents |= {"latent_mask": torch.empty(size, 1, 64, 64), "features": torch.empty(size, 1024)}
            with reduced:
                loss = plain_loss(pipeline, pipeline.unet, pipeline.image_encoder, latents)
            loss.backward()
    learning = total_bytes(parameters)
    return total_bytes(held) + 3 * learning + max(other, alive.peak_with_claimed)


FULL_SIZE: dict[str, dict[str, Any]] = {
    "all weights": {},
    "all weights, bfloat16": {"precision": "bfloat16"},
    "and gradient checkpointing": {"precision": "bfloat16", "gradient_checkpointing": True},
    "and no average": {"precision": "bfloat16", "gradient_checkpointing": True, "ema_decay": 0.0},
    "and 8-bit AdamW": {
        "precision": "bfloat16",
        "gradient_checkpointing": True,
        "ema_decay": 0.0,
        "optimizer": "adamw8bit",
    },
    "low-rank 8, bfloat16": {"precision": "bfloat16", "lora_rank": 8},
    "and gradient checkpointing, rank 8": {"precision": "bfloat16", "lora_rank": 8, "gradient_checkpointing": True},
    "all weights, bfloat16, of 8 (FSDP)": {"precision": "bfloat16", "shard": True},
}
SIZES = (1, 4)


def full_size() -> dict[str, dict[str, float]]:
    """Gigabytes for each way and number of examples a GPU."""
    rows: dict[str, dict[str, float]] = {}
    with tqdm(total=(len(FULL_SIZE) + 2) * len(SIZES), desc="full size") as progress:
        for precision in ("float32", "bfloat16"):
            name = f"plain loop, {precision}"
            rows[name] = {}
            for size in SIZES:
                rows[name][f"{size}"] = round(plain_full_size(size, precision) / 1e9, 1)
                progress.update()
        for name, given in FULL_SIZE.items():
            rows[name] = {}
            processes = 8 if given.get("shard") else 1
            for size in SIZES:
                config = TrainConfig(data=Path(), output=Path(), batch_size=size * processes, **given)
                rows[name][f"{size}"] = round(account(config, released(), size, processes).memory.total / 1e9, 1)
                progress.update()
    return rows


def main(options: Options) -> None:
    """Print the figures."""
    figures: dict[str, Any] = {
        "processor_has_bfloat16": has_bfloat16(),
        "machine": platform.machine(),
        "ways": measure(options),
    }
    if options.full_size:
        figures["full_size_gb_computed"] = full_size()
    if options.json:
        print(json.dumps(figures))
        return
    print(f"{options.model} model, batch {options.batch_size}, one thread; ratios to plain, float32")
    for name, way in figures["ways"].items():
        print(
            f"{name:32}{way['pictures_per_second']:9.2f} pictures/s{way['times_plain']:6.2f} times"
            f"{way['memory_mb']:9.1f} MB{way['of_plain_memory']:6.2f} of plain"
        )
    if not figures["processor_has_bfloat16"]:
        print("the processor has no bfloat16 of its own; its lines are left out")
    if options.full_size:
        print("released size, 512 x 512, GB a GPU, computed from tensors, not run:" + "".join(f"{n:>8}" for n in SIZES))
        for name, row in figures["full_size_gb_computed"].items():
            print(f"{name:67}" + "".join(f"{row[str(size)]:8.1f}" for size in SIZES))


if __name__ == "__main__":
    main(tyro.cli(Options))
