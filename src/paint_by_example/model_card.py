"""The card of a trained model, README.md beside its parts: what it was made of, with which settings, how it went.

What a program cannot know, licence and intended use, is left open and marked so.
"""

from __future__ import annotations

import platform
from dataclasses import MISSING, dataclass, fields
from importlib.metadata import version
from pathlib import Path
from typing import Any

from . import __version__
from .data.recipes import OF_TRAINING
from .learner import save_model
from .pipeline import PaintByExamplePipeline
from .settings import TrainConfig
from .state import read_log, replace_folder

PACKAGES = ("torch", "diffusers", "transformers", "numpy")
OPEN = "(fill in)"
ELSEWHERE = ("data", "output", "init", "recipe", "device")  # settings that the card tells in words


@dataclass(frozen=True)
class Card:
    """What a run knows of itself beside its logs."""

    config: TrainConfig
    examples: int
    """Of the data, an epoch."""
    trained: int
    """Parameters that learn."""
    frozen: int
    """Parameters that do not, the autoencoder's among them."""
    processes: int
    device: str

    def save(self, pipeline: PaintByExamplePipeline, name: str) -> None:
        """Write a model that the run made into the run's folder, with its card.

        Args:
            pipeline: the model.
            name: of the folder: model, or best.
        """

        def write(folder: Path) -> None:
            save_model(pipeline, folder)
            (folder / "README.md").write_text(self.text(name), encoding="utf-8")

        replace_folder(self.config.output / name, write)

    def text(self, name: str) -> str:
        """The card, as the Hugging Face hub reads it."""
        config = self.config
        lines, held_out = (read_log(config.output, log) for log in ("log", "held_out"))
        if name == "best" and held_out:
            held_out = [line for line in held_out if line["loss"] == line["best"]][-1:]
        step = held_out[-1]["step"] if name == "best" and held_out else config.steps
        kind = "the encoder's learned part" if config.train == "mapper" else "all weights that the paper trains"
        if config.add:
            new = f"what tells the U-Net of the source's {' and '.join(config.added)}"
            kind = new if config.adds_alone else f"{kind}, and {new}"
        learnt = f"low-rank weights of rank {config.lora_rank}" if config.lora_rank else kind
        average = f"averages with a decay of {config.ema_decay:g}" if config.ema_decay else "those of the last step"
        results = [("training loss, the last line of the log", f"{lines[-1]['loss']:.4f}")] if lines else []
        edits = f"of {config.held_out_edits} held-out edits, EfficientNet-Lite2"
        names = {
            "loss": "held-out loss",
            "similarity": f"similarity to the exemplar {edits}",
            "frechet": f"Fréchet distance {edits}",
        }
        for key, meaning in names.items():
            if held_out and key in held_out[-1]:
                results.append((f"{meaning}, step {held_out[-1]['step']:,}", f"{held_out[-1][key]:.4f}"))
        processes = "one process" if self.processes == 1 else f"{self.processes} processes"
        settings = [(f"`{name}`", f"{value}") for name, value in changed(config)]
        versions = [("paint-by-example", __version__), ("Python", platform.python_version())]
        versions += [(package, version(package)) for package in PACKAGES]
        return f"""---
library_name: diffusers
pipeline_tag: image-to-image
license: other # {OPEN}: yours, as far as the start and the data allow
tags: [paint-by-example, inpainting]
---

# Paint by Example: {config.output.resolve().name}

A Paint by Example model (arXiv 2211.13227), made by `pbe train` of paint-by-example: mark a region, show a picture of
what should be there.

```sh
pbe edit room.png --mask mask.png --exemplar chair.png --model {name}
```

From Python, `load_pipeline("{name}")` takes this folder.

- Licence: {OPEN}
- Intended use, and what it must not be used for: {OPEN}

## Training

Started from `{config.init}`, recipe `{config.recipe}`. What learnt: {learnt}, {self.trained:,} parameters;
{self.frozen:,} stayed as they were. The weights are {average}.

Data: `{config.data}`, {self.examples:,} examples an epoch; licence of the data: {OPEN}. Steps: {step:,} of
{config.batch_size:,} examples, {step * config.batch_size:,} in all, in {processes} on {self.device}.

{table(("result", "value"), results)}
{table(("setting of the recipe, or not the usual one", "value"), settings)}
## Made with

{table(("package", "version"), versions)}"""


def changed(config: TrainConfig) -> list[tuple[str, Any]]:
    """The settings of a run that are not the defaults, and all that a recipe sets."""
    usual = {field.name: field.default for field in fields(config) if field.default is not MISSING}
    return [
        (field.name, value)
        for field in fields(config)
        if field.name not in ELSEWHERE
        and ((value := getattr(config, field.name)) != usual.get(field.name) or field.name in OF_TRAINING)
    ]


def table(head: tuple[str, str], rows: list[tuple[str, str]]) -> str:
    """A table of two columns; nothing without rows."""
    if not rows:
        return ""
    return "".join(f"| {left} | {right} |\n" for left, right in (head, ("---", "---"), *rows))
