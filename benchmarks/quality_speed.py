"""What speed costs: techniques and presets on held-out edits of the embedded model, with intervals.

    python benchmarks/quality_speed.py [--edits 500] [--json FILE] [--plot docs/images/speed.png]
    python benchmarks/quality_speed.py --only canvas

Every technique paints the same edits from the same noise. Likeness is the mean centred cosine of the painted box and
the exemplar, Fréchet the distance of painted boxes to those of other true scenes of the same objects, both by
EfficientNet-Lite2; seam in grey levels; agreement is the PSNR within the holes to what `exact` painted.

Intervals are of 95%, from 1,000 resamples of the edits (Fréchet: `frechet.RESAMPLES`); those of differences to `exact`
are paired. Time is the wall clock of an edit, the techniques in turn, after one of each that is not counted.

One more table, `canvas`: small pictures painted at the model's size and at smaller ones. Intervals of guidance are not
here, since the embedded model is not guided by a second prediction (`layout.own_guidance`).
"""

from __future__ import annotations

import json
import math
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from paint_by_example import load_pipeline
from paint_by_example.canvas import Canvas
from paint_by_example.compiled import Network, choose_backend
from paint_by_example.evaluation import frechet
from paint_by_example.evaluation.benchmark import Item, Pixels, items_of
from paint_by_example.evaluation.editing import paint
from paint_by_example.evaluation.features import FeatureCache, load_extractor
from paint_by_example.evaluation.held_out import HeldOut
from paint_by_example.evaluation.likeness import painted_box, retrieval
from paint_by_example.evaluation.seam import seam_visibility
from paint_by_example.evaluation.statistics import Moments
from paint_by_example.pipeline import PaintByExamplePipeline
from paint_by_example.presets import PRESETS, Preset
from paint_by_example.sampling import make_scheduler, seeded_generators

EXACT = PRESETS["exact"]
BF16 = ("openvino-bf16", "openvino")
INT8 = ("openvino-int8",)


@dataclass(frozen=True)
class Reusing(Preset):
    """Every other step runs only the outermost level of the U-Net, see `ReusedFeatures`."""


TECHNIQUES: dict[str, Preset] = {
    "torch": Preset(),
    **PRESETS,
    "bfloat16": replace(EXACT, backends=BF16),
    "int8": replace(EXACT, backends=INT8),
    "fast, int8": replace(PRESETS["fast"], backends=INT8),
    "15 steps": replace(EXACT, steps=15, scheduler="dpm++"),
    "10 steps": replace(EXACT, steps=10, scheduler="dpm++"),
    "7 steps": replace(EXACT, steps=7, scheduler="dpm++"),
    "5 steps": replace(EXACT, steps=5, scheduler="dpm++"),
    "3 steps": replace(EXACT, steps=3, scheduler="dpm++"),
    "2 steps": replace(EXACT, steps=2, scheduler="dpm++"),
    "10 steps, unipc": replace(EXACT, steps=10, scheduler="unipc"),
    "5 steps, unipc": replace(EXACT, steps=5, scheduler="unipc"),
    "50 steps, pndm": replace(EXACT, steps=50, scheduler="pndm"),
    "torch, 20 steps, reused": Reusing(),
    "torch, 10 steps, reused": Reusing(steps=10, scheduler="dpm++"),
    "torch, 12 steps": Preset(steps=12, scheduler="dpm++"),  # cost what 20 and 10 reused ones do
    "torch, 6 steps": Preset(steps=6, scheduler="dpm++"),
    "torch, 10 steps": Preset(steps=10, scheduler="dpm++"),
    "torch, 5 steps": Preset(steps=5, scheduler="dpm++"),
}


class ReusedFeatures:
    """A U-Net that runs whole every other step and in between takes over what its inner levels gave (arXiv 2312.00858).

    Of these steps only the first level down and the last level up are run, on what went into the latter before.
    """

    def __init__(self, unet: Any) -> None:
        self.unet, self.t, self.whole, self.inner = unet, math.inf, False, torch.empty(0)
        unet.up_blocks[-1].register_forward_pre_hook(self.keep, with_kwargs=True)

    def keep(self, block: Any, given: tuple[Any, ...], options: dict[str, Any]) -> None:
        """Note what goes into the last level."""
        self.inner = options["hidden_states"] if "hidden_states" in options else given[0]

    def __call__(self, x: Tensor, t: Tensor, condition: Tensor) -> Tensor:
        """As `Network`."""
        if float(t) != self.t:
            self.whole = not self.whole or float(t) > self.t  # a run starts with a whole step
            self.t = float(t)
        if self.whole or len(self.inner) != len(x):
            return self.unet(x, t, encoder_hidden_states=condition).sample
        unet = self.unet
        time_embedding = unet.time_embedding(unet.time_proj(t.reshape(1)))
        x = unet.conv_in(unet.with_plan(x, condition) if hasattr(unet, "with_plan") else x)
        down, up = unet.down_blocks[0], unet.up_blocks[-1]
        skips = [x]
        for number, block in enumerate(down.resnets):
            x = block(x, time_embedding)
            if hasattr(down, "attentions"):
                x = down.attentions[number](x, encoder_hidden_states=condition, return_dict=False)[0]
            skips.append(x)
        options = {"encoder_hidden_states": condition} if hasattr(up, "attentions") else {}
        kept = self.inner
        x = up(hidden_states=kept, res_hidden_states_tuple=tuple(skips), temb=time_embedding, **options)
        return unet.conv_out(unet.conv_act(unet.conv_norm_out(x)))


@dataclass
class Options:
    """Measure techniques and presets."""

    data: Path = Path("data/composites")
    """Folder from `pbe prepare composites`."""
    model: str = "embedded"
    """Model to measure."""
    edits: int = 500
    """Held-out edits; at least 500 for a figure to be quoted."""
    batch_size: int = 20
    """Edits painted at once, but for the times."""
    repeats: int = 5
    """Edits of each technique that are timed."""
    student: str | None = None
    """A model from `pbe distill` of it, to measure beside it, and beside the model itself in the same steps."""
    only: tuple[str, ...] = ()
    """Techniques beside exact, and canvas; all by default."""
    json: Path | None = None
    """File for all figures."""
    plot: Path | None = None
    """Picture of likeness and Fréchet distance against the time of an edit."""


Methods = dict[str, tuple[PaintByExamplePipeline, Preset]]


def network_of(pipeline: PaintByExamplePipeline, how: Preset) -> Network | None:
    """Who runs the U-Net in a technique."""
    if isinstance(how, Reusing):
        return ReusedFeatures(pipeline.unet)
    return pipeline.network(choose_backend(how.backends, pipeline.device))


def settings_of(pipeline: PaintByExamplePipeline, how: Preset) -> dict[str, Any]:
    """What `Painter.paint` is told in a technique."""
    solver = pipeline.scheduler if how.scheduler is None else make_scheduler(how.scheduler, pipeline.scheduler)
    return {
        "steps": how.steps or pipeline.default_steps(solver),
        "scheduler": solver,
        "guidance_interval": how.guidance_interval,
    }


def paint_all(
    pipeline: PaintByExamplePipeline, items: list[Item], how: Preset, batch_size: int, network: Network | None
) -> list[Pixels]:
    """Paint every item."""
    results: list[Pixels] = []
    for start in range(0, len(items), batch_size):
        part = items[start : start + batch_size]
        conditions = pipeline.encode_exemplar([Image.fromarray(item.exemplar) for item in part])
        seeds = range(start, start + len(part))
        results += paint(pipeline, part, conditions, seeds, network=network, **settings_of(pipeline, how))
    return results


def interval(values: np.ndarray, seed: int = 0) -> list[float]:
    """95% interval of a mean."""
    rng = np.random.default_rng(seed)
    draws = [values[rng.integers(len(values), size=len(values))].mean() for _ in range(1000)]
    return [round(float(x), 4) for x in np.quantile(draws, (0.025, 0.975))]


def times(item: Item, methods: Methods, repeats: int) -> dict[str, float]:
    """Median seconds of an edit, the techniques in turn."""
    taken: dict[str, list[float]] = {name: [] for name in methods}
    networks = {name: network_of(*method) for name, method in methods.items()}
    for number in range(repeats + 1):
        for name, (pipeline, how) in methods.items():
            started = time.perf_counter()
            paint_all(pipeline, [item], how, 1, networks[name])
            if number:
                taken[name].append(time.perf_counter() - started)
    return {name: statistics.median(seconds) for name, seconds in taken.items()}


def canvas(pipeline: PaintByExamplePipeline, options: Options, judge: Judge) -> dict[str, Any]:
    """Pictures of half the model's side, painted on canvases of its whole side, three quarters and a half."""
    full = pipeline.image_size
    small = HeldOut(options.data, options.edits, full // 2, pipeline.image_encoder.image_size)
    items = list(items_of(small))
    network = pipeline.network(choose_backend(EXACT.backends, pipeline.device))
    rows: dict[str, Any] = {}
    base: Judged | None = None
    for side in (full, full * 3 // 4, full // 2):
        pictures: list[Pixels] = []
        taken = []
        for number, item in enumerate(tqdm(items, desc=f"canvas {side}", unit="edit")):
            started = time.perf_counter()
            whole = Canvas(item.mask, (0, 0, full // 2, full // 2), side)
            square = whole.tensors(item.source)
            condition = pipeline.encode_exemplar([Image.fromarray(item.exemplar)])
            *_, last = pipeline.paint(
                *square,
                condition,
                generators=seeded_generators([number]),
                network=network,
                **settings_of(pipeline, EXACT),
            )
            pictures.append(whole.paste(item.source, pipeline.show(last.z_t, *square, condition)))
            taken.append(time.perf_counter() - started)
        judged = judge(items, pictures)
        base = base or judged
        rows[str(side)] = {"seconds": round(statistics.median(taken), 4)} | judged.against(base)
        print(json.dumps({f"canvas {side}": rows[str(side)]}), flush=True)
    return rows


@dataclass
class Judged:
    """Figures of each edit of a technique, and of all of them."""

    likeness: np.ndarray
    seam: np.ndarray
    frechet: float
    draws: np.ndarray
    """Of the Fréchet distance, resampled."""
    pictures: list[Pixels]
    masks: list[np.ndarray]

    def against(self, base: Judged) -> dict[str, Any]:
        """Means, and intervals of the differences to another technique."""
        error = [
            np.square(p[m].astype(float) - q[m]).mean()
            for p, q, m in zip(self.pictures, base.pictures, self.masks, strict=True)
        ]
        psnr = 10 * np.log10(255**2 / np.maximum(error, 1e-2))
        return {
            "likeness": round(float(self.likeness.mean()), 4),
            "likeness_interval": interval(self.likeness),
            "likeness_difference_interval": interval(self.likeness - base.likeness),
            "frechet": round(self.frechet, 4),
            "frechet_difference_interval": [
                round(float(x), 4) for x in np.quantile(self.draws - base.draws, (0.025, 0.975))
            ],
            "seam": round(float(self.seam.mean()), 3),
            "seam_difference_interval": interval(self.seam - base.seam),
            "agreement_psnr": round(float(psnr.mean()), 1),
        }


Judge = Callable[[list[Item], list[Pixels]], Judged]


def make_judge(benchmark: HeldOut) -> Judge:
    """Figures of pictures for the benchmark's objects."""
    extractor = load_extractor("efficientnet-lite2")
    features = FeatureCache().features
    gallery = features(extractor, benchmark.gallery, "squash")
    truth = [benchmark._scene(index, stream=8) for index in range(benchmark.count)]
    reference = Moments.of(features(extractor, [painted_box(one.source, one.mask) for one in truth], "squash"))

    def judge(items: list[Item], pictures: list[Pixels]) -> Judged:
        boxes = features(extractor, [painted_box(p, i.mask) for p, i in zip(pictures, items, strict=True)], "squash")
        numbers = np.array([benchmark.right(index) for index in range(len(items))])
        return Judged(
            np.asarray(retrieval(boxes, gallery, numbers)[1], np.float64),
            np.array([seam_visibility(p, i.mask) for p, i in zip(pictures, items, strict=True)]),
            float(frechet.frechet_distance(Moments.of(boxes), reference)),
            frechet.bootstrap(boxes, reference),
            pictures,
            [item.mask for item in items],
        )

    return judge


@torch.no_grad()
def measure(options: Options) -> dict[str, Any]:
    """All figures."""
    pipeline = load_pipeline(options.model)
    benchmark = HeldOut(options.data, options.edits, pipeline.image_size, pipeline.image_encoder.image_size)
    items = list(items_of(benchmark))
    judge = make_judge(benchmark)
    result: dict[str, Any] = {"edits": options.edits, "model": pipeline.fingerprint(), "rows": {}}
    techniques = {"exact": EXACT} | {
        name: how for name, how in TECHNIQUES.items() if not options.only or name in options.only
    }
    methods: Methods = {name: (pipeline, how) for name, how in techniques.items()}
    if options.student is not None:
        student, itself = load_pipeline(options.student), load_pipeline(options.model)
        itself.register_modules(scheduler=student.scheduler)
        methods["student"] = (student, Preset(backends=BF16))
        methods["as few steps"] = (itself, Preset(steps=student.default_steps(student.scheduler), backends=BF16))
    seconds = times(items[0], methods, options.repeats)
    base: Judged | None = None
    for name, (painter, how) in tqdm(methods.items(), unit="technique"):
        judged = judge(items, paint_all(painter, items, how, options.batch_size, network_of(painter, how)))
        base = base or judged
        row = {"seconds": round(seconds[name], 4), "times": round(seconds["exact"] / seconds[name], 2)}
        result["rows"][name] = row | judged.against(base) | {"settings": asdict(how)}
        print(json.dumps({name: result["rows"][name]}), flush=True)
    if not options.only or "canvas" in options.only:
        result["canvas"] = canvas(pipeline, options, judge)
    return result


def draw_plot(rows: dict[str, dict[str, Any]], path: Path) -> None:
    """By what likeness and Fréchet distance differ from those of `exact`, against time; presets in colour."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(11, 4.5), layout="constrained")
    labels = {"likeness": "likeness, difference to exact", "frechet": "Fréchet distance, difference to exact"}
    for axis, (which, label) in zip(axes, labels.items(), strict=True):
        axis.axhline(0, color="tab:gray", linewidth=0.5)
        for number, name in enumerate(sorted(rows, key=lambda name: rows[name]["seconds"])):
            row, side = rows[name], 1 if number % 2 else -1  # names go up and down by turns
            difference = row[which] - rows["exact"][which]
            low, high = row[f"{which}_difference_interval"]  # of resamples, which need not hold the difference itself
            error = [[max(difference - low, 0)], [max(high - difference, 0)]]
            colour = "tab:red" if name in PRESETS else "tab:gray"
            axis.errorbar(row["seconds"], difference, yerr=error, elinewidth=0.8, color=colour, marker="o")
            axis.annotate(
                name,
                (row["seconds"], difference),
                xytext=(3, 4 * side),
                textcoords="offset points",
                size=8,
                color=colour,
                rotation=45 * side,
                verticalalignment="bottom" if side > 0 else "top",
            )
        axis.margins(0.15, 0.2)
        axis.set(xlabel="seconds an edit; lines are 95% intervals", ylabel=label)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    given = tyro.cli(Options)
    result = measure(given)
    if given.json is not None:
        given.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    if given.plot is not None:
        draw_plot(result["rows"], given.plot)
