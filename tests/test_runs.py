"""The laptop twins of the scripts in runs/, with a tiny model and tiny composites."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from paint_by_example import load_pipeline
from tests import tiny

ROOT = Path(__file__).parents[1]


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@pytest.mark.slow
@pytest.mark.parametrize("script", ["train_openimages", "finetune_lora"])
def test_a_laptop_twin_trains_a_model(script: str, models: dict[str, Path], tmp_path: Path) -> None:
    given = {"LAPTOP": 1, "OUT": tmp_path / "out", "INIT": models["embedded"], "STEPS": 2, "BATCH": 2, "EDITS": 2}
    given |= {"DATA": tiny.composites_folder(tmp_path / "composites"), "PORT": free_port()}
    given |= {name.upper(): Path(sys.executable).with_name(name) for name in ("pbe", "torchrun")}
    ended = subprocess.run(
        ["bash", str(ROOT / "runs" / f"{script}.sh")],
        env=os.environ | {name: str(value) for name, value in given.items()},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    assert "parameters that learn" in ended.stderr  # the dry run before it
    load_pipeline(tmp_path / "out" / "run" / "model", device="cpu")
    assert (tmp_path / "out" / "run" / "held_out.jsonl").read_text().count('"frechet"') == 1
