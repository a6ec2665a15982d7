"""Ways of training other than all weights: the mapper alone, low-rank weights, another optimiser."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from paint_by_example import PaintByExamplePipeline, UserError, held_out, load_pipeline, training
from paint_by_example.attention import dead_parameters
from paint_by_example.learner import LossScale, Network, make_optimizer
from paint_by_example.settings import TrainConfig
from tests import tiny


@pytest.fixture
def train(models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Train a tiny model for three steps; gives the run's folder."""
    monkeypatch.setattr(held_out, "SAMPLES", 1)
    monkeypatch.setattr(held_out, "SAMPLE_STEPS", 1)
    data = tiny.composites_folder(tmp_path / "composites")
    settings: dict[str, Any] = {"data": data, "init": str(models["embedded"]), "steps": 3, "batch_size": 2}
    settings |= {"learning_rate": 1e-2, "warmup_steps": 0, "log_every": 1, "workers": 0, "device": "cpu"}

    def run(name: str = "run", **given: Any) -> Path:
        return training.train(TrainConfig(**(settings | given | {"output": tmp_path / name}))).parent

    return run


def losses(run: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (run / "log.jsonl").read_text().splitlines()]


def load_config(run: Path) -> dict[str, Any]:
    config: dict[str, Any] = json.loads((run / "config.json").read_text())
    return config


def changed(before: PaintByExamplePipeline, after: PaintByExamplePipeline) -> set[str]:
    """Names of the tensors that are not the same in two models."""
    names = set()
    for part in ("unet", "image_encoder", "vae"):
        was, now = (getattr(pipeline, part).state_dict() for pipeline in (before, after))
        assert was.keys() == now.keys()
        names |= {f"{part}.{name}" for name in was if not torch.equal(was[name], now[name])}
    return names


def test_training_the_mapper_changes_the_mapper(models: dict[str, Path], train: Callable[..., Path]) -> None:
    names = changed(load_pipeline(models["embedded"]), load_pipeline(train(train="mapper") / "model"))
    assert names
    assert all(name.startswith("image_encoder.") for name in names)
    assert not any(name.startswith(("image_encoder.backbone", "image_encoder.components")) for name in names)
    assert "image_encoder.proj_out.weight" in names


def test_low_rank_weights_by_themselves_and_merged_are_one_model(
    family: str, models: dict[str, Path], train: Callable[..., Path]
) -> None:
    run = train(init=str(models[family]), lora_rank=2, ema_decay=0.5)
    base, merged = (load_pipeline(model, device="cpu") for model in (models[family], run / "model"))
    names = changed(base, merged)
    idle = {f"unet.{name}" for name in dead_parameters(base.unet)}
    assert names
    assert all(name.startswith("unet.") and ".attn" in name and name.endswith(".weight") for name in names)
    assert not names & idle
    base.load_lora_weights(run / "lora")
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, base.unet.config.in_channels, 8, 8, generator=generator)
    condition = torch.randn(2, 1, 16, generator=generator)

    def predicted(pipeline: PaintByExamplePipeline) -> Tensor:
        with torch.no_grad():
            sample: Tensor = pipeline.unet(x, torch.tensor([10, 900]), condition).sample
        return sample

    torch.testing.assert_close(predicted(base), predicted(merged), rtol=1e-4, atol=1e-5)
    plain = load_pipeline(models[family], device="cpu")
    assert (predicted(plain) - predicted(merged)).abs().max() > 1e-3  # they do something


def test_low_rank_weights_begin_with_nothing_and_are_few(models: dict[str, Path]) -> None:
    pipeline, plain = (load_pipeline(models["embedded"], device="cpu") for _ in range(2))
    trained = Network(pipeline, lora_rank=2, seed=1).trained()
    assert all("lora" in name for name in trained)
    assert sum(p.numel() for p in trained.values()) < 0.2 * sum(p.numel() for p in Network(plain).trained().values())
    x, condition = torch.ones(1, 13, 8, 8), torch.ones(1, 1, 16)
    with torch.no_grad():
        samples = [p.unet(x, torch.tensor([5]), condition).sample for p in (pipeline, plain)]
    torch.testing.assert_close(*samples)
    again = Network(load_pipeline(models["embedded"], device="cpu"), lora_rank=2, seed=1).trained()
    assert all(torch.equal(trained[name], again[name]) for name in trained)


def test_training_low_rank_weights_goes_on_exactly(train: Callable[..., Path]) -> None:
    train("whole", lora_rank=2, steps=4)
    train("parts", lora_rank=2, steps=2)
    assert losses(train("parts", lora_rank=2, steps=4)) == losses(train("whole", lora_rank=2, steps=4))


def test_float16_scales_the_loss_and_leaves_out_steps_that_do_not_fit(
    train: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    exact = losses(train("exact"))
    half = train("half", precision="float16")
    assert losses(half) == pytest.approx(exact, rel=0.05)
    assert losses(half) != exact
    lines = [json.loads(line) for line in (half / "log.jsonl").read_text().splitlines()]
    assert [line["loss_scale"] for line in lines] == [2.0**16] * 3
    monkeypatch.setattr(LossScale, "FIRST", 2.0**125)  # no gradient is finite with that
    large = train("large", precision="float16")
    lines = [json.loads(line) for line in (large / "log.jsonl").read_text().splitlines()]
    assert lines[0]["loss_scale"] == 2.0**124
    state = torch.load(large / "checkpoints" / "step-0000003.pt", weights_only=True)
    start = Network(load_pipeline(load_config(large)["init"], device="cpu")).trained()
    assert all(torch.equal(start[name], value) for name, value in state["parameters"].items())
    assert state["average_updates"] == 0


def test_float16_goes_on_exactly_with_its_scale(train: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LossScale, "PATIENCE", 2)
    monkeypatch.setattr(LossScale, "FIRST", 2.0**10)  # so small that every gradient fits
    whole = train("whole", precision="float16", steps=5)
    for steps in (1, 3, 5):  # between two that fit, too
        parts = train("parts", precision="float16", steps=steps)
    logs = [(run / "log.jsonl").read_text().splitlines() for run in (whole, parts)]
    first, second = ([(line["loss"], line["loss_scale"]) for line in map(json.loads, log)] for log in logs)
    assert first == second
    assert [scale for _, scale in first] == [2.0**10, 2.0**11, 2.0**11, 2.0**12, 2.0**12]


def test_a_scale_that_is_used_up_ends_the_run() -> None:
    scale = LossScale("float16")
    scale.value = 2.0
    assert scale.update(False)
    assert not scale.update(False)
    assert LossScale("bfloat16").value == 1
    assert not LossScale("float32").update(False)


def test_without_peft_there_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline = tiny.embedded_pipeline()
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(UserError, match="lora_rank needs the package peft; install it"):
        Network(pipeline, lora_rank=2)


def test_without_bitsandbytes_there_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("bitsandbytes", "bitsandbytes.optim"):
        monkeypatch.setitem(sys.modules, name, None)
    config = TrainConfig(data=tmp_path, output=tmp_path, optimizer="adamw8bit")
    with pytest.raises(UserError, match="optimizer adamw8bit needs the package bitsandbytes; install it"):
        make_optimizer(config, {"w": torch.nn.Parameter(torch.zeros(1))})


def test_the_mapper_and_low_rank_weights_exclude_each_other(train: Callable[..., Path]) -> None:
    with pytest.raises(UserError, match="exclude each other"):
        train(train="mapper", lora_rank=2)
