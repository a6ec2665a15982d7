"""Scores as a page: what stands on it, and that it needs nothing else."""

import base64
import dataclasses
import io
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from paint_by_example.cli import main
from paint_by_example.errors import DataError
from paint_by_example.evaluation.benchmark import open_benchmark
from paint_by_example.evaluation.editing import baseline_method, run_method
from paint_by_example.evaluation.report import best_methods, extremes, report_html
from paint_by_example.evaluation.result import Figure, Scores, write_scores
from tests.test_evaluation import cocoee

NAMES = ("000000001773", "000000003419", "900100065455", "000000000007")


def scores_of(method: str, seam: tuple[float, ...], results: Path | None = None) -> Scores:
    mean = float(np.mean(seam))
    return Scores(
        method=method,
        benchmark="COCOEE (4)",
        names=NAMES,
        figures={"seam": Figure(mean, mean - 1, mean + 1, 4)},
        items={"seam": seam},
        missing={"qs": "no mixture was given"},
        settings={"steps": 7, "scored_with": {"version": "0.1"}},
        results=None if results is None else str(results),
    )


def test_extremes_follow_what_is_better() -> None:
    one = scores_of("a", (3.0, 1.0, 2.0, 9.0))
    found = extremes(one, "seam", 1)  # lower is better
    assert (found.best, found.worst) == ((1,), (3,))
    higher = dataclasses.replace(one, items={"likeness-dinov2": (3.0, 1.0, 2.0, 9.0)})
    found = extremes(higher, "likeness-dinov2", 9)
    assert (found.best, found.worst) == ((3, 0), (1, 2))  # none is in both


def test_the_best_is_marked_unless_all_are_alike() -> None:
    scores = [scores_of("a", (1.0, 1.0, 1.0, 1.0)), scores_of("b", (2.0, 2.0, 2.0, 2.0))]
    assert best_methods(scores, "seam") == {"a"}
    assert best_methods(scores[:1] * 2, "seam") == set()


def test_the_command_writes_a_page_that_needs_no_other_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = cocoee(tmp_path / "b")
    benchmark = open_benchmark(folder)
    for name in ("source", "cut-and-paste"):
        run_method(baseline_method(name), benchmark, tmp_path / name, {})
    scores = [
        scores_of("do <nothing>", (1.0, 2.0, 3.0, 4.0), tmp_path / "source"),
        scores_of("paste", (5.0, 9.0, 7.0, 8.0), tmp_path / "cut-and-paste"),
    ]
    path, _ = write_scores(scores, tmp_path / "s" / "scores.json")
    assert main(["evaluate", "report", str(path), "--benchmark", str(folder), "--count", "1"]) == 0
    written = Path(capsys.readouterr().out.strip())
    assert written == tmp_path / "s" / "report.html"
    page = written.read_text(encoding="utf-8")
    assert "do &lt;nothing&gt;" in page
    assert "<nothing>" not in page
    assert "<td class=best>2.50 ±1.00</td><td>7.25 ±1.00</td>" in page
    assert page.count("<img ") == 2 * 2 * 3  # methods, best and worst, source with exemplar and result
    assert "<script" not in page
    urls = re.findall(r'(?:src|href)="([^"]+)"', page)
    assert {url for url in urls if not url.startswith("data:image/webp;base64,")} == {"scores.json", "scores.csv"}
    assert not re.search(r"url\(|@import", page)
    assert "no mixture was given" in page
    assert "&quot;steps&quot;: 7" in page
    # The best of the second method is its first item, and the third picture of it is its result.
    card = page.split("<summary>paste</summary>")[1]
    (data,) = re.findall(r'base64,([^"]+)" alt="result of 000000001773"', card)
    shown = np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB")).astype(int)
    result = np.asarray(Image.open(tmp_path / "cut-and-paste" / "000000001773.png")).astype(int)
    source = benchmark[0].source.astype(int)
    assert np.abs(shown - result)[10:30, 8:30].mean() < np.abs(shown - source)[10:30, 8:30].mean() / 2


def test_pages_of_what_does_not_fit_are_refused(tmp_path: Path) -> None:
    one = scores_of("a", (1.0, 2.0, 3.0, 4.0))
    with pytest.raises(DataError, match="of 2 sets of items"):
        report_html([one, dataclasses.replace(one, benchmark="another")])
    other = dataclasses.replace(one, names=("x", *NAMES[1:]), results=str(tmp_path))
    with pytest.raises(DataError, match="no item x"):
        report_html([other], open_benchmark(cocoee(tmp_path / "b")))
