"""What a run starts from: a model, Stable Diffusion 1.x with CLIP beside it, or nothing for what learns."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from paint_by_example import UserError, held_out, load_pipeline
from paint_by_example.cli import main
from paint_by_example.learner import FROZEN, start_over
from paint_by_example.settings import TrainConfig
from tests import tiny
from tests.test_checkpoint import clip, sd_folder

__all__ = ["clip"]


@pytest.fixture
def train(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    monkeypatch.setattr(held_out, "SAMPLES", 1)
    monkeypatch.setattr(held_out, "SAMPLE_STEPS", 1)
    index = tiny.box_index(tmp_path / "boxes")
    given = ["--data", str(index), "--output", str(tmp_path / "run"), "--batch-size", "1", "--log-every", "1"]
    return lambda *more: main(["train", *given, "--workers", "0", "--device", "cpu", *map(str, more)])


@pytest.mark.parametrize("family", sorted(tiny.PIPELINES))
def test_from_scratch_all_that_learns_is_drawn_anew_and_what_is_pretrained_stays(family: str) -> None:
    made = [tiny.PIPELINES[family]() for _ in range(3)]
    before, first, second = made
    for pipeline in (first, second):
        with torch.no_grad():
            for parameter in pipeline.unet.parameters():
                parameter.fill_(7.0)
        start_over(pipeline, seed=3)
    for name, parameter in first.unet.named_parameters():
        assert torch.equal(parameter, second.unet.get_parameter(name)), name
        assert not (parameter == 7).any(), name
    for name, parameter in first.image_encoder.named_parameters():
        pretrained = name.split(".")[0] in FROZEN
        given = before.image_encoder.get_parameter(name)
        constant = bool((given == given.flatten()[0]).all())  # norms and biases start as ones and zeros
        assert torch.equal(parameter, given) == pretrained or constant, name
    start_over(second, seed=4)
    assert not torch.equal(first.unet.conv_in.weight, second.unet.conv_in.weight)


def test_a_run_from_scratch_goes_on_as_if_it_had_not_stopped(
    train: Callable[..., int], models: dict[str, Path], tmp_path: Path
) -> None:
    scratch = ("--init", models["clip"], "--scratch")
    assert train(*scratch, "--steps", 3, "--output", tmp_path / "whole") == 0
    assert train(*scratch, "--steps", 1) == 0
    assert train(*scratch, "--steps", 3) == 0
    losses = [
        [json.loads(line)["loss"] for line in (tmp_path / name / "log.jsonl").read_text().splitlines()]
        for name in ("whole", "run")
    ]
    assert len(losses[0]) == 3
    assert losses[0] == losses[1]


def test_stable_diffusion_is_a_start_by_itself(
    train: Callable[..., int], clip: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = sd_folder(tmp_path / "sd", 4)
    assert train("--init", source, "--steps", 1) == 1
    assert "it seems to be Stable Diffusion 1.x, a start for training" in capsys.readouterr().err
    start = ("--init", source, "--image-encoder", clip["whole"], "--steps", 1)
    assert train(*start, "--dry-run", "--json") == 0
    planned = json.loads(capsys.readouterr().out)["parameters"]
    assert train(*start) == 0
    assert main(["convert", str(source), str(tmp_path / "start"), "--image-encoder", str(clip["whole"])]) == 0
    assert train("--init", tmp_path / "start", "--steps", 1, "--output", tmp_path / "other") == 0
    assert (tmp_path / "run" / "log.jsonl").read_text().split(",")[:2] == (
        tmp_path / "other" / "log.jsonl"
    ).read_text().split(",")[:2]
    pipeline = load_pipeline(tmp_path / "run" / "model", device="cpu")
    assert pipeline.unet.config.in_channels == 9
    parts = (pipeline.unet, pipeline.image_encoder, pipeline.vae)
    assert sum(planned.values()) == sum(p.numel() for part in parts for p in part.parameters())


@pytest.mark.parametrize("other", [{"lora_rank": 2}, {"train": "mapper"}])
def test_scratch_leaves_nothing_to_add_to(other: dict[str, object], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="scratch draws all weights anew"):
        TrainConfig(data=tmp_path, output=tmp_path, scratch=True, **other)  # type: ignore[arg-type]
