"""`pbe bench`: what it counts, what it recommends, what it prints."""

import json
from pathlib import Path

import pytest
import torch

from paint_by_example import PaintByExamplePipeline, UserError, bench, load_pipeline
from paint_by_example.bench import Report, Row, count_calls, recommend, usable_backends
from paint_by_example.cli import main
from paint_by_example.presets import PRESETS
from tests import tiny


@pytest.fixture(autouse=True)
def only_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Others take seconds to convert."""
    monkeypatch.setattr(bench, "usable_backends", lambda device: ["torch"])


def row(preset: str | None, seconds: float, backend: str = "torch") -> Row:
    return Row(preset, backend, 10, 10, seconds / 10, seconds)  # type: ignore[arg-type]


def test_calls_are_those_that_an_edit_makes(pipelines: dict[str, PaintByExamplePipeline]) -> None:
    pipeline = tiny.embedded_pipeline()
    for name in PRESETS:
        counted, steps, seconds = count_calls(pipeline, name)
        unet = tiny.record_unet(pipeline)
        pipeline.edit(
            tiny.picture(40, 40), exemplar=tiny.picture(20, 20), box=(8, 8, 24, 24), preset=name, backend="torch"
        )
        seen = [len(x) for x, _, _ in unet.seen]
        assert {pictures: seen.count(pictures) for pictures in set(seen)} == counted
        assert steps == PRESETS[name].steps or name == "exact"
        assert seconds > 0


def test_the_best_preset_that_is_quick_enough_is_recommended() -> None:
    plain = row(None, 50)
    exact, fast, draft = (row(name, 8) for name in PRESETS)
    assert recommend([plain, exact, fast, row("draft", 3)]).preset == "draft"
    assert recommend([plain, exact, row("fast", 1.5), draft]).preset == "fast"
    assert recommend([plain, row("exact", 1.9), row("fast", 0.2), draft]).preset == "exact"
    best = row("fast", 1, "openvino")
    assert recommend([plain, exact, row("fast", 1.5), best, draft]) == best
    report = Report((plain, best), best, None)
    assert report.advice == "--preset fast --backend openvino is recommended: 1 s an edit, 50.0 times as fast."


def test_backends_that_are_slow_to_start_are_left_out() -> None:
    assert "torch" in (names := usable_backends(torch.device("cpu")))
    assert not {"compile", "openvino-int8"} & set(names)


def test_a_backend_that_cannot_be_used_is_refused(
    pipelines: dict[str, PaintByExamplePipeline], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench, "choose_backend", lambda names, device: "torch")
    with pytest.raises(UserError, match="the backend openvino cannot be used here"):
        bench.bench(pipelines["embedded"], ["openvino"])


def test_the_command_prints_a_table_and_one_sentence(
    models: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    model = str(models["clip"])
    assert main(["bench", model, "--device", "cpu"]) == 0
    head, *rows, memory, advice = capsys.readouterr().out.splitlines()
    assert head.split()[0] == "preset"
    assert [line.split()[0] for line in rows] == ["-", *PRESETS]
    assert memory.startswith("peak memory: ")
    assert advice.startswith("--preset ")
    assert main(["bench", model, "--device", "cpu", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["advice"].startswith("--preset ")
    steps = load_pipeline(model, device="cpu").edit(
        tiny.picture(40, 40), exemplar=tiny.picture(20, 20), box=(8, 8, 24, 24)
    )
    assert found["rows"][0]["steps"] == steps.steps
    assert found["rows"][0]["calls"] == steps.steps + 1  # PLMS evaluates its second level twice
