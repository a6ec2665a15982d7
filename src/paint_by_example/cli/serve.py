"""``pbe serve``: the page and the API. Takes the flags that Lama Cleaner took; those that lost their meaning say so."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from ..errors import UserError

NEEDED = ("anyio", "fastapi", "prometheus_client", "pydantic", "python_multipart", "starlette", "uvicorn")
"""What the extra `serve` brings, as Python calls it."""

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "microsoft-edge", "brave-browser")
"""Browsers that can show one page as a window of its own."""


@dataclass(frozen=True)
class Serve:
    """Serve the page on which pictures are edited, and the HTTP API behind it."""

    host: str = "127.0.0.1"
    """Address to listen on. Any but this machine's own asks for a token."""
    port: int = 8080
    """Port to listen on; 0 for any that is free."""
    token: str | None = None
    """What clients must show, at least 16 characters; PBE_TOKEN works too. Made up and printed where one is needed."""
    model: str = "embedded"
    """embedded, a folder or file, a repository of the Hugging Face hub, or an old name: docs/from-lama-cleaner.md."""
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
    output_dir: Path | None = None
    """Folder for results, where they stay; without it they are kept for --keep-hours."""
    keep_hours: float = 24.0
    """How long edits that have ended are remembered."""
    state_dir: Path | None = None
    """Folder for edits; one for each port in the user's data folder if not given."""
    queue: int = 64
    """Edits that may wait."""
    batch: int = 1
    """Edits that may share the network's calls, where that is measured to be faster. Results then agree with those made
    alone up to rounding; with 1 they are the same bit for bit."""
    max_upload_mb: float = 64.0
    """Size of an upload, all files together."""
    max_megapixels: float = 64.0
    """Size of a picture."""
    gui: bool = False
    """Open the page in a window of its own."""
    gui_size: tuple[int, int] = (1600, 1000)
    """Width and height of that window, pixels."""
    no_gui_auto_close: bool = False
    """Go on when that window is closed."""
    enable_xformers: Annotated[bool, tyro.conf.arg(help_behavior_hint="(replaced)")] = False
    """Not needed: PyTorch's own attention is used."""
    config_installer: Annotated[bool, tyro.conf.arg(help_behavior_hint="(replaced)")] = False
    """Gone with the installer: see docs/from-lama-cleaner.md."""
    load_installer_config: Annotated[bool, tyro.conf.arg(help_behavior_hint="(replaced)")] = False
    """Gone with the installer."""
    installer_config: Annotated[str | None, tyro.conf.arg(help_behavior_hint="(replaced)")] = None
    """Gone with the installer."""


REPLACED = {
    "enable_xformers": "--enable-xformers is not needed: PyTorch's own attention is as sparing, and is used",
    "config_installer": "--config-installer is gone with the installer: pip install 'paint-by-example[serve]'",
    "load_installer_config": "--load-installer-config is gone with the installer: give the options to pbe serve itself",
    "installer_config": "--installer-config is gone with the installer: give the options to pbe serve itself",
}
SAME: tuple[str, ...] = ("host", "port", "model", "model_dir", "device", "input", "output_dir", "state_dir")
SAME = (*SAME, "keep_hours", "queue", "batch", "max_upload_mb", "max_megapixels")


def serve(options: Serve) -> None:
    """Print what old flags were replaced by, then serve; the address goes to stdout."""
    defaults = Serve()
    for name, instead in REPLACED.items():
        if getattr(options, name) != getattr(defaults, name):
            print(f"pbe: {instead}", file=sys.stderr)
    if options.config_installer:
        return  # it was a command of its own: there is nothing to serve

    try:
        from ..server import serving
        from ..server.models import Loading
    except ModuleNotFoundError as error:
        if error.name not in NEEDED:
            raise
        raise UserError(
            f"pbe serve needs the package {error.name}; install paint-by-example[serve], which brings it"
        ) from error

    asked = serving.Serving(
        **{name: getattr(options, name) for name in SAME},
        token=options.token or os.environ.get("PBE_TOKEN") or None,
        switch=not options.disable_model_switch,
        loading=Loading(
            half=not options.no_half,
            offload=options.cpu_offload,
            text_on_cpu=options.sd_cpu_textencoder,
            checked=not options.disable_nsfw,
            local_files_only=options.local_files_only,
        ),
    )

    def ready(address: str) -> None:
        print(address, flush=True)
        if options.gui:
            open_window(address, options.gui_size, ends=not options.no_gui_auto_close)

    serving.serve(asked, ready)


def open_window(address: str, size: tuple[int, int], ends: bool) -> None:
    """Show the page in a window: a browser's app mode, or a tab where no browser has one.

    Args:
        address: of the page.
        size: width and height, pixels.
        ends: whether the server ends with the window.
    """
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        import webbrowser

        print("pbe: no browser with an app mode was found; the page opens in the usual one", file=sys.stderr)
        webbrowser.open(address)
        return
    # A profile of its own: without one, a browser that runs already takes the page over and this process ends at once.
    folder = Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "paint-by-example" / "window"
    look = (f"--app={address}", f"--window-size={size[0]},{size[1]}", f"--user-data-dir={folder}", "--no-first-run")
    window = subprocess.Popen([found, *look], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def wait() -> None:
        window.wait()
        if ends:
            stop()

    threading.Thread(target=wait, name="window", daemon=True).start()


def stop() -> None:
    """End the server as Ctrl-C would."""
    import signal

    signal.raise_signal(signal.SIGINT)
