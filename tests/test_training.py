"""Training: the parts of a step against arithmetic, and whole runs of a tiny model."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves
from torch.utils.data import default_collate

from paint_by_example import PaintByExamplePipeline, UserError, batches, held_out, load_pipeline, training
from paint_by_example.attention import dead_parameters
from paint_by_example.batches import Steps, load_examples
from paint_by_example.compat import latent_mask
from paint_by_example.data import latents as data_latents
from paint_by_example.data.latents import Latents
from paint_by_example.errors import DataError, ModelError
from paint_by_example.learner import MovingAverage, Network
from paint_by_example.objective import (
    diffusion_loss,
    draw_step,
    draw_timesteps,
    drop,
    frozen,
    prediction_target,
)
from paint_by_example.sampling import make_scheduler
from paint_by_example.settings import TrainConfig
from paint_by_example.state import read_log
from paint_by_example.training import learning_rate_factor, train
from tests import tiny


def loss_of(
    pipeline: PaintByExamplePipeline, batch: dict[str, Tensor], run: TrainConfig, generator: torch.Generator, unet: Any
) -> Tensor:
    """The loss of a whole batch of pictures."""
    latents = frozen(pipeline, batch)
    draws = draw_step(len(latents["z_0"]), latents["z_0"].shape[1:], run, pipeline.scheduler, generator)
    return diffusion_loss(pipeline, latents, run, draws, unet)


def losses(run: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (run / "log.jsonl").read_text().splitlines()]


def checkpoint(run: Path) -> dict[str, Any]:
    return torch.load(checkpoints(run)[-1], weights_only=True)  # type: ignore[no-any-return]


def checkpoints(run: Path) -> list[Path]:
    return sorted((run / "checkpoints").glob("*"))


def same(first: Any, second: Any) -> bool:
    """Whether two nested states are equal bit for bit."""
    if isinstance(first, Tensor):
        return torch.equal(first, second)
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same(value, second[key]) for key, value in first.items())
    if isinstance(first, list | tuple):
        return len(first) == len(second) and all(map(same, first, second))
    return bool(first == second)


# Latents ahead, reduced precision


def test_latents_computed_ahead_are_what_the_frozen_parts_make(config: Callable[..., TrainConfig]) -> None:
    run = config(ahead=5, steps=1)
    pipeline = load_pipeline(run.init, device="cpu")
    data = load_examples(run, pipeline, "train")
    train(run)
    latents = Latents(run.output / "latents", 5)
    made = frozen(pipeline, default_collate([data[index] for index in range(5)]))
    for index in range(5):
        for name, value in latents[index].items():
            np.testing.assert_allclose(value, made[name][index].numpy(), atol=2e-3, err_msg=name)
    with pytest.raises(IndexError):
        latents[5]


def test_latents_are_made_once_in_chunks_and_each_is_trained_on_in_turn(
    config: Callable[..., TrainConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "CHUNK", 2)
    monkeypatch.setattr(data_latents, "CHUNK", 2)
    run = config(ahead=5, steps=1)
    train(run)
    files = sorted((run.output / "latents").glob("*.npy"))
    assert [len(np.load(file)) for file in files] == [2, 2, 1]
    kept = {file: file.read_bytes() for file in files}
    times = {file: file.stat().st_mtime_ns for file in files}
    files[1].unlink()  # as if it had been stopped there
    train(config(ahead=5, steps=2))
    assert {file: file.read_bytes() for file in files} == kept
    assert files[0].stat().st_mtime_ns == times[files[0]]
    seen = Steps(Latents(run.output / "latents", 5), 0, 5, shuffle=0)
    order = [seen[index]["z_0"].tobytes() for index in range(5)]
    assert len(set(order)) == 5


def test_latents_of_other_data_are_not_taken(config: Callable[..., TrainConfig]) -> None:
    train(config(ahead=3, steps=1))
    with pytest.raises(DataError, match=r"latents.* are made of .*'seed': '0'.*not of .*'seed': '1'"):
        train(config(ahead=3, steps=2, seed=1))


def test_latents_of_another_recipe_are_not_taken(config: Callable[..., TrainConfig], index: Path) -> None:
    train(config(data=index, ahead=3, steps=1, recipe="default"))
    with pytest.raises(
        DataError, match=r"latents.* 'recipe': 'default'.*not of .*'recipe': 'paper'.*; remove it"
    ) as one:
        train(config(data=index, ahead=3, steps=2, recipe="paper"))
    assert "\n" not in str(one.value)


def test_8_bit_adamw_trains_and_goes_on_as_if_it_had_not_stopped(config: Callable[..., TrainConfig]) -> None:
    pytest.importorskip("bitsandbytes")
    given = {"optimizer": "adamw8bit", "log_every": 1, "checkpoint_every": 1, "decay_steps": 0, "warmup_steps": 0}
    whole = config(**given, steps=4)
    train(whole)
    stopped = replace(whole, output=whole.output.with_name("stopped"))
    train(replace(stopped, steps=2))
    train(stopped)
    losses = [[line["loss"] for line in read_log(run.output, "log")] for run in (whole, stopped)]
    assert len(losses[0]) == 4
    assert losses[0] == losses[1]
    ends = [
        torch.load(run.output / "checkpoints" / "step-0000004.pt", weights_only=True)["optimizer"]["state"]
        for run in (whole, stopped)
    ]
    kept = [[value for value in tree_leaves(end) if isinstance(value, torch.Tensor)] for end in ends]
    assert any(value.dtype == torch.uint8 for value in kept[0])
    assert all(torch.equal(*pair) for pair in zip(*kept, strict=True))


def test_a_note_cut_short_before_there_are_latents_is_written_again(config: Callable[..., TrainConfig]) -> None:
    run = config(ahead=2, steps=1)
    note = run.output / "latents" / "made_of.json"
    note.parent.mkdir(parents=True)
    note.write_text('{"da')
    train(run)
    assert json.loads(note.read_text())["seed"] == "0"


@pytest.mark.parametrize("content", [b"", b"no array"])
def test_a_damaged_chunk_of_latents(content: bytes, config: Callable[..., TrainConfig]) -> None:
    run = config(ahead=3, steps=1)
    train(run)
    (chunk,) = (run.output / "latents").glob("*.npy")
    chunk.write_bytes(content)
    with pytest.raises(DataError, match=f"cannot read the latents {chunk}"):
        train(config(ahead=3, steps=2))
    chunk.unlink()
    train(run)
    with pytest.raises(DataError, match="does not hold 2 examples"):
        Latents(run.output / "latents", 2)


def test_bfloat16_trains_nearly_as_float32_does(config: Callable[..., TrainConfig]) -> None:
    exact, reduced = (config(precision=precision) for precision in ("float32", "bfloat16"))
    pipeline = load_pipeline(exact.init, device="cpu")
    batch = batch_of(pipeline)
    expected, found = (
        loss_of(pipeline, batch, run, torch.Generator().manual_seed(0), pipeline.unet) for run in (exact, reduced)
    )
    assert found.dtype == torch.float32
    assert found != expected
    torch.testing.assert_close(found, expected, rtol=0.02, atol=0)


def test_what_one_token_makes_idle_is_not_trained(models: dict[str, Path]) -> None:
    pipeline = load_pipeline(models["embedded"], device="cpu")
    trained = Network(pipeline).trained()
    dead = {f"unet.{name}" for name in dead_parameters(pipeline.unet)}
    assert dead
    assert not dead & trained.keys()


# The parts of a step


def test_learning_rate_rises_stays_and_falls(config: Callable[..., TrainConfig]) -> None:
    run = config(steps=20, warmup_steps=4, decay_steps=5)
    factors = [learning_rate_factor(step, run) for step in range(20)]
    assert factors[:4] == [0.25, 0.5, 0.75, 1]
    assert set(factors[4:16]) == {1}
    assert factors[16:] == pytest.approx([0.8, 0.6, 0.4, 0.2])
    assert learning_rate_factor(20, run) == 0
    constant = config(steps=3, warmup_steps=0, decay_steps=0)
    assert [learning_rate_factor(step, constant) for step in range(3)] == [1, 1, 1]


def test_moving_average_is_the_weighted_sum_it_stands_for() -> None:
    """Update n keeps d_n = min(decay, (1 + n) / (10 + n)) of the average."""
    values = [3.0, -1.0, 4.0, 1.0, 5.0]
    weight = nn.Parameter(torch.full((2,), values[0]))
    average = MovingAverage({"w": weight}, decay=0.3)
    for value in values[1:]:
        weight.data.fill_(value)
        average.update({"w": weight})
    decays = [min(0.3, (1 + n) / (10 + n)) for n in range(1, 5)]
    assert decays == [2 / 11, 0.25, 0.3, 0.3]
    shares = [1.0] + [1 - decay for decay in decays]  # what a value enters with, and keeps of it in each later update
    kept = [np.prod(decays[n:]) for n in range(5)]
    expected = sum(value * share * keep for value, share, keep in zip(values, shares, kept, strict=True))
    assert sum(share * keep for share, keep in zip(shares, kept, strict=True)) == pytest.approx(1)
    assert torch.allclose(average.average["w"], torch.full((2,), float(expected)))
    assert average.updates == 4


def test_swapping_twice_changes_nothing() -> None:
    weight = nn.Parameter(torch.tensor([1.0, 2.0]))
    average = MovingAverage({"w": weight}, decay=0.5)
    weight.data.copy_(torch.tensor([5.0, 6.0]))
    average.swap({"w": weight})
    assert weight.tolist() == [1, 2]
    assert average.average["w"].tolist() == [5, 6]
    average.swap({"w": weight})
    assert weight.tolist() == [5, 6]
    assert average.average["w"].tolist() == [1, 2]


def test_each_example_is_dropped_by_its_own_draw(config: Callable[..., TrainConfig]) -> None:
    condition, null = torch.ones(1000, 1, 3), torch.zeros(1, 1, 3)
    run = config(drop_exemplar=0.2)

    def dropped(count: int, seed: int) -> Tensor:
        scheduler = tiny.embedded_pipeline().scheduler
        return draw_step(count, (1, 1, 1), run, scheduler, torch.Generator().manual_seed(seed)).dropped

    kept = drop(condition, null, dropped(1000, 0))
    assert kept.shape == (1000, 1, 3)
    assert (kept == kept[..., :1]).all()  # a condition is dropped whole
    assert 0.15 < 1 - kept[:, 0, 0].mean() < 0.25
    shares = {drop(condition[:8], null, dropped(8, seed)).mean().item() for seed in range(20)}
    assert shares - {0.0, 1.0}  # never only the whole batch at once
    assert torch.equal(kept, drop(condition, null, dropped(1000, 0)))


@pytest.mark.parametrize("probability", [0.0, 1.0])
def test_dropping_none_and_all(probability: float, config: Callable[..., TrainConfig]) -> None:
    scheduler, generator = tiny.embedded_pipeline().scheduler, torch.Generator().manual_seed(0)
    draws = draw_step(100, (1, 1, 1), config(drop_exemplar=probability), scheduler, generator)
    assert (draws.dropped == bool(probability)).all()


def test_the_dropped_condition_teaches_the_null_token() -> None:
    condition, null = torch.ones(4, 1, 3, requires_grad=True), torch.zeros(1, 1, 3, requires_grad=True)
    drop(condition, null, torch.ones(4, dtype=torch.bool)).sum().backward()
    assert null.grad is not None
    assert condition.grad is not None
    assert (null.grad == 4).all()
    assert (condition.grad == 0).all()


@pytest.mark.parametrize("power", [0.5, 1.0, 2.0])
def test_time_steps_are_spread_as_the_power_says(power: float) -> None:
    """P(t < s) = P(u^p > 1 - s / T) = 1 - (1 - s / T)^(1 / p)."""
    t = draw_timesteps(20_000, 1000, power, torch.Generator().manual_seed(0))
    assert t.dtype == torch.int64
    assert 0 <= t.min() < 20
    assert 980 < t.max() <= 999
    for s in (100, 500, 900):
        assert (t < s).double().mean().item() == pytest.approx(1 - (1 - s / 1000) ** (1 / power), abs=0.015)


def test_every_time_step_is_drawn_and_none_beyond() -> None:
    t = draw_timesteps(1000, 4, 1.0, torch.Generator().manual_seed(0))
    assert set(t.tolist()) == {0, 1, 2, 3}
    assert torch.equal(t, draw_timesteps(1000, 4, 1.0, torch.Generator().manual_seed(0)))


def batch_of(pipeline: PaintByExamplePipeline, count: int = 3) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    mask = torch.zeros(count, 1, tiny.IMAGE, tiny.IMAGE)
    mask[:, :, 6:20, 9:30] = 1  # not on the latent's grid: some cells are repainted in part
    return {
        "source": torch.rand(count, 3, tiny.IMAGE, tiny.IMAGE, generator=generator) * 2 - 1,
        "mask": mask,
        "exemplar": torch.randint(256, (count, 40, 40, 3), generator=generator, dtype=torch.uint8),
    }


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("outside_weight", [1.0, 0.25, 0.0])
def test_loss_of_predicting_nothing_is_the_mean_square_of_the_target(
    outside_weight: float, prediction_type: str, config: Callable[..., TrainConfig]
) -> None:
    pipeline = tiny.embedded_pipeline()
    pipeline.scheduler.register_to_config(prediction_type=prediction_type)
    batch = batch_of(pipeline)
    seen: list[tuple[Tensor, ...]] = []

    def unet(x: Tensor, t: Tensor, condition: Tensor) -> SimpleNamespace:
        seen.append((x, t, condition))
        return SimpleNamespace(sample=torch.zeros(3, 6, 8, 8))

    run = config(outside_weight=outside_weight, drop_exemplar=0.0)
    loss = loss_of(pipeline, batch, run, torch.Generator().manual_seed(4), unet)

    generator = torch.Generator().manual_seed(4)  # draws in the same order: dropping, time steps, noise
    torch.rand(3, generator=generator)
    t = (1000 * (1 - torch.rand(3, generator=generator, dtype=torch.float64))).long()
    noise = torch.randn(3, 6, 8, 8, generator=generator).double()
    with torch.no_grad():
        z_0 = pipeline.encode_picture(batch["source"]).double()
        z_masked = pipeline.encode_picture(batch["source"] * (1 - batch["mask"]))
    alpha = (1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2).cumprod(0)[t]
    signal, sigma = alpha.sqrt().view(-1, 1, 1, 1), (1 - alpha).sqrt().view(-1, 1, 1, 1)
    targets = {"epsilon": noise, "v_prediction": signal * noise - sigma * z_0, "sample": z_0}
    m = latent_mask(batch["mask"], (8, 8)).double()
    weight = (m + outside_weight * (1 - m)).expand(3, 6, 8, 8)
    expected = (weight * targets[prediction_type].square()).sum() / weight.sum()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-4)

    ((x, told, condition),) = seen
    assert torch.equal(told, t)
    assert torch.allclose(x[:, :6].double(), signal * z_0 + sigma * noise, atol=1e-3)
    assert torch.equal(x[:, 6:12], z_masked)
    assert torch.allclose(x[:, 12:].double(), 1 - m)
    expected_condition = pipeline.encode_exemplar(batch["exemplar"].numpy())
    assert torch.allclose(condition, expected_condition, atol=1e-5)


def test_a_perfect_prediction_has_no_loss(config: Callable[..., TrainConfig]) -> None:
    pipeline = tiny.clip_pipeline()  # predicts noise
    generator = torch.Generator().manual_seed(4)
    torch.rand(3, generator=generator)
    torch.rand(3, generator=generator, dtype=torch.float64)
    noise = torch.randn(3, 4, 16, 16, generator=generator)
    args = (batch_of(pipeline), config(), torch.Generator().manual_seed(4))
    assert loss_of(pipeline, *args, lambda *_: SimpleNamespace(sample=noise)).item() == 0


def test_features_computed_ahead_stand_for_the_exemplar(config: Callable[..., TrainConfig]) -> None:
    pipeline = tiny.embedded_pipeline()
    batch = batch_of(pipeline)
    with torch.no_grad():
        plain = loss_of(pipeline, batch, config(), torch.Generator().manual_seed(0), pipeline.unet)
        exemplars = pipeline.exemplar_tensor(batch.pop("exemplar").numpy())
        batch["features"] = pipeline.image_encoder.features(exemplars)
        ahead = loss_of(pipeline, batch, config(), torch.Generator().manual_seed(0), pipeline.unet)
    assert ahead.item() == pytest.approx(plain.item(), rel=1e-5)


@pytest.mark.parametrize("name", ["ddim", "pndm", "dpm++", "unipc"])
def test_noising_does_not_depend_on_the_solver(name: Any, config: Callable[..., TrainConfig]) -> None:
    """The schedulers' own add_noise would: that of DPM++ reads the schedule backwards."""
    pipeline = tiny.embedded_pipeline()
    expected: list[Tensor] = []
    found: list[Tensor] = []
    for scheduler, seen in ((pipeline.scheduler, expected), (make_scheduler(name, pipeline.scheduler), found)):
        pipeline.scheduler = scheduler

        def unet(x: Tensor, *_: Tensor, seen: list[Tensor] = seen) -> SimpleNamespace:
            seen.append(x)
            return SimpleNamespace(sample=torch.zeros(3, 6, 8, 8))

        seen.append(loss_of(pipeline, batch_of(pipeline), config(), torch.Generator().manual_seed(0), unet))
    assert same(found, expected)


def test_a_prediction_that_is_not_known() -> None:
    scheduler = tiny.embedded_pipeline().scheduler
    scheduler.register_to_config(prediction_type="flow")
    with pytest.raises(ModelError, match="'flow'"):
        prediction_target(torch.zeros(1), torch.zeros(1), torch.zeros(1, dtype=torch.long), scheduler)


# What learns and what does not


def test_the_pretrained_part_of_the_encoder_is_frozen(family: str) -> None:
    names = Network(tiny.PIPELINES[family]()).trained()
    frozen = {"embedded": ("backbone", "components"), "clip": ("model",)}[family]
    assert not [name for name in names if name.startswith(tuple(f"encoder.{part}." for part in frozen))]
    assert "encoder.uncond_vector" in names
    assert "encoder.proj_out.weight" in names
    assert "unet.conv_in.weight" in names
    assert not [name for name in names if "vae" in name]


@pytest.mark.parametrize("kind", ["composites", "index"])
def test_a_run_teaches_what_should_learn_and_nothing_else(
    kind: str, family: str, models: dict[str, Path], index: Path, config: Callable[..., TrainConfig]
) -> None:
    given = {"data": index} if kind == "index" else {}
    folder = train(config(init=str(models[family]), drop_exemplar=0.5, batch_size=4, steps=2, **given))
    before, after = load_pipeline(models[family]), load_pipeline(folder)
    learns = {f"{part}.{name}" for part, name in (key.split(".", 1) for key in Network(before).trained())}
    for part, now in (("unet", after.unet), ("encoder", after.image_encoder), ("vae", after.vae)):
        was = {"unet": before.unet, "encoder": before.image_encoder, "vae": before.vae}[part].state_dict()
        changed = {f"{part}.{name}" for name, value in now.state_dict().items() if not torch.equal(value, was[name])}
        # one token has nobody to attend to but itself, so queries and keys get no gradient, only their weights' decay
        unmoved = {name for name in learns if name.startswith(f"{part}.")} - changed
        assert changed <= learns
        assert {name for name in unmoved if "attn" not in name} == set()
    assert after.unet.training is False
    assert (
        load_pipeline(folder).edit(tiny.picture(20, 20), exemplar=tiny.picture(9, 9), box=(2, 2, 9, 9), steps=1).images
    )


def test_a_memorised_example_is_learnt(
    config: Callable[..., TrainConfig], models: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline = tiny.embedded_pipeline()
    network = Network(pipeline).train()
    optimizer = torch.optim.AdamW(network.trained().values(), lr=3e-3)
    batch = {name: value[:1].repeat(8, *[1] * (value.ndim - 1)) for name, value in batch_of(pipeline).items()}
    run = config(drop_exemplar=0.0)
    found = []
    for _ in range(30):
        loss = loss_of(pipeline, batch, run, torch.Generator().manual_seed(0), pipeline.unet)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        found.append(loss.item())
    assert found[-1] < 0.7 * found[0]


def test_the_saved_model_is_the_average_not_the_last_weights(config: Callable[..., TrainConfig]) -> None:
    folder = train(config(ema_decay=0.9))
    saved, kept = load_pipeline(folder), checkpoint(folder.parent)
    weights = dict(Network(saved).named_parameters())
    assert all(torch.equal(weights[name], value) for name, value in kept["average"].items())
    assert not torch.equal(kept["parameters"]["unet.conv_in.weight"], kept["average"]["unet.conv_in.weight"])
    assert kept["average_updates"] == 3


# Going on


def test_a_stopped_run_goes_on_as_if_it_had_not_been(config: Callable[..., TrainConfig], tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    train(config(output=whole, steps=6, checkpoint_every=100))
    train(config(output=parts, steps=3))
    assert checkpoint(parts)["step"] == 3
    train(config(output=parts, steps=6))
    assert losses(parts) == losses(whole)
    assert len(set(losses(whole))) == 6
    assert same(checkpoint(parts), checkpoint(whole))
    first, second = (load_pipeline(folder / "model").unet.state_dict() for folder in (parts, whole))
    assert same(dict(first), dict(second))


def stop_after(steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a run end as if it were killed once that many steps are done."""
    update = MovingAverage.update

    def stop(average: MovingAverage, parameters: dict[str, nn.Parameter]) -> None:
        if average.updates == steps:
            raise KeyboardInterrupt
        update(average, parameters)

    monkeypatch.setattr(MovingAverage, "update", stop)


def test_a_run_stopped_between_lines_of_the_log_goes_on_exactly_with_dropout_too(
    config: Callable[..., TrainConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mean over three steps is of all three, though a checkpoint came between; torch's own draws are the same."""

    def with_dropout(*arguments: Any) -> Tensor:
        return nn.functional.dropout(diffusion_loss(*arguments).expand(64)).mean()

    settings = {"steps": 6, "log_every": 3, "checkpoint_every": 2}
    monkeypatch.setattr(training, "diffusion_loss", with_dropout)
    train(config(output=tmp_path / "whole", **settings))
    state = torch.random.get_rng_state()
    with monkeypatch.context() as patch:
        stop_after(5, patch)
        with pytest.raises(KeyboardInterrupt):
            train(config(output=tmp_path / "parts", **settings))
    train(config(output=tmp_path / "parts", **settings))
    assert losses(tmp_path / "parts") == losses(tmp_path / "whole")
    assert same(checkpoint(tmp_path / "parts"), checkpoint(tmp_path / "whole"))
    assert torch.equal(torch.random.get_rng_state(), state)  # the caller's draws are left alone


def test_the_newest_whole_checkpoint_is_taken_and_old_ones_go(
    config: Callable[..., TrainConfig], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = config(steps=5, checkpoint_every=1)
    train(run)
    files = checkpoints(run.output)
    assert [file.name for file in files] == [f"step-{step:07d}.pt" for step in (3, 4, 5)]
    expected, logged = checkpoint(run.output), losses(run.output)
    content = bytearray(files[2].read_bytes())
    content[content.index(expected["average"]["unet.conv_in.bias"].numpy().tobytes()) + 10] ^= 1  # one bit
    files[2].write_bytes(content)
    files[1].write_bytes(files[1].read_bytes()[:-100])
    shutil.rmtree(run.output / "model")
    train(run)
    error = capsys.readouterr().err
    assert f"{files[2]} is damaged" in error
    assert f"{files[1]} is damaged" in error
    assert same(checkpoint(run.output), expected)
    assert losses(run.output) == logged
    assert load_pipeline(run.output / "model")


def test_a_checkpoint_of_before_there_were_several_is_taken_up(
    config: Callable[..., TrainConfig], tmp_path: Path
) -> None:
    train(config(output=tmp_path / "whole", steps=4))
    train(config(output=tmp_path / "old", steps=2))
    state = checkpoint(tmp_path / "old")
    del state["losses"]
    torch.save(state, tmp_path / "old" / "checkpoint.pt")
    shutil.rmtree(tmp_path / "old" / "checkpoints")
    train(config(output=tmp_path / "old", steps=4))
    assert losses(tmp_path / "old") == losses(tmp_path / "whole")
    assert same(checkpoint(tmp_path / "old"), checkpoint(tmp_path / "whole"))


def test_what_a_killed_run_logged_after_its_checkpoint_is_forgotten(
    config: Callable[..., TrainConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = config(steps=5, checkpoint_every=2)
    with monkeypatch.context() as patch:
        stop_after(3, patch)
        with pytest.raises(KeyboardInterrupt):
            train(run)
    assert checkpoint(run.output)["step"] == 2
    assert len(losses(run.output)) == 3
    with (run.output / "log.jsonl").open("a") as log:
        log.write('{"step": 4, "lo')  # cut short
    for place in ("checkpoints/step-0000004.pt.partial", "samples/step-0000004.png.partial", "config.json.partial"):
        (run.output / place).parent.mkdir(exist_ok=True)
        (run.output / place).write_bytes(b"cut short")
    train(run)
    assert not list(run.output.rglob("*.partial"))
    steps = [json.loads(line)["step"] for line in (run.output / "log.jsonl").read_text().splitlines()]
    assert steps == [1, 2, 3, 4, 5]


def test_a_finished_run_has_nothing_left_to_do(config: Callable[..., TrainConfig]) -> None:
    folder = train(config(steps=2))
    before = load_pipeline(folder).unet.state_dict()
    assert train(config(steps=1)) == folder  # shorter than what was done
    assert same(dict(load_pipeline(folder).unet.state_dict()), dict(before))


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # from Python 3.12 on
@pytest.mark.parametrize("kind", ["composites", "index"])
def test_workers_change_nothing(kind: str, index: Path, config: Callable[..., TrainConfig], tmp_path: Path) -> None:
    given = {"data": index} if kind == "index" else {}
    for workers in (0, 2):
        train(config(output=tmp_path / str(workers), workers=workers, **given))
    assert losses(tmp_path / "0") == losses(tmp_path / "2")


class Numbers:
    """Examples that say which they are."""

    epoch = 0

    def __len__(self) -> int:
        return 5

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"epoch": self.epoch, "index": index}


def test_steps_go_through_the_epochs() -> None:
    steps = Steps(Numbers(), first=3, last=12)
    assert len(steps) == 9
    assert [(item["epoch"], item["index"]) for item in map(steps.__getitem__, range(9))] == [
        (0, 3), (0, 4), (1, 0), (1, 1), (1, 2), (1, 3), (1, 4), (2, 0), (2, 1),
    ]  # fmt: skip


def test_every_epoch_of_an_index_has_its_own_order() -> None:
    steps = Steps(Numbers(), 0, 100, shuffle=0)
    epochs = [[steps[5 * epoch + item]["index"] for item in range(5)] for epoch in range(20)]
    assert all(sorted(order) == [0, 1, 2, 3, 4] for order in epochs)
    assert len({tuple(order) for order in epochs}) > 10
    later = Steps(Numbers(), 5 * 7 + 2, 100, shuffle=0)
    assert [later[item]["index"] for item in range(3)] == epochs[7][2:]
    other = Steps(Numbers(), 0, 100, shuffle=1)
    assert [[other[5 * epoch + item]["index"] for item in range(5)] for epoch in range(20)] != epochs


# What goes wrong


def one_line(error: pytest.ExceptionInfo[UserError]) -> str:
    text = str(error.value)
    assert "\n" not in text
    assert len(text) < 400
    return text


def poisoned(folder: Path, to: Path) -> str:
    """A copy of a model whose U-Net holds a value that is not a number."""
    pipeline = load_pipeline(folder)
    with torch.no_grad():
        pipeline.unet.conv_out.bias[0] = float("nan")
    pipeline.save_pretrained(to)
    return str(to)


def test_a_loss_that_is_not_finite_stops_the_run(
    config: Callable[..., TrainConfig], models: dict[str, Path], tmp_path: Path
) -> None:
    init = poisoned(models["embedded"], tmp_path / "poisoned")
    with pytest.raises(UserError, match="stopped in step 1 with a loss of nan") as error:
        train(config(init=init, checkpoint_every=1))
    one_line(error)
    assert not checkpoints(tmp_path / "run")


def test_a_gradient_that_is_not_finite_stops_the_run_before_it_is_followed(
    config: Callable[..., TrainConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    def loss_with_a_kink(pipeline: PaintByExamplePipeline, *arguments: Any) -> Tensor:
        kink: Tensor = (0 * pipeline.unet.conv_in.bias.sum()).sqrt()  # 0, and its slope 0 * infinity
        return diffusion_loss(pipeline, *arguments) + kink

    monkeypatch.setattr(training, "diffusion_loss", loss_with_a_kink)
    run = config(checkpoint_every=1)
    with pytest.raises(UserError, match=r"stopped in step 1 with a loss of [\d.]+ and a gradient of nan"):
        train(run)
    assert not checkpoints(run.output)


def test_the_step_that_stopped_the_run_is_named_and_not_kept(
    config: Callable[..., TrainConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    update = MovingAverage.update

    def poison(average: MovingAverage, parameters: dict[str, nn.Parameter]) -> None:
        update(average, parameters)
        if average.updates == 2:
            parameters["unet.conv_out.bias"].data.fill_(float("inf"))

    monkeypatch.setattr(MovingAverage, "update", poison)
    run = config(steps=5, checkpoint_every=3)
    with pytest.raises(UserError, match="stopped in step 3 "):
        train(run)
    assert not checkpoints(run.output)
    assert len(losses(run.output)) == 2


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04 cut short"])
def test_a_damaged_checkpoint(content: bytes, config: Callable[..., TrainConfig]) -> None:
    run = config()
    run.output.mkdir()
    (run.output / "checkpoint.pt").write_bytes(content)
    with pytest.raises(DataError, match=r"checkpoint.pt is damaged and cannot be read") as error:
        train(run)
    assert str(run.output / "checkpoint.pt") in one_line(error)
    assert (run.output / "checkpoint.pt").read_bytes() == content


def test_something_else_in_the_place_of_a_checkpoint(config: Callable[..., TrainConfig]) -> None:
    run = config()
    run.output.mkdir()
    torch.save({"step": 3}, run.output / "checkpoint.pt")
    with pytest.raises(DataError, match="damaged"):
        train(run)


def test_a_checkpoint_of_another_network(
    config: Callable[..., TrainConfig], models: dict[str, Path], tmp_path: Path
) -> None:
    train(config(steps=1))
    with pytest.raises(DataError, match=r"step-0000001.pt belongs to another network") as error:
        train(config(init=str(models["clip"])))
    one_line(error)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("steps", 0),
        ("batch_size", 0),
        ("accumulate", 0),
        ("lora_rank", -1),
        ("checkpoint_every", 0),
        ("keep_checkpoints", 0),
        ("sample_every", -1),
        ("held_out_every", 0),
        ("log_every", 0),
        ("warmup_steps", -1),
        ("decay_steps", -1),
        ("seed", -1),
        ("workers", -1),
        ("learning_rate", 0.0),
        ("learning_rate", float("nan")),
        ("max_grad_norm", -1.0),
        ("timestep_power", 0.0),
        ("weight_decay", -0.1),
        ("outside_weight", -1.0),
        ("outside_weight", float("inf")),
        ("drop_exemplar", 1.5),
        ("ema_decay", 1.0),
    ],
)
def test_settings_out_of_range(name: str, value: float, config: Callable[..., TrainConfig]) -> None:
    with pytest.raises(UserError, match=f"{name} .*got {value}") as error:
        config(**{name: value})
    one_line(error)


def test_data_that_are_not_there(config: Callable[..., TrainConfig], index: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere\.jsonl"):
        train(config(data=tmp_path / "nowhere.jsonl"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"composites\.jsonl"):
        train(config(data=tmp_path / "empty"))
    with pytest.raises(DataError, match="leave features out"):
        train(config(data=index, features=tmp_path / "features.npy"))
    with pytest.raises(DataError, match=r"cannot read the features .*features\.npy"):
        train(config(features=tmp_path / "features.npy"))
    assert not checkpoints(tmp_path / "run")


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.parametrize("workers", [0, 1])
def test_a_picture_that_is_gone_is_one_line_from_a_worker_too(
    workers: int, index: Path, config: Callable[..., TrainConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(shutil.copytree(index.parent, tmp_path / "boxes"))
    (folder / "1.png").unlink()
    with pytest.raises(DataError, match=r"^\S+index.jsonl, line 2: .*1\.png: there is no such file") as error:
        train(config(data=folder / "index.jsonl", workers=workers))
    assert "Traceback" not in one_line(error)


def test_a_folder_that_cannot_be_written(config: Callable[..., TrainConfig], tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot write the run's folder"):
        train(config(output=tmp_path / "file"))


# What a run leaves


def test_what_a_run_leaves(config: Callable[..., TrainConfig], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("paint_by_example.held_out.SAMPLES", 3)
    run = config(steps=4, sample_every=2, log_every=3, learning_rate=2e-3, warmup_steps=4)
    train(run)
    names = sorted(path.name for path in run.output.iterdir())
    assert names == ["checkpoints", "config.json", "log.jsonl", "model", "samples"]
    log = [json.loads(line) for line in (run.output / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in log] == [3, 4]
    assert [line["learning_rate"] for line in log] == pytest.approx([1.5e-3, 2e-3])
    assert all(line["pictures_per_second"] > 0 for line in log)
    assert json.loads((run.output / "config.json").read_text())["batch_size"] == 2
    grids = sorted((run.output / "samples").iterdir())
    assert [grid.name for grid in grids] == ["step-0000002.png", "step-0000004.png"]
    with Image.open(grids[0]) as grid:
        assert grid.size == (8 * tiny.IMAGE, 2 * tiny.IMAGE)  # three edits of four pictures, two edits a row
        sheet = np.asarray(grid)
    masked, result, truth = (sheet[:32, 32 * column : 32 * (column + 1)] for column in (0, 2, 3))
    kept = (masked == truth).all(-1)
    assert 0 < kept.mean() < 1
    assert (result[kept] == truth[kept]).all()
    assert (result[~kept] != truth[~kept]).any()
    assert (sheet[32:, 128:] == 255).all()  # the fourth is not there


def test_the_compiled_unet_is_what_trains(config: Callable[..., TrainConfig], monkeypatch: pytest.MonkeyPatch) -> None:
    calls = 0

    def compiled(unet: nn.Module) -> Callable[..., Any]:
        def run(*arguments: Any) -> Any:
            nonlocal calls
            calls += 1
            return unet(*arguments)

        return run

    plain = train(config())
    expected = losses(plain.parent)
    monkeypatch.setattr(torch, "compile", compiled)
    shutil.rmtree(plain.parent)
    train(config(compile=True))
    assert calls == 3
    assert losses(plain.parent) == expected


def test_the_model_with_the_least_held_out_loss_stays_and_is_found_again_exactly(
    config: Callable[..., TrainConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A learning rate that spoils the model after two steps makes an earlier one the best."""

    def factor(step: int, run: TrainConfig) -> float:
        return 1.0 if step < 2 else 1000.0

    monkeypatch.setattr(training, "learning_rate_factor", factor)
    settings = {"steps": 4, "held_out_every": 1, "checkpoint_every": 1, "ema_decay": 0.0}
    train(config(output=tmp_path / "whole", **settings))
    lines = [json.loads(line) for line in (tmp_path / "whole" / "held_out.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3, 4]
    values = [line["loss"] for line in lines]
    assert [line["best"] for line in lines] == [min(values[: n + 1]) for n in range(4)]
    assert min(values) < values[3]
    best, last = (load_pipeline(tmp_path / "whole" / name, device="cpu") for name in ("best", "model"))
    run = config()
    data = load_examples(run, best, "held_out")
    assert held_out.held_out_loss(best, data, run) == pytest.approx(min(values), rel=1e-4)
    assert held_out.held_out_loss(last, data, run) == pytest.approx(values[3], rel=1e-4)
    with monkeypatch.context() as patch:
        stop_after(3, patch)
        with pytest.raises(KeyboardInterrupt):
            train(config(output=tmp_path / "parts", **settings))
    train(config(output=tmp_path / "parts", **settings))
    files = [(tmp_path / name / "held_out.jsonl").read_bytes() for name in ("whole", "parts")]
    assert files[0] == files[1]
    assert same(*(dict(load_pipeline(tmp_path / name / "best").unet.state_dict()) for name in ("whole", "parts")))
