"""Fixtures of several files: a tiny model of each family, in memory and as a saved folder; short runs of training."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from paint_by_example import PaintByExamplePipeline, held_out
from paint_by_example.settings import TrainConfig
from tests import tiny
from tests.page_client import address, browser, page, pictures_folder

__all__ = ["address", "browser", "page", "pictures_folder"]


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A folder of each family, as save_pretrained writes it. Not to be changed: copy it first."""
    folders = {}
    for family, build in tiny.PIPELINES.items():
        folders[family] = tmp_path_factory.mktemp("models") / family
        build().save_pretrained(folders[family])
    return folders


@pytest.fixture(scope="session", params=sorted(tiny.PIPELINES))
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="session")
def pipelines() -> dict[str, PaintByExamplePipeline]:
    """A pipeline of each family. Not to be changed."""
    return {family: build() for family, build in tiny.PIPELINES.items()}


@pytest.fixture
def pipeline(family: str, pipelines: dict[str, PaintByExamplePipeline]) -> PaintByExamplePipeline:
    """Each family in turn. Not to be changed."""
    return pipelines[family]


@pytest.fixture(scope="session")
def composites(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder to make composites from. Not to be changed."""
    return tiny.composites_folder(tmp_path_factory.mktemp("data") / "composites")


@pytest.fixture(scope="session")
def index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The index of pictures with boxes. Not to be changed."""
    return tiny.box_index(tmp_path_factory.mktemp("data") / "boxes")


@pytest.fixture
def small_grids(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a run shows of itself now and then is made of few pictures, in one step."""
    monkeypatch.setattr(held_out, "SAMPLES", 2)
    monkeypatch.setattr(held_out, "SAMPLE_STEPS", 1)


@pytest.fixture
def config(composites: Path, models: dict[str, Path], tmp_path: Path, small_grids: None) -> Callable[..., TrainConfig]:
    """Settings of a short run of the tiny embedded model; what is given takes their place."""

    def make(**given: Any) -> TrainConfig:
        settings: dict[str, Any] = {
            "data": composites,
            "output": tmp_path / "run",
            "init": str(models["embedded"]),
            "steps": 3,
            "batch_size": 2,
            "learning_rate": 1e-3,
            "warmup_steps": 0,
            "log_every": 1,
            "workers": 0,
            "device": "cpu",
        }
        return TrainConfig(**(settings | given))

    return make
