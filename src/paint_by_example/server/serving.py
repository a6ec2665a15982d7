"""A server from its options: what it takes, started in order, and ended so that nothing is left half done."""

from __future__ import annotations

import ipaddress
import logging
import secrets
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import uvicorn

from ..errors import UserError
from ..pipeline import choose_device
from ..pose import find_models
from .access import LOOPBACK
from .app import Options, create_app
from .browsing import Roots
from .jobs import Jobs
from .library import Exemplars
from .models import Loading, Shelf
from .settings import ServeConfig
from .store import Store, state_folder

if TYPE_CHECKING:
    import torch

GRACE_SECONDS = 5  # for answers under way when the server stops
BACKLOG = 512  # connections that wait to be accepted


def serve(asked: ServeConfig, ready: Callable[[str], object]) -> None:
    """Run a server until it is told to stop.

    Args:
        asked: how.
        ready: called with its address once it answers.

    Raises:
        UserError: it cannot be started as asked.
    """
    _check(asked)
    token = asked.token
    local = is_loopback(asked.host)
    if token is None and not local:
        token = secrets.token_urlsafe(24)
    library = None if asked.library is None else Exemplars(asked.library, asked.local_files_only)
    shelf, on = Shelf(asked.model, asked.model_dir, loading(asked)), devices(asked.device)
    with listen(asked.host, asked.port) as listening:
        port = listening.getsockname()[1]
        store = Store(asked.state_dir or state_folder(port), asked.keep_hours * 3600)
        jobs = Jobs(
            shelf,
            store,
            on,
            capacity=asked.queue,
            batch=asked.batch,
            output_dir=asked.output_dir,
            switch=not asked.disable_model_switch,
        )
        try:
            for edit in jobs.start():
                print(f"pbe: the edit {edit.id} ({edit.name}) was interrupted; send it again", file=sys.stderr)
            options = Options(
                roots=Roots(asked.input, asked.output_dir),
                upload_bytes=int(asked.max_upload_mb * (1 << 20)),
                pixels=int(asked.max_megapixels * 1e6),
                token=token,
                hosts=(*LOOPBACK, asked.host.lower()) if local else (),
                library=library,
                preset=asked.preset,
            )
            config = uvicorn.Config(
                create_app(jobs, options),
                log_level="warning",
                access_log=False,  # it would hold the token of the first request
                server_header=False,
                lifespan="off",
                timeout_graceful_shutdown=GRACE_SECONDS,
                timeout_keep_alive=30,
                h11_max_incomplete_event_size=64 << 10,
            )
            logging.getLogger("paint_by_example.server").setLevel(logging.INFO)
            _Server(config, jobs, lambda: ready(_address(asked.host, port, token))).run(sockets=[listening])
        finally:
            jobs.close()


def loading(asked: ServeConfig) -> Loading:
    """How the server's models are loaded."""
    return Loading(
        half=not asked.no_half,
        offload=asked.cpu_offload,
        text_on_cpu=asked.sd_cpu_textencoder,
        checked=not asked.disable_nsfw,
        local_files_only=asked.local_files_only,
        controlnet=asked.controlnet,
        pose_models=asked.pose_models,
    )


class _Server(uvicorn.Server):
    """Says when it answers, and ends the jobs before the answers that wait for them."""

    def __init__(self, config: uvicorn.Config, jobs: Jobs, ready: Callable[[], object]) -> None:
        super().__init__(config)
        self.jobs, self.ready = jobs, ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self.ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self.jobs.stop()
        await super().shutdown(sockets)


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens; port 0 is any that is free.

    Raises:
        UserError: the address cannot be used.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listening = socket.socket(family, kind, protocol)
    except OSError as error:
        raise UserError(f"cannot listen on {host}: {error.strerror or error}; give another --host") from error
    try:
        if sys.platform != "win32":
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen(BACKLOG)
    except (OSError, OverflowError) as error:
        listening.close()
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"cannot listen on {host}, port {port}: {reason}; give another --host or --port") from error
    return listening


def is_loopback(host: str) -> bool:
    """Whether an address can only be reached from this machine."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def devices(device: str | None) -> list[torch.device]:
    """The devices to use: with cuda, all GPUs there are.

    Raises:
        UserError: there is no such device.
    """
    import torch

    chosen = choose_device(device)
    if chosen.type == "cuda" and device in (None, "cuda"):
        return [torch.device("cuda", index) for index in range(torch.cuda.device_count())]
    return [chosen]


def _address(host: str, port: int, token: str | None) -> str:
    shown = {"0.0.0.0": socket.gethostname(), "::": socket.gethostname()}.get(host, host)
    shown = f"[{shown}]" if ":" in shown else shown
    return f"http://{shown}:{port}/" + ("" if token is None else f"?token={token}")


def _check(asked: ServeConfig) -> None:
    numbers: dict[str, tuple[Any, Any, Any]] = {
        "--queue": (asked.queue, 1, 10_000),
        "--batch": (asked.batch, 1, 64),
        "--keep-hours": (asked.keep_hours, 0.01, 24 * 366),
        "--max-upload-mb": (asked.max_upload_mb, 0.1, 4096),
        "--max-megapixels": (asked.max_megapixels, 0.01, 64),
        "--port": (asked.port, 0, 65535),
    }
    for name, (value, low, high) in numbers.items():
        if not low <= value <= high:
            raise UserError(f"{name} must be between {low} and {high}, got {value}")
    if asked.token is not None and len(asked.token) < 16:
        raise UserError("--token must have at least 16 characters")
    if asked.token is not None and not all(one.isascii() and (one.isalnum() or one in "-_.~") for one in asked.token):
        raise UserError("--token may hold letters, digits and -_.~ only, so that it fits into an address")
    if asked.pose_models is not None:
        find_models(asked.pose_models)
    if asked.local_files_only and asked.controlnet is not None and not Path(asked.controlnet).is_dir():
        raise UserError(f"with --local-files-only, --controlnet takes a folder; {asked.controlnet} is none")
    if asked.input is not None and not asked.input.exists():
        raise UserError(f"there is no {asked.input}; --input takes a picture or a folder")
    if asked.output_dir is not None:
        try:
            asked.output_dir.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"cannot use --output-dir {asked.output_dir}: {error.strerror}") from error
