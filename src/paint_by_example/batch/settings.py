"""What a batch is told, and what it says in the end."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro


@dataclass(frozen=True)
class BatchConfig:
    """Make all edits of a table. Running it again makes only what is missing."""

    table: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="TABLE")]
    """CSV, JSON lines or Parquet: source, mask or box, exemplar, and settings as columns."""
    output: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="OUT")]
    """Folder for the results, manifest.jsonl and failed.jsonl."""
    model: str = "embedded"
    """As for pbe edit: embedded, a folder or file, or a repository of the hub."""
    controlnet: Annotated[str | None, tyro.conf.arg(metavar="MODEL")] = None
    """ControlNet or T2I-Adapter that sees the structure of the rows that have one, as for pbe edit."""
    pose_models: Annotated[Path | None, tyro.conf.arg(metavar="FOLDER")] = None
    """For rows with the structure pose: where mediapipe's wheel is, or the two networks out of it."""
    device: tuple[str, ...] = ()
    """Devices, a process for each: cuda:0 cuda:1. The best there is if not given."""
    processes: int = 1
    """Processes on each device; they share the processor's cores. With ray, actors on the whole cluster."""
    batch: int = 1
    """Edits whose calls of the U-Net are made as one. Above 1 results agree with single edits up to rounding only."""
    engine: Literal["local", "ray"] = "local"
    """ray: Ray Data spreads the rows over a cluster, whose machines all see the table's pictures and the output."""
    ray_address: Annotated[str | None, tyro.conf.arg(metavar="ADDRESS")] = None
    """Address of the cluster; a new one on this machine if not given."""


@dataclass
class Outcome:
    """What became of a table."""

    made: int = 0
    """Results made by this run."""
    kept: int = 0
    """Rows whose result was there."""
    failed: int = 0
