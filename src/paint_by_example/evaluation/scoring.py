"""A benchmark and a folder of results to `Scores`: every metric whose parts can be had."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from .. import __version__
from ..errors import DataError, MaskError, ModelError, UserError
from ..images import READABLE_SUFFIXES, load_image
from ..pose import find_models, find_people
from . import frechet, mmd
from .background import changed_outside, psnr_outside, ssim_outside
from .benchmark import Benchmark, Item, Pixels, read_pictures
from .edges import edge_agreement
from .features import CHUNK, EXTRACTORS, Extractor, FeatureCache, Features, hub_answers, load_extractor
from .likeness import cosine, painted_box, painted_box_original, retrieval
from .perceptual import Lpips, load_lpips, lpips_outside
from .pose_agreement import pose_agreement
from .quality import Quality, load_quality, quality_scores
from .result import METRICS, Figure, Scores, describe, interval, mean_figure
from .seam import seam_visibility
from .statistics import Moments, read_space

USES: dict[str, tuple[str, ...]] = {
    "clip-vit-b-32": ("clip-score", "frechet", "kid"),
    "clip-vit-l-14": ("likeness", "cmmd"),
    "clip-vit-l-14-336": ("cmmd",),
    "inception-v3": ("frechet", "kid"),
    "dinov2": ("likeness", "retrieval", "frechet", "kid"),
    "dreamsim": ("dreamsim",),
    "efficientnet-lite2": ("likeness", "retrieval", "frechet", "kid"),
}
"""What each feature space is measured with."""
SAMPLE = 10_000  # reference pictures whose features are kept for kernel distances; statistics are of all


@dataclass(frozen=True)
class Instruments:
    """What is measured with, and why the rest is not."""

    extractors: dict[str, Extractor]
    lpips: Lpips | None = None
    quality: Quality | None = None
    pose: Path | None = None
    missing: dict[str, str] = field(default_factory=dict)


def find_instruments(
    spaces: Sequence[str] = tuple(USES),
    weights: dict[str, str] | None = None,
    quality: Path | None = None,
    offline: bool = False,
    device: str = "cpu",
    pose: Path | None = None,
) -> Instruments:
    """Load what can be had.

    Args:
        spaces: names of `EXTRACTORS`.
        weights: by name of a space, or ``lpips``: a repository, folder or file in place of the usual one.
        quality: mixture of the quality score.
        offline: use what is on this machine, or nothing.
        device: to compute on.
        pose: where the networks for poses are, see `pose.find_models`.

    Returns:
        All that could be loaded; ``missing`` has a line for each of the others.

    Raises:
        UserError: a name is unknown, or a file that was named is no mixture.
    """
    weights = weights or {}
    if unknown := [name for name in (*spaces, *weights) if name not in EXTRACTORS and name != "lpips"]:
        raise UserError(f"unknown feature space {unknown[0]!r}; one of {', '.join(EXTRACTORS)}, lpips is expected")
    extractors, missing = {}, {}
    offline = offline or (any(EXTRACTORS[name].default for name in spaces if name != "lpips") and not hub_answers())
    for name in spaces:
        if name == "lpips":
            continue
        try:
            extractors[name] = load_extractor(name, weights.get(name), offline, device)
        except ModelError as error:
            missing[name] = str(error)
    lpips = None
    try:
        lpips = load_lpips(weights.get("lpips"))
    except ModelError as error:
        missing["lpips-outside"] = str(error)
    try:
        pose = find_models(pose)
    except UserError as error:
        if pose is not None:
            raise
        missing["pose-inside"] = str(error)
    if quality is None:
        missing["qs"] = "no mixture was given; pbe evaluate fit-qs makes one of photographs"
        return Instruments(extractors, lpips, pose=pose, missing=missing)
    mixture = load_quality(quality)
    if mixture.space not in extractors:
        missing["qs"] = f"the mixture is of {mixture.space}, which is not among the feature spaces"
    return Instruments(extractors, lpips, mixture, pose, missing)


# --- what results are compared with as a set --------------------------------------------------------------------------


@dataclass(frozen=True)
class Reference:
    """A set of pictures, in one feature space."""

    moments: Moments
    sample: Features | None
    """Features of the first `SAMPLE` pictures; None where only statistics are known."""


def measure_reference(
    pictures: Callable[[], Iterator[Pixels] | None], instruments: Instruments, cache: FeatureCache
) -> dict[str, Reference]:
    """Statistics of a set of pictures in every space that wants them, each in one pass and constant memory.

    Args:
        pictures: gives them, once for each space; None if there are none.
        instruments: from `find_instruments`.
        cache: where features are kept.
    """
    references: dict[str, Reference] = {}
    for name, extractor in instruments.extractors.items():
        if not {"frechet", "kid", "cmmd"} & set(USES[name]) or (shown := pictures()) is None:
            continue
        moments: Moments | None = None
        kept: list[Features] = []
        for part in cache.stream(extractor, tqdm(shown, desc=f"reference, {name}", leave=False), "crop"):
            moments = moments or Moments(part.shape[1])
            moments.update(part)
            if sum(map(len, kept)) < SAMPLE:
                kept.append(part)
        if moments is not None:
            references[name] = Reference(moments, np.concatenate(kept)[:SAMPLE])
    return references


def find_references(
    given: Path | None, benchmark: Benchmark, instruments: Instruments, cache: FeatureCache
) -> dict[str, Reference]:
    """The set that results are compared with: a folder's pictures, statistics in a file, or the benchmark's own.

    Raises:
        UserError: there is no such folder or file, or the statistics are in a space that is not measured in.
    """
    if given is None:
        return measure_reference(benchmark.reference, instruments, cache)
    if given.is_dir():
        return measure_reference(lambda: read_pictures(given), instruments, cache)
    space = read_space(given)
    if space not in instruments.extractors:
        raise UserError(f"the statistics in {given} are of {space}, which is not among the feature spaces")
    return {space: Reference(Moments.load(given, space), None)}


# --- the results ------------------------------------------------------------------------------------------------------


def score(
    benchmark: Benchmark,
    method: str,
    results: Path,
    instruments: Instruments,
    references: dict[str, Reference],
    cache: FeatureCache | None = None,
    settings: dict[str, Any] | None = None,
    limit: int | None = None,
) -> Scores:
    """Score the results of one method.

    Args:
        benchmark: what was asked for.
        method: its name.
        results: folder with ``<name>.png``, or another format, for every item.
        instruments: from `find_instruments`.
        references: from `measure_reference`.
        cache: where features are kept; nowhere by default.
        settings: how the results were made, for the record.
        limit: score only the first items.

    Raises:
        DataError: results are missing, or one has another size than its source.
    """
    names = benchmark.names[:limit]
    paths = find_results(results, names)
    cache = cache or FeatureCache()
    missing = dict(instruments.missing)
    columns: dict[str, list[float]] = {}
    gathered: dict[tuple[str, str], list[Features]] = {}
    gallery: dict[bytes, int] = {}
    right: list[int] = []
    poses: list[float] = []
    for start in tqdm(range(0, len(names), CHUNK), desc=f"scoring {method}", mininterval=1, leave=False):
        items = [benchmark[index] for index in range(start, min(start + CHUNK, len(names)))]
        pictures = [read_result(path, item) for path, item in zip(paths[start:], items, strict=False)]
        for item, picture in zip(items, pictures, strict=True):
            for name, value in pixel_metrics(item, picture, instruments.lpips).items():
                columns.setdefault(name, []).append(value)
            if instruments.pose is not None:
                people = [find_people(one, instruments.pose) for one in (item.source, picture)]
                agreed = pose_agreement(people[0], people[1], item.mask)
                poses += [] if agreed is None else [agreed]
            key = hashlib.sha256(repr(item.exemplar.shape).encode() + item.exemplar.tobytes()).digest()
            right.append(gallery.setdefault(key, len(gallery)))
        for name, extractor in instruments.extractors.items():
            for what, part in measure_chunk(extractor, items, pictures, cache, instruments.quality, missing):
                gathered.setdefault((name, what), []).append(part)
    features = {key: np.concatenate(parts) for key, parts in gathered.items()}
    figures: dict[str, Figure] = {}
    for name in instruments.extractors:
        columns |= likeness_metrics(name, features, np.array(right))
        figures |= set_metrics(name, features, references.get(name), missing)
    quality = instruments.quality
    if quality is not None and (quality.space, "whole") in features:
        columns["qs"] = list(quality_scores(quality, features[quality.space, "whole"]))
    figures |= {name: mean_figure(column) for name, column in columns.items()}
    if poses:
        figures["pose-inside"] = mean_figure(poses)
    elif instruments.pose is not None:
        missing["pose-inside"] = "no source shows a person inside its mask"
    order = {name: place for place, name in enumerate(sorted(figures, key=table_order))}
    return Scores(
        method=method,
        benchmark=benchmark.title if limit is None else f"{benchmark.title}, the first {len(names)}",
        names=tuple(names),
        figures={name: figures[name] for name in order},
        items={name: tuple(float(value) for value in columns[name]) for name in order if name in columns},
        missing=missing,
        settings=(settings or {}) | {"scored_with": scored_with(instruments)},
        results=str(results),
    )


def scored_with(instruments: Instruments) -> dict[str, Any]:
    """Versions and feature spaces, for the record."""
    versions = {"version": __version__, "torch": torch.__version__, "numpy": np.__version__}
    return versions | {"spaces": list(instruments.extractors)}


def table_order(name: str) -> tuple[int, str]:
    """Metrics in the order in which `result.METRICS` lists them."""
    return METRICS.index(describe(name)), name


def find_results(folder: Path, names: Sequence[str]) -> list[Path]:
    """The file of each result.

    Raises:
        DataError: some are missing.
    """
    if not folder.is_dir():
        raise DataError(f"there is no folder of results {folder}")
    ordered = (".png", *(suffix for suffix in READABLE_SUFFIXES if suffix != ".png"))
    found = [next((p for s in ordered if (p := folder / f"{name}{s}").exists()), None) for name in names]
    lost = [name for name, path in zip(names, found, strict=True) if path is None]
    if lost:
        raise DataError(
            f"{len(lost)} of {len(names)} results are missing in {folder}, the first is {lost[0]}.png; pbe evaluate run"
            " goes on where it stopped"
        )
    return [path for path in found if path is not None]


def read_result(path: Path, item: Item) -> Pixels:
    """A result, (H, W, 3).

    Raises:
        DataError: it has another size than its source.
        PictureError: it cannot be read.
    """
    picture = np.asarray(load_image(path, "result").convert("RGB"))
    if picture.shape != item.source.shape:
        (height, width), (h, w) = item.source.shape[:2], picture.shape[:2]
        raise DataError(f"the result {path} is {w} x {h} pixels but its source is {width} x {height}; resize it first")
    return picture


def pixel_metrics(item: Item, picture: Pixels, lpips: Lpips | None) -> dict[str, float]:
    """What needs no features."""
    changed = changed_outside(item.source, picture, item.mask)
    values = {
        "changed-outside": changed,
        "psnr-outside": psnr_outside(item.source, picture, item.mask),
        "ssim-outside": ssim_outside(item.source, picture, item.mask) if changed else 1.0,
        "seam": seam_visibility(picture, item.mask),
        "edges-inside": edge_agreement(item.source, picture, item.mask),
    }
    if lpips is not None:
        values["lpips-outside"] = lpips_outside(lpips, item.source, picture, item.mask) if changed else 0.0
    return values


def measure_chunk(
    extractor: Extractor,
    items: Sequence[Item],
    pictures: Sequence[Pixels],
    cache: FeatureCache,
    quality: Quality | None,
    missing: dict[str, str],
) -> Iterator[tuple[str, Features]]:
    """Features of a few items: of whole results, painted boxes, the authors' boxes, exemplars."""
    uses = set(USES[extractor.name])
    pairs = list(zip(pictures, items, strict=True))
    if uses & {"frechet", "kid", "cmmd"} or (quality is not None and extractor.name == quality.space):
        yield "whole", cache.features(extractor, pictures, "crop")
    if uses & {"clip-score", "likeness", "retrieval", "dreamsim"}:
        yield "box", cache.features(extractor, [painted_box(picture, item.mask) for picture, item in pairs], "squash")
        subjects = [item.exemplar if item.subject is None else item.subject for item in items]
        yield "exemplar", cache.features(extractor, subjects, "squash")
    if "clip-score" in uses and "clip-score-original" not in missing:
        try:
            boxes = [painted_box_original(picture, item.mask) for picture, item in pairs]
        except MaskError as error:
            missing["clip-score-original"] = str(error)
        else:
            yield "original box", cache.features(extractor, boxes, "bilinear")


def likeness_metrics(
    name: str, features: dict[tuple[str, str], Features], right: np.ndarray[Any, np.dtype[np.int64]]
) -> dict[str, list[float]]:
    """Of each item how alike box and exemplar are, in one space."""
    columns: dict[str, list[float]] = {}
    uses, box, exemplar = USES[name], features.get((name, "box")), features.get((name, "exemplar"))
    if box is None or exemplar is None:
        return columns
    alike = cosine(box, exemplar)
    if "clip-score" in uses:
        columns["clip-score"] = list(100 * alike)
        original = features.get((name, "original box"))
        if original is not None and len(original) == len(exemplar):
            columns["clip-score-original"] = list(100 * cosine(original, exemplar))
    if "likeness" in uses:
        columns[f"likeness-{name}"] = list(alike)
    if "dreamsim" in uses:
        columns["dreamsim"] = list(1 - alike)
    if "retrieval" in uses and right.max() > 0:
        first = np.unique(right, return_index=True)[1]
        rank, _ = retrieval(box, exemplar[first], right)
        columns[f"top1-{name}"] = list(100.0 * (rank < 1))
        columns[f"top5-{name}"] = list(100.0 * (rank < 5))
    return columns


def set_metrics(
    name: str,
    features: dict[tuple[str, str], Features],
    reference: Reference | None,
    missing: dict[str, str],
) -> dict[str, Figure]:
    """How alike all results and the reference pictures are as sets, in one space."""
    figures: dict[str, Figure] = {}
    whole = features.get((name, "whole"))
    wanted = [use for use in USES[name] if use in ("frechet", "kid", "cmmd")]
    if whole is None or not wanted:
        return figures
    if reference is None:
        missing |= {f"{use}-{name}": "there are no reference pictures; --reference names a folder" for use in wanted}
        return figures
    if min(len(whole), reference.moments.count) < 2:
        missing |= {f"{use}-{name}": "two results and two reference pictures are needed" for use in wanted}
        return figures
    if "frechet" in wanted:
        distance = frechet.frechet_distance(Moments.of(whole), reference.moments)
        figures[f"frechet-{name}"] = interval(distance, frechet.bootstrap(whole, reference.moments), len(whole))
    for use, measure in (("kid", mmd.kid), ("cmmd", mmd.cmmd)):
        if use in wanted and reference.sample is not None:
            figures[f"{use}-{name}"] = measure(whole, reference.sample)
        elif use in wanted:
            missing[f"{use}-{name}"] = "it needs the reference pictures, and only their statistics were given"
    return figures
