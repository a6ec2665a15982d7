"""The settings of a training run, each declared once: `pbe train` makes its options of them."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from .data.recipes import OF_TRAINING, RECIPES
from .errors import UserError

if TYPE_CHECKING:  # what `TrainConfig` makes of them
    Number = float
    Count = int
    Switch = bool
else:  # what may be given
    Number = float | None
    Count = int | None
    Switch = bool | None
OF_RECIPE: Any = None  # the recipe's value takes its place


@dataclass
class TrainConfig:
    """Train a model on pictures with objects in them."""

    data: Path
    """Folder from `pbe prepare composites`, an index of pictures and boxes (.jsonl), or the shards.jsonl of `pbe
    prepare shards`: a path, or a URL such as s3://bucket/shards.jsonl (extra shards)."""
    output: Path
    """Folder of the run: checkpoints, log, sample grids, and the model in model/ at the end."""
    recipe: Literal["paper", "released", "default"] = "default"
    """How examples are made of an index, and what the options that speak of the recipe are where they are not given: as
    in the paper, as in the authors' code, or as this package does it. Where three values are named below, they are
    those of the three, in this order."""
    held_out: Path | None = None
    """Index of pictures that are not trained on, for the held-out loss, figures and grids. Composites have their own;
    without one, an index's own first pictures are taken."""
    augment: bool = True
    """Exemplars are flipped, turned, blurred, warped, and masks have any shape. --no-augment leaves exemplars as they
    stand in the picture and masks rectangular, which teaches copying: it is there to measure that."""
    init: str = "embedded"
    """Model to start from: a folder, a file, the embedded one, or a name on the hub. With --image-encoder,
    Stable Diffusion 1.x."""
    image_encoder: str | None = None
    """CLIP, a folder or a name on the hub such as openai/clip-vit-large-patch14, which takes the place of the text
    model of Stable Diffusion 1.x, as in the paper; see `pbe convert`."""
    scratch: bool = False
    """Train from scratch: what learns starts at random. Of --init only what never learns is taken, autoencoder and
    the exemplar's backbone. The paper's ablation has it as its baseline, without the image prior."""
    train: Literal["full", "mapper"] | None = None
    """What learns: full is the U-Net and the encoder's learned part, as in the paper; mapper is the latter alone, a
    quick start for a U-Net that knows pictures but no exemplars yet. The default is full, or with add the new parts
    alone."""
    add: Literal["structure", "context", "structure,context"] | None = None
    """Train new parts, which tell the U-Net more of the source, with train full beside all else: structure, context, or
    both with a comma between. structure is the edges, pose or drawing of what stood in the region; context lets edited
    places look at the unedited ones. See docs/source-aware.md."""
    lora_rank: int = 0
    """Train low-rank weights beside those of the U-Net's attention, of this rank, and nothing else: for a few pictures
    and little memory. They are saved by themselves, in lora/, and merged into the model. 0 is no LoRA."""
    features: Path | None = None
    """Exemplar features of composites computed ahead (.npy); without them the encoder runs in every step."""
    ahead: int = 0
    """Examples whose latents are computed once, into latents/ of the run's folder, and trained on in turn: the model's
    frozen parts then cost nothing. 0 draws each example anew."""
    steps: int = 10_000
    """Optimiser steps in all."""
    batch_size: Count = OF_RECIPE
    """Examples a step, of all processes and pieces together; the recipe's: 256, 32, 64."""
    accumulate: int = 1
    """Pieces that each process computes its share of a step in, one after another: as many times less memory for what a
    step remembers, and the same update."""
    shard: bool = False
    """Divide weights, gradients, average and optimiser among the processes (FSDP); else each keeps them all (DDP)."""
    gradient_checkpointing: bool = False
    """Compute the U-Net's inner values again on the way back instead of keeping them: less memory, slower steps."""
    learning_rate: Number = OF_RECIPE
    """Learning rate of AdamW after the warm-up; each recipe's is 1e-5, for a pretrained U-Net."""
    warmup_steps: Count = OF_RECIPE
    """Steps over which the learning rate rises from 0; the recipe's: 10000, 10000, 1000."""
    decay_steps: int = 0
    """Last steps, over which the learning rate falls to 0; 0 keeps it constant, as in the paper."""
    weight_decay: Number = OF_RECIPE
    """Weight decay of AdamW; each recipe's is 0.01."""
    optimizer: Literal["adamw", "adamw8bit"] = "adamw"
    """adamw8bit keeps its running means in 8 bits, a quarter of the memory; needs bitsandbytes."""
    drop_exemplar: Number = OF_RECIPE
    """Probability that the null token takes the exemplar's place; each recipe's is 0.2."""
    drop_together: Count = OF_RECIPE
    """Examples in a row that share one draw of --drop-exemplar; the recipe's: 1, 4, 1. The authors' code draws once for
    the batch of each GPU, which is 4."""
    sample_latents: Switch = OF_RECIPE
    """Draw latents from the autoencoder's posterior in every step, rather than take its mean; released does."""
    outside_weight: float = 1.0
    """Weight of the loss outside the mask, which an edit pastes over anyway; 1 as in the paper."""
    timestep_power: float = 1.0
    """Time steps are drawn as T (1 - u^p), u uniform: 1 is even, as in the paper; 2 favours the noisy ones, where the
    exemplar decides and a small model has most to learn."""
    ema_decay: Number = OF_RECIPE
    """Decay of the moving average of the weights, which is what is saved; it warms up, so that the first steps are
    forgotten. The recipe's: 0.9999, 0, 0.9999. 0 keeps none, and saves the weights themselves."""
    max_grad_norm: Number = OF_RECIPE
    """The gradient is scaled down to this norm; the recipe's: 0, 0, 1. 0 leaves it as it is."""
    seed: int = 0
    """Seed of data, noise, time steps and dropping."""
    workers: int = 1
    """Processes that make the data."""
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    """Type of the networks' products; weights, sums and the loss stay in float32. bfloat16 is faster where the
    processor has it (avx512_bf16, amx, a GPU). float16, for older GPUs, scales the loss so that small gradients do not
    vanish."""
    compile: bool = False
    """Compile the U-Net: some minutes at the start, faster steps."""
    checkpoint_every: int = 500
    """Steps between checkpoints."""
    keep_checkpoints: int = 3
    """How many of the newest checkpoints stay."""
    sample_every: int = 1000
    """Steps between grids of held-out edits."""
    held_out_every: int = 1000
    """Steps between losses of held-out examples, with the averaged weights and the same noise each time; the model with
    the least stays in best/."""
    held_out_edits: int = 64
    """Edits painted beside each held-out loss, to tell how similar they are to their exemplars and how far from the
    true pictures (Fréchet distance), in features of EfficientNet-Lite2 (extra evaluate). 0 leaves it out."""
    log_every: int = 50
    """Steps between lines of log.jsonl."""
    tensorboard: bool = False
    """Write losses, figures and grids for TensorBoard too, into tensorboard/ (extra tensorboard)."""
    device: str | None = None
    """cpu, cuda, ...; the best there is by default."""

    def __post_init__(self) -> None:
        if self.recipe not in RECIPES:
            raise UserError(f"unknown recipe {self.recipe!r}; expected one of {', '.join(RECIPES)}")
        for name in OF_TRAINING:
            if getattr(self, name) is None:
                setattr(self, name, getattr(RECIPES[self.recipe], name))
        positive = (
            "steps",
            "batch_size",
            "accumulate",
            "drop_together",
            "checkpoint_every",
            "keep_checkpoints",
            "sample_every",
            "held_out_every",
            "log_every",
        )
        whole = dict.fromkeys(positive, 1)
        whole |= dict.fromkeys(
            ("lora_rank", "ahead", "warmup_steps", "decay_steps", "seed", "workers", "held_out_edits"), 0
        )
        for name, least in whole.items():
            if getattr(self, name) < least:
                raise UserError(f"{name} must be at least {least}, got {getattr(self, name)}")
        for name in ("learning_rate", "timestep_power"):
            if not 0 < getattr(self, name) < math.inf:
                raise UserError(f"{name} must be a number above 0, got {getattr(self, name)}")
        for name in ("weight_decay", "outside_weight", "max_grad_norm"):
            if not 0 <= getattr(self, name) < math.inf:
                raise UserError(f"{name} must be a number of at least 0, got {getattr(self, name)}")
        if self.held_out_edits == 1:
            raise UserError("held_out_edits must be 0 or at least 2: one edit has no spread, got 1")
        if self.scratch and (self.lora_rank or self.train == "mapper"):
            raise UserError("scratch draws all weights anew; leave train mapper and lora_rank out")
        if self.add and (self.scratch or self.lora_rank or self.train == "mapper"):
            raise UserError(
                "add trains new parts, alone or with train full; leave scratch, train mapper and lora_rank out"
            )
        if self.lora_rank and self.train == "mapper":
            raise UserError("train mapper and lora_rank exclude each other; give one")
        if self.ahead and self.sample_latents:
            raise UserError(
                "latents computed ahead are the same in every epoch; with ahead, leave sample_latents out"
                " (--sample-latents False with the recipe released)"
            )
        if self.features is not None and not self.augment:
            raise UserError("features are of augmented exemplars; without augment, leave features out")
        for other in ("compile", "optimizer"):
            if self.shard and getattr(self, other) not in (False, "adamw"):
                raise UserError(f"shard and {other} {getattr(self, other)} do not go together; leave one out")
        if not 0 <= self.drop_exemplar <= 1:
            raise UserError(f"drop_exemplar is a probability, in [0, 1], got {self.drop_exemplar}")
        if not 0 <= self.ema_decay < 1:
            raise UserError(f"ema_decay must be in [0, 1), got {self.ema_decay}")

    @property
    def added(self) -> tuple[str, ...]:
        """The parts of ``add``."""
        return tuple(self.add.split(",")) if self.add else ()

    @property
    def adds_alone(self) -> bool:
        """Whether nothing but the parts of ``add`` learns."""
        return self.add is not None and self.train is None


@dataclass
class DistillConfig:
    """Distil a model: a student that needs few steps, and one evaluation in each instead of two, since it is told λ."""

    data: Path
    """Folder from `pbe prepare composites`, an index or shards.jsonl, as for pbe train."""
    output: Path
    """Folder of the run: checkpoints, log, and the student in model/ at the end."""
    init: str = "embedded"
    """Model to distil: a folder, a file, the embedded one, or a name on the hub."""
    student_steps: int = 4
    """Steps that the student is made for; it takes so many unless it is told otherwise."""
    teacher_steps: int = 4
    """Steps of the guided teacher for one of the student's; each costs up to two evaluations."""
    least_scale: float = 1.0
    """The smallest λ that the student learns."""
    most_scale: float = 8.0
    """The largest λ that it learns."""
    lora_rank: int = 0
    """Rank of low-rank weights beside those of the U-Net's attention, which learn instead of all of it; they are merged
    into the student. 0 is no LoRA."""
    features: Path | None = None
    """As for pbe train: exemplar features of composites computed ahead (.npy)."""
    ahead: int = 0
    """As for pbe train: examples whose latents are computed once; 0 draws each anew."""
    steps: int = 5_000
    """Optimiser steps in all."""
    batch_size: int = 32
    """Examples a step."""
    learning_rate: float = 1e-4
    """Peak learning rate."""
    warmup_steps: int = 100
    """Steps over which the learning rate rises."""
    decay_steps: int = 0
    """Last steps, over which the learning rate falls to 0; 0 keeps it constant."""
    outside_weight: float = 1.0
    """Weight of the error where the picture is kept, against 1 where it is painted."""
    ema_decay: float = 0.999
    """Decay of the moving average of the weights, which is what is saved."""
    seed: int = 0
    """Seed of data, noise, levels and λ."""
    workers: int = 1
    """Processes that make the data."""
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    """Type of the networks' products."""
    compile: bool = False
    """Compile both U-Nets: some minutes at the start, faster steps."""
    checkpoint_every: int = 250
    """Steps between checkpoints."""
    log_every: int = 50
    """Steps between lines of log.jsonl."""
    device: str | None = None
    """cpu, cuda, ...; the best there is by default."""

    def __post_init__(self) -> None:
        for name in ("student_steps", "teacher_steps"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not self.least_scale <= self.most_scale < math.inf:
            raise UserError(f"least_scale {self.least_scale} is above most_scale {self.most_scale}")
        self.training()  # says what is wrong with the rest

    def training(self) -> TrainConfig:
        """The settings it has in common with training."""
        own = {"student_steps", "teacher_steps", "least_scale", "most_scale"}
        shared = {field.name: getattr(self, field.name) for field in fields(DistillConfig) if field.name not in own}
        return TrainConfig(**shared, max_grad_norm=1.0, drop_exemplar=0.0, weight_decay=0.0)
