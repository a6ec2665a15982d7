"""Methods side by side: their results on the same items, and how far their scores differ, item by item."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..errors import DataError
from .benchmark import Benchmark, Pixels
from .report import outlined
from .result import Figure, Scores, describe, mean_figure
from .scoring import find_results, read_result
from .sheet import picture_sheet


def check_alike(scores: Sequence[Scores]) -> None:
    """Raise a `DataError` unless all scores are of the same items of one benchmark."""
    if len({(one.benchmark, one.names) for one in scores}) != 1:
        raise DataError("the scores are of different items; score all methods on the same ones")


def differences(scores: Sequence[Scores], against: str) -> dict[str, dict[str, Figure]]:
    """How far methods differ from one, per metric that has a value for each item.

    The items are the same, so their differences are averaged: what all methods find hard cancels, and the interval is
    of the difference itself, which overlapping intervals of two methods do not tell.

    Args:
        scores: one for each method.
        against: the method that is subtracted.

    Returns:
        By metric and method, mean difference with its interval.

    Raises:
        DataError: there is no such method, or the items differ.
    """
    check_alike(scores)
    ground = next((one for one in scores if one.method == against), None)
    if ground is None:
        raise DataError(f"there are no scores of {against}; of {', '.join(one.method for one in scores)} there are")
    found: dict[str, dict[str, Figure]] = {}
    for name, values in ground.items.items():
        for one in scores:
            if one is not ground and name in one.items:
                found.setdefault(name, {})[one.method] = mean_figure(np.subtract(one.items[name], values))
    return found


def compare_sheet(scores: Sequence[Scores], benchmark: Benchmark, names: Sequence[str], metric: str) -> Pixels:
    """Source, exemplar and every method's result, a row for each item, with the item's value under each result.

    Args:
        scores: one for each method, with folders of results.
        benchmark: what was asked for.
        names: of the items shown.
        metric: one that has a value for each item.

    Returns:
        (H, W, 3).

    Raises:
        DataError: an item, its results or the metric's values are missing.
    """
    check_alike(scores)
    for one in scores:
        if metric not in one.items:
            raise DataError(f"{one.method} has no {metric} of single items; it has {', '.join(one.items)}")
        if one.results is None:
            raise DataError(f"the scores of {one.method} do not say where its results are")
    places = {name: index for index, name in enumerate(benchmark.names)}
    if lost := [name for name in names if name not in places or name not in scores[0].names]:
        raise DataError(f"there is no item {lost[0]} in both the scores and the benchmark")
    digits, rows = describe(metric).digits, []
    for name in names:
        item, at = benchmark[places[name]], scores[0].names.index(name)
        row = [(outlined(item), ""), (item.exemplar, "")]
        for one in scores:
            (path,) = find_results(Path(str(one.results)), [name])
            row.append((read_result(path, item), f"{one.items[metric][at]:.{digits}f}"))
        rows.append(row)
    columns = ["source", "exemplar", *(one.method for one in scores)]
    better = describe(metric).better
    return picture_sheet(rows, columns, list(names), [f"under each result: {metric}, {better} is better"])
