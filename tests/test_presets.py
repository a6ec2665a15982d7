"""Presets and backends: what they change, what they must not, and how they fail."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from paint_by_example import PaintByExamplePipeline, UserError, compiled, load_pipeline
from paint_by_example.calibration import dead_leaves, unet_inputs
from paint_by_example.cli import main
from paint_by_example.compiled import OpenVINONetwork, choose_backend, compile_network, has_bfloat16, has_openvino
from paint_by_example.presets import PRESETS, find_preset
from paint_by_example.record import read_record
from tests import tiny

needs_openvino = pytest.mark.skipif(not has_openvino(), reason="openvino is not installed")
BOX = (8, 8, 24, 24)


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def cache(kept: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of its own, which the tests share, since to convert takes seconds."""
    monkeypatch.setenv("PBE_CACHE", str(kept))
    return kept


def inputs(pipeline: PaintByExamplePipeline) -> tuple[Tensor, Tensor, Tensor]:
    config = pipeline.unet.config
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(2, config.in_channels, config.sample_size, config.sample_size, generator=generator)
    return x, torch.tensor(777), torch.randn(2, 1, config.cross_attention_dim, generator=generator)


def edit(pipeline: PaintByExamplePipeline, **options: object) -> np.ndarray:
    options = {"steps": 3} | options
    made = pipeline.edit(tiny.picture(32, 32), exemplar=tiny.picture(20, 20, seed=1), box=BOX, **options)  # type: ignore[arg-type]
    return np.asarray(made.images[0])


@pytest.mark.slow
@needs_openvino
@torch.no_grad()
def test_openvino_in_float32_is_torch_to_rounding(pipeline: PaintByExamplePipeline) -> None:
    x, t, condition = inputs(pipeline)
    expected = pipeline.unet(x, t, encoder_hidden_states=condition).sample
    network = compile_network(pipeline.unet, "openvino")
    for count in (2, 1):
        found = network(x[:count], t, condition[:count])
        torch.testing.assert_close(found, expected[:count], rtol=1e-4, atol=1e-4)
    assert expected.std() > 0.01
    assert pipeline.unet(x, t, encoder_hidden_states=condition).sample.equal(expected)  # left as it was


@pytest.mark.slow
@needs_openvino
@torch.no_grad()
@pytest.mark.skipif(not has_bfloat16(), reason="the processor has no bfloat16")
def test_openvino_in_bfloat16_is_near(pipeline: PaintByExamplePipeline) -> None:
    x, t, condition = inputs(pipeline)
    expected = pipeline.unet(x, t, encoder_hidden_states=condition).sample
    found = compile_network(pipeline.unet, "openvino-bf16")(x, t, condition)
    assert (found - expected).std() < 0.05 * expected.std()


@pytest.mark.slow
@needs_openvino
@torch.no_grad()
def test_a_second_start_converts_nothing_and_a_damaged_file_is_made_again(
    pipelines: dict[str, PaintByExamplePipeline], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    openvino = compiled.import_openvino()
    pipeline = pipelines["embedded"]
    x, t, condition = inputs(pipeline)
    expected = OpenVINONetwork(pipeline.unet, "f32", tmp_path)(x, t, condition)
    convert, calls = openvino.convert_model, [0]

    def count() -> bool:
        calls[0] += 1
        return False

    monkeypatch.setattr(openvino, "convert_model", lambda *a, **k: count() or convert(*a, **k))
    assert OpenVINONetwork(pipeline.unet, "f32", tmp_path)(x, t, condition).equal(expected)
    assert calls == [0]
    (damaged,) = tmp_path.glob("*/unet-f32.xml")
    damaged.write_text("<net")
    assert OpenVINONetwork(pipeline.unet, "f32", tmp_path)(x, t, condition).equal(expected)
    assert calls == [1]


@pytest.mark.slow
@needs_openvino
@torch.no_grad()
@pytest.mark.filterwarnings("ignore")  # of nncf's own imports
def test_int8_is_near_and_nncf_is_only_needed_to_make_it(
    pipelines: dict[str, PaintByExamplePipeline], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline = pipelines["embedded"]
    x, t, condition = list(unet_inputs(pipeline, edits=1, seed=1))[2]  # others than it is calibrated with
    expected = pipeline.unet(x, t, encoder_hidden_states=condition).sample
    made = OpenVINONetwork(pipeline.unet, "int8", tmp_path, lambda: unet_inputs(pipeline, edits=2))
    found = made(x, t, condition)
    assert (found - expected).std() < 0.05 * expected.std()
    plain = OpenVINONetwork(pipeline.unet, "bf16" if has_bfloat16() else "f32", tmp_path)(x, t, condition)
    assert not found.equal(plain)
    (network,) = tmp_path.glob("*/unet-int8.xml")
    assert "FakeQuantize" in network.read_text()
    monkeypatch.setattr(compiled, "has_nncf", lambda: False)
    assert OpenVINONetwork(pipeline.unet, "int8", tmp_path)(x, t, condition).equal(found)
    network.unlink()
    with pytest.raises(UserError, match=r"needs the package nncf; install paint-by-example\[fast-cpu\]"):
        OpenVINONetwork(pipeline.unet, "int8", tmp_path)


def test_what_a_network_is_calibrated_with_is_seeded_and_of_edits(pipeline: PaintByExamplePipeline) -> None:
    seen, again = (list(unet_inputs(pipeline, edits=2)) for _ in range(2))
    assert all(torch.equal(*pair) for one, two in zip(seen, again, strict=True) for pair in zip(one, two, strict=True))
    x, t, condition = seen[-1]
    assert x.shape == inputs(pipeline)[0].shape
    assert int(seen[0][1]) == 999 > int(t)
    assert condition[:1].equal(pipeline.null_condition().detach())
    assert 0 < x[:, -1].mean() < 1  # a hole in a picture
    leaves = dead_leaves(np.random.default_rng(0), 64)
    assert leaves.shape == (64, 64, 3)
    assert leaves.std() > 30


@needs_openvino
def test_openvino_tells_nobody_that_it_was_used() -> None:
    code = (
        "from paint_by_example.compiled import import_openvino; import_openvino()\n"
        "from openvino.tools.ovc.telemetry_utils import tm; print(tm.__name__)"
    )
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "openvino.tools.ovc.telemetry_stub"


@needs_openvino
def test_other_weights_are_another_entry_of_the_cache() -> None:
    pipeline = tiny.embedded_pipeline()
    before = compiled.content_key(pipeline.unet)
    with torch.no_grad():
        pipeline.unet.conv_in.bias[-1] += 1e-6
    assert compiled.content_key(pipeline.unet) != before


@pytest.mark.slow
@needs_openvino
def test_an_edit_follows_its_weights() -> None:
    pipeline = tiny.embedded_pipeline()
    before = edit(pipeline, backend="openvino")
    with torch.no_grad():
        pipeline.unet.conv_out.weight.mul_(2)
    assert not np.array_equal(edit(pipeline, backend="openvino"), before)
    assert np.abs(edit(pipeline, backend="openvino").astype(int) - edit(pipeline)).max() <= 1


@pytest.mark.slow
@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_a_preset_is_deterministic_and_recorded(preset: str, pipeline: PaintByExamplePipeline) -> None:
    given = {"exemplar": tiny.picture(20, 20, seed=1), "box": BOX}
    first, second = (pipeline.edit(tiny.picture(32, 32), preset=preset, **given) for _ in range(2))  # type: ignore[arg-type]
    assert np.array_equal(np.asarray(first.images[0]), np.asarray(second.images[0]))
    record, stands_for = first.records[0], find_preset(preset)
    assert (record.preset, record.guidance_interval) == (preset, stands_for.guidance_interval)
    assert record.backend == choose_backend(stands_for.backends, torch.device("cpu"))
    assert record.steps == (stands_for.steps or record.steps)


@pytest.mark.slow
def test_without_a_preset_nothing_changes_and_exact_agrees_to_rounding(pipeline: PaintByExamplePipeline) -> None:
    plain = edit(pipeline)
    assert np.array_equal(edit(pipeline, backend="torch", guidance_interval=(0.0, 1.0)), plain)
    assert np.abs(edit(pipeline, preset="exact").astype(int) - plain).max() <= 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"preset": "quick"}, "unknown preset 'quick'; choose one of exact, fast, draft"),
        (
            {"backend": "tpu"},
            "unknown backend 'tpu'; choose one of torch, compile, openvino, openvino-bf16, openvino-int8",
        ),
        ({"guidance_interval": (0.8, 0.2)}, "guidance_interval must be two rising numbers between 0 and 1"),
    ],
)
def test_what_is_unknown_is_refused_in_one_line(
    options: dict[str, object], message: str, pipeline: PaintByExamplePipeline
) -> None:
    with pytest.raises(UserError) as error:
        edit(pipeline, **options)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_without_openvino_presets_use_torch_and_the_backend_is_refused(
    pipeline: PaintByExamplePipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compiled, "has_openvino", lambda: False)
    assert choose_backend(PRESETS["fast"].backends, torch.device("cpu")) == "torch"
    with pytest.raises(UserError, match=r"needs the package openvino; install paint-by-example\[fast-cpu\]"):
        compile_network(pipeline.unet, "openvino")


def test_openvino_is_not_chosen_off_the_cpu() -> None:
    assert choose_backend(("openvino",), torch.device("cuda")) == "torch"


@pytest.mark.slow
def test_the_command_records_a_preset_and_another_takes_its_place(
    models: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny.picture(40, 40).save(tmp_path / "source.png")
    tiny.picture(20, 20, seed=1).save(tmp_path / "exemplar.png")
    first, again, other = (tmp_path / f"{name}.png" for name in ("first", "again", "other"))
    command = ["edit", str(tmp_path / "source.png"), "--exemplar", str(tmp_path / "exemplar.png"), "--box", "8,8,24,24"]
    model = ["--model", str(models["embedded"])]
    assert main([*command, *model, "--preset", "draft", "--output", str(first), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["preset"] == "draft"
    assert main(["edit", "--from", str(first), "--output", str(again)]) == 0
    assert again.read_bytes() == first.read_bytes()
    assert main(["edit", "--from", str(first), "--preset", "fast", "--output", str(other)]) == 0
    assert read_record(other).preset == "fast"
    assert read_record(other).steps == PRESETS["fast"].steps
    assert read_record(first).steps == PRESETS["draft"].steps


def test_a_record_of_before_has_no_preset(models: dict[str, Path], tmp_path: Path) -> None:
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    pipeline = load_pipeline(models["embedded"])
    made = pipeline.edit(tiny.picture(32, 32), exemplar=tiny.picture(20, 20), box=BOX, steps=2)
    ((key, text),) = made.records[0].info(tmp_path).items()
    values = json.loads(text)
    for name in ("preset", "backend", "guidance_interval"):
        del values[name]
    chunk = PngInfo()
    chunk.add_text(key, json.dumps(values))
    Image.new("RGB", (4, 4)).save(tmp_path / "old.png", pnginfo=chunk)
    record = read_record(tmp_path / "old.png")
    assert (record.preset, record.backend, record.guidance_interval) == (None, "torch", (0.0, 1.0))
    assert record.steps == 2
