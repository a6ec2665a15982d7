"""Training new parts beside a model that stays as it is: structure guidance and context."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from paint_by_example import PaintByExamplePipeline, UserError, held_out, load_pipeline
from paint_by_example.batches import load_examples, with_guides
from paint_by_example.conversion import convert
from paint_by_example.data.composites import Composites
from paint_by_example.data.guides import Guided, wear
from paint_by_example.objective import diffusion_loss, draw_step, frozen
from paint_by_example.plan import plan
from paint_by_example.settings import TrainConfig
from paint_by_example.state import read_log
from paint_by_example.training import train
from tests import tiny


@pytest.fixture
def config(config: Callable[..., TrainConfig]) -> Callable[..., TrainConfig]:
    """A short run that adds parts."""
    settings = {"add": "structure,context", "learning_rate": 1e-2, "ema_decay": 0.0, "held_out_edits": 0}
    return lambda **given: config(**(settings | given))


def weights(pipeline: PaintByExamplePipeline, part: str) -> dict[str, torch.Tensor]:
    return dict(getattr(pipeline, part).state_dict())


def losses(folder: Path) -> list[float]:
    return [line["loss"] for line in read_log(folder, "log")]


@pytest.mark.parametrize(
    ("add", "family"), [("structure", "embedded"), ("context", "clip"), ("structure,context", "embedded")]
)
def test_only_the_new_part_learns(
    add: str, family: str, config: Callable[..., TrainConfig], models: dict[str, Path], index: Path
) -> None:
    given = {"data": index} if family == "clip" else {}
    settings = config(add=add, init=str(models[family]), **given)
    model = load_pipeline(train(settings), device="cpu")
    start = load_pipeline(models[family], device="cpu")
    for part in ("unet", "image_encoder", "vae"):
        after = weights(model, part)
        assert all(torch.equal(after[name], value) for name, value in weights(start, part).items())
    start.add_source_encoder(settings.added, settings.seed)
    before = weights(start, "source_encoder")
    changed = {name for name, value in weights(model, "source_encoder").items() if not torch.equal(value, before[name])}
    owners = {name.partition(".")[0] for name in changed}
    assert ("to_skips" in owners) == ("structure" in add)
    assert ("attentions" in owners) == ("context" in add)


def test_a_model_with_new_parts_still_makes_the_plain_edit(
    config: Callable[..., TrainConfig], models: dict[str, Path]
) -> None:
    source = tiny.picture(48, 48)
    given: dict[str, Any] = {"exemplar": tiny.picture(20, 20), "box": (8, 8, 32, 32), "steps": 2}
    plain = load_pipeline(models["embedded"], device="cpu").edit(source, **given).images[0]
    more = load_pipeline(train(config()), device="cpu").edit(source, **given).images[0]
    assert np.array_equal(np.asarray(plain), np.asarray(more))


def test_a_model_with_new_parts_is_converted_to_a_folder_and_not_to_one_file(
    config: Callable[..., TrainConfig], tmp_path: Path
) -> None:
    model = train(config(steps=1))
    convert(model, tmp_path / "half", dtype=torch.float16)
    had, has = (weights(load_pipeline(path, device="cpu"), "source_encoder") for path in (model, tmp_path / "half"))
    assert all(torch.equal(has[name].float(), value.half().float()) for name, value in had.items())
    with pytest.raises(UserError, match="which one file has no place for"):
        convert(model, tmp_path / "model.safetensors")


def test_a_part_that_was_there_stays_while_another_is_added(config: Callable[..., TrainConfig], tmp_path: Path) -> None:
    first = train(config(add="structure"))
    both = train(config(add="context", init=str(first), output=tmp_path / "second"))
    had, has = (weights(load_pipeline(path, device="cpu"), "source_encoder") for path in (first, both))
    assert set(had) < set(has)
    assert all(torch.equal(has[name], value) for name, value in had.items())


def test_a_stopped_run_goes_on_as_if_it_had_not_been(config: Callable[..., TrainConfig], tmp_path: Path) -> None:
    whole = config(steps=4, output=tmp_path / "whole")
    train(whole)
    stopped = {"output": tmp_path / "stopped", "checkpoint_every": 2}
    train(config(steps=2, **stopped))
    train(config(steps=4, **stopped))
    assert losses(tmp_path / "whole") == losses(tmp_path / "stopped")


def test_maps_computed_ahead_are_trained_on(config: Callable[..., TrainConfig], tmp_path: Path) -> None:
    drawn, ahead = config(output=tmp_path / "drawn", steps=1), config(output=tmp_path / "ahead", steps=1, ahead=2)
    train(drawn)
    train(ahead)
    assert losses(drawn.output)[0] == pytest.approx(
        losses(ahead.output)[0], rel=0.3
    )  # the order of two, half precision
    other = config(output=tmp_path / "other", steps=1, ahead=2, add="context")
    shutil.copytree(ahead.output / "latents", other.output / "latents")
    with pytest.raises(UserError, match="are made of"):
        train(other)


def test_what_a_run_will_need_counts_the_new_parts_alone(config: Callable[..., TrainConfig]) -> None:
    settings = config()
    pipeline = load_pipeline(settings.init, device="cpu")
    pipeline.add_source_encoder(settings.added)
    needed = plan(settings)
    assert needed.trained == sum(parameter.numel() for parameter in pipeline.source_encoder.parameters())


@pytest.mark.parametrize("other", [{"scratch": True}, {"train": "mapper"}, {"lora_rank": 2}])
def test_new_parts_do_not_go_with_other_ways_to_learn(
    other: dict[str, Any], config: Callable[..., TrainConfig]
) -> None:
    with pytest.raises(UserError, match="add trains new parts, alone or with train full"):
        config(**other)


def test_new_parts_learn_beside_all_else_where_that_is_asked_for(
    config: Callable[..., TrainConfig], models: dict[str, Path]
) -> None:
    settings = config(train="full")
    model, start = load_pipeline(train(settings), device="cpu"), load_pipeline(models["embedded"], device="cpu")
    start.add_source_encoder(settings.added, settings.seed)
    for part in ("unet", "source_encoder"):
        before = weights(start, part)
        assert any(not torch.equal(value, before[name]) for name, value in weights(model, part).items()), part
    assert plan(settings).trained > plan(config()).trained
    card = (settings.output / "model" / "README.md").read_text()
    assert "all weights that the paper trains, and what tells the U-Net of the source's structure and context" in card


@pytest.mark.parametrize(("beside", "share"), [(None, 1.0), ("full", 0.5)])
def test_structure_is_told_of_objects_that_stand_otherwise_than_their_exemplars(
    beside: Any, share: float, config: Callable[..., TrainConfig]
) -> None:
    settings = config(train=beside)
    data = with_guides(settings, load_examples(settings, load_pipeline(settings.init, device="cpu"), "train"))
    told = np.array([(data[index]["structure"] >= 0).all() for index in range(40)])
    assert told.mean() == share if share == 1 else 0.25 < told.mean() < 0.75
    assert all("bent" not in data[index] for index in range(4))
    assert data[0]["structure"].shape == data[int(np.argmin(told))]["structure"].shape


def test_an_example_told_no_structure_learns_as_without_that_part(config: Callable[..., TrainConfig]) -> None:
    settings = config(add="structure")
    pipeline = load_pipeline(settings.init, device="cpu")
    pipeline.add_source_encoder(settings.added)
    with torch.no_grad():
        for parameter in pipeline.source_encoder.parameters():
            parameter.add_(0.1)
    data = with_guides(settings, load_examples(settings, pipeline, "train"))
    batch = {name: torch.as_tensor(value)[None] for name, value in data[0].items()}
    latents = frozen(pipeline, batch)
    draws = replace(
        draw_step(1, latents["z_0"].shape[1:], settings, pipeline.scheduler, torch.Generator().manual_seed(0)),
        told=torch.tensor([[True, False]]),
    )

    def loss(structure: torch.Tensor, told: bool = True) -> float:
        given = replace(draws, told=torch.tensor([[told, False]]))
        return float(diffusion_loss(pipeline, latents | {"structure": structure}, settings, given, pipeline.unet))

    with torch.no_grad():
        silent = loss(torch.full_like(latents["structure"], -1))
        assert silent == loss(latents["structure"], told=False)
        assert silent != loss(latents["structure"])


def test_grids_of_a_run_show_what_learns(config: Callable[..., TrainConfig]) -> None:
    settings = config()
    pipeline = load_pipeline(settings.init, device="cpu")
    pipeline.add_source_encoder(settings.added)
    with torch.no_grad():
        for name, parameter in pipeline.source_encoder.named_parameters():
            if name.endswith("gate") or not parameter.any():
                parameter.add_(0.3)
    data = Guided(Composites(settings.data, "held_out", 32, 32), settings.seed)
    plain, structure, context = (
        held_out.paint(pipeline, data, 2, added).result for added in ((), ("structure",), ("context",))
    )
    assert not torch.allclose(structure, plain, atol=1e-3)
    assert not torch.allclose(context, plain, atol=1e-4)


# The maps


def test_a_map_depends_on_seed_epoch_and_index_alone(composites: Path) -> None:
    def data() -> Guided:
        return Guided(Composites(composites, size=64, exemplar_size=32), seed=3)

    one, other = data(), data()
    _ = other[5]
    assert np.array_equal(one[1]["structure"], other[1]["structure"])
    other.epoch = 1
    assert not np.array_equal(one[1]["structure"], other[1]["structure"])
    item = one[1]
    assert item["structure"].shape == (1, 64, 64)
    assert item["structure"].dtype == np.float32
    assert 0 <= item["structure"].min() <= item["structure"].max() <= 1
    assert item["source"].shape == (3, 64, 64)


def test_a_worn_map_is_near_the_lines_and_never_on_all_of_them() -> None:
    lines = np.zeros((64, 64), np.uint8)
    lines[32, 8:56] = 255
    worn = [wear(np.random.default_rng(seed), lines) for seed in range(20)]
    assert not any(np.array_equal(one, lines / 255) for one in worn)
    assert all(not one[:20].any() and not one[44:].any() for one in worn)
    assert sum(one.any() for one in worn) == 20
