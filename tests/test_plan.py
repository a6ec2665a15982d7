"""What a run is said to need is what it needs."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from paint_by_example import UserError, held_out, load_pipeline, training
from paint_by_example.cli import main
from paint_by_example.learner import Learner, Network
from paint_by_example.objective import diffusion_loss
from paint_by_example.plan import Alive, plan
from paint_by_example.processes import Processes
from paint_by_example.settings import TrainConfig
from tests import tiny


@pytest.fixture
def make(models: dict[str, Path], tmp_path: Path, family: str) -> Callable[..., TrainConfig]:
    settings: dict[str, Any] = {"data": tmp_path, "output": tmp_path / "run", "init": str(models[family])}
    return lambda **given: TrainConfig(**(settings | {"batch_size": 4} | given))


@pytest.mark.parametrize("given", [{}, {"train": "mapper"}, {"lora_rank": 2}])
def test_parameters_and_their_memory(given: dict[str, Any], make: Callable[..., TrainConfig]) -> None:
    found = plan(make(**given))
    pipeline = load_pipeline(make().init, device="cpu")
    network = Network(pipeline, **given)
    learn = sum(parameter.numel() for parameter in network.trained().values())
    held = [pipeline.vae, pipeline.image_encoder, pipeline.unet]
    assert found.trained == learn > 0
    assert found.trained + found.frozen == sum(p.numel() for part in held for p in part.parameters())
    tensors = [tensor for part in held for tensor in (*part.parameters(), *part.buffers())]
    assert found.memory.weights == sum(tensor.nbytes for tensor in tensors)
    assert found.memory.gradients == found.memory.average == 4 * learn
    assert found.memory.optimizer == 8 * learn


def test_the_memory_of_a_step_is_that_of_a_step_with_values(
    make: Callable[..., TrainConfig], family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against the same count of a real run's first step."""
    monkeypatch.setattr(held_out, "SAMPLES", 1)
    monkeypatch.setattr(held_out, "SAMPLE_STEPS", 1)
    data = tiny.composites_folder(tmp_path / "composites")
    counted: list[Alive] = []

    class Counted:
        """Counts from the first loss to the end of its backward pass."""

        def __call__(self, *arguments: Any) -> Any:
            pipeline, network = arguments[0], [arguments[0].unet, arguments[0].image_encoder, arguments[0].vae]
            counted.append(Alive(tensor for part in network for tensor in (*part.parameters(), *part.buffers())))
            for parameter in Network.trained(network_of(pipeline)).values():
                parameter.register_post_accumulate_grad_hook(lambda one: counted[0].claim(one.grad))
            counted[0].__enter__()
            return diffusion_loss(*arguments)

    def network_of(pipeline: Any) -> Any:
        return learners[0].network

    learners: list[Any] = []
    start = Learner.__init__

    def noted(learner: Any, *arguments: Any) -> None:
        start(learner, *arguments)
        learners.append(learner)

    follow = Learner.step

    def ended(learner: Any, rate: float) -> Any:
        counted[0].__exit__(None, None, None)
        return follow(learner, rate)

    monkeypatch.setattr(training, "diffusion_loss", Counted())
    monkeypatch.setattr(Learner, "__init__", noted)
    monkeypatch.setattr(Learner, "step", ended)
    training.train(make(data=data, steps=1, workers=0, device="cpu"))
    found = plan(make(data=data))
    assert counted[0].claimed == found.memory.gradients
    assert found.memory.activations == pytest.approx(counted[0].peak, rel=0.1)


def test_more_at_once_needs_more_and_less_less(make: Callable[..., TrainConfig]) -> None:
    whole = plan(make(batch_size=64)).memory
    for given in ({"accumulate": 8}, {"gradient_checkpointing": True}, {"precision": "bfloat16"}):
        less = plan(make(batch_size=64, **given)).memory
        assert less.activations < whole.activations, given
        assert less.total < whole.total, given
        assert less.weights == whole.weights
    assert plan(make(ema_decay=0.0)).memory.average == 0
    eighth = plan(make(optimizer="adamw8bit")).memory.optimizer
    assert eighth < plan(make()).memory.optimizer


def test_processes_share_batch_and_where_asked_the_rest(make: Callable[..., TrainConfig]) -> None:
    alone, each, divided = (
        plan(make(batch_size=8, shard=shard), Processes(0, count)).memory
        for shard, count in ((False, 1), (False, 2), (True, 2))
    )
    assert each.activations < alone.activations
    assert each.weights == alone.weights
    assert divided.optimizer == alone.optimizer // 2
    assert divided.gradients == alone.gradients // 2
    assert divided.total < each.total
    with pytest.raises(UserError, match="cannot be divided"):
        plan(make(batch_size=3), Processes(0, 2))


def test_the_command_prints_it_and_trains_nothing(
    make: Callable[..., TrainConfig], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = make()
    options = ["train", "--data", "nowhere.jsonl", "--output", str(config.output), "--init", config.init, "--dry-run"]
    assert main(options) == 0
    text = capsys.readouterr().out
    assert main([*options, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert f"{found['parameters']['trained']:,}" in text
    assert f"{found['memory_bytes']['total'] / 1e9:.3f}" in text
    assert found["settings"]["batch_size"] == 64
    assert not config.output.exists()


def test_views_are_no_new_memory_and_what_is_gone_is_not_counted() -> None:
    with Alive() as alive:
        x = torch.zeros(1000)
        assert (alive.now, alive.peak) == (4000, 4000)
        y = x.view(10, 100)
        assert alive.now == 4000
        alive.claim(x)
        assert (alive.now, alive.claimed) == (0, 4000)
        del x, y
        torch.zeros(500)
    assert (alive.now, alive.peak, alive.peak_with_claimed) == (0, 4000, 6000)
