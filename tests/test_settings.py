"""A recipe decides what no option says; the options decide the rest."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from paint_by_example import UserError, held_out, load_pipeline, training
from paint_by_example.batches import load_examples
from paint_by_example.cli import main
from paint_by_example.data.dataset import BoxDataset
from paint_by_example.data.recipes import OF_TRAINING, RECIPES
from paint_by_example.objective import draw_step, frozen
from paint_by_example.settings import TrainConfig
from tests import tiny


@pytest.fixture
def make(models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., TrainConfig]:
    monkeypatch.setattr(held_out, "SAMPLES", 1)
    monkeypatch.setattr(held_out, "SAMPLE_STEPS", 1)
    data = tiny.composites_folder(tmp_path / "composites")
    settings: dict[str, Any] = {"data": data, "output": tmp_path / "run", "init": str(models["clip"])}
    settings |= {"steps": 2, "log_every": 1, "workers": 0, "device": "cpu"}
    return lambda **given: TrainConfig(**(settings | given))


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_what_is_not_given_is_the_recipe_s(name: str, make: Callable[..., TrainConfig]) -> None:
    config, recipe = make(recipe=name), RECIPES[name]
    assert {key: getattr(config, key) for key in OF_TRAINING} == {key: getattr(recipe, key) for key in OF_TRAINING}
    other = make(recipe=name, batch_size=3, ema_decay=0.5, sample_latents=False)
    assert (other.batch_size, other.ema_decay, other.sample_latents) == (3, 0.5, False)
    assert other.learning_rate == recipe.learning_rate


def test_the_recipes_train_as_paper_and_code_say(make: Callable[..., TrainConfig]) -> None:
    paper, released, default = (make(recipe=name) for name in ("paper", "released", "default"))
    assert [config.batch_size for config in (paper, released, default)] == [256, 32, 64]
    assert [config.ema_decay for config in (paper, released, default)] == [0.9999, 0, 0.9999]
    assert [config.drop_together for config in (paper, released, default)] == [1, 4, 1]
    assert [config.warmup_steps for config in (paper, released, default)] == [10_000, 10_000, 1000]
    assert [config.max_grad_norm for config in (paper, released, default)] == [0, 0, 1]
    assert [config.sample_latents for config in (paper, released, default)] == [False, True, False]
    assert {config.learning_rate for config in (paper, released, default)} == {1e-5}


def test_an_unknown_recipe(make: Callable[..., TrainConfig]) -> None:
    with pytest.raises(UserError, match="unknown recipe 'theirs'; expected one of paper, released, default"):
        make(recipe="theirs")


def test_examples_are_made_after_the_recipe(make: Callable[..., TrainConfig], tmp_path: Path) -> None:
    index, others = tiny.box_index(tmp_path / "boxes"), tiny.box_index(tmp_path / "others")
    pipeline = load_pipeline(make().init, device="cpu")
    config = make(recipe="released", data=index, held_out=others)
    data, kept = (load_examples(config, pipeline, split) for split in ("train", "held_out"))
    assert isinstance(data, BoxDataset)
    assert isinstance(kept, BoxDataset)
    assert data.recipe is kept.recipe is RECIPES["released"]
    assert (data.index, kept.index) == (index, others)


def test_dropping_is_drawn_for_four_together_as_in_the_authors_code(make: Callable[..., TrainConfig]) -> None:
    scheduler = tiny.clip_pipeline().scheduler

    def dropped(**given: Any) -> torch.Tensor:
        return draw_step(400, (1, 1, 1), make(**given), scheduler, torch.Generator().manual_seed(0)).dropped

    groups = dropped(recipe="released").view(100, 4)
    assert (groups == groups[:, :1]).all()
    assert 0.1 < groups.double().mean() < 0.3
    alone = dropped(recipe="paper").view(100, 4)
    assert (alone != alone[:, :1]).any()
    assert draw_step(6, (1, 1, 1), make(recipe="released"), scheduler, torch.Generator()).dropped.shape == (6,)


def test_latents_are_drawn_where_the_recipe_says(make: Callable[..., TrainConfig]) -> None:
    pipeline = tiny.clip_pipeline()
    batch = {
        "source": torch.rand(2, 3, tiny.IMAGE, tiny.IMAGE) * 2 - 1,
        "mask": torch.ones(2, 1, tiny.IMAGE, tiny.IMAGE),
        "features": torch.zeros(2, 16),
    }
    generators = [torch.Generator().manual_seed(seed) for seed in (1, 2)]
    mean, drawn = frozen(pipeline, batch), frozen(pipeline, batch, generators)
    with torch.no_grad():
        deviation = pipeline.vae.encode(batch["source"]).latent_dist.std * pipeline.vae.config.scaling_factor
    noise = [torch.randn(4, 16, 16, generator=torch.Generator().manual_seed(seed)) for seed in (1, 2)]
    torch.testing.assert_close(drawn["z_0"], mean["z_0"] + deviation * torch.stack(noise))
    assert not torch.equal(drawn["z_masked"], mean["z_masked"])


@pytest.mark.parametrize("family", ["clip", "embedded"])
def test_a_run_after_the_authors_goes_on_exactly_and_keeps_no_average(
    family: str, make: Callable[..., TrainConfig], models: dict[str, Path], tmp_path: Path
) -> None:
    def run(name: str, **given: Any) -> dict[str, Any]:
        settings = {"recipe": "released", "batch_size": 4, "learning_rate": 1e-2, "warmup_steps": 0}
        output = training.train(make(**(settings | given | {"output": tmp_path / name, "init": str(models[family])})))
        newest = sorted((output.parent / "checkpoints").glob("*.pt"))[-1]
        return torch.load(newest, weights_only=True)  # type: ignore[no-any-return]

    whole, _, parts = run("whole", steps=4), run("parts", steps=2), run("parts", steps=4)
    assert whole["average"] == parts["average"] == {}
    assert all(torch.equal(value, parts["parameters"][name]) for name, value in whole["parameters"].items())
    saved = load_pipeline(tmp_path / "whole" / "model", device="cpu").unet
    assert torch.equal(saved.conv_in.weight, whole["parameters"]["unet.conv_in.weight"])
    logs = [(tmp_path / name / "log.jsonl").read_text().splitlines() for name in ("whole", "parts")]
    first, second = ([json.loads(line)["loss"] for line in log] for log in logs)
    assert first == second
    assert len(first) == 4
    mean = run("mean", steps=4, sample_latents=False)["parameters"]["unet.conv_in.weight"]
    assert torch.equal(mean, whole["parameters"]["unet.conv_in.weight"]) == (family == "embedded")  # its has no spread


def test_latents_ahead_are_not_drawn(make: Callable[..., TrainConfig]) -> None:
    with pytest.raises(UserError, match="leave sample_latents out"):
        make(recipe="released", ahead=4)
    assert make(recipe="released", ahead=4, sample_latents=False).ahead == 4


def test_settings_that_do_not_go_together(make: Callable[..., TrainConfig]) -> None:
    for given in ({"compile": True}, {"optimizer": "adamw8bit"}):
        with pytest.raises(UserError, match="shard and .* do not go together"):
            make(shard=True, **given)
    with pytest.raises(UserError, match="one edit has no spread"):
        make(held_out_edits=1)


def test_without_a_limit_the_gradient_stays_as_it_is(make: Callable[..., TrainConfig], tmp_path: Path) -> None:
    def mean(limit: float) -> torch.Tensor:
        given = {"steps": 1, "batch_size": 2, "max_grad_norm": limit, "output": tmp_path / f"{limit}"}
        training.train(make(**given))
        state = torch.load(tmp_path / f"{limit}" / "checkpoints" / "step-0000001.pt", weights_only=True)
        return torch.cat([value["exp_avg"].flatten() for value in state["optimizer"]["state"].values()]) * 10

    free = mean(0)
    torch.testing.assert_close(mean(1e9), free)
    limited = mean(1e-3)
    assert limited.norm().item() == pytest.approx(1e-3, rel=1e-3)
    torch.testing.assert_close(limited / limited.norm(), free / free.norm(), rtol=1e-3, atol=1e-6)
    assert 1e-2 < free.norm() < math.inf


def test_the_command_takes_recipe_and_options(
    make: Callable[..., TrainConfig], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = make()
    given = ["--data", str(config.data), "--output", str(config.output), "--init", config.init]
    options = ["--recipe", "released", "--batch-size", "2", "--steps", "1", "--workers", "0", "--device", "cpu"]
    assert main(["train", *given, *options, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"model": str(config.output / "model")}
    settings = json.loads((config.output / "config.json").read_text())
    assert settings["recipe"] == "released"
    assert (settings["batch_size"], settings["drop_together"], settings["ema_decay"]) == (2, 4, 0)
    assert "dry_run" not in settings
