"""``pbe study``: serve, report."""

from __future__ import annotations

import json
import secrets
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from ..errors import UserError
from .arguments import UsageError
from .evaluate import pairs
from .serve import NEEDED

BODY_BYTES = 1 << 16  # of a request: ranks are short


@dataclass(frozen=True)
class StudyServe:
    """Serve a page on which people rank the results of several methods, blind. Started again, it goes on."""

    benchmark: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="BENCHMARK")]
    """Folder with the benchmark."""
    results: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """A method and the folder with its results: name=folder. Two or more; the paper has five."""
    groups: int = 30
    """Items that each person ranks."""
    limit: int | None = None
    """Choose among so many of the benchmark's items, the first, where only these have results; all if not given."""
    seed: int = 0
    """Seed of the choice of items and of all orders."""
    database: Path = Path("study.sqlite")
    """File that answers are kept in."""
    host: str = "127.0.0.1"
    """Address to listen on. Any but this machine's own makes up a token, which is part of the printed address."""
    port: int = 8090
    """Port to listen on; 0 for any that is free."""


@dataclass(frozen=True)
class StudyReport:
    """Mean ranks with intervals of 95%, and whether methods differ."""

    database: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="DATABASE")] = Path("study.sqlite")
    """File that answers are kept in."""
    json: bool = False
    """Print JSON."""


Study = Annotated[StudyServe, tyro.conf.subcommand("serve")] | Annotated[StudyReport, tyro.conf.subcommand("report")]


def study_options() -> Any:
    """The commands of the group."""
    return Study


def study(options: StudyServe | StudyReport) -> None:
    """Carry out one of them."""
    if isinstance(options, StudyServe):
        serve_study(options)
    else:
        report_study(options)


def serve_study(options: StudyServe) -> None:
    """Serve until told to stop; the address goes to stdout."""
    folders = {name: Path(folder) for name, folder in pairs(options.results, "--results").items()}
    if not folders:
        raise UsageError("missing: --results name=folder")
    try:
        import uvicorn

        from ..evaluation.study_app import create_app
        from ..server.access import LOOPBACK, Access
        from ..server.serving import is_loopback, listen
    except ModuleNotFoundError as error:
        if error.name not in NEEDED:
            raise
        raise UserError(
            f"pbe study serve needs the package {error.name}; install paint-by-example[serve], which brings it"
        ) from error

    from ..evaluation.benchmark import open_benchmark
    from ..evaluation.study import Study as Answers
    from ..evaluation.study import make_plan

    benchmark = open_benchmark(options.benchmark)
    names = benchmark.names[: options.limit]
    plan = make_plan(benchmark.title, names, list(folders), options.groups, options.seed)
    answers = Answers(options.database, plan)
    try:
        local = is_loopback(options.host)
        token = None if local else secrets.token_urlsafe(24)
        app = Access(
            create_app(answers, benchmark, folders),
            token=token,
            hosts=(*LOOPBACK, options.host.lower()) if local else (),
            upload_bytes=BODY_BYTES,
            full=lambda: None,
            refused=lambda reason: print(f"pbe: refused a request: {reason}", file=sys.stderr),
        )
        with listen(options.host, options.port) as listening:
            port, shown = listening.getsockname()[1], f"[{options.host}]" if ":" in options.host else options.host
            print(f"http://{shown}:{port}/" + ("" if token is None else f"?token={token}"), flush=True)
            config = uvicorn.Config(app, log_level="warning", access_log=False, server_header=False, lifespan="off")
            uvicorn.Server(config).run(sockets=[listening])
    finally:
        answers.close()


def report_study(options: StudyReport) -> None:
    """Print what was found."""
    from ..evaluation.study import Study as Answers
    from ..evaluation.study_report import as_text, as_values, find

    answers = Answers(options.database)
    try:
        found = find(answers)
    finally:
        answers.close()
    if not found:
        raise UserError(f"nobody has ranked anything in {options.database} yet")
    print(json.dumps(as_values(found)) if options.json else as_text(found))
