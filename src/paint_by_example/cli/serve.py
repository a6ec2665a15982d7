"""``pbe serve``: the page and the API. Takes the flags that Lama Cleaner took; those that lost their meaning say so."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import tyro

from ..errors import UserError
from ..server.settings import ServeConfig

NEEDED = ("anyio", "fastapi", "prometheus_client", "pydantic", "python_multipart", "starlette", "uvicorn")
"""What the extra `serve` brings, as Python calls it."""

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "microsoft-edge", "brave-browser")
"""Browsers that can show one page as a window of its own."""


@dataclass(frozen=True)
class Serve(ServeConfig):
    """Serve the page on which pictures are edited, and the HTTP API behind it."""

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
    except ModuleNotFoundError as error:
        if error.name not in NEEDED:
            raise
        raise UserError(
            f"pbe serve needs the package {error.name}; install paint-by-example[serve], which brings it"
        ) from error

    def ready(address: str) -> None:
        print(address, flush=True)
        if options.gui:
            open_window(address, options.gui_size, ends=not options.no_gui_auto_close)

    serving.serve(replace(options, token=options.token or os.environ.get("PBE_TOKEN") or None), ready)


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
        status = window.wait()
        if status != 0:  # it cannot be shown here: no display, or the user is root
            print(f"pbe: {found} opened no window (status {status}); open {address} in a browser", file=sys.stderr)
        elif ends:
            stop()

    threading.Thread(target=wait, name="window", daemon=True).start()


def stop() -> None:
    """End the server as Ctrl-C would."""
    import signal

    signal.raise_signal(signal.SIGINT)
