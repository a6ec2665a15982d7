"""The settings of a server, each declared once: `pbe serve` makes its options of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass(frozen=True)
class ServeConfig:
    """Serve the page on which pictures are edited, and the HTTP API behind it."""

    host: str = "127.0.0.1"
    """Address to listen on. Any but this machine's own asks for a token."""
    port: int = 8080
    """Port to listen on; 0 for any that is free."""
    token: str | None = None
    """What clients must show, at least 16 characters; PBE_TOKEN works too. Made up and printed where one is needed."""
    model: str = "embedded"
    """embedded, a folder or file, a repository of the Hugging Face hub, or an old name: docs/from-lama-cleaner.md."""
    preset: Literal["none", "exact", "fast", "draft"] = "none"
    """How much is given up for speed in edits that do not say: docs/speed.md."""
    controlnet: str | None = None
    """ControlNet or T2I-Adapter that goes beside --model, as for pbe edit: docs/source-aware.md."""
    pose_models: Path | None = None
    """Where mediapipe's wheel is, or the two networks out of it, so that edits may keep how people stand."""
    model_dir: Path | None = None
    """Folder of further models to choose from on the page: folders in diffusers' layout and files."""
    disable_model_switch: bool = False
    """Clients may not choose another model."""
    device: str | None = None
    """cpu, mps, cuda (all GPUs, a worker each), cuda:1, ...; the best there is if not given."""
    no_half: bool = False
    """Full precision on a GPU too."""
    cpu_offload: bool = False
    """Parts of the model on the GPU only while they work."""
    disable_nsfw: bool = False
    """Leave the model's safety checker out."""
    sd_cpu_textencoder: bool = False
    """Keep the text encoder of prompted models on the CPU."""
    local_files_only: bool = False
    """Never ask the hub for a model."""
    input: Path | None = None
    """Picture to begin with, or folder to browse."""
    library: str | None = None
    """Exemplar library to choose from on the page: docs/library.md."""
    output_dir: Path | None = None
    """Folder for results, where they stay; without it they are kept for --keep-hours."""
    keep_hours: float = 24.0
    """Hours for which edits that have ended are remembered."""
    state_dir: Path | None = None
    """Folder for edits; one for each port in the user's data folder if not given."""
    queue: int = 64
    """Edits that may wait."""
    batch: int = 1
    """Edits that may share the network's calls, where that is measured to be faster. Results then agree with those made
    alone up to rounding; with 1 they are the same bit for bit."""
    max_upload_mb: float = 64.0
    """Largest upload, all its files together, in MiB."""
    max_megapixels: float = 64.0
    """Largest picture, millions of pixels."""
