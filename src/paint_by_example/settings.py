"""The settings of a training run, each declared once: `pbe train` makes its options of them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from .errors import UserError


@dataclass
class TrainConfig:
    """Train a model on pictures with objects in them."""

    data: Path
    """Folder from `pbe prepare composites`, or an index of pictures and boxes (.jsonl)."""
    output: Path
    """Folder of the run: checkpoints, log, sample grids, and the model in model/ at the end."""
    init: str = "embedded"
    """Model to start from: a folder, the embedded one, or a name on the hub."""
    train: Literal["full", "mapper"] = "full"
    """What learns: full is the U-Net and the encoder's learned part, as in the paper; mapper is the latter alone, a
    quick start for a U-Net that knows pictures but no exemplars yet."""
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
    batch_size: int = 64
    """Examples a step, of all processes and pieces together."""
    accumulate: int = 1
    """Pieces that each process computes its share of a step in, one after another: as many times less memory for what a
    step remembers, and the same update."""
    gradient_checkpointing: bool = False
    """Compute the U-Net's inner values again on the way back instead of keeping them: less memory, slower steps."""
    learning_rate: float = 1e-5
    """Of AdamW, after the warm-up. The paper's is 1e-5, for fine-tuning a pretrained model."""
    warmup_steps: int = 1000
    """Steps over which the learning rate rises from 0."""
    decay_steps: int = 0
    """Last steps, over which the learning rate falls to 0; 0 keeps it constant, as in the paper."""
    weight_decay: float = 0.01
    """Of AdamW."""
    optimizer: Literal["adamw", "adamw8bit"] = "adamw"
    """adamw8bit keeps its running means in 8 bits, a quarter of the memory; needs bitsandbytes."""
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
    held_out_every: int = 1000
    """Steps between losses of held-out examples, with the averaged weights and the same noise each time; the model with
    the least stays in best/. An index of pictures and boxes is not split: there it is of its own first pictures."""
    log_every: int = 50
    """Steps between lines of log.jsonl."""
    device: str | None = None
    """cpu, cuda, ...; the best there is by default."""

    def __post_init__(self) -> None:
        positive = (
            "steps",
            "batch_size",
            "accumulate",
            "checkpoint_every",
            "keep_checkpoints",
            "sample_every",
            "held_out_every",
            "log_every",
        )
        whole = dict.fromkeys(positive, 1)
        whole |= dict.fromkeys(("lora_rank", "ahead", "warmup_steps", "decay_steps", "seed", "workers"), 0)
        for name, least in whole.items():
            if getattr(self, name) < least:
                raise UserError(f"{name} must be at least {least}, got {getattr(self, name)}")
        for name in ("learning_rate", "max_grad_norm", "timestep_power"):
            if not 0 < getattr(self, name) < math.inf:
                raise UserError(f"{name} must be a number above 0, got {getattr(self, name)}")
        for name in ("weight_decay", "outside_weight"):
            if not 0 <= getattr(self, name) < math.inf:
                raise UserError(f"{name} must be a number of at least 0, got {getattr(self, name)}")
        if self.lora_rank and self.train != "full":
            raise UserError("train mapper and lora_rank exclude each other; give one")
        if not 0 <= self.drop_exemplar <= 1:
            raise UserError(f"drop_exemplar is a probability, in [0, 1], got {self.drop_exemplar}")
        if not 0 <= self.ema_decay < 1:
            raise UserError(f"ema_decay must be in [0, 1), got {self.ema_decay}")
