"""Runs that are killed with signal 9 at random moments, and go on as if they had not been.

The processes are forked from one that has imported everything and computed nothing, so that a run costs its steps only.
"""

import json
import multiprocessing
import random
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from paint_by_example import held_out, load_pipeline, training
from paint_by_example.training import TrainConfig
from tests import tiny

PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["tests.test_crash"])


def run(settings: dict[str, Any]) -> None:
    """What a process does."""
    torch.set_num_threads(1)
    held_out.SAMPLES, held_out.SAMPLE_STEPS = 1, 1
    training.train(TrainConfig(**settings))


def start(settings: dict[str, Any]) -> Any:
    process = PROCESSES.Process(target=run, args=(settings,))
    process.start()
    return process


def complete(settings: dict[str, Any]) -> float:
    """Run to the end; gives the seconds it took."""
    since = time.perf_counter()
    process = start(settings)
    process.join()
    assert process.exitcode == 0
    return time.perf_counter() - since


def wait_for_step(process: Any, folder: Path, step: int) -> None:
    """Wait until a run has logged a step."""
    log = folder / "log.jsonl"
    while not (log.exists() and any(step <= line for line, *_ in values(folder))):
        assert process.is_alive(), f"the run ended before step {step}"
        time.sleep(0.005)


def check_whole(folder: Path) -> None:
    """Every file under its own name can be read."""
    for path in folder.rglob("*"):
        if path.suffix == ".pt":
            torch.load(path, weights_only=True)
        elif path.suffix == ".png":
            with Image.open(path) as picture:
                picture.load()
        elif path.name == "log.jsonl":
            assert all(json.loads(line) for line in path.read_text().splitlines())
        elif path == folder / "config.json":
            json.loads(path.read_text())
    if (folder / "model").exists():
        load_pipeline(folder / "model", device="cpu")


def same(first: Any, second: Any) -> bool:
    """Whether two nested states are equal bit for bit."""
    if isinstance(first, torch.Tensor):
        return torch.equal(first, second)
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same(value, second[key]) for key, value in first.items())
    if isinstance(first, list | tuple):
        return len(first) == len(second) and all(map(same, first, second))
    return bool(first == second)


def values(folder: Path) -> list[tuple[int, float, float]]:
    """The log, without how fast it went; of a run that goes on, without the line it is writing."""
    lines = map(json.loads, (folder / "log.jsonl").read_text().rpartition("\n")[0].splitlines())
    return [(line["step"], line["loss"], line["learning_rate"]) for line in lines]


@pytest.mark.chaos
@pytest.mark.parametrize("kills", [2, pytest.param(20, marks=pytest.mark.slow)])
def test_a_run_killed_at_random_moments_is_the_run_that_was_not(
    kills: int, models: dict[str, Path], tmp_path: Path
) -> None:
    settings: dict[str, Any] = {
        "data": tiny.composites_folder(tmp_path / "composites"),
        "init": str(models["embedded"]),
        "steps": (steps := 6 * kills),
        "batch_size": 2,
        "learning_rate": 1e-3,
        "warmup_steps": 4,
        "decay_steps": 4,
        "log_every": 1,
        "checkpoint_every": 2,
        "sample_every": 5,
        "workers": 0,
        "device": "cpu",
    }
    complete(settings | {"output": tmp_path / "warm-up", "steps": 1})  # also starts the process that is forked from
    complete(settings | {"output": tmp_path / "whole"})
    start_up = complete(settings | {"output": tmp_path / "whole"})  # there is nothing left to do
    moments = random.Random(0)
    killed = {"output": tmp_path / "killed"}
    for number in range(kills):
        process = start(settings | killed)
        if number % 2:  # a moment after some step, further on each time
            wait_for_step(process, tmp_path / "killed", steps * number // kills)
            time.sleep(moments.uniform(0, 0.1))
        else:  # while it reads what the one before left
            process.join(moments.uniform(0, start_up))
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        check_whole(tmp_path / "killed")
    complete(settings | killed)
    assert values(tmp_path / "killed") == values(tmp_path / "whole")
    assert len(values(tmp_path / "whole")) == steps
    ends = [tmp_path / name for name in ("killed", "whole")]
    assert same(*(torch.load(end / "checkpoints" / f"step-{steps:07d}.pt", weights_only=True) for end in ends))
    grids = [(end / "samples" / f"step-{steps:07d}.png").read_bytes() for end in ends]
    assert grids[0] == grids[1]
    first, second = (
        {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*.safetensors")}
        for folder in (tmp_path / "killed" / "model", tmp_path / "whole" / "model")
    )
    assert first == second
    assert not list((tmp_path / "killed").rglob("*.partial"))
