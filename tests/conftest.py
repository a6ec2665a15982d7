"""Fixtures made once: a tiny model of each family, in memory and as a saved folder."""

from pathlib import Path

import pytest

from paint_by_example import PaintByExamplePipeline
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
