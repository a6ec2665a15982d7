"""The user study: what people see, what is kept, what is found; once through a real browser."""

import json
import re
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from paint_by_example.cli import main
from paint_by_example.errors import DataError, UserError
from paint_by_example.evaluation.baselines import BASELINES
from paint_by_example.evaluation.benchmark import open_benchmark
from paint_by_example.evaluation.editing import baseline_method, run_method
from paint_by_example.evaluation.study import Study, make_plan
from paint_by_example.evaluation.study_report import finding, holm
from tests.test_evaluation import cocoee

METHODS = ("source", "cut-and-paste", "harmonised", "poisson", "inpaint")
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def study(path: Path, groups: int = 3) -> Study:
    return Study(path, make_plan("b", [f"{n}" for n in range(10)], METHODS, groups, seed=0))


def ranks_by(shown: list[str], order: tuple[str, ...] = METHODS) -> list[int]:
    """The ranks of someone who likes methods in this order."""
    return [order.index(method) + 1 for method in shown]


# --- answers ----------------------------------------------------------------------------------------------------------


def test_everyone_sees_all_groups_and_methods_in_an_order_of_their_own(tmp_path: Path) -> None:
    one = study(tmp_path / "s.sqlite", groups=10)
    people = [one.enter() for _ in range(6)]
    assert len(set(people)) == 6
    orders = [one.groups(person) for person in people]
    assert all(sorted(order) == sorted(one.plan.items) for order in orders)
    assert len({tuple(order) for order in orders}) == 6
    shown = [tuple(one.methods(person, item)) for person in people for item in one.plan.items]
    assert all(sorted(methods) == sorted(METHODS) for methods in shown)
    first = [methods[0] for methods in shown]
    assert {first.count(method) for method in METHODS} <= set(range(4, 24))  # of 60, about 12 each
    with pytest.raises(KeyError):
        one.groups("nobody")


def test_answers_survive_and_a_second_one_takes_the_place_of_the_first(tmp_path: Path) -> None:
    one = study(tmp_path / "s.sqlite")
    person = one.enter()
    item = one.groups(person)[0]
    shown = one.methods(person, item)
    one.answer(person, item, {"quality": ranks_by(shown), "consistency": ranks_by(shown)})
    one.answer(person, item, {"quality": ranks_by(shown), "consistency": ranks_by(shown, METHODS[::-1])})
    one.close()
    again = study(tmp_path / "s.sqlite")
    assert again.answered(person) == {item}
    assert again.methods(person, item) == shown
    for criterion, expected in (("quality", [1, 2, 3, 4, 5]), ("consistency", [5, 4, 3, 2, 1])):
        table, answers = again.mean_ranks(criterion)
        assert table.tolist() == [expected]
        assert answers == 1
    again.close()


@pytest.mark.parametrize("ranks", [[1, 2, 3, 4], [1, 1, 2, 3, 4], [0, 1, 2, 3, 4], []])
def test_what_is_no_ranking_is_refused_and_nothing_is_kept(ranks: list[int], tmp_path: Path) -> None:
    one = study(tmp_path / "s.sqlite")
    person = one.enter()
    with pytest.raises(UserError, match="1 to 5, each once"):
        one.answer(person, one.plan.items[0], {"quality": [1, 2, 3, 4, 5], "consistency": ranks})
    assert one.answered(person) == set()
    one.close()


def test_files_of_others_are_refused(tmp_path: Path) -> None:
    study(tmp_path / "s.sqlite").close()
    with pytest.raises(DataError, match="other methods, groups or seed"):
        study(tmp_path / "s.sqlite", groups=4)
    with pytest.raises(DataError, match="there is no study"):
        Study(tmp_path / "none.sqlite")
    (tmp_path / "text").write_text("no database, but long enough to be looked at " * 100)
    with pytest.raises(DataError, match="no study's file"):
        Study(tmp_path / "text")
    with pytest.raises(UserError, match="between 1 and the benchmark's 10 items, got 11"):
        study(tmp_path / "t.sqlite", groups=11)
    with pytest.raises(UserError, match="at least two methods"):
        make_plan("b", ["0"], ["a"], 1, 0)


# --- what is found ----------------------------------------------------------------------------------------------------


def test_holm_is_as_published() -> None:
    # 3 x 0.01, then 2 x 0.03 and 1 x 0.04, which may not be below the one before
    assert holm([0.03, 0.01, 0.04]) == pytest.approx([0.06, 0.03, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0]


def test_a_clear_order_is_found_and_chance_is_not() -> None:
    rng = np.random.default_rng(0)
    clear = np.array([1.5, 2.0, 4.0]) + rng.normal(0, 0.3, (20, 3))
    found = finding("quality", clear, 600, ("a", "b", "c"))
    assert found.friedman is not None
    assert found.friedman < 1e-6
    assert found.pairs["a", "c"] < 0.001
    ends = found.ranks["a"]
    assert ends.low is not None
    assert ends.high is not None
    assert ends.low < 1.5 < ends.high


def test_methods_that_are_alike_are_rarely_told_apart() -> None:
    rng = np.random.default_rng(0)
    draws = [finding("quality", 2 + rng.normal(0, 0.3, (20, 3)), 600, ("a", "b", "c")) for _ in range(60)]
    alarms = sum(one.friedman is not None and one.friedman < 0.05 for one in draws)
    pairs = sum(min(one.pairs.values()) < 0.05 for one in draws)
    assert alarms <= 8  # of 60, 3 are expected
    assert pairs <= 8  # at most as many, after the correction


def test_few_people_are_no_test() -> None:
    alone = finding("quality", np.array([[1.0, 2.0, 3.0]]), 30, ("a", "b", "c"))
    assert alone.friedman is None
    assert alone.pairs == {}
    assert alone.ranks["a"].low is None
    same = finding("quality", np.full((4, 3), 2.0), 8, ("a", "b", "c"))
    assert same.friedman is None
    assert set(same.pairs.values()) == {1.0}


# --- served -----------------------------------------------------------------------------------------------------------


@contextmanager
def serving(arguments: list[str]) -> Iterator[str]:
    process = subprocess.Popen(
        [sys.executable, "-m", "paint_by_example", *arguments], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        yield process.stdout.readline().strip()
    finally:
        process.terminate()
        process.wait(30)
        assert process.stdout is not None
        process.stdout.close()


@pytest.mark.slow
def test_a_person_ranks_in_a_browser_across_a_restart(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    playwright: Any = pytest.importorskip("playwright.sync_api", reason="playwright drives the browser")
    if BROWSER is None:
        pytest.skip("there is no chromium on this machine")
    folder = cocoee(tmp_path / "b")
    command = ["study", "serve", str(folder), "--groups", "2", "--database", str(tmp_path / "s.sqlite"), "--port", "0"]
    for method in METHODS:
        assert method in BASELINES
        run_method(baseline_method(method), open_benchmark(folder), tmp_path / method, {})
        command += ["--results", f"{method}={tmp_path / method}"]
    with playwright.sync_playwright() as running:
        browser = running.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        page = browser.new_context(viewport={"width": 390, "height": 800}).new_page()
        seen: list[str] = []
        page.on("pageerror", lambda error: seen.append(f"error {error}"))
        page.on("console", lambda line: seen.append(f"console {line.text}"))
        page.on("request", lambda request: seen.append(request.url))
        with serving(command) as address:
            page.goto(address)
            page.get_by_text("Group 1 of 2").wait_for()
            decoded = "all => Promise.all(all.map(i => i.decode().then(() => i.naturalWidth > 0)))"
            assert page.locator("img").evaluate_all(decoded) == [True] * 7
            choose(page, "A", "quality", 1)
            choose(page, "B", "quality", 1)  # takes it from A
            assert page.get_by_label("A, quality, rank 1").is_checked() is False
            rank_all(page, [1, 2, 3, 4, 5], [5, 4, 3, 2, 1])
            assert page.evaluate("document.documentElement.scrollWidth") <= 390
            page.screenshot(path=tmp_path / "ranked.png", full_page=True)
            page.get_by_role("button", name="Next").click()
            page.get_by_text("Group 2 of 2").wait_for()
            host = address.split("/")[2]
            person = page.evaluate("localStorage.getItem('study-person')")
        command[command.index("--port") + 1] = host.split(":")[1]  # the same place, so the same browser storage
        with serving(command) as address:
            page.goto(address)
            page.get_by_text("Group 2 of 2").wait_for()
            assert page.evaluate("localStorage.getItem('study-person')") == person
            assert page.get_by_role("button", name="Next").is_disabled()
            rank_all(page, [2, 1, 3, 4, 5], [1, 2, 3, 5, 4])
            page.get_by_role("button", name="Next").click()
            page.get_by_text("All 2 groups are ranked").wait_for()
        browser.close()
    assert not [line for line in seen if line.startswith(("error", "console"))]
    assert not [url for url in seen for method in METHODS if method in url and not url.endswith("/source")]
    kept = Study(tmp_path / "s.sqlite")
    first, second = kept.groups(person)
    given = {
        (first, "quality"): [1, 2, 3, 4, 5],
        (first, "consistency"): [5, 4, 3, 2, 1],
        (second, "quality"): [2, 1, 3, 4, 5],
        (second, "consistency"): [1, 2, 3, 5, 4],
    }
    with sqlite3.connect(tmp_path / "s.sqlite") as database:
        rows = database.execute("select item, criterion, method, rank from ranks").fetchall()
    database.close()
    expected = {
        (item, criterion, method, rank)
        for (item, criterion), ranks in given.items()
        for method, rank in zip(kept.methods(person, item), ranks, strict=True)
    }
    kept.close()
    assert set(rows) == expected
    capsys.readouterr()
    assert main(["study", "report", str(tmp_path / "s.sqlite")]) == 0
    assert re.search(r"quality: 1 people, 2 groups ranked", capsys.readouterr().out)
    assert main(["study", "report", str(tmp_path / "s.sqlite"), "--json"]) == 0
    quality = json.loads(capsys.readouterr().out)[0]
    assert sum(figure["value"] for figure in quality["ranks"].values()) == pytest.approx(15)


def choose(page: Any, letter: str, criterion: str, rank: int) -> None:
    page.get_by_label(f"{letter}, {criterion}, rank {rank}").check()


def rank_all(page: Any, quality: list[int], consistency: list[int]) -> None:
    assert page.get_by_role("button", name="Next").is_disabled()
    for criterion, ranks in (("quality", quality), ("consistency", consistency)):
        for letter, rank in zip("ABCDE", ranks, strict=True):
            choose(page, letter, criterion, rank)
    assert page.get_by_role("button", name="Next").is_enabled()
