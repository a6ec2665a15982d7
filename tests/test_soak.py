"""The soak of the server notices what grows, and what is answered as it should not be."""

from pathlib import Path

import pytest

from benchmarks import soak
from benchmarks.soak import Options, Sample, Tally

COUNT = 100


def samples(megabytes: float = 0.0, threads: float = 0.0, files: float = 0.0) -> list[Sample]:
    """Each grows by so much from the first to the last; in the warm-up, memory comes to its height."""
    shares = [number / (COUNT - 1) for number in range(COUNT)]
    heights = [min(400 + 8000 * share, 600) for share in shares]
    return [
        Sample(60 * share, height + megabytes * share, round(20 + threads * share), round(10 + files * share), 5)
        for share, height in zip(shares, heights, strict=True)
    ]


def test_what_stays_flat_after_the_warm_up_did_not_grow() -> None:
    assert soak.grown(samples()) == []
    assert soak.grown(samples(megabytes=20, threads=3, files=5)) == []


@pytest.mark.parametrize(("name", "growth"), [("megabytes", 80), ("threads", 20), ("files", 40)])
def test_what_grows_on_and_on_is_said(name: str, growth: float) -> None:
    (line,) = soak.grown(samples(**{name: growth}))
    assert line.startswith(f"{name} grew from ")


def test_statuses_are_those_expected_of_their_kind() -> None:
    tally = Tally()
    for kind, status in (("edit: send", 202), ("edit: send", 503), ("bad upload", 422), ("GET /", 200)):
        tally.add(kind, 0.1, status)
    assert not tally.wrong
    tally.add("bad upload", 0.1, 202)
    tally.add("GET /", 0.1, 500)
    assert list(tally.wrong) == ["bad upload was answered with 202", "GET / was answered with 500"]


@pytest.mark.slow
def test_a_few_seconds_of_it(tmp_path: Path) -> None:
    tally, seen, log = soak.run(Options(minutes=0.2, clients=4), tmp_path)
    assert not tally.wrong
    assert "Traceback" not in log
    assert len(tally.seconds) > 8
    assert seen[-1].megabytes > 50
