"""Chunks of latents on disk: whole, or not there."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from paint_by_example.data.latents import Latents, chunk_files, write_chunk

PARTS = {
    "z_0": np.ones((3, 4, 2, 2)),
    "z_masked": np.zeros((3, 4, 2, 2)),
    "latent_mask": np.full((3, 1, 2, 2), 0.5),
    "features": np.arange(15.0).reshape(3, 5),
}


def test_a_chunk_is_on_the_disk_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ((path, _),) = chunk_files(tmp_path, 3)
    steps: list[str] = []
    sync = os.fsync

    def fsync(descriptor: int) -> None:
        steps.append("named" if path.exists() else "beside")
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    write_chunk(path, PARTS)
    assert steps == ["beside", "named"]  # the file, then its folder's list of names
    latents = Latents(tmp_path, 3)
    assert latents[2]["features"].tolist() == [10, 11, 12, 13, 14]


def test_writing_that_fails_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ((path, _),) = chunk_files(tmp_path, 3)
    write_chunk(path, PARTS)
    before = path.read_bytes()

    def full(file: Any, _: np.ndarray) -> None:
        file.write(b"half a chunk")
        raise OSError("no space left")

    monkeypatch.setattr(np, "save", full)
    with pytest.raises(OSError, match="no space left"):
        write_chunk(path, PARTS)
    assert path.read_bytes() == before
    assert Latents(tmp_path, 3)[0]["z_0"].tolist() == np.ones((4, 2, 2)).tolist()
