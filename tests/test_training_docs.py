"""The commands of docs/training.md run as they stand there, but for their patience and the model they start from."""

import json
import re
import shlex
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from paint_by_example import cli, held_out
from paint_by_example.data.recipes import RECIPES, Recipe
from tests import tiny

TEXT = (Path(__file__).parents[1] / "docs" / "training.md").read_text()
ROWS = {  # of each setting in which recipes differ, the row that tells it
    "min_area": "boxes drawn, share of the picture",
    "truncate_boxes": "fractions of a box's pixels",
    "warps": "warp of the exemplar",
    "remove_background": "background of the exemplar",
    "tight_share": "box before the mask is drawn",
    "points_per_side": "points on a side's curve",
    "drop_points": "points left out",
    "points_may_stay": "a point moves on each axis by",
    "jitter_in_picture": "those pixels are",
    "squash": "a box that no square crop holds",
    "antialias": "shrinking of source and exemplar",
    "soft_mask": "the mask when it shrinks",
    "drop_together": "exemplar dropped for the null token, 1 in 5",
    "sample_latents": "latents of source and masked source",
    "max_grad_norm": "gradient",
    "ema_decay": "moving average of the weights",
    "warmup_steps": "warm-up, steps",
    "batch_size": "examples a step",
}
FEWER = {"200": "2", "100": "2"}


def commands() -> Iterator[list[str]]:
    """Those that are ours and need nothing that is elsewhere."""
    for block in re.findall(r"```sh\n(.*?)```", TEXT, re.S):
        for line in block.splitlines():
            if line.startswith(".venv/bin/pbe "):
                yield shlex.split(line)[1:]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with all that the commands name, as the working directory."""
    index = tiny.box_index(tmp_path / "boxes")
    for name in ("index.jsonl", "other.jsonl"):
        lines = [json.loads(line) for line in index.read_text().splitlines()]
        entries = [json.dumps(line | {"picture": f"boxes/{line['picture']}"}) for line in lines]
        (tmp_path / name).write_text("\n".join(entries) + "\n")
    for name in ("room.png", "chair.png"):
        tiny.picture(64, 48).save(tmp_path / name)
    mask = np.zeros((48, 64), np.uint8)
    mask[10:30, 20:50] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(held_out, "SAMPLES", 1)
    monkeypatch.setattr(held_out, "SAMPLE_STEPS", 1)
    return tmp_path


def test_every_command(folder: Path, models: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    asked = list(commands())
    assert {command[0] for command in asked} == {"train", "edit", "info", "convert"}
    for command in asked:
        few = [FEWER.get(word, word).replace("embedded", str(models["embedded"])) for word in command]
        if command[0] == "train":
            few += ["--workers", "0", "--device", "cpu"]
        if command[0] == "convert":  # to the released architecture's layout, which the embedded model does not have
            assert cli.main(few) == 1
            continue
        assert cli.main(few) == 0, capsys.readouterr().err
    assert (folder / "runs-out" / "judged" / "tensorboard").is_dir()
    assert json.loads((folder / "runs-out" / "theirs" / "config.json").read_text())["drop_together"] == 4
    assert json.loads((folder / "runs-out" / "small" / "config.json").read_text())["accumulate"] == 8


def test_options_that_are_named_are_there(capsys: pytest.CaptureFixture[str]) -> None:
    known = set()
    for command in ("train", "prepare", "edit"):
        assert cli.main([command, "--help"]) == 0
        known |= set(re.findall(r"--[a-z][a-z0-9-]+", capsys.readouterr().out))
    torchrun = {"--nproc-per-node", "--nnodes", "--node-rank", "--master-addr", "--master-port"}
    own = {"--pictures", "--repeats", "--no-full-size"}  # of benchmarks
    assert not set(re.findall(r"(?<![\w-])--[a-z][a-z0-9-]+", TEXT)) - known - torchrun - own


def test_the_table_of_differences_says_what_the_recipes_do() -> None:
    rows = {
        cells[0].strip(): cells[1:4]
        for cells in (line.split("|")[1:] for line in TEXT.splitlines() if line[:2] == "| ")
    }
    assert [cell.split()[0] for cell in rows["examples a step"]] == [f"{r.batch_size}" for r in RECIPES.values()]
    assert [cell.split()[0] for cell in rows["warm-up, steps"]] == [f"{r.warmup_steps:,}" for r in RECIPES.values()]
    kept = ["kept" in cell for cell in rows["moving average of the weights"]]
    assert kept == [bool(recipe.ema_decay) for recipe in RECIPES.values()]
    limited = ["scaled" in cell for cell in rows["gradient"]]
    assert limited == [bool(recipe.max_grad_norm) for recipe in RECIPES.values()]
    together = ["four" in cell for cell in rows["exemplar dropped for the null token, 1 in 5"]]
    assert together == [recipe.drop_together == 4 for recipe in RECIPES.values()]
    drawn = ["drawn" in cell for cell in rows["latents of source and masked source"]]
    assert drawn == [recipe.sample_latents for recipe in RECIPES.values()]
    assert set(ROWS.values()) <= set(rows)
    for name in ROWS:
        values = [getattr(recipe, name) for recipe in RECIPES.values()]
        if values[0] != values[1]:
            assert rows[ROWS[name]][0].split(" (")[0] != rows[ROWS[name]][1].split(" (")[0], name
    differing = {
        field.name for field in fields(Recipe) if len({getattr(recipe, field.name) for recipe in RECIPES.values()}) > 1
    }
    assert differing == set(ROWS)
    counts = [cell.split(",")[0].split()[0] for cell in rows["points on a side's curve"]]
    assert counts == [f"{recipe.points_per_side}" for recipe in RECIPES.values()]
