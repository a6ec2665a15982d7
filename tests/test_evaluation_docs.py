"""The commands of docs/evaluation.md run as they stand there, on tiny data under the names they use."""

import re
import shlex
from pathlib import Path

import pytest
from PIL import Image

from paint_by_example.cli import main
from paint_by_example.evaluation.result import METRICS, describe, read_scores
from tests import tiny
from tests.test_evaluation import TRAIN, VAL, coco_files, cocoee

DOCS = (Path(__file__).parents[1] / "docs" / "evaluation.md").read_text(encoding="utf-8")
COMMANDS = [line for block in re.findall(r"```sh\n(.*?)```", DOCS, re.S) for line in block.splitlines()]
SMALLER = {
    "run": ["--limit", "2", "--steps", "1", "--offline", "--spaces", "efficientnet-lite2", "--device", "cpu"],
    "score": ["--limit", "2", "--offline", "--spaces", "efficientnet-lite2"],
    "report": ["--count", "1"],
    "compare": ["--count", "1"],
    "sweep": ["--offline", "--spaces", "efficientnet-lite2", "--device", "cpu"],
    "fit-qs": ["--space", "efficientnet-lite2", "--components", "1"],
    "build-cocoee": ["--count", "2"],
}


def test_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, models: dict[str, Path]) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    tiny.composites_folder(tmp_path / "data" / "composites")
    cocoee(tmp_path / "cocoee")
    coco = tmp_path / "coco"
    (coco / "annotations").mkdir(parents=True)
    for split, boxes in (("val2017", VAL[:2]), ("train2017", TRAIN)):
        annotations, _ = coco_files(coco, split, boxes)
        annotations.rename(coco / "annotations" / annotations.name)
    tiny.picture(50, 40, seed=9).save(coco / "train2017" / "one-more.jpg")  # a mixture needs four
    (coco / "test2017").mkdir()
    tiny.picture(60, 40).save(coco / "test2017" / "1.jpg")
    (tmp_path / "elsewhere" / "results").mkdir(parents=True)
    for name in ("000000001773", "000000003419"):
        Image.open(tmp_path / "cocoee" / "GT_3500" / f"{name}_GT.png").save(
            tmp_path / "elsewhere" / "results" / f"{name}.png"
        )
    done = set()
    for command in COMMANDS:
        if command.startswith("pbe study"):
            continue  # it serves until it is stopped: tests/test_study.py
        program, *rest = shlex.split(command)
        assert program == "pbe"
        group = [rest.pop(0)] if rest[0] != "evaluate" else [rest.pop(0), rest.pop(0)]
        name = group[-1]
        released = f"released={models['clip']}"
        arguments = [released if argument.startswith("released=") else argument for argument in rest]
        if name == "sweep":
            arguments[arguments.index("--limit") + 1] = "2"
            arguments[arguments.index("steps=10,25")] = "steps=1,2"
        if name == "run" and "--steps" in arguments:  # they are given already
            arguments[arguments.index("--steps") + 1] = "1"
            arguments[arguments.index("--device") + 1] = "cpu"
            more = [*SMALLER["run"][:2], "--offline", "--spaces", "efficientnet-lite2"]
        else:
            more = SMALLER[name]
        assert main([*group, *arguments, *more]) == 0, command
        done.add(name)
    assert done == set(SMALLER)
    assert {one.method for one in read_scores("scores/small/scores.json")} >= {"source", "embedded", "poisson"}
    ours, theirs = read_scores("scores/compared.json")
    assert ours.figures["changed-outside"].value > theirs.figures["changed-outside"].value == 0
    assert ours.settings["compat"] == "original"
    assert "qs" in ours.figures


def test_every_metric_is_explained() -> None:
    rows = re.search(r"## What each number means\n(.*?)\n## ", DOCS, re.S)
    assert rows is not None
    explained = {
        describe(name.rstrip("-*")).name for name in re.findall(r"`([a-z0-9*-]+)`", rows.group(1)) if known(name)
    }
    assert explained == {metric.name for metric in METRICS}


def known(name: str) -> bool:
    try:
        describe(name.rstrip("-*"))
    except KeyError:
        return False
    return True
