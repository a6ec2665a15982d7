"""What a run is judged by: held-out examples, the same with the same noise each time.

The loss says how well noise is predicted. Of the edits that are painted, two figures say what comes out, in features of
EfficientNet-Lite2, which conditions no model here: how similar the painted region is to the exemplar, and the Fréchet
distance (arXiv 1706.08500) of whole results to the true pictures. With some dozens of pictures the latter is far above
what thousands give: it compares moments of one run, not runs with a paper.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import default_collate
from tqdm import tqdm

from .data.dataset import Examples
from .errors import ModelError
from .images import tensor_image
from .learner import Learner
from .model_card import Card
from .objective import diffusion_loss, draw_step, frozen
from .pipeline import PaintByExamplePipeline
from .sampling import make_scheduler, seeded_generators
from .settings import TrainConfig
from .state import Log, write_whole

LOSSES, TOGETHER = 64, 16  # examples whose loss is compared between steps, and how many at once
SAMPLES = 16  # edits in a grid, at most
SAMPLE_STEPS = 20  # of dpm++


@dataclass(frozen=True)
class Painted:
    """Held-out edits, n of them."""

    source: Tensor
    """(n, 3, S, S) in [-1, 1]: the truth."""
    mask: Tensor
    """(n, 1, S, S) in {0, 1}."""
    exemplars: np.ndarray
    """(n, E, E, 3) uint8."""
    result: Tensor
    """(n, 3, S, S), about [-1, 1]; the source outside the mask."""

    def first(self, count: int) -> Painted:
        """At most so many of them."""
        return Painted(self.source[:count], self.mask[:count], self.exemplars[:count], self.result[:count])


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
    count = min(LOSSES, len(data))
    for start in range(0, count, TOGETHER):
        items = [data[index] for index in range(start, min(start + TOGETHER, count))]
        batch = {name: value.to(pipeline.device) for name, value in default_collate(items).items()}
        latents = frozen(pipeline, batch)
        draws = draw_step(len(items), latents["z_0"].shape[1:], config, pipeline.scheduler, generator)
        total += diffusion_loss(pipeline, latents, config, draws, pipeline.unet).item() * len(items)
    return total / count


@torch.no_grad()
def paint(pipeline: PaintByExamplePipeline, data: Examples, count: int, added: Sequence[str] = ()) -> Painted:
    """Edit the first examples, each with its own noise.

    Args:
        pipeline: the model.
        data: held-out examples with ``exemplar``.
        count: how many, at most.
        added: of "structure" and "context", what the U-Net is told of the source; the examples have maps for the first.
    """
    items = [data[index] for index in range(min(count, len(data)))]
    source, mask = (torch.from_numpy(np.stack([item[name] for item in items])) for name in ("source", "mask"))
    exemplars = np.stack([item["exemplar"] for item in items])
    maps = torch.from_numpy(np.stack([item["structure"] for item in items])) if "structure" in added else None
    results = []
    for start in range(0, len(items), TOGETHER):
        part = slice(start, start + TOGETHER)
        condition, told = pipeline.encode_exemplar(exemplars[part]), None if maps is None else maps[part]
        *_, last = pipeline.paint(
            source[part],
            mask[part],
            condition,
            steps=SAMPLE_STEPS,
            generators=seeded_generators(range(start, start + len(source[part]))),
            scheduler=make_scheduler("dpm++", pipeline.scheduler),
            structure=told,
            context="context" in added,
        )
        shown = pipeline.show(last.z_t, source[part], mask[part], condition, structure=told)
        results.append(shown.cpu().float())
    return Painted(source, mask, exemplars, torch.cat(results) * mask + source * (1 - mask))


def save_grid(edits: Painted, path: Path) -> np.ndarray:
    """Save edits as a picture: masked source, exemplar, result and truth side by side, two edits a row.

    Args:
        edits: of which the first `SAMPLES` are shown.
        path: the picture to write.

    Returns:
        The picture, (H, W, 3) uint8.
    """
    source, mask = edits.source[:SAMPLES], edits.mask[:SAMPLES]
    side = source.shape[-1]
    shown = tensor_image(source * (1 - mask)), list(edits.exemplars), tensor_image(edits.result), tensor_image(source)
    rows = [
        np.hstack([np.asarray(Image.fromarray(picture).resize((side, side))) for picture in edit])
        for edit in zip(*(column[: len(source)] for column in shown), strict=True)
    ]
    rows += [np.full_like(rows[0], 255)] * (len(rows) % 2)
    sheet = np.vstack([np.hstack(rows[row : row + 2]) for row in range(0, len(rows), 2)])
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, lambda file: Image.fromarray(sheet).save(file, "PNG"))
    return sheet


class Figures:
    """Similarity and Fréchet distance of held-out edits, as `pbe evaluate` computes them.

    Raises:
        ModelError: if EfficientNet-Lite2's weights are not there.
        ImportError: if scipy is not.
    """

    def __init__(self) -> None:
        from .evaluation import frechet, likeness, statistics
        from .evaluation.features import load_extractor

        self.features = load_extractor("efficientnet-lite2", offline=True)
        self.frechet, self.likeness, self.statistics = frechet, likeness, statistics

    def of(self, edits: Painted) -> dict[str, float]:
        """``similarity`` in [-1, 1], 1 is the exemplar's own; ``frechet`` about 0 or more, less is nearer."""
        results, truths = tensor_image(edits.result), tensor_image(edits.source)
        masks = edits.mask[:, 0].numpy() > 0
        boxes = [self.likeness.painted_box(one, mask) for one, mask in zip(results, masks, strict=True)]
        _, similarity = self.likeness.retrieval(
            self.of_pictures(boxes), self.of_pictures(list(edits.exemplars)), np.arange(len(boxes))
        )
        sets = (self.statistics.Moments.of(self.of_pictures(pictures)) for pictures in (results, truths))
        return {"similarity": float(similarity.mean()), "frechet": self.frechet.frechet_distance(*sets)}

    def of_pictures(self, pictures: Sequence[np.ndarray]) -> np.ndarray:
        """(n, 352) of pictures (H, W, 3) uint8 of any sizes."""
        parts = [pictures[start : start + TOGETHER] for start in range(0, len(pictures), TOGETHER)]
        return np.concatenate([self.features(part, "squash") for part in parts])


class Judge:
    """Looks at the averaged weights now and then, and keeps the best.

    Args:
        learner: what learns.
        card: of the run.
        data: held-out examples.
        best: the least held-out loss so far.
    """

    def __init__(self, learner: Learner, card: Card, data: Examples, best: float) -> None:
        config = learner.config
        self.learner, self.card, self.data, self.best = learner, card, data, best
        self.figures: Figures | None = None
        if config.held_out_edits and learner.processes.is_first and config.held_out_every <= config.steps:
            try:
                self.figures = Figures()
            except (ImportError, ModelError) as error:
                note = "no similarity and Fréchet distance; for them install paint-by-example[evaluate]"
                tqdm.write(f"{note} ({error})", file=sys.stderr)

    def __call__(self, done: int, log: Log, grid: bool, figures: bool) -> None:
        """Judge.

        Args:
            done: steps.
            log: of the run.
            grid: whether a grid is due.
            figures: whether loss and figures are due.
        """
        if not (grid or figures):
            return
        config = self.learner.config
        with self.learner.averaged() as averaged:
            if not self.learner.processes.is_first:
                return
            wanted = max(SAMPLES if grid else 0, config.held_out_edits if figures and self.figures else 0)
            edits = paint(averaged, self.data, wanted, config.added) if wanted else None
            if grid and edits is not None:
                name = f"step-{done:07d}"
                log.picture(done, save_grid(edits, config.output / "samples" / f"{name}.png"))
            if figures:
                loss = held_out_loss(averaged, self.data, config)
                line = {"step": done, "loss": loss, "best": min(loss, self.best)}
                if self.figures and edits is not None:
                    line |= self.figures.of(edits.first(config.held_out_edits))
                log.write("held_out", line)
                if loss < self.best:
                    self.best = loss
                    self.card.save(averaged, "best")
