"""``pbe evaluate``: score, run, report, fit-qs, build-cocoee."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from ..errors import ModelError, UserError
from .arguments import UsageError

if TYPE_CHECKING:
    from ..evaluation.benchmark import Benchmark
    from ..evaluation.editing import Method
    from ..evaluation.result import Scores

BASELINE_NAMES = ("source", "cut-and-paste", "harmonised", "poisson", "inpaint")
TEXT_METHODS = ("stable-diffusion-inpainting", "blended-diffusion")


@dataclass(frozen=True)
class Score:
    """Score folders of results, one for each method."""

    benchmark: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="BENCHMARK")]
    """Folder with COCOEE, DreamEditBench, or what pbe prepare composites made: the small benchmark."""
    results: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """A method and the folder with its results: name=folder. May be given several times."""
    out: Path = Path("scores.json")
    """File to write; a table, .csv, is written beside it."""
    spaces: tuple[str, ...] = ()
    """Feature spaces; all that can be had if not given."""
    weights: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """Where a space's weights are, if not in their usual place: space=repository, folder or file; also lpips=file."""
    reference: Path | None = None
    """Pictures that results are compared with as a set: a folder, or statistics (.safetensors) in one space; the
    benchmark's own if not given."""
    qs: Path | None = None
    """Mixture of the quality score, from pbe evaluate fit-qs."""
    pose_models: Path | None = None
    """Mediapipe's wheel, or the folder it is in, to measure how people stand; see docs/source-aware.md."""
    cache: Path | None = None
    """Folder that features are kept in; one beside --out if not given."""
    limit: int | None = None
    """Only so many items, the first; all if not given."""
    offline: bool = False
    """Download nothing."""
    device: str = "cpu"
    """cpu, cuda, ..."""
    json: bool = False
    """Print the scores as JSON instead of a table."""


@dataclass(frozen=True)
class Run:
    """Edit a whole benchmark with a model or a built-in method, then score it. Run again, it goes on.

    Started by torchrun, the processes share the items.
    """

    benchmark: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="BENCHMARK")]
    """Folder with COCOEE, DreamEditBench, or what pbe prepare composites made: the small benchmark."""
    out: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="OUT")]
    """Folder to write: results in a folder for each method, scores.json and scores.csv."""
    method: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """What edits: name=model, a model under a name, or one that is built in: source, cut-and-paste, harmonised,
    poisson, inpaint, stable-diffusion-inpainting, blended-diffusion. May be given several times; the embedded model if
    not given."""
    guidance_scale: float = 5.0
    """How strongly models follow the exemplar."""
    steps: int | None = None
    """Sampling steps; what the sampler is good at if not given."""
    scheduler: Literal["ddim", "pndm", "dpm++", "unipc"] | None = None
    """Sampler; the model's own if not given."""
    compat: Literal["none", "original", "diffusers"] = "none"
    """Edit as the authors' code or diffusers did: whole pictures, and nothing pasted back."""
    seed: int = 0
    """Seed of the first item; each next item has the next one."""
    batch_size: int = 8
    """Items edited at once."""
    spaces: tuple[str, ...] = ()
    """Feature spaces; all that can be had if not given."""
    weights: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """Where weights are, if not in their usual place: space=repository, folder or file; also lpips=file and the methods
    that are told in words."""
    reference: Path | None = None
    """Pictures that results are compared with as a set, as for pbe evaluate score."""
    qs: Path | None = None
    """Mixture of the quality score, from pbe evaluate fit-qs."""
    pose_models: Path | None = None
    """Mediapipe's wheel, or the folder it is in, to measure how people stand; see docs/source-aware.md."""
    cache: Path | None = None
    """Folder that features are kept in; one in OUT if not given."""
    limit: int | None = None
    """Only so many items, the first; all if not given."""
    offline: bool = False
    """Download nothing."""
    device: str | None = None
    """cpu, cuda, ...; the best there is if not given."""
    json: bool = False
    """Print the scores as JSON instead of a table."""


@dataclass(frozen=True)
class Report:
    """Write scores as one page: figures with intervals, best and worst items, settings. It needs no other file."""

    scores: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="SCORES")]
    """scores.json, from score or run."""
    benchmark: Path | None = None
    """Folder that they are of, to show pictures; a page without pictures if not given."""
    out: Path | None = None
    """File to write; report.html beside the scores if not given."""
    count: int = 3
    """Best and worst items of each method, for each of a few metrics."""


@dataclass(frozen=True)
class FitQs:
    """Fit the mixture of the quality score to a folder of photographs."""

    pictures: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="PICTURES")]
    """Folder with photographs; the paper's are COCO's of 2017."""
    out: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="OUT")]
    """File to write (.safetensors)."""
    space: str = "clip-vit-b-32"
    """Feature space."""
    components: int | None = None
    """Gaussians of the mixture; 20 as in the paper, or fewer where pictures are few, if not given."""
    seed: int = 0
    """Seed of the fit's start."""
    weights: str | None = None
    """Repository, folder or file with the space's weights."""
    cache: Path | None = None
    """Folder that features are kept in."""
    offline: bool = False
    """Download nothing."""
    device: str = "cpu"
    """cpu, cuda, ..."""


@dataclass(frozen=True)
class BuildCocoee:
    """Make a benchmark like COCOEE from COCO's pictures and annotations. Run again, it goes on."""

    out: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="OUT")]
    """Folder to write."""
    val_annotations: Path
    """instances_val2017.json: sources."""
    val_pictures: Path
    """Folder val2017."""
    train_annotations: Path
    """instances_train2017.json: exemplars."""
    train_pictures: Path
    """Folder train2017."""
    test_pictures: Path | None = None
    """Folder test2017: squares of these are what results are compared with as a set."""
    count: int = 3500
    """Items to make."""
    seed: int = 0
    """Seed of the choice of items."""


Evaluate = (
    Annotated[Score, tyro.conf.subcommand("score")]
    | Annotated[Run, tyro.conf.subcommand("run")]
    | Annotated[Report, tyro.conf.subcommand("report")]
    | Annotated[FitQs, tyro.conf.subcommand("fit-qs")]
    | Annotated[BuildCocoee, tyro.conf.subcommand("build-cocoee")]
)


def evaluate_options() -> Any:
    """The commands of the group."""
    return Evaluate


def evaluate(options: Any) -> None:
    """Carry out one of them, print what came out."""
    commands: dict[type, Callable[[Any], None]] = {
        Score: score,
        Run: run,
        Report: write_page,
        FitQs: fit_qs,
        BuildCocoee: build_cocoee,
    }
    commands[type(options)](options)


def score(options: Score) -> None:
    """Score every folder, write and print."""
    from ..evaluation.benchmark import open_benchmark
    from ..evaluation.editing import read_settings

    if not options.results:
        raise UsageError("missing: --results name=folder")
    folders = {name: Path(folder) for name, folder in pairs(options.results, "--results").items()}
    benchmark = open_benchmark(options.benchmark)
    settings = {name: read_settings(folder) for name, folder in folders.items()}
    scores = score_all(
        benchmark, folders, settings, options, options.device, options.cache or options.out.parent / "features"
    )
    report(scores, options.out, options.json)


def run(options: Run) -> None:
    """Edit with every method, then score, write and print."""
    from ..evaluation.benchmark import open_benchmark
    from ..evaluation.editing import read_settings, run_method
    from ..pipeline import choose_device
    from ..processes import joined

    benchmark = open_benchmark(options.benchmark)
    weights = pairs(options.weights, "--weights")
    methods = {name: model for name, model in map(split_method, options.method or ("embedded=embedded",))}
    folders = {name: options.out / name for name in methods}
    with joined(options.device) as processes:
        for name, model in methods.items():
            try:
                method, settings = make_method(model, weights, options, processes.device(options.device))
            except ModelError as error:
                if model not in TEXT_METHODS or len(folders) == 1:
                    raise
                print(f"pbe: {error}", file=sys.stderr)
                del folders[name]
                continue
            run_method(
                method,
                benchmark,
                folders[name],
                settings,
                seed=options.seed,
                batch_size=options.batch_size,
                limit=options.limit,
                rank=processes.rank,
                processes=processes.count,
            )
        processes.wait()
        if not processes.is_first:
            return
        settings_of = {name: read_settings(folder) for name, folder in folders.items()}
        device = str(choose_device(processes.device(options.device)))
        scores = score_all(benchmark, folders, settings_of, options, device, options.cache or options.out / "features")
        report(scores, options.out / "scores.json", options.json)


def split_method(text: str) -> tuple[str, str]:
    """``name=model``, or the name of a built-in method."""
    name, equals, model = text.partition("=")
    if not equals and name not in (*BASELINE_NAMES, *TEXT_METHODS):
        known = ", ".join((*BASELINE_NAMES, *TEXT_METHODS))
        raise UserError(f"unknown method {text!r}; one of {known}, or name=model for a model, is expected")
    if not name or (equals and not model) or "/" in name:
        raise UserError(f"--method {text!r}: name=model is expected, and the name becomes a folder's")
    return name, model if equals else name


def make_method(model: str, weights: dict[str, str], options: Run, device: str | None) -> tuple[Method, dict[str, Any]]:
    """A built-in method by its name, or a model."""
    from ..evaluation.editing import ModelSettings, baseline_method, model_method

    if model in BASELINE_NAMES:
        return baseline_method(model), {"method": model}
    if model in TEXT_METHODS:
        from ..evaluation.stable_diffusion import STEPS, text_method

        return text_method(model, weights.get(model), options.offline, device, options.steps or STEPS)
    settings = ModelSettings(options.guidance_scale, options.steps, options.scheduler, options.compat)
    return model_method(model, settings, device, options.offline)


def score_all(
    benchmark: Benchmark,
    folders: dict[str, Path],
    settings: dict[str, dict[str, Any]],
    options: Score | Run,
    device: str,
    cache: Path,
) -> list[Scores]:
    """Score the results of several methods with the same instruments; what these lack is said on stderr."""
    from ..evaluation import scoring
    from ..evaluation.features import FeatureCache

    weights = {name: place for name, place in pairs(options.weights, "--weights").items() if name not in TEXT_METHODS}
    spaces = options.spaces or tuple(scoring.USES)
    for folder in folders.values():  # before anything is downloaded
        scoring.find_results(folder, benchmark.names[: options.limit])
    instruments = scoring.find_instruments(spaces, weights, options.qs, options.offline, device, options.pose_models)
    for reason in instruments.missing.values():
        print(f"pbe: {reason}", file=sys.stderr)
    features = FeatureCache(cache)
    references = scoring.find_references(options.reference, benchmark, instruments, features)
    return [
        scoring.score(benchmark, name, folder, instruments, references, features, settings[name], options.limit)
        for name, folder in folders.items()
    ]


def report(scores: list[Scores], out: Path, as_json: bool) -> None:
    """Write the files and print a table, or the JSON."""
    from ..evaluation.result import as_table, write_scores

    path, table = write_scores(scores, out)
    if as_json:
        print(path.read_text(encoding="utf-8"), end="")
        return
    print(as_table(scores))
    print(f"{scores[0].benchmark}; intervals of 95%; written: {path}, {table}")


def write_page(options: Report) -> None:
    """Write the page, print its path."""
    from ..evaluation.benchmark import open_benchmark
    from ..evaluation.report import report_html, write_report
    from ..evaluation.result import read_scores

    if options.count < 0:
        raise UsageError(f"--count must be at least 0, got {options.count}")
    scores = read_scores(options.scores)
    if not scores:
        raise UserError(f"{options.scores} holds no scores; pbe evaluate run makes some")
    out = options.out or options.scores.with_name("report.html")
    beside = [path.name for path in (options.scores, options.scores.with_suffix(".csv")) if path.parent == out.parent]
    benchmark = None if options.benchmark is None else open_benchmark(options.benchmark)
    print(write_report(report_html(scores, benchmark, options.count, beside), out))


def fit_qs(options: FitQs) -> None:
    """Fit, write, print the file's path."""
    from ..evaluation.benchmark import read_pictures
    from ..evaluation.features import FeatureCache, load_extractor
    from ..evaluation.quality import fit_quality, save_quality

    extractor = load_extractor(options.space, options.weights, options.offline, options.device)
    if not options.pictures.is_dir():
        raise UserError(f"there is no folder {options.pictures}")
    features = FeatureCache(options.cache).features(extractor, read_pictures(options.pictures), "crop")
    save_quality(fit_quality(features, options.space, options.components, options.seed), options.out)
    print(options.out)


def build_cocoee(options: BuildCocoee) -> None:
    """Build, print what came out."""
    from ..evaluation.coco import build_cocoee as build

    counts = build(
        (options.val_annotations, options.val_pictures),
        (options.train_annotations, options.train_pictures),
        options.out,
        options.count,
        options.seed,
        options.test_pictures,
    )
    for name, number in counts.items():
        print(f"{name}  {number:,}")


def pairs(texts: Sequence[str], option: str) -> dict[str, str]:
    """``name=value`` texts as a dictionary.

    Raises:
        UserError: one is something else, or a name comes twice.
    """
    found: dict[str, str] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not (name and equals and value) or name in found:
            raise UserError(f"{option} {text!r}: name=value is expected, each name once")
        found[name] = value
    return found
