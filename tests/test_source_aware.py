"""Edits that are told of what stood in the region: structure, a second exemplar; and results that are fitted to it."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from diffusers import ControlNetModel

from paint_by_example import PaintByExamplePipeline, UserError
from paint_by_example.cli import main
from paint_by_example.controlnet import Control
from paint_by_example.errors import PictureError
from paint_by_example.images import save_image
from paint_by_example.record import KEY, read_record
from paint_by_example.structure import Structure, edges
from tests import tiny

SOURCE = tiny.picture(60, 44)
EXEMPLAR = tiny.picture(40, 20, seed=1)
LEFT, RIGHT = (4, 6, 22, 30), (34, 10, 55, 40)


@pytest.fixture(scope="module")
def beside() -> PaintByExamplePipeline:
    """With a ControlNet of random weights."""
    pipeline = tiny.sd_pipeline()
    torch.manual_seed(1)
    network = ControlNetModel(
        block_out_channels=[32, 64, 64, 64], layers_per_block=1, cross_attention_dim=24, attention_head_dim=8
    ).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    pipeline.controlnet = Control(network, "tiny")
    return pipeline


def edit(pipeline: PaintByExamplePipeline, **given: Any) -> Any:
    asked: dict[str, Any] = {"exemplar": EXEMPLAR, "steps": 2, "box": LEFT}
    return pipeline.edit(SOURCE, **(asked | given))


def pixels(pipeline: PaintByExamplePipeline, **given: Any) -> np.ndarray:
    return np.asarray(edit(pipeline, **given).images[0]).astype(int)


def changed(one: np.ndarray, other: np.ndarray) -> tuple[float, float]:
    """Share of pixels that differ inside and outside of LEFT."""
    differs = (one != other).any(-1)
    inside = np.zeros(differs.shape, bool)
    inside[LEFT[1] : LEFT[3], LEFT[0] : LEFT[2]] = True
    return float(differs[inside].mean()), float(differs[~inside].mean())


def stored_record(path: Path) -> dict[str, Any]:
    with PIL.Image.open(path) as picture:
        stored: dict[str, Any] = json.loads(picture.info[KEY])
    return stored


# --- structure -------------------------------------------------------------------------------------------------------


def test_a_structure_changes_the_region_and_nothing_else(beside: PaintByExamplePipeline) -> None:
    plain = pixels(beside)
    told = pixels(beside, structure="edges")
    inside, outside = changed(told, plain)
    assert inside > 0.5
    assert outside == 0
    assert changed(told, pixels(beside, structure="soft-edges"))[0] > 0.1
    assert changed(pixels(beside, structure="edges", structure_scale=0), plain) == (0, 0)
    assert changed(pixels(beside, structure="edges", structure_scale=3.0), told)[0] > 0.1


def test_it_is_run_by_torch_and_the_record_says_so(beside: PaintByExamplePipeline) -> None:
    result = edit(beside, structure="edges", preset="exact")
    assert result.records[0].backend == "torch"
    assert changed(np.asarray(result.images[0]).astype(int), pixels(beside, structure="edges")) == (0, 0)


def test_a_model_that_takes_no_structure(pipeline: PaintByExamplePipeline) -> None:
    with pytest.raises(UserError, match="this model takes no structure; load a ControlNet or T2I-Adapter beside it"):
        edit(pipeline, structure="edges")
    with pytest.raises(UserError, match="unknown structure 'depth'"):
        edit(pipeline, structure="depth")


def test_a_part_of_the_model_is_told_where_there_is_one(beside: PaintByExamplePipeline) -> None:
    pipeline = tiny.sd_pipeline()
    plain = pixels(pipeline)
    pipeline.add_source_encoder(["structure"])
    told: dict[str, Any] = {"structure": "edges", "structure_scale": 1.0}
    assert changed(pixels(pipeline, **told), plain) == (0, 0)  # it has learned nothing yet
    with torch.no_grad():
        for parameter in pipeline.source_encoder.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    assert changed(pixels(pipeline, **told), plain)[0] > 0.3
    assert edit(pipeline, **told).records[0].structure.controlnet is None
    pipeline.controlnet = beside.controlnet  # takes its place
    assert changed(pixels(pipeline, **told), pixels(beside, **told)) == (0, 0)
    pipeline.unload_controlnet()
    assert edit(pipeline, **told).records[0].structure.controlnet is None


def test_the_maps_of_regions(pipeline: PaintByExamplePipeline) -> None:
    maps = pipeline.structure_maps(SOURCE, "edges", box=[LEFT, RIGHT])
    side = pipeline.image_size
    assert [one.size for one in maps] == [(side, side)] * 2
    assert maps[0].tobytes() != maps[1].tobytes()
    whole = PIL.Image.fromarray(edges(np.asarray(tiny.picture(side, side))))
    (seen,) = pipeline.structure_maps(tiny.picture(side, side), "edges", box=(0, 0, side, side))
    assert seen.tobytes() == whole.tobytes()


def test_a_sketch(pipeline: PaintByExamplePipeline, tmp_path: Path) -> None:
    drawing = PIL.Image.new("L", SOURCE.size, 255)
    drawing.paste(0, (10, 0, 12, 44))
    drawing.save(tmp_path / "sketch.png")
    (drawn,) = pipeline.structure_maps(SOURCE, Structure("sketch", tmp_path / "sketch.png"), box=(0, 0, 44, 44))
    columns = np.asarray(drawn)[..., 0].mean(0)
    assert np.argmax(columns) == pytest.approx(11 / 60 * pipeline.image_size, abs=2)  # the square is the longer side's
    assert columns.min() == 0
    drawing.resize((30, 22)).save(tmp_path / "small.png")
    with pytest.raises(PictureError, match="the sketch is 30 x 22 and the source 60 x 44; make them the same size"):
        pipeline.structure_maps(SOURCE, Structure("sketch", tmp_path / "small.png"), box=LEFT)


# --- a second exemplar, and fitting ----------------------------------------------------------------------------------


def test_the_region_as_a_second_exemplar(pipeline: PaintByExamplePipeline) -> None:
    plain = pixels(pipeline)
    assert changed(pixels(pipeline, source_exemplar=0), plain) == (0, 0)
    inside, outside = changed(pixels(pipeline, source_exemplar=0.5), plain)
    assert inside > 0.05
    assert outside == 0
    own = pixels(pipeline, exemplar=SOURCE.crop(LEFT))
    assert np.abs(pixels(pipeline, source_exemplar=1) - own).max() <= 2  # batches of three round otherwise
    with pytest.raises(UserError, match="source_exemplar must be between 0 and 1, got 2"):
        edit(pipeline, source_exemplar=2)


@pytest.mark.parametrize("way", ["colour", "poisson"])
@pytest.mark.parametrize("feather", [0, 3])
def test_harmonising_changes_the_region_and_nothing_else(
    pipelines: dict[str, PaintByExamplePipeline], way: Any, feather: int
) -> None:
    pipeline = pipelines["embedded"]
    plain, fitted = pixels(pipeline, feather=feather), pixels(pipeline, feather=feather, harmonise=way)
    inside, outside = changed(fitted, plain)
    assert inside > 0.3
    assert outside == 0
    assert changed(fitted, np.asarray(SOURCE).astype(int))[1] == 0


def test_a_way_to_harmonise_that_is_unknown(pipeline: PaintByExamplePipeline) -> None:
    with pytest.raises(UserError, match="unknown way to harmonise 'blur'; choose one of colour, poisson"):
        edit(pipeline, harmonise="blur")


# --- the record ------------------------------------------------------------------------------------------------------


def test_all_of_it_is_recorded_and_can_be_repeated(beside: PaintByExamplePipeline, tmp_path: Path) -> None:
    PIL.Image.new("L", SOURCE.size, 0).save(tmp_path / "sketch.png")
    given: dict[str, Any] = {
        "structure": Structure("sketch", tmp_path / "sketch.png"),
        "structure_scale": 1.5,
        "source_exemplar": 0.25,
        "harmonise": "colour",
    }
    made = edit(beside, **given)
    made.save(tmp_path / "out.png")
    stored = stored_record(tmp_path / "out.png")
    assert stored["structure"]["sketch"]["path"] == "sketch.png"  # from the result's folder
    record = read_record(tmp_path / "out.png")
    assert record == made.records[0]
    assert record.structure is not None
    assert record.structure.controlnet is not None
    assert record.structure.controlnet.path == "tiny"
    again = edit(beside, **{name: value for name, value in record.settings().items() if value is not None})
    assert again.images[0].tobytes() == made.images[0].tobytes()

    PIL.Image.new("L", SOURCE.size, 255).save(tmp_path / "sketch.png")
    with pytest.raises(PictureError, match=r"the sketch .*sketch.png of the recorded edit has changed since"):
        record.settings()


def test_an_older_record_has_none_of_it(pipeline: PaintByExamplePipeline, tmp_path: Path) -> None:
    made = edit(pipeline)
    made.save(tmp_path / "out.png")
    stored = stored_record(tmp_path / "out.png")
    for name in ("structure", "source_exemplar", "harmonise"):
        del stored[name]
    save_image(made.images[0], tmp_path / "old.png", info={KEY: json.dumps(stored)})
    assert read_record(tmp_path / "old.png") == made.records[0]


# --- the command -----------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """With a small model, a network beside it, and pictures."""
    pipeline = tiny.sd_pipeline()
    pipeline.save_pretrained(tmp_path / "model")
    torch.manual_seed(1)
    ControlNetModel(
        block_out_channels=[32, 64, 64, 64], layers_per_block=1, cross_attention_dim=24, attention_head_dim=8
    ).save_pretrained(tmp_path / "controlnet")
    SOURCE.save(tmp_path / "source.png")
    EXEMPLAR.save(tmp_path / "exemplar.png")
    monkeypatch.chdir(tmp_path)
    return tmp_path


MODEL = ["--model", "model", "--device", "cpu"]
WHERE = ["source.png", "--box", "4,6,22,30"]


def test_the_command_shows_and_tells_a_structure_and_repeats_it(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tell = ["--structure", "edges", "--controlnet", "controlnet", "--harmonise", "colour", "--source-exemplar", "0.2"]
    given = ["edit", *WHERE, *MODEL, "--exemplar", "exemplar.png", "--steps", "2", *tell]
    assert main([*given, "--structure-scale", "1.5", "--show-structure", "map.png"]) == 0
    record = read_record(folder / "out.png")
    assert record.structure is not None
    assert (record.structure.kind, record.structure.scale) == ("edges", 1.5)
    assert (record.source_exemplar, record.harmonise) == (0.2, "colour")
    shown = np.asarray(PIL.Image.open(folder / "map.png").copy())
    assert shown.shape == (64, 64, 3)
    assert set(np.unique(shown)) == {0, 255}

    assert main(["edit", "--from", "out.png", "--output", "again.png"]) == 0
    assert capsys.readouterr().out == "out.png\nagain.png\n"
    first, again = (PIL.Image.open(folder / name).copy() for name in ("out.png", "again.png"))
    assert again.tobytes() == first.tobytes()

    network = ControlNetModel.from_pretrained(folder / "controlnet")
    with torch.no_grad():
        network.conv_in.weight.add_(1)
    network.save_pretrained(folder / "controlnet")
    assert main(["edit", "--from", "out.png"]) == 1
    assert "the ControlNet" in (error := capsys.readouterr().err)
    assert "is not the recorded one; give --controlnet to use it nevertheless" in error


def test_a_map_alone_needs_no_exemplar_and_no_network(
    pipelines: dict[str, PaintByExamplePipeline], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    PIL.Image.new("L", SOURCE.size, 255).save("drawing.png")
    two = [*WHERE, "--box", "34,10,55,40"]
    assert main(["edit", *two, *MODEL, "--structure", "sketch=drawing.png", "--show-structure", "map.png"]) == 0
    assert capsys.readouterr().out == "map.png\n"
    with PIL.Image.open("map.png") as shown:
        assert shown.width > 128


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--structure-scale", "2"], "--structure-scale goes with --structure"),
        (["--controlnet", "controlnet"], "--controlnet goes with --structure"),
        (["--structure", "edges"], "this model takes no structure; load a ControlNet or T2I-Adapter beside it"),
        (["--structure", "depth"], "unknown structure 'depth'; choose one of edges, soft-edges, pose, sketch=FILE"),
        (["--structure", "edges", "--controlnet", "nowhere/"], "cannot load the ControlNet or T2I-Adapter nowhere/"),
        (["--structure", "pose", "--pose-models", "model", "--controlnet", "controlnet"], "pip download --no-deps"),
    ],
)
def test_mistakes_of_the_command(
    folder: Path, given: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["edit", *WHERE, *MODEL, "--exemplar", "exemplar.png", *given]) in (1, 2)
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
