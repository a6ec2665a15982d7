"""A table of edits on a Ray cluster: Ray Data hands rows to actors that hold the model, and replaces those it loses."""

from __future__ import annotations

import dataclasses
import logging
import os
import pickle
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from ..errors import DataError, UserError

if TYPE_CHECKING:
    from .editing import Task
    from .settings import BatchConfig


class RayEditor:
    """An actor: a model, and the rows it is sent."""

    def __init__(self, config: BatchConfig, threads: int) -> None:
        import torch

        from .editing import BatchEditor, load_model

        torch.set_num_threads(threads)
        device = next(iter(config.device), None)
        if device is not None and device.startswith("cuda"):
            device = "cuda"  # the one that Ray shows to this actor
        self.editor = BatchEditor.of(config, load_model(config, device))

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Groups of tasks to what became of them; results that are there, from an actor that was lost, are kept."""
        answers: list[bytes] = []
        for group in batch["group"]:
            try:
                answers.append(pickle.dumps(self.editor.run(pickle.loads(group))))
            except UserError as error:
                answers.append(pickle.dumps(error))
        return {"lines": answers}


def on_ray(config: BatchConfig, groups: list[list[Task]]) -> Iterator[list[dict[str, Any]]]:
    """Edit groups on a cluster, whose machines see the pictures and the output under the same paths.

    Raises:
        DataError: Ray is not installed, or there is no cluster at the address.
    """
    try:
        import ray
    except ImportError as error:
        raise DataError("--engine ray needs Ray; install paint-by-example[ray]") from error
    models = None if config.pose_models is None else config.pose_models.absolute()
    config = dataclasses.replace(
        config, table=config.table.absolute(), output=config.output.absolute(), pose_models=models
    )
    started = not ray.is_initialized()
    try:
        if started:
            ray.init(
                address=config.ray_address, log_to_driver=False, include_dashboard=False, logging_level=logging.WARNING
            )
    except (ConnectionError, ValueError) as error:
        raise DataError(f"cannot reach a Ray cluster at {config.ray_address}: {error}") from error
    try:
        logging.getLogger("ray.data").setLevel(logging.WARNING)
        ray.data.DataContext.get_current().enable_progress_bars = False  # the command has one of its own
        on_gpus = any(device.startswith("cuda") for device in config.device)
        threads = 1  # Ray counts one core for each actor
        tasks = ray.data.from_items([{"group": pickle.dumps(_absolute(group))} for group in groups])
        done = tasks.map_batches(
            RayEditor,
            fn_constructor_args=(config, threads),
            batch_size=1,
            compute=ray.data.ActorPoolStrategy(size=config.processes),
            num_cpus=1,
            num_gpus=1 if on_gpus else 0,
        )
        for item in done.iter_rows():
            answer = pickle.loads(item["lines"])
            if isinstance(answer, UserError):
                raise answer
            yield answer
    finally:
        if started:
            ray.shutdown()


def _absolute(group: list[Task]) -> list[Task]:
    """Tasks whose paths mean the same on every machine and in every working directory."""

    def resolved(paths: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(os.path.abspath(path) for path in paths)

    return [
        dataclasses.replace(
            task,
            row=dataclasses.replace(
                task.row,
                source=resolved((task.row.source,))[0],
                masks=resolved(task.row.masks),
                exemplars=resolved(task.row.exemplars),
                sketch=None if task.row.sketch is None else os.path.abspath(task.row.sketch),
            ),
        )
        for task in group
    ]
