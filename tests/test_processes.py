"""A step in several pieces or by several processes is the step of one; the first process alone writes."""

import json
import multiprocessing
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from paint_by_example import UserError, held_out, training
from paint_by_example.processes import Processes, Shares
from paint_by_example.settings import TrainConfig
from tests import tiny

PROCESSES = multiprocessing.get_context("forkserver")  # fork alone does not go with a process that has trained
PROCESSES.set_forkserver_preload(["tests.test_processes"])


@pytest.fixture
def settings(models: dict[str, Path], tmp_path: Path) -> dict[str, Any]:
    """Two steps, with all that depends on the whole batch: weights outside the mask, dropped exemplars."""
    return {
        "data": tiny.composites_folder(tmp_path / "composites"),
        "init": str(models["embedded"]),
        "steps": 2,
        "batch_size": 4,
        "learning_rate": 1e-3,
        "warmup_steps": 0,
        "drop_exemplar": 0.5,
        "outside_weight": 0.2,
        "log_every": 1,
        "workers": 0,
        "device": "cpu",
    }


@pytest.fixture
def train(settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    monkeypatch.setattr(held_out, "SAMPLES", 1)
    monkeypatch.setattr(held_out, "SAMPLE_STEPS", 1)

    def run(name: str, **given: Any) -> Path:
        return training.train(TrainConfig(**(settings | given | {"output": tmp_path / name}))).parent

    return run


def check_same_update(first: Path, second: Path) -> None:
    """Compare losses, and the optimiser's running means: unlike the weights, they are linear in the gradients."""
    logs = [
        [json.loads(line)["loss"] for line in (run / "log.jsonl").read_text().splitlines()] for run in (first, second)
    ]
    assert logs[0] == pytest.approx(logs[1], rel=1e-4)
    assert len(logs[0]) == 2
    (a, b) = (
        torch.load(run / "checkpoints" / "step-0000002.pt", weights_only=True)["optimizer"]["state"]
        for run in (first, second)
    )
    assert a.keys() == b.keys()
    means = [torch.cat([state[key]["exp_avg"].flatten() for key in state]) for state in (a, b)]
    assert means[0].norm() > 0
    assert (means[0] - means[1]).norm() < 1e-3 * means[0].norm()


@pytest.mark.parametrize("given", [{"accumulate": 4}, {"accumulate": 2, "gradient_checkpointing": True}])
def test_a_step_in_pieces_is_the_step_as_a_whole(given: dict[str, Any], train: Callable[..., Path]) -> None:
    check_same_update(train("whole"), train("pieces", **given))


def test_gradient_checkpointing_recomputes_and_changes_nothing(
    train: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    checkpoint = torch.utils.checkpoint.checkpoint

    def counted(*arguments: Any, **options: Any) -> Any:
        calls.append(1)
        return checkpoint(*arguments, **options)

    monkeypatch.setattr(torch.utils.checkpoint, "checkpoint", counted)
    whole = train("whole")
    assert not calls
    check_same_update(whole, train("checkpointed", gradient_checkpointing=True))
    assert calls


def one_of(rank: int, count: int, port: int, settings: dict[str, Any]) -> None:
    """What a process of several does: as torchrun would start it."""
    os.environ |= {"RANK": f"{rank}", "LOCAL_RANK": f"{rank}", "WORLD_SIZE": f"{count}"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": f"{port}"}
    torch.set_num_threads(1)
    held_out.SAMPLES, held_out.SAMPLE_STEPS = 1, 1
    written = []
    replace = Path.replace

    def noted(path: Path, target: Path) -> Path:
        written.append(path)
        return replace(path, target)

    Path.replace = noted  # type: ignore[method-assign, assignment]
    training.train(TrainConfig(**settings))
    assert bool(written) == (rank == 0)


def train_together(count: int, settings: dict[str, Any]) -> list[int | None]:
    """Train in several processes; gives their exit codes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = [PROCESSES.Process(target=one_of, args=(rank, count, port, settings)) for rank in range(count)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    return [process.exitcode for process in processes]


@pytest.mark.parametrize("accumulate", [1, 2])
def test_two_processes_with_half_the_batch_take_the_step_of_one_with_all(
    accumulate: int, train: Callable[..., Path], settings: dict[str, Any], tmp_path: Path
) -> None:
    whole, output = train("whole"), tmp_path / "together"
    assert train_together(2, settings | {"output": output, "accumulate": accumulate}) == [0, 0]
    check_same_update(whole, output)
    assert sorted(path.name for path in output.iterdir()) == sorted(path.name for path in whole.iterdir())


@pytest.mark.parametrize("given", [{}, {"accumulate": 2, "gradient_checkpointing": True}, {"lora_rank": 2}])
def test_two_processes_that_divide_all_among_them_take_the_step_of_one(
    given: dict[str, Any], train: Callable[..., Path], settings: dict[str, Any], tmp_path: Path
) -> None:
    given = given | {"max_grad_norm": 0.01, "held_out_every": 2, "held_out_edits": 0}
    whole, output = train("whole", **given), tmp_path / "divided"
    assert train_together(2, settings | given | {"output": output, "shard": True}) == [0, 0]
    check_same_update(whole, output)
    assert sorted(path.name for path in output.iterdir()) == sorted(path.name for path in whole.iterdir())
    models = [
        {path.relative_to(run): load_file(path) for path in run.rglob("*.safetensors")} for run in (whole, output)
    ]
    assert models[0].keys() == models[1].keys()
    for name, tensors in models[0].items():  # AdamW's first steps are signs: what is near zero may go either way
        for key, tensor in tensors.items():
            torch.testing.assert_close(models[1][name][key], tensor, rtol=0, atol=5e-3, msg=f"{name} {key}")
    held_out_losses = [json.loads((run / "held_out.jsonl").read_text())["loss"] for run in (whole, output)]
    assert held_out_losses[0] == pytest.approx(held_out_losses[1], rel=1e-2)


def test_a_checkpoint_of_divided_ones_is_whole_and_one_goes_on_from_it_and_back(
    train: Callable[..., Path], settings: dict[str, Any], tmp_path: Path
) -> None:
    output = tmp_path / "divided"
    divided = settings | {"output": output, "shard": True}
    assert train_together(2, divided | {"steps": 1}) == [0, 0]
    once = torch.load(output / "checkpoints" / "step-0000001.pt", weights_only=True)
    train("divided", steps=2)  # one process goes on
    check_same_update(train("whole"), output)
    assert train_together(2, divided | {"steps": 3}) == [0, 0]  # and both again
    last = torch.load(output / "checkpoints" / "step-0000003.pt", weights_only=True)
    for part in ("parameters", "average"):
        assert {name: value.shape for name, value in once[part].items()} == {
            name: value.shape for name, value in last[part].items()
        }
    assert last["optimizer"]["state"][0]["step"] == 3


@pytest.mark.slow
def test_torchrun_starts_it_and_one_process_speaks(
    train: Callable[..., Path], settings: dict[str, Any], tmp_path: Path
) -> None:
    output = tmp_path / "together"
    options = []
    for name, value in (settings | {"output": output}).items():
        options += [f"--{name.replace('_', '-')}", str(value)]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    ended = subprocess.run(
        [*torchrun, "-m", "paint_by_example", "train", *options],
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout == f"{output / 'model'}\n"
    check_same_update(train("whole"), output)


def test_shares_make_up_the_batch() -> None:
    parts = [list(Shares(3, 6, 2, rank)) for rank in range(3)]
    assert [[item for share in batch for item in share] for batch in zip(*parts, strict=True)] == [
        [0, 1, 2, 3, 4, 5],
        [6, 7, 8, 9, 10, 11],
        [12, 13, 14, 15, 16, 17],
    ]
    assert len(Shares(3, 6, 2, 0)) == 3
    assert Processes(1, 3).share(6, 2) == 2


def test_a_batch_that_cannot_be_divided(train: Callable[..., Path]) -> None:
    with pytest.raises(
        UserError, match="batch_size 4 cannot be divided among 1 processes with 3 pieces each; take a mult"
    ):
        train("run", accumulate=3)
    with pytest.raises(UserError, match="a multiple of 6"):
        Processes(0, 2).share(8, 3)
