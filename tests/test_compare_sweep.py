"""Methods side by side and settings over a range, end to end at tiny scale."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from paint_by_example.cli import main
from paint_by_example.cli.sweep import Sweep, sweep_edit
from paint_by_example.errors import DataError, UserError
from paint_by_example.evaluation.benchmark import open_benchmark
from paint_by_example.evaluation.compare import differences
from paint_by_example.evaluation.result import read_scores
from paint_by_example.evaluation.sheet import FONT, GAP, picture_sheet
from paint_by_example.evaluation.sweep import Axis, cell_name, combinations, parse_axis, swept_method
from paint_by_example.pipeline import load_pipeline
from paint_by_example.presets import PRESETS
from paint_by_example.structure import Structure
from tests import tiny
from tests.test_evaluation import cocoee
from tests.test_evaluation_report import scores_of
from tests.test_source_encoder import learned


def flat(colour: tuple[int, int, int], size: tuple[int, int] = (10, 10)) -> np.ndarray:
    return np.full((*size, 3), colour, np.uint8)


def test_a_sheet_has_every_picture_in_its_place() -> None:
    red, green, wide = flat((255, 0, 0)), flat((0, 255, 0)), flat((0, 0, 255), (5, 10))
    sheet = picture_sheet([[(red, ""), (green, "")], [(wide, ""), (red, "")]], ["", ""], ["", ""], tile=40)
    top, left = GAP + FONT + 6, 2 * GAP
    assert (sheet[top : top + 40, left : left + 40] == (255, 0, 0)).all()
    assert (sheet[top : top + 40, left + 48 : left + 88] == (0, 255, 0)).all()
    assert (sheet[top + 48 : top + 68, left : left + 40] == (0, 0, 255)).all()  # it keeps its shape
    assert (sheet[top + 68 : top + 88, left : left + 40] == 255).all()
    written = picture_sheet([[(red, "0.5")]], ["a"], ["b"], ["c"], tile=40)
    assert written.shape[0] > picture_sheet([[(red, "")]], ["a"], ["b"], tile=40).shape[0]
    with pytest.raises(ValueError, match="zip"):
        picture_sheet([[(red, "")]], ["a"], [])


def test_differences_are_of_the_same_items() -> None:
    easy_and_hard = (1.0, 50.0, 3.0, 90.0)
    one, two = scores_of("a", easy_and_hard), scores_of("b", tuple(value + 2 for value in easy_and_hard))
    figure = differences([one, two], "a")["seam"]["b"]
    assert (figure.value, figure.low, figure.high) == (2, 2, 2)  # although the items differ by 90
    assert differences([one, two], "b")["seam"]["a"].value == -2
    with pytest.raises(DataError, match="no scores of c; of a, b"):
        differences([one, two], "c")


def test_the_command_compares(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = str(cocoee(tmp_path / "b"))
    run = ["evaluate", "run", folder, str(tmp_path / "s"), "--method", "source", "--method", "cut-and-paste"]
    assert main([*run, "--spaces", "efficientnet-lite2", "--offline", "--device", "cpu"]) == 0
    capsys.readouterr()
    compare = ["compare", folder, str(tmp_path / "s" / "scores.json"), "--out", str(tmp_path / "c.png")]
    assert main([*compare, "--count", "2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    (line,) = [line for line in lines if line.startswith("edges-inside  cut-and-paste  -")]
    assert line.endswith("*")
    assert lines[-1] == str(tmp_path / "c.png")
    assert main([*compare, "--item", "900100065455", "--metric", "seam", "--against", "cut-and-paste", "--json"]) == 0
    made = json.loads(capsys.readouterr().out)
    assert made["differences"]["seam"]["source"]["count"] == 4
    assert main([*compare, "--item", "nothing"]) == 1
    assert "no item nothing" in capsys.readouterr().err
    assert main([*compare, "--metric", "qs"]) == 1
    assert "source has no qs of single items" in capsys.readouterr().err


def test_axes_are_read_and_combined() -> None:
    axes = [parse_axis("guidance-scale=1,3.5"), parse_axis("scheduler=ddim,unipc")]
    assert axes == [Axis("guidance_scale", (1.0, 3.5)), Axis("scheduler", ("ddim", "unipc"))]
    assert combinations(axes)[1] == {"guidance_scale": 1.0, "scheduler": "unipc"}
    for text, problem in (
        ("colour=1", "cannot vary 'colour=1'"),
        ("steps=2.5", "a value is no int"),
        ("steps=2,2", "comes twice"),
        ("scheduler=magic", "unknown scheduler 'magic'"),
        ("preset=magic", "unknown preset 'magic'"),
        ("backend=magic", "unknown backend 'magic'"),
        ("guidance_interval=0.2", "a value is no interval as in 0.2-1"),
        ("context=perhaps", "a value is neither yes nor no"),
        ("harmonise=magic", "unknown way to harmonise 'magic'"),
    ):
        with pytest.raises(UserError, match=problem):
            parse_axis(text)
    interval = parse_axis("guidance-interval=0-1,0.2-0.8")
    assert interval.values == ((0.0, 1.0), (0.2, 0.8))
    assert cell_name(combinations([interval])[1]) == "guidance_interval=0.2-0.8"
    cells = combinations([parse_axis("context=no,yes"), parse_axis("harmonise=none,colour")])
    assert cells[1] == {"context": False, "harmonise": "colour"}
    assert [cell_name(cell) for cell in cells[1:3]] == ["context=no,harmonise=colour", "context=yes,harmonise=none"]
    with pytest.raises(UserError, match="one or two settings, each once; got steps, steps"):
        combinations([Axis("steps", (1,)), Axis("steps", (2,))])


def test_a_sweep_over_one_edit(tmp_path: Path, models: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    tiny.picture(48, 48).save(tmp_path / "room.png")
    tiny.picture(30, 30, seed=1).save(tmp_path / "chair.png")
    command = ["sweep", str(tmp_path / "room.png"), "--exemplar", str(tmp_path / "chair.png"), "--box", "8,8,40,40"]
    command += ["--model", str(models["embedded"]), "--device", "cpu", "--out", str(tmp_path / "sweep.png")]
    command += ["--vary", "guidance_scale=0,9", "--vary", "steps=1,2,3"]
    assert main(command) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "sweep.png")
    sheet = np.asarray(Image.open(tmp_path / "sweep.png"))
    assert sheet.shape[1] > 3 * 160
    assert sheet.shape[0] > 2 * 160
    assert main(["sweep", "--vary", "steps=1"]) == 2
    assert "missing: SOURCE, --exemplar, --mask or --box, or --benchmark" in capsys.readouterr().err


def test_a_sweep_over_a_benchmark(tmp_path: Path, models: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    folder = cocoee(tmp_path / "b")
    command = ["sweep", "--benchmark", str(folder), "--limit", "2", "--spaces", "efficientnet-lite2", "--offline"]
    command += ["--model", str(models["embedded"]), "--device", "cpu", "--out", str(tmp_path / "sweep.png")]
    command += ["--vary", "steps=1,2", "--metric", "seam"]
    assert main(command) == 0
    scores = read_scores(tmp_path / "sweep" / "scores.json")
    assert [one.method for one in scores] == ["steps=1", "steps=2"]
    assert scores[0].items["seam"] != scores[1].items["seam"]
    # A cell is what the model makes under its settings.
    benchmark = open_benchmark(folder)
    (made,) = swept_method(load_pipeline(str(models["embedded"]), device="cpu"), {"steps": 2})([benchmark[0]], [0])
    kept = np.asarray(Image.open(tmp_path / "sweep" / "steps=2" / f"{benchmark.names[0]}.png"))
    assert np.abs(made.astype(int) - kept).max() <= 1  # rounding: it was one of two
    # A preset is its settings.
    pipeline = load_pipeline(str(models["embedded"]), device="cpu")
    preset = PRESETS["draft"]
    cells: list[dict[str, Any]] = [
        {"preset": "draft", "backend": "torch"},
        {"steps": preset.steps, "scheduler": "dpm++", "guidance_interval": preset.guidance_interval},
        {"steps": preset.steps, "scheduler": "dpm++"},
    ]
    draft, same, other = (swept_method(pipeline, cell)([benchmark[0]], [0])[0] for cell in cells)
    assert np.array_equal(draft, same)
    assert not np.array_equal(draft, other)
    assert main([*command[:-1], "colour"]) == 1
    assert "colour was not measured" in capsys.readouterr().err


def test_a_sweep_over_what_is_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pipeline = learned(("structure", "context"))
    pipeline.save_pretrained(tmp_path / "aware")
    tiny.picture(48, 48).save(tmp_path / "room.png")
    tiny.picture(30, 30, seed=1).save(tmp_path / "chair.png")
    command = ["sweep", str(tmp_path / "room.png"), "--exemplar", str(tmp_path / "chair.png"), "--box", "8,8,40,40"]
    command += ["--model", str(tmp_path / "aware"), "--device", "cpu", "--out", str(tmp_path / "sweep.png")]
    vary = ["--vary", "structure_scale=0,1.5", "--vary", "guidance_scale=1,3"]
    assert main([*command, *vary]) == 2
    assert "structure_scale goes with --structure" in capsys.readouterr().err
    assert main([*command, "--controlnet", "x"]) == 2
    assert "--controlnet goes with --structure" in capsys.readouterr().err
    cells = combinations([parse_axis(vary[1]), parse_axis(vary[3])])
    made = sweep_edit(
        Sweep(tmp_path / "room.png", exemplar=tmp_path / "chair.png", box="8,8,40,40"),
        pipeline,
        [cell | {"steps": 2} for cell in cells],
        Structure("edges"),
    )
    expected = pipeline.edit(
        tmp_path / "room.png",
        exemplar=tmp_path / "chair.png",
        box=(8, 8, 40, 40),
        structure="edges",
        structure_scale=1.5,
        guidance_scale=3.0,
        steps=2,
    )
    assert np.array_equal(made[3], np.asarray(expected.images[0]))
    assert len({picture.tobytes() for picture in made}) == 4

    # Over a benchmark, with the figures of what the same settings make of one picture.
    benchmark = open_benchmark(cocoee(tmp_path / "b"))
    item = benchmark[0]
    given: dict[str, Any] = {"steps": 1, "structure_scale": 1.5, "context": True}
    given |= {"source_exemplar": 0.5, "harmonise": "colour", "backend": "torch"}
    (swept,) = swept_method(pipeline, given, Structure("edges"))([item], [4])
    single = pipeline.edit(item.source, exemplar=item.exemplar, mask=item.mask, seed=4, structure="edges", **given)
    assert np.abs(swept.astype(int) - np.asarray(single.images[0])).max() <= 1
    (plain,) = swept_method(pipeline, {"steps": 1, "backend": "torch"})([item], [4])
    assert not np.array_equal(swept, plain)
    for settings, structure, problem in (
        ({"context": True}, None, "neither structure nor context"),
        ({}, Structure("edges"), "this model takes no structure"),
        ({"source_exemplar": 2.0}, None, "source_exemplar must be between 0 and 1"),
    ):
        with pytest.raises(UserError, match=problem):
            swept_method(tiny.embedded_pipeline(), settings, structure)
