"""The README's code runs as it stands there, on pictures made here under the names it uses."""

import json
import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from paint_by_example import PaintByExamplePipeline, cli

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
COMMANDS = [line for block in re.findall(r"```sh\n(.*?)```", README, re.S) for line in block.splitlines()]


@pytest.fixture
def pictures(tmp_path, monkeypatch):
    """A folder with room.png, mask.png, chair.png and a training picture under its index, as the working directory."""
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (256, 320, 3), np.uint8)).save(tmp_path / "room.png")
    Image.fromarray(rng.integers(0, 256, (90, 70, 3), np.uint8)).save(tmp_path / "chair.png")
    mask = np.zeros((256, 320), np.uint8)
    mask[60:200, 80:220] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    (line,) = re.findall(r"```json\n(.*?)\n```", README, re.S)
    picture = tmp_path / json.loads(line)["picture"]
    picture.parent.mkdir()
    Image.open(tmp_path / "room.png").save(picture)
    (tmp_path / "index.jsonl").write_text(line + "\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_python_blocks(pictures):
    from paint_by_example.checkpoint import EMBEDDED

    names: dict[str, Any] = {
        "folder": str(EMBEDDED),
        "image": Image.open("room.png"),
        "mask": Image.open("mask.png"),
        "example": Image.open("chair.png"),
    }
    blocks = re.findall(r"```python\n(.*?)```", README, re.S)
    assert len(blocks) == 2
    for block in blocks:
        exec(block, names)
    out, room, mask = (np.asarray(Image.open(pictures / name)) for name in ("out.png", "room.png", "mask.png"))
    np.testing.assert_array_equal(out[mask == 0], room[mask == 0])
    assert (out[mask > 0] != room[mask > 0]).mean() > 0.5
    assert isinstance(names["pipe"], PaintByExamplePipeline)
    assert names["image"].size == (320, 256)


def test_commands(pictures, capsys):
    commands = [shlex.split(line)[1:] for line in COMMANDS if line.startswith(".venv/bin/pbe ")]
    assert {command[0] for command in commands} == {"edit", "info", "train"}
    for command in commands:
        few = ["2" if word == "2000" else word for word in command]  # the one place where the README has patience
        few += ["--batch-size", "2", "--workers", "0"] if command[0] == "train" else []
        assert cli.main(few) == 0, capsys.readouterr().err
    assert (pictures / "strip.png").exists()


def test_make_targets_and_files_exist():
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"^make ([a-z-]+)", README, re.M):
        assert f"\n{target}:" in makefile
    for name in re.findall(r"^  ([a-z]+\.py|[a-z]+/) ", README, re.M):
        assert (ROOT / "src" / "paint_by_example" / name).exists(), name
    for path in re.findall(r"(?:docs|runs|benchmarks)/[\w./-]+\.\w+", README):
        assert (ROOT / path).exists(), path
