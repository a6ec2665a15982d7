"""Distillation: its target against the teacher's own steps, λ as a dial, a run that is stopped, the student in use."""

import copy
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from paint_by_example import PaintByExamplePipeline, UserError, distillation, load_pipeline
from paint_by_example.batching import SharedNetwork
from paint_by_example.cli import main
from paint_by_example.compiled import compile_network, has_openvino, predict
from paint_by_example.dial import embed_scale
from paint_by_example.distillation import (
    Draws,
    Stretches,
    distillation_loss,
    error_weight,
    roll_out,
    student_scheduler,
    target,
    tell_scale,
)
from paint_by_example.sampling import denoise, make_scheduler, predict_clean, predict_noise, scales
from paint_by_example.settings import DistillConfig
from paint_by_example.state import save_checkpoint
from tests import tiny

BOX = (8, 8, 24, 24)


@pytest.fixture
def distil(models: dict[str, Path], tmp_path: Path) -> Callable[..., Path]:
    """Distil a tiny model; gives the run's folder."""
    data = tiny.composites_folder(tmp_path / "composites")
    settings: dict[str, Any] = {"data": data, "init": str(models["embedded"]), "steps": 4, "batch_size": 2}
    settings |= {"student_steps": 2, "teacher_steps": 2, "learning_rate": 1e-2, "warmup_steps": 0, "log_every": 1}
    settings |= {"checkpoint_every": 2, "workers": 0, "device": "cpu"}

    def run(name: str = "run", **given: Any) -> Path:
        return distillation.distill(DistillConfig(**(settings | given | {"output": tmp_path / name}))).parent

    return run


def student() -> PaintByExamplePipeline:
    """A tiny model that is told λ and minds it."""
    pipeline = tiny.embedded_pipeline()
    tell_scale(pipeline.unet)
    torch.nn.init.normal_(pipeline.unet.time_embedding.cond_proj.weight)
    return pipeline


def edit(pipeline: PaintByExamplePipeline, **options: Any) -> np.ndarray:
    made = pipeline.edit(tiny.picture(32, 32), exemplar=tiny.picture(20, 20, seed=1), box=BOX, **options)
    return np.asarray(made.images[0])


@pytest.mark.parametrize(("stretch", "scale"), [(0, 1.0), (1, 4.0), (2, 2.5)])
def test_one_step_with_the_target_goes_as_far_as_the_teachers(
    family: str, pipelines: dict[str, PaintByExamplePipeline], stretch: int, scale: float
) -> None:
    scheduler = student_scheduler(pipelines[family].scheduler)
    stretches = Stretches(scheduler, 3, 4)
    generator = torch.Generator().manual_seed(0)
    z_t = torch.randn(1, 4, 8, 8, generator=generator)
    null, condition = torch.zeros(1, 1, 1), torch.ones(1, 1, 1)

    def teacher(z: Tensor, t: Tensor, conditions: Tensor) -> Tensor:
        return (z.roll(1, -1) * 0.5 + t.view(-1, 1, 1, 1) / 1000 + conditions[..., None] * 0.3).sin()

    draws = Draws(torch.tensor([stretch]), torch.tensor([scale]), torch.empty(0))
    wanted = target(teacher, null, condition, z_t, draws, stretches)

    def guided(z: Tensor, t: Tensor) -> Tensor:
        e_null, e_condition = (teacher(z, t.view(1), one) for one in (null, condition))
        return e_null + scale * (e_condition - e_null)

    whole = denoise(guided, z_t, scheduler, 12, start=4 * stretch)
    theirs = [next(whole).z_t for _ in range(4)][-1]
    ours = next(denoise(lambda z, t: wanted, z_t, scheduler, 3, start=stretch)).z_t
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    assert (ours - z_t).std() > 0.05


def test_a_student_learns_from_where_it_gets_to_itself(
    family: str, pipelines: dict[str, PaintByExamplePipeline]
) -> None:
    stretches = Stretches(student_scheduler(pipelines[family].scheduler), 3, 4)
    z_T = torch.randn(4, 4, 8, 8, generator=torch.Generator().manual_seed(0))

    def student(z: Tensor, t: Tensor) -> Tensor:
        return (z.roll(1, -1) * 0.5 + t.view(-1, 1, 1, 1) / 1000).sin()

    draws = Draws(torch.tensor([2, 0, 1, 2]), torch.ones(4), torch.empty(0))
    found = roll_out(student, z_T, draws, stretches)
    steps = [z_T, *(step.z_t for step in denoise(lambda z, t: student(z, t.view(1)), z_T, stretches.scheduler, 3))]
    for number, stretch in enumerate(draws.stretch):
        torch.testing.assert_close(found[number], steps[stretch][number], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
def test_an_error_counts_the_same_whatever_is_predicted(
    pipelines: dict[str, PaintByExamplePipeline], kind: str
) -> None:
    scheduler = make_scheduler("ddim", {**pipelines["clip"].scheduler.config, "prediction_type": kind})
    generator = torch.Generator().manual_seed(0)
    z_t, first, second = (torch.randn(3, 4, 2, 2, generator=generator, dtype=torch.float64) for _ in range(3))
    t = torch.tensor([0, 400, 999])
    alpha, sigma = scales(t, scheduler, z_t)
    v = [
        alpha * predict_noise(z_t, prediction, t, scheduler) - sigma * predict_clean(z_t, prediction, t, scheduler)
        for prediction in (first, second)
    ]
    weighted = (first - second).square() * error_weight(t, scheduler, z_t)
    torch.testing.assert_close(weighted, (v[0] - v[1]).square(), rtol=1e-6, atol=1e-9)


def test_a_student_is_its_teacher_until_it_learns_and_then_minds_the_dial() -> None:
    pipeline = tiny.embedded_pipeline()
    plain = edit(pipeline, steps=2, guidance_scale=1.0)
    tell_scale(pipeline.unet)
    assert np.array_equal(edit(pipeline, steps=2, guidance_scale=7.0), plain)
    pipeline = student()
    assert not np.array_equal(edit(pipeline, steps=2, guidance_scale=7.0), edit(pipeline, steps=2, guidance_scale=2.0))
    near, far = (embed_scale(scale, 64) for scale in (5.001, 6.0))
    assert (embed_scale(5.0, 64) - near).norm() < 0.2 < (embed_scale(5.0, 64) - far).norm()


def test_a_student_with_a_map_is_drawn_to_it_as_its_teacher_is(tmp_path: Path) -> None:
    pipeline = load_pipeline("embedded", device="cpu")
    plain = edit(pipeline, steps=2, guidance_scale=5.0)
    teacher = copy.deepcopy(pipeline.unet)
    tell_scale(pipeline.unet)
    assert np.array_equal(edit(pipeline, steps=2, guidance_scale=5.0), plain)

    config = DistillConfig(data=tmp_path, output=tmp_path, precision="float32")
    generator = torch.Generator().manual_seed(0)
    channels, side = int(pipeline.unet.config.out_channels), 16
    latents = {name: torch.randn(3, channels, side, side, generator=generator) for name in ("z_0", "z_masked")}
    latents["latent_mask"] = torch.zeros(3, 1, side, side)
    latents["latent_mask"][..., 3:12, 4:13] = 1
    pictures = [tiny.picture(40, 40, seed=seed) for seed in range(3)]
    latents["features"] = pipeline.image_encoder.features(pipeline.exemplar_tensor(pictures))
    draws = Draws(torch.tensor([0, 1, 2]), torch.tensor([1.0, 5.0, 8.0]), torch.randn(3, channels, side, side))
    losses = {}
    for steps in (1, 2):
        stretches = Stretches(student_scheduler(pipeline.scheduler), 3, steps)
        loss = distillation_loss(pipeline, pipeline.unet, teacher, latents, draws, stretches, config)
        losses[steps] = loss.item()
    assert losses[1] < 1e-6 < 1e-2 < losses[2]  # one step to one is what it does already


def test_a_student_asks_once_a_step_whatever_the_scale() -> None:
    pipeline = student()
    unet = pipeline.unet
    seen: list[int] = []
    forward = unet.forward

    def count(x: Tensor, *args: Any, **options: Any) -> Any:
        seen.append(len(x))
        return forward(x, *args, **options)

    unet.forward = count
    edit(pipeline, steps=3, guidance_scale=5.0)
    assert seen == [1, 1, 1]


def test_shared_calls_tell_each_edit_its_own_scale() -> None:
    unet = student().unet
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, unet.config.in_channels, 8, 8, generator=generator)
    condition, t = torch.randn(2, 1, 16, generator=generator), torch.tensor(400)
    scales = embed_scale(torch.tensor([2.0, 7.0]), 64)
    with torch.no_grad():
        apart = [predict(unet, x[[n]], t, condition[[n]], scales[[n]]) for n in range(2)]
    sizes: list[int] = []
    shared = SharedNetwork(unet, sizes.append, patient=True)

    @torch.no_grad()
    def call(n: int) -> Tensor:
        try:
            found: Tensor = unet(x[[n]], t, encoder_hidden_states=condition[[n]], timestep_cond=scales[[n]]).sample
            return found
        finally:
            shared.end()

    shared.begin(2)
    with ThreadPoolExecutor() as threads:
        together = torch.cat(list(threads.map(call, range(2))))
    assert sizes == [2]
    torch.testing.assert_close(together, torch.cat(apart), rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@pytest.mark.skipif(not has_openvino(), reason="openvino is not installed")
@torch.no_grad()
def test_a_compiled_student_is_told_the_scale(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PBE_CACHE", str(tmp_path))
    unet = student().unet
    x, condition, t = torch.randn(2, unet.config.in_channels, 8, 8), torch.randn(2, 1, 16), torch.tensor(400)
    network = compile_network(unet, "openvino")
    for told in (embed_scale(5.0, 64), embed_scale(torch.tensor([2.0, 7.0]), 64)):
        expected = predict(unet, x, t, condition, told)
        torch.testing.assert_close(network(x, t, condition, told), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("rank", [0, 2])
def test_a_run_makes_a_student_and_goes_on_where_it_stopped(
    distil: Callable[..., Path], models: dict[str, Path], rank: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = distil(lora_rank=rank)
    made = load_pipeline(run / "model", device="cpu")
    teacher = load_pipeline(models["embedded"], device="cpu")
    assert made.scale_size == 64
    assert made.unet.time_embedding.cond_proj.weight.abs().max() > 0
    assert torch.equal(made.unet.conv_in.weight, teacher.unet.conv_in.weight) == bool(rank)
    assert made.image_encoder.state_dict().keys() == teacher.image_encoder.state_dict().keys()
    result = made.edit(tiny.picture(32, 32), exemplar=tiny.picture(20, 20), box=BOX)
    assert result.steps == 2
    assert len((run / "log.jsonl").read_text().splitlines()) == 4

    # The same in two parts.
    def stop(folder: Path, state: dict[str, Any], keep: int) -> None:
        save_checkpoint(folder, state, keep)
        if state["step"] == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(distillation, "save_checkpoint", stop)
    with pytest.raises(KeyboardInterrupt):
        distil("parts", lora_rank=rank)
    monkeypatch.undo()
    again = load_pipeline(distil("parts", lora_rank=rank) / "model", device="cpu")
    for name, value in made.unet.state_dict().items():
        assert torch.equal(value, again.unet.state_dict()[name]), name


def test_a_student_comes_nearer_to_its_teacher(distil: Callable[..., Path]) -> None:
    run = distil(steps=24, batch_size=4, checkpoint_every=100, teacher_steps=1)
    losses = [json.loads(line)["loss"] for line in (run / "log.jsonl").read_text().splitlines()]
    assert np.mean(losses[-6:]) < 0.8 * np.mean(losses[:6])


def test_what_cannot_be_distilled_is_told(distil: Callable[..., Path], tmp_path: Path) -> None:
    run = distil(steps=1)
    with pytest.raises(UserError, match="is distilled already"):
        distil("again", init=str(run / "model"))
    with pytest.raises(UserError, match="student_steps must be at least 1"):
        DistillConfig(data=tmp_path, output=tmp_path, student_steps=0)
    with pytest.raises(UserError, match="least_scale 9"):
        DistillConfig(data=tmp_path, output=tmp_path, least_scale=9)


def test_the_command(models: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = tiny.composites_folder(tmp_path / "composites")
    command = ["distill", "--data", str(data), "--output", str(tmp_path / "run"), "--init", str(models["embedded"])]
    command += ["--steps", "1", "--batch-size", "2", "--workers", "0", "--device", "cpu", "--json"]
    assert main(command) == 0
    assert json.loads(capsys.readouterr().out) == {"model": str(tmp_path / "run" / "model")}
