"""The command: what it answers, where it writes it, how it fails."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from itertools import groupby
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from paint_by_example.cli import COMMANDS, main
from paint_by_example.cli.models import flatten
from paint_by_example.errors import ModelError
from paint_by_example.record import File, Record, Region, read_record
from tests import tiny

HEAVY = ("torch", "diffusers", "transformers", "numpy", "cv2", "PIL")


class FakePipeline:
    """Fills the whole picture with one colour, and keeps what it was asked for."""

    def __init__(self) -> None:
        self.asked: dict[str, Any] = {}

    def edit(self, source: Image.Image, *, on_step: Callable[[Any], None], **asked: Any) -> SimpleNamespace:
        self.asked = asked
        for index in range(3):
            on_step(SimpleNamespace(index=index, total=3))
        picture = Image.new("RGB", source.size, "red")
        regions = len(asked["mask"]) if isinstance(asked["mask"], list) else 1
        record = Record(
            version="0",
            model=File(None, "m"),
            source=File(None, "s"),
            regions=(Region(((File(None, "e"), 1.0),), mask=File(None, "r")),) * regions,
            seed=asked["seed"],
            guidance_scale=5.0,
            steps=3,
            scheduler=None,
            eta=0.0,
            strength=1.0,
            guidance_rescale=0.0,
            feather=0,
            compat=None,
        )
        return SimpleNamespace(images=[picture], records=[record], steps=3, guidance_scale=5.0, seconds=0.25)


@pytest.fixture
def pipeline(monkeypatch: pytest.MonkeyPatch) -> FakePipeline:
    fake = FakePipeline()
    module = ModuleType("paint_by_example.pipeline")

    def load_pipeline(model: str, device: str | None = None) -> FakePipeline:
        if model != "embedded":
            raise ModelError(f"no model at {model}")
        return fake

    module.load_pipeline = load_pipeline  # type: ignore[attr-defined]
    module.describe = lambda model: {"model": model, "parts": {"unet": {"parameters": 12345}}}  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "paint_by_example.pipeline", module)
    return fake


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with source.png (40 x 30), mask.png and exemplar.png."""
    Image.new("RGB", (40, 30), "blue").save(tmp_path / "source.png")
    mask = Image.new("L", (40, 30))
    mask.paste(255, (10, 5, 20, 25))
    mask.save(tmp_path / "mask.png")
    Image.new("RGB", (16, 16), "red").save(tmp_path / "exemplar.png")
    monkeypatch.chdir(tmp_path)
    return tmp_path


EDIT = ("edit", "source.png", "--exemplar", "exemplar.png")


def one_error_line(capsys: pytest.CaptureFixture[str]) -> str:
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert captured.err.startswith("pbe: error: ")
    return captured.err


@pytest.mark.parametrize("arguments", [["--help"], ["edit", "--help"], ["prepare", "--help"], ["frobnicate"]])
def test_help_and_mistakes_load_nothing_heavy(arguments: list[str]) -> None:
    code = f"import sys; from paint_by_example.cli import main; main({arguments}); print(*sys.modules)"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(ran.stdout.splitlines()[-1].split())
    assert "paint_by_example.cli" in loaded
    assert loaded.isdisjoint(HEAVY)


@pytest.mark.parametrize("arguments", [[], ["-h"], ["--help"]])
def test_help_lists_every_command(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 0
    listed = [line.split()[0] for line in capsys.readouterr().out.splitlines() if line.startswith("  ")]
    assert listed == list(COMMANDS)


def test_help_of_a_command_goes_to_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["edit", "--help"]) == 0
    captured = capsys.readouterr()
    assert "--guidance-scale" in captured.out
    assert captured.err == ""


def test_help_of_train_shows_the_options_of_the_trainer(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--help"]) == 0
    assert "--learning-rate" in capsys.readouterr().out


GROUPS = ("library add", "library search", "library remove", "evaluate score", "evaluate run", "study serve")


@pytest.mark.parametrize("name", [*COMMANDS, *GROUPS])
def test_help_is_as_wide_as_the_terminal(
    name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "80")
    assert main([*name.split(), "--help"]) == 0
    printed = capsys.readouterr().out
    assert max(map(len, printed.splitlines())) <= 80
    # A text is one paragraph; a default that says nothing is left to it.
    assert not re.search(r"default: (None|True|False)?\)", printed)
    assert "\x1b" not in printed
    assert "\n\n  " not in printed


def test_help_of_an_option_is_one_paragraph(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "400")
    assert main(["train", "--help"]) == 0
    (line,) = (line for line in capsys.readouterr().out.splitlines() if "--held-out PATH" in line)
    assert line.endswith("are taken.")  # the end of a text that takes two lines in the code


def test_help_of_a_group_says_where_to_go_on(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["library", "--help"]) == 0
    assert "pbe library COMMAND --help" in " ".join(capsys.readouterr().out.split())


def test_completion_for_a_shell_is_left_as_tyro_writes_it(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    assert main(["info", "--tyro-print-completion", "bash"]) == 0
    assert max(map(len, capsys.readouterr().out.splitlines())) > 40


def test_unknown_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["frobnicate"]) == 2
    assert "'frobnicate'" in one_error_line(capsys)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([*EDIT], ("--mask", "--box")),
        ([*EDIT, "--mask", "mask.png", "--box", "1,2,3,4"], ("--mask", "--box")),
        ([*EDIT, "--box", "1,2,3,4", "--steps", "many"], ("--steps", "many")),
        ([*EDIT, "--box", "1,2,3,4", "--setps", "5"], ("--setps",)),
        (["edit", "source.png", "--box", "1,2,3,4"], ("--exemplar",)),
        (["edit", "--exemplar", "exemplar.png", "--box", "1,2,3,4"], ("SOURCE",)),
        (["info", "embedded", "more"], ("more",)),
    ],
)
def test_usage_errors_are_one_line(
    arguments: list[str], words: tuple[str, ...], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    line = one_error_line(capsys)
    assert all(word in line for word in words)
    assert line.endswith(f"(see pbe {arguments[0]} --help)\n")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["edit", "missing.png", "--exemplar", "exemplar.png", "--mask", "mask.png"], "source missing.png"),
        (["edit", "source.png", "--exemplar", "missing.png", "--mask", "mask.png"], "exemplar missing.png"),
        ([*EDIT, "--mask", "missing.png"], "mask missing.png"),
        ([*EDIT, "--mask", "exemplar.png"], "16 x 16"),
        ([*EDIT, "--box", "1,2,3"], "'1,2,3'"),
        ([*EDIT, "--box", "5,2,3,4"], "5,2,3,4 is empty"),
        ([*EDIT, "--mask", "mask.png", "--output", "out.xyz"], "out.xyz"),
        ([*EDIT, "--mask", "mask.png", "--strip", "nowhere/strip.png"], "nowhere"),
        ([*EDIT, "--mask", "mask.png", "--model", "elsewhere"], "elsewhere"),
    ],
)
def test_errors_of_the_user_are_one_line(
    arguments: list[str], words: str, folder: Path, pipeline: FakePipeline, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 1
    assert words in one_error_line(capsys)
    assert pipeline.asked == {}
    assert not (folder / "out.png").exists()


def test_edit_saves_the_result_and_prints_its_path(
    folder: Path, pipeline: FakePipeline, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*EDIT, "--mask", "mask.png", "--seed", "7"]) == 0
    captured = capsys.readouterr()
    assert captured.out == "out.png\n"
    assert "3/3" in captured.err  # the progress bar
    with Image.open("out.png") as out:
        assert out.size == (40, 30)
        assert out.getpixel((0, 0)) == (255, 0, 0)
    assert set(pipeline.asked) == {"mask", "exemplar", "seed"}  # the rest is left to the pipeline
    assert pipeline.asked["seed"] == 7
    assert pipeline.asked["mask"].sum() == 10 * 20


def test_a_box_is_the_mask_of_that_box(folder: Path, pipeline: FakePipeline) -> None:
    assert main([*EDIT, "--box", "10,5,20,25"]) == 0
    mask = pipeline.asked["mask"]
    assert mask.sum() == 10 * 20
    assert mask[5:25, 10:20].all()


def test_options_that_are_given_reach_the_pipeline(folder: Path, pipeline: FakePipeline) -> None:
    options = ["--guidance-scale", "0", "--steps", "9", "--scheduler", "ddim", "--feather", "0"]
    assert main([*EDIT, "--mask", "mask.png", *options]) == 0
    given = {name: pipeline.asked[name] for name in ("guidance_scale", "steps", "scheduler", "feather")}
    assert given == {"guidance_scale": 0.0, "steps": 9, "scheduler": "ddim", "feather": 0}


def test_json_is_one_object_on_stdout(folder: Path, pipeline: FakePipeline, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*EDIT, "--mask", "mask.png", "--output", "new.png", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report == {
        "output": "new.png",
        "seed": 0,
        "steps": 3,
        "guidance_scale": 5.0,
        "preset": None,
        "backend": "torch",
        "seconds": 0.25,
        "size": [40, 30],
    }


def test_strip_shows_four_pictures(folder: Path, pipeline: FakePipeline) -> None:
    assert main([*EDIT, "--mask", "mask.png", "--strip", "strip.png"]) == 0
    with Image.open("strip.png") as strip:
        row = [strip.getpixel((x, strip.height // 2)) for x in range(strip.width)]
    names = {(0, 0, 255): "blue", (0, 0, 0): "black", (255, 0, 0): "red", (255, 255, 255): "white"}
    bands = [name for name, _ in groupby(names[pixel] for pixel in row if pixel in names)]  # not what is between two
    assert bands == ["white", "blue", "white", "black", "white", "black", "white", "red", "white", "red", "white"]


def test_a_result_says_how_it_was_made(folder: Path, pipeline: FakePipeline) -> None:
    (folder / "results").mkdir()
    assert main([*EDIT, "--mask", "mask.png", "--seed", "7", "--output", "results/out.png"]) == 0
    with Image.open("results/out.png") as out:
        text = out.info["paint_by_example"]
    assert str(folder) not in text  # paths are relative: to share a result is not to tell where it was made
    made = read_record("results/out.png")
    assert (made.seed, made.model.path) == (7, "embedded")
    assert made.source.path is not None
    assert Path(made.source.path).resolve() == folder / "source.png"
    (region,) = made.regions
    assert region.mask is not None
    assert Path(region.mask.path or "").resolve() == folder / "mask.png"
    assert Path(region.exemplars[0][0].path or "").resolve() == folder / "exemplar.png"


def test_a_region_for_each_mask(folder: Path, pipeline: FakePipeline) -> None:
    assert main([*EDIT, "--box", "1,1,5,5", "--box", "20,5,30,9", "--exemplar", "source.png"]) == 0
    assert [mask.sum() for mask in pipeline.asked["mask"]] == [16, 40]
    assert [exemplar.size for exemplar in pipeline.asked["exemplar"]] == [(16, 16), (40, 30)]


def test_info(pipeline: FakePipeline, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", "embedded"]) == 0
    assert capsys.readouterr().out == "model                  embedded\nparts.unet.parameters  12,345\n"
    assert main(["info", "embedded", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["parts"]["unet"]["parameters"] == 12345


def test_flatten_keeps_order_and_leaves_text_alone() -> None:
    assert flatten({"b": {"y": 1000, "x": True}, "a": "1000"}) == [("b.y", "1,000"), ("b.x", "True"), ("a", "1000")]


def test_prepare_says_what_came_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    module = ModuleType("paint_by_example.data.composites")
    folders: list[Path] = []

    def prepare(downloads: Path, out: Path) -> dict[str, int]:
        folders.extend((downloads, out))
        return {"objects": 2702}

    module.prepare = prepare  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "paint_by_example.data.composites", module)
    monkeypatch.setattr("paint_by_example.data.composites", module, raising=False)
    assert main(["prepare", "composites", str(tmp_path / "out"), "--downloads", str(tmp_path)]) == 0
    assert folders == [tmp_path, tmp_path / "out"]
    assert capsys.readouterr().out == "objects  2,702\n"


def test_interrupt_is_quiet(
    folder: Path, pipeline: FakePipeline, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(pipeline, "edit", interrupted)
    assert main([*EDIT, "--mask", "mask.png"]) == 130
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    assert captured.out == ""


def test_a_reader_that_left_is_no_error() -> None:
    command = f"{sys.executable} -m paint_by_example --help"
    ran = subprocess.run(
        ["bash", "-c", f"{{ sleep 0.1; {command}; echo $? >&3; }} 3>&2 | true"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert ran.stderr == "141\n"


# From end to end, with a model as small as it can be


def train_options(tmp_path: Path, models: dict[str, Path]) -> list[str]:
    fast = "--steps 3 --batch-size 2 --workers 0 --warmup-steps 0 --learning-rate 1e-3 --log-every 1 --device cpu"
    return ["train", "--init", str(models["embedded"]), "--output", str(tmp_path / "run"), *fast.split()]


def test_edit_really_paints_inside_the_mask_and_nowhere_else(
    folder: Path, family: str, models: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    tiny.picture(40, 30).save("source.png")
    options = ["--model", str(models[family]), "--device", "cpu", "--steps", "2", "--seed", "7", "--json"]
    assert main([*EDIT, "--mask", "mask.png", *options, "--strip", "strip.png"]) == 0
    captured = capsys.readouterr()
    report = json.loads(captured.out)
    assert report.pop("seconds") > 0
    told = {"seed": 7, "steps": 2, "guidance_scale": 5.0, "preset": None, "backend": "torch", "size": [40, 30]}
    assert report == {"output": "out.png"} | told
    assert "painting: 100%" in captured.err
    source, mask, out = (np.asarray(Image.open(name)) for name in ("source.png", "mask.png", "out.png"))
    changed = (source != out).any(-1)
    assert not changed[mask == 0].any()
    assert changed[mask == 255].mean() > 0.9
    assert Path("strip.png").stat().st_size > 0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--steps", "5000"], "steps must be between 1 and 1000, got 5000"),
        (["--steps", "0"], "got 0"),
        (["--seed", "-1"], "seed"),
        (["--guidance-scale", "nan"], "guidance_scale"),
        (["--feather", "-3"], "feather"),
        (["--scheduler", "euler"], "'euler'"),
        (["--device", "quantum"], "'quantum'"),
        (["--model", "nowhere"], "no model at nowhere"),
        (["--model", "."], "no model_index.json"),
        (["--model", "source.png"], "source.png is no file of weights"),
    ],
)
def test_settings_that_cannot_be_are_one_line(
    options: list[str], words: str, folder: Path, models: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*EDIT, "--mask", "mask.png", "--model", str(models["embedded"]), *options]) == 1
    assert words in one_error_line(capsys)
    assert not Path("out.png").exists()


def pixels_of(name: str) -> np.ndarray:
    with Image.open(name) as picture:
        return np.asarray(picture)


@pytest.fixture
def made(folder: Path, models: dict[str, Path]) -> Path:
    """A result of settings that are all other than the defaults, in the working folder, with a model beside it."""
    tiny.picture(40, 30).save("source.png")
    mask = Image.new("L", (40, 30))
    mask.paste(255, (11, 6, 24, 23))  # not on the grid of the latents
    mask.save("mask.png")
    shutil.copytree(models["embedded"], "model")
    settings = "--seed 7 --steps 4 --guidance-scale 2.5 --strength 0.7 --eta 0.5 --guidance-rescale 0.4 --feather 2"
    options = f"--mask mask.png --model model --scheduler ddim --compat original {settings} --output made.png"
    assert main([*EDIT, *options.split()]) == 0
    return folder


FROM = ("edit", "--from", "made.png", "--output", "again.png")


def test_an_edit_is_repeated_from_its_result_bit_for_bit(made: Path) -> None:
    assert main([*FROM]) == 0
    assert (pixels_of("again.png") == pixels_of("made.png")).all()
    assert read_record("again.png") == read_record("made.png")
    assert main([*FROM, "--seed", "8"]) == 0
    assert (pixels_of("again.png") != pixels_of("made.png")).any()
    assert read_record("again.png").seed == 8
    for other in (
        "--guidance-scale 1",
        "--strength 1",
        "--eta 0",
        "--guidance-rescale 0",
        "--compat none",
        "--feather 0",
    ):
        assert main([*FROM, *other.split()]) == 0
        assert (pixels_of("again.png") != pixels_of("made.png")).any(), other


def test_a_folder_of_an_edit_may_be_moved(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    moved = tmp_path / "moved"
    moved.mkdir()
    for name in ("source.png", "mask.png", "exemplar.png", "made.png", "model"):
        shutil.move(name, moved / name)
    assert main(["edit", "--from", "moved/made.png", "--output", "again.png"]) == 0
    assert (pixels_of("again.png") == pixels_of("moved/made.png")).all()


def test_regions_are_repeated_too(folder: Path, models: dict[str, Path]) -> None:
    tiny.picture(40, 30).save("source.png")
    boxes = ["--box", "1,1,9,9", "--box", "5,5,20,20"]
    rest = ["--model", str(models["embedded"]), "--steps", "2", "--output", "made.png"]
    assert main([*EDIT, *boxes, "--exemplar", "mask.png", *rest]) == 0
    assert main([*FROM]) == 0
    assert (pixels_of("again.png") == pixels_of("made.png")).all()
    assert main([*EDIT, *boxes, *rest, "--output", "made.png"]) == 0  # one exemplar for both
    assert main([*FROM]) == 0
    assert (pixels_of("again.png") == pixels_of("made.png")).all()
    assert len(read_record("again.png").regions) == 2


def test_what_an_edit_was_made_of_may_be_replaced(made: Path) -> None:
    tiny.picture(20, 20, seed=3).save("other.png")
    for other in ("--exemplar other.png", "--box 2,2,9,9"):
        assert main([*FROM, *other.split()]) == 0
        assert (pixels_of("again.png") != pixels_of("made.png")).any(), other
    assert read_record("again.png").regions[0].box == (2, 2, 9, 9)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("source.png", "the source source.png of the recorded edit has changed since; give SOURCE"),
        ("mask.png", "the mask mask.png of the recorded edit has changed since; give --mask"),
        ("exemplar.png", "the exemplar exemplar.png of the recorded edit has changed since; give --exemplar"),
    ],
)
def test_what_is_gone_or_changed_is_one_line(
    name: str, words: str, made: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changed = Image.open(name).convert("RGB")
    changed.putpixel((12, 7), (0, 1, 2))
    changed.save(name)
    capsys.readouterr()
    assert main([*FROM]) == 1
    assert words in one_error_line(capsys)
    Path(name).unlink()
    assert main([*FROM]) == 1
    assert f"{name} of the recorded edit is gone" in one_error_line(capsys)
    assert not Path("again.png").exists()


def test_another_model_is_one_line(made: Path, models: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree("model")
    shutil.copytree(models["clip"], "model")
    capsys.readouterr()
    assert main([*FROM]) == 1
    assert "the model model is not the one that made made.png; give --model" in one_error_line(capsys)
    assert main([*FROM, "--model", "model", "--eta", "0"]) == 0


@pytest.mark.parametrize("kind", ["missing", "no png", "plain png", "damaged", "empty"])
def test_a_result_that_says_nothing_is_one_line(kind: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if kind == "no png":
        Path("made.png").write_text("text")
    elif kind != "missing":
        text = PngInfo()
        if kind != "plain png":
            text.add_text("paint_by_example", "{}" if kind == "empty" else "{")
        Image.new("RGB", (4, 4)).save("made.png", pnginfo=text)
    assert main([*FROM]) == 1
    assert "cannot read how made.png was made" in one_error_line(capsys)


def test_info_of_a_folder(family: str, models: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", str(models[family]), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["parts"]["unet"]["class"] == "UNet2DConditionModel"
    assert report["image_size"] == tiny.IMAGE
    assert main(["info", str(models[family])]) == 0
    captured = capsys.readouterr()
    assert f"{report['parameters']:,}" in captured.out
    assert captured.err == ""


@pytest.mark.usefixtures("small_grids")
def test_train_then_edit(
    tmp_path: Path, models: dict[str, Path], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    index = tiny.box_index(tmp_path / "boxes")
    assert main([*train_options(tmp_path, models), "--data", str(index)]) == 0
    captured = capsys.readouterr()
    assert captured.out == f"{tmp_path / 'run' / 'model'}\n"
    assert "3/3" in captured.err
    assert len((tmp_path / "run" / "log.jsonl").read_text().splitlines()) == 3
    trained = captured.out.strip()
    assert main([*EDIT, "--box", "1,2,9,9", "--model", trained, "--steps", "1"]) == 0
    assert capsys.readouterr().out == "out.png\n"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--data", "nowhere.jsonl"], "nowhere.jsonl"),
        (["--data", "."], "composites.jsonl"),
        (["--data", "source.png"], "source.png"),
        (["--data", "index.jsonl", "--drop-exemplar", "2"], "drop_exemplar"),
        (["--data", "index.jsonl", "--init", "nowhere"], "no model at nowhere"),
        (["--data", "index.jsonl", "--device", "quantum"], "'quantum'"),
        (["--data", "index.jsonl"], "index.jsonl, line 1"),
    ],
)
def test_training_that_cannot_be_is_one_line(
    options: list[str],
    words: str,
    folder: Path,
    tmp_path: Path,
    models: dict[str, Path],
    capsys: pytest.CaptureFixture[str],
) -> None:
    Path("index.jsonl").write_text("{}\n")
    assert main([*train_options(tmp_path, models), *options]) == 1
    assert words in one_error_line(capsys)


def test_prepare_without_downloads_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["prepare", "composites", str(tmp_path / "out"), "--downloads", str(tmp_path)]) == 1
    assert str(tmp_path) in one_error_line(capsys)
