"""The scores of a method on a benchmark: the one structure that is written, read and reported.

A file of scores is JSON: ``{"format": 1, "scores": [...]}`` with one object for each method, whose keys are the fields
of `Scores`. Beside it stands a table, CSV, with one row for each method and metric. A metric's name holds the feature
space it is measured in: there is no "frechet" alone, only ``frechet-clip-vit-b-32`` and the like. `describe` says of a
name what it means and which way is better.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import UserError

FORMAT = 1
RESAMPLES = 1000  # of the bootstrap
COVERAGE = 0.95  # of the intervals


@dataclass(frozen=True)
class Metric:
    """What is measured."""

    name: str
    """Without the feature space."""
    better: Literal["higher", "lower"]
    digits: int
    """After the point, for tables."""
    meaning: str
    """On one line."""


METRICS = (
    Metric("clip-score", "higher", 2, "cosine x100 of the painted box and the exemplar, CLIP ViT-B/32"),
    Metric("clip-score-original", "higher", 2, "the same with the authors' crop, which loses the last row and column"),
    Metric("likeness", "higher", 4, "cosine of the painted box and the exemplar"),
    Metric("dreamsim", "lower", 4, "DreamSim distance of the painted box and the exemplar"),
    Metric("top1", "higher", 1, "% of painted boxes whose exemplar is the nearest of all the benchmark's"),
    Metric("top5", "higher", 1, "% of painted boxes whose exemplar is among the nearest five"),
    Metric("frechet", "lower", 3, "Fréchet distance of results and reference pictures"),
    Metric("kid", "lower", 4, "kernel distance x1000 of results and reference pictures"),
    Metric("cmmd", "lower", 4, "CMMD of results and reference pictures"),
    Metric("qs", "higher", 2, "quality score: how likely the result is under a mixture fitted to photographs"),
    Metric("changed-outside", "lower", 3, "% of pixels outside the mask that differ from the source"),
    Metric("psnr-outside", "higher", 2, "PSNR outside the mask, dB; 100 stands for identical"),
    Metric("ssim-outside", "higher", 4, "SSIM outside the mask"),
    Metric("lpips-outside", "lower", 4, "LPIPS of result and source, both with the mask blanked"),
    Metric("seam", "lower", 2, "step across the mask's edge beyond that beside it, grey levels"),
    Metric("edges-inside", "higher", 4, "F-measure of the source's and the result's edges inside the mask"),
    Metric(
        "pose-inside", "higher", 3, "share of a person's points that are where they were, where one was in the mask"
    ),
)


def describe(name: str) -> Metric:
    """What a metric's name stands for.

    Args:
        name: with or without a feature space: ``seam``, ``frechet-clip-vit-b-32``.

    Raises:
        KeyError: it stands for nothing.
    """
    fitting = [metric for metric in METRICS if name == metric.name or name.startswith(f"{metric.name}-")]
    if not fitting:
        raise KeyError(name)
    return max(fitting, key=lambda metric: len(metric.name))


@dataclass(frozen=True)
class Figure:
    """A number and how sure it is."""

    value: float
    low: float | None
    """The ends of its interval of 95%, by bootstrap over the items; None for too few items."""
    high: float | None
    count: int
    """Of the items it is made of."""


@dataclass(frozen=True)
class Scores:
    """A method's scores on a benchmark."""

    method: str
    benchmark: str
    """Its name and number of items, for people."""
    names: tuple[str, ...]
    """Of the items, in the order of the benchmark; a result's file is ``<name>.png`` in ``results``."""
    figures: dict[str, Figure]
    """By metric."""
    items: dict[str, tuple[float, ...]]
    """By metric, a value for each name; of the metrics that have such."""
    missing: dict[str, str] = field(default_factory=dict)
    """By metric or feature space, why it could not be had, on one line."""
    settings: dict[str, Any] = field(default_factory=dict)
    """How the results were made and scored: model and its settings, feature spaces, versions."""
    results: str | None = None
    """Folder with the results, as it was given."""


def mean_figure(values: ArrayLike, seed: int = 0) -> Figure:
    """The mean over items, with its interval.

    Args:
        values: (n,) finite numbers, n at least 1.
        seed: of the bootstrap.
    """
    values = np.asarray(values, np.float64)
    rng = np.random.default_rng(seed)
    draws = np.array([values[rng.integers(len(values), size=len(values))].mean() for _ in range(RESAMPLES)])
    return interval(float(values.mean()), draws, len(values))


def interval(value: float, draws: NDArray[np.float64], count: int) -> Figure:
    """A figure with the interval that its bootstrap gives.

    The draws are moved so that their mean is the value: resampling a set of features makes it look poorer than it is,
    which would move the interval, away from the value even; only the spread is taken from it.

    Args:
        value: what was measured.
        draws: (resamples,) the same of resampled items.
        count: of the items.
    """
    if count < 2 or not len(draws):
        return Figure(value, None, None, count)
    low, high = np.quantile(draws - draws.mean(), [(1 - COVERAGE) / 2, (1 + COVERAGE) / 2])
    return Figure(value, value + float(low), value + float(high), count)


# --- files ------------------------------------------------------------------------------------------------------------


def write_scores(scores: Sequence[Scores], path: str | os.PathLike[str]) -> tuple[Path, Path]:
    """Write scores as JSON, and as a table beside it.

    Args:
        scores: one for each method.
        path: of the JSON file; its folder is made.

    Returns:
        The paths of both files.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {"format": FORMAT, "scores": [dataclasses.asdict(one) for one in scores]}
    table = path.with_suffix(".csv")
    for file, text in ((path, json.dumps(content, indent=1, allow_nan=False) + "\n"), (table, as_csv(scores))):
        beside = file.with_name(f".{file.name}.part")
        beside.write_text(text, encoding="utf-8")
        beside.replace(file)
    return path, table


def read_scores(path: str | os.PathLike[str]) -> list[Scores]:
    """Read what `write_scores` wrote.

    Raises:
        UserError: there is no such file, or it holds something else.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
        if content["format"] != FORMAT:
            raise ValueError(f"its format is {content['format']}, not {FORMAT}")
        return [_parse(one) for one in content["scores"]]
    except OSError as error:
        raise UserError(f"cannot read the scores {path}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"cannot read the scores {path}: {error!r}; pbe evaluate writes them") from error


def _parse(values: dict[str, Any]) -> Scores:
    figures = {name: Figure(**figure) for name, figure in values["figures"].items()}
    items = {name: tuple(column) for name, column in values["items"].items()}
    return Scores(**values | {"figures": figures, "items": items, "names": tuple(values["names"])})


def as_csv(scores: Sequence[Scores]) -> str:
    """A row for each method and metric: method, benchmark, metric, value, low, high, count, better."""
    stream = io.StringIO()
    rows = csv.writer(stream, lineterminator="\n")
    rows.writerow(("method", "benchmark", "metric", "value", "low", "high", "count", "better"))
    for one in scores:
        for name, figure in one.figures.items():
            ends = ["" if end is None else repr(end) for end in (figure.low, figure.high)]
            rows.writerow(
                (one.method, one.benchmark, name, repr(figure.value), *ends, figure.count, describe(name).better)
            )
    return stream.getvalue()


def as_table(scores: Sequence[Scores]) -> str:
    """A table for people: a metric a row, a method a column, with half the interval's width behind each value."""
    metrics = list(dict.fromkeys(name for one in scores for name in one.figures))
    cells = [["", *(one.method for one in scores), "better"]]
    for name in metrics:
        row = [name]
        for one in scores:
            figure, digits = one.figures.get(name), describe(name).digits
            if figure is not None and abs(figure.value) >= 1000:
                digits = 0
            if figure is None:
                row.append("-")
            elif figure.low is None or figure.high is None or not math.isfinite(figure.value):
                row.append(f"{figure.value:z.{digits}f}")
            else:
                row.append(f"{figure.value:z.{digits}f} ±{(figure.high - figure.low) / 2:.{digits}f}")
        cells.append([*row, describe(name).better])
    widths = [max(len(row[column]) for row in cells) for column in range(len(cells[0]))]
    lines = []
    for row in cells:
        first, *rest = (
            text.ljust(width) if not at else text.rjust(width)
            for at, (text, width) in enumerate(zip(row, widths, strict=True))
        )
        lines.append("  ".join([first, *rest]).rstrip())
    return "\n".join(lines)
