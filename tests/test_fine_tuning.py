"""The commands of docs/fine-tuning.md run as they stand there, but for their patience."""

import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from paint_by_example import cli, held_out, load_pipeline

TEXT = (Path(__file__).parents[1] / "docs" / "fine-tuning.md").read_text()


@pytest.fixture
def pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with room.png, mask.png, chair.png and the index's picture, as the working directory."""
    rng = np.random.default_rng(0)
    room = Image.fromarray(rng.integers(0, 256, (256, 320, 3), np.uint8))
    (line,) = re.findall(r"```json\n(.*?)\n```", TEXT, re.S)
    (tmp_path / json.loads(line)["picture"]).parent.mkdir()
    for name in ("room.png", json.loads(line)["picture"]):
        room.save(tmp_path / name)
    Image.fromarray(rng.integers(0, 256, (90, 70, 3), np.uint8)).save(tmp_path / "chair.png")
    mask = Image.new("L", (320, 256))
    mask.paste(255, (80, 60, 220, 200))
    mask.save(tmp_path / "mask.png")
    (tmp_path / "index.jsonl").write_text(line + "\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(held_out, "SAMPLES", 1)
    monkeypatch.setattr(held_out, "SAMPLE_STEPS", 1)
    return tmp_path


def test_the_commands_and_what_they_leave(pictures: Path, capsys: pytest.CaptureFixture[str]) -> None:
    block = re.findall(r"```sh\n(.*?)```", TEXT, re.S)[0]
    commands = [shlex.split(line)[1:] for line in block.splitlines()]
    assert [command[0] for command in commands] == ["train", "edit"]
    few = {"200": "2", "4": "2"}
    assert cli.main([few.get(word, word) for word in commands[0]] + ["--workers", "0"]) == 0, capsys.readouterr().err
    assert cli.main([*commands[1], "--steps", "2"]) == 0, capsys.readouterr().err
    assert (pictures / "out.png").exists()
    (code,) = re.findall(r"```python\n(.*?)```", TEXT, re.S)
    names: dict[str, object] = {"load_pipeline": load_pipeline}
    exec(code, names)
    assert names["pbe"].unet.peft_config  # type: ignore[attr-defined]
