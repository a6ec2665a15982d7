"""Scores as one page that needs no other file: figures with intervals, each item's best and worst, how all was made.

The page holds its pictures, styles and drawings itself and no script, so that it can be mailed and opened anywhere. Its
colours follow the reader's light or dark setting; on a phone, wide tables move sideways by themselves.
"""

from __future__ import annotations

import base64
import html
import io
import json
import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from .. import __version__
from ..errors import DataError
from .benchmark import Benchmark, Item, Pixels
from .result import Figure, Metric, Scores, describe
from .scoring import find_results, read_result

SIDE = 192  # pixels, of the longer side of a picture on the page
PICTURED = ("clip-score", "likeness", "dreamsim", "seam")
"""Metrics whose best and worst items are shown, where they were measured."""
STYLE = (Path(__file__).parent / "report.css").read_text(encoding="utf-8")


@dataclass(frozen=True)
class Extremes:
    """The items of a method that one metric puts first and last."""

    metric: str
    best: tuple[int, ...]
    """Numbers of items, the best first."""
    worst: tuple[int, ...]
    """The worst first."""


def extremes(scores: Scores, metric: str, count: int) -> Extremes:
    """The best and the worst items of a method.

    Args:
        scores: its scores.
        metric: one that has a value for each item.
        count: of either; no item is in both.

    Raises:
        KeyError: the metric has no values for items.
    """
    values = np.asarray(scores.items[metric])
    order = np.argsort(values if describe(metric).better == "lower" else -values, kind="stable")
    count = min(count, len(order) // 2)
    ranked = [int(index) for index in order]
    return Extremes(metric, tuple(ranked[:count]), tuple(ranked[::-1][:count]))


def report_html(
    scores: Sequence[Scores], benchmark: Benchmark | None = None, count: int = 3, files: Sequence[str] = ()
) -> str:
    """The page.

    Args:
        scores: one for each method, at least one, of the same benchmark.
        benchmark: what was asked for, to show pictures; without it there are none.
        count: best and worst items of each method and metric.
        files: names of files beside it that hold the same figures.

    Raises:
        DataError: the scores are of several benchmarks or of items that the benchmark lacks, or results are missing.
    """
    titles = {(one.benchmark, one.names) for one in scores}
    if len(titles) != 1:
        raise DataError(
            f"the scores are of {len(titles)} sets of items, starting with {scores[0].benchmark}; a report has one"
        )
    links = ", ".join(f'<a href="{escape(name)}">{escape(name)}</a>' for name in files)
    parts = [
        f"<header><h1>{escape(scores[0].benchmark)}</h1><p>{len(scores)} methods, {len(scores[0].names)} items. "
        f"± is half an interval of 95%, by bootstrap over the items.{f' The same figures: {links}.' if links else ''}"
        "</p></header>",
        figures_table(scores),
        interval_drawings(scores),
        *([] if benchmark is None or not count else [pictures(scores, benchmark, count)]),
        missing_table(scores),
        settings_list(scores),
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f"<title>{escape(scores[0].benchmark)}</title><style>{STYLE}</style></head>\n<body>\n"
        + "\n".join(part for part in parts if part)
        + f"\n<footer>paint-by-example {__version__}</footer></body></html>\n"
    )


def write_report(page: str, path: str | os.PathLike[str]) -> Path:
    """Write a page beside its place and rename it; its folder is made."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.part")
    beside.write_text(page, encoding="utf-8")
    beside.replace(path)
    return path


# --- figures ----------------------------------------------------------------------------------------------------------


def metric_names(scores: Iterable[Scores]) -> list[str]:
    """All metrics that some method has, in the order of the scores."""
    return list(dict.fromkeys(name for one in scores for name in one.figures))


def best_methods(scores: Sequence[Scores], metric: str) -> set[str]:
    """Methods with the best value; none where all are alike."""
    values = {one.method: one.figures[metric].value for one in scores if metric in one.figures}
    if len(set(values.values())) < 2:
        return set()
    best = (max if describe(metric).better == "higher" else min)(values.values())
    return {method for method, value in values.items() if value == best}


def figure_text(figure: Figure | None, metric: Metric) -> str:
    """A figure with half its interval, as tables show it."""
    if figure is None:
        return "–"
    digits = 0 if abs(figure.value) >= 1000 else metric.digits
    value = f"{figure.value:z.{digits}f}"
    if figure.low is None or figure.high is None or not math.isfinite(figure.value):
        return value
    return f"{value} ±{(figure.high - figure.low) / 2:.{digits}f}"


def figures_table(scores: Sequence[Scores]) -> str:
    """A metric a row, a method a column, the best in bold."""
    head = "".join(f'<th scope="col">{escape(one.method)}</th>' for one in scores)
    rows = []
    for name in metric_names(scores):
        metric, best = describe(name), best_methods(scores, name)
        arrow = "↑" if metric.better == "higher" else "↓"
        cells = "".join(
            f"<td{' class=best' if one.method in best else ''}>{figure_text(one.figures.get(name), metric)}</td>"
            for one in scores
        )
        rows.append(
            f'<tr><th scope="row">{escape(name)} <abbr title="{metric.better} is better">{arrow}</abbr>'
            f"<small>{escape(metric.meaning)}</small></th>{cells}</tr>"
        )
    return (
        f'<section><h2>Figures</h2><div class="wide" tabindex="0"><table><thead><tr><td></td>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div></section>"
    )


def interval_drawings(scores: Sequence[Scores]) -> str:
    """For each metric that has intervals, a dot and a line for each method on one scale."""
    drawings = []
    for name in metric_names(scores):
        shown = [(one.method, one.figures[name]) for one in scores if name in one.figures]
        ends = [end for _, figure in shown for end in (figure.low, figure.high, figure.value) if end is not None]
        low, high = min(ends), max(ends)
        if not all(map(math.isfinite, ends)) or low == high or len(shown) < 2:
            continue
        drawings.append(
            f"<figure><figcaption>{escape(name)}</figcaption>{drawing(shown, low, high, describe(name))}</figure>"
        )
    return f'<section><h2>Intervals</h2><div class="drawings">{"".join(drawings)}</div></section>' if drawings else ""


def drawing(shown: Sequence[tuple[str, Figure]], low: float, high: float, metric: Metric) -> str:
    """SVG: a row for each method, from the lowest to the highest end of all."""
    left, width, row = 130, 180, 22

    def place(value: float) -> float:
        return left + (value - low) / (high - low) * width

    marks = []
    for number, (method, figure) in enumerate(shown):
        y = row * number + 14
        short = method if len(method) <= 18 else method[:17] + "…"
        line = ""
        if figure.low is not None and figure.high is not None:
            line = f'<line x1="{place(figure.low):.1f}" x2="{place(figure.high):.1f}" y1="{y}" y2="{y}"/>'
        marks.append(
            f"<g><title>{escape(method)}: {figure_text(figure, metric)}</title>"
            f'<text x="{left - 12}" y="{y + 4}" text-anchor="end">{escape(short)}</text>{line}'
            f'<circle cx="{place(figure.value):.1f}" cy="{y}" r="4"/></g>'
        )
    bottom = row * len(shown) + 14
    digits = 0 if max(abs(low), abs(high)) >= 1000 else metric.digits
    scale = (
        f'<text class="scale" x="{left}" y="{bottom}">{low:z.{digits}f}</text>'
        f'<text class="scale" x="{left + width}" y="{bottom}" text-anchor="end">{high:z.{digits}f}</text>'
    )
    return f'<svg viewBox="0 0 {left + width + 10} {bottom + 6}" role="img">{"".join(marks)}{scale}</svg>'


# --- pictures ---------------------------------------------------------------------------------------------------------


def pictured_metrics(scores: Scores) -> list[str]:
    """Metrics whose extremes are shown: the first of each kind in `PICTURED` that has values for items."""
    found: dict[str, str] = {}
    for name in scores.items:
        if describe(name).name in PICTURED:
            found.setdefault(describe(name).name, name)
    return list(found.values())


def pictures(scores: Sequence[Scores], benchmark: Benchmark, count: int) -> str:
    """Each method's best and worst items: source with the mask's outline, exemplar, result, value."""
    numbers = {name: number for number, name in enumerate(benchmark.names)}
    if lost := [name for name in scores[0].names if name not in numbers]:
        raise DataError(f"the benchmark has no item {lost[0]}, of which there are scores; give the one they are of")
    shown: list[str] = []
    for one in scores:
        if one.results is None:
            continue
        paths = find_results(Path(one.results), one.names)
        metrics = pictured_metrics(one)
        blocks = []
        for metric in metrics:
            found = extremes(one, metric, count)
            for title, indices in (("best", found.best), ("worst", found.worst)):
                cards = []
                for index in indices:
                    item = benchmark[numbers[one.names[index]]]
                    value = f"{one.items[metric][index]:z.{describe(metric).digits}f}"
                    cards.append(card(item, read_result(paths[index], item), value))
                if cards:
                    blocks.append(f"<h4>{escape(metric)}, {title}</h4><div class=cards>{''.join(cards)}</div>")
        if blocks:
            is_open = " open" if not shown else ""
            shown.append(f"<details{is_open}><summary>{escape(one.method)}</summary>{''.join(blocks)}</details>")
    return f"<section><h2>Best and worst items</h2>{''.join(shown)}</section>" if shown else ""


def card(item: Item, result: Pixels, value: str) -> str:
    """An item's three pictures."""
    name = escape(item.name)
    parts = (("source", outlined(item)), ("exemplar", item.exemplar), ("result", result))
    images = "".join(f'<img src="{picture_url(pixels)}" alt="{what} of {name}">' for what, pixels in parts)
    return f"<figure class=card><div>{images}</div><figcaption>{name}: <b>{value}</b></figcaption></figure>"


def outlined(item: Item) -> Pixels:
    """The source with the edge of its mask in a colour of its own, (H, W, 3)."""
    width = max(1, round(2 * max(item.mask.shape) / SIDE))  # two pixels of what is shown
    kernel = np.ones((2 * width + 1, 2 * width + 1), np.uint8)
    inner = cv2.erode(item.mask.astype(np.uint8), kernel, borderType=cv2.BORDER_CONSTANT, borderValue=0)
    picture = item.source.copy()
    picture[item.mask & (inner == 0)] = (255, 0, 160)
    return picture


def picture_url(pixels: Pixels) -> str:
    """A picture, (H, W, 3), made small, as a URL that holds it."""
    image = Image.fromarray(pixels)
    image.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    stream = io.BytesIO()
    image.save(stream, "WEBP", quality=85)
    return "data:image/webp;base64," + base64.b64encode(stream.getvalue()).decode()


# --- what is behind them ----------------------------------------------------------------------------------------------


def missing_table(scores: Sequence[Scores]) -> str:
    """What could not be measured, and why."""
    reasons: dict[tuple[str, str], list[str]] = {}
    for one in scores:
        for name, reason in one.missing.items():
            reasons.setdefault((name, reason), []).append(one.method)
    lines = []
    for (name, reason), methods in reasons.items():
        of = "" if len(methods) == len(scores) else f" ({escape(', '.join(methods))})"
        lines.append(f"<dt>{escape(name)}{of}</dt><dd>{escape(reason)}</dd>")
    return f"<section><h2>Not measured</h2><dl>{''.join(lines)}</dl></section>" if lines else ""


def settings_list(scores: Sequence[Scores]) -> str:
    """How each method's results were made and scored, with versions."""
    blocks = (
        f"<details><summary>{escape(one.method)}</summary><pre>"
        f"{escape(json.dumps(one.settings | {'results': one.results}, indent=1, ensure_ascii=False))}</pre></details>"
        for one in scores
    )
    return f"<section><h2>Settings and versions</h2>{''.join(blocks)}</section>"


def escape(text: str) -> str:
    """Text as HTML, for attributes too."""
    return html.escape(text, quote=True)
