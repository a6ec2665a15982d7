"""Several processes on one machine: each holds a model and is handed groups of rows."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection, wait
from typing import Any

import torch

from ..errors import UserError
from .editing import BatchEditor, Task, load_model
from .settings import BatchConfig

ATTEMPTS = 2  # of a group whose process died; then each of its rows once by itself


def work(connection: Connection, config: BatchConfig, device: str, threads: int) -> None:
    """What a process does: edit the groups it is sent, until nobody sends any more."""
    torch.set_num_threads(threads)
    try:
        editor = BatchEditor.of(config, load_model(config, device))
        while (group := connection.recv()) is not None:
            connection.send(editor.run(group))
    except UserError as error:
        connection.send(error)
    except (EOFError, BrokenPipeError):  # whoever sent groups is gone
        pass


def in_processes(
    config: BatchConfig, devices: Sequence[str], groups: list[list[Task]]
) -> Iterator[list[dict[str, Any]]]:
    """Hand groups to processes; where one dies another takes its place, and a row that kills them fails."""
    context = multiprocessing.get_context("spawn")
    threads = max(1, (os.cpu_count() or 1) // len(devices))
    queue = [(group, 0) for group in reversed(groups)]
    running: dict[Connection, tuple[Any, str, list[Task], int]] = {}

    def start(device: str) -> None:
        ours, theirs = context.Pipe()
        process = context.Process(target=work, args=(theirs, config, device, threads), daemon=True)
        # Ctrl-C reaches all processes of a terminal; only the one that hands out groups says what it means.
        in_main = threading.current_thread() is threading.main_thread()  # only there handlers can be set
        before = signal.signal(signal.SIGINT, signal.SIG_IGN) if in_main else None
        process.start()
        if in_main:
            signal.signal(signal.SIGINT, before)
        theirs.close()
        hand_over(ours, process, device)

    def hand_over(connection: Connection, process: Any, device: str) -> None:
        group, attempts = queue.pop() if queue else ([], 0)
        with contextlib.suppress(BrokenPipeError):  # it died; that shows when its answer is waited for
            connection.send(group or None)
        if group:
            running[connection] = (process, device, group, attempts)

    try:
        for device in devices[: len(groups)]:
            start(device)
        while running:
            for connection in wait(list(running)):
                assert isinstance(connection, Connection)
                process, device, group, attempts = running.pop(connection)
                try:
                    answer = connection.recv()
                except (EOFError, ConnectionResetError):
                    process.join()
                    if attempts + 1 < ATTEMPTS:
                        queue.append((group, attempts + 1))
                    elif len(group) > 1:
                        queue.extend(([task], attempts) for task in group)
                    else:
                        reason = f"its process died twice (exit code {process.exitcode}); is there enough memory?"
                        yield [{"row": task.row.number, "id": task.id, "reason": reason} for task in group]
                    if queue:
                        start(device)
                    continue
                if isinstance(answer, UserError):
                    raise answer
                hand_over(connection, process, device)
                yield answer
    finally:
        for connection in running:
            connection.close()
