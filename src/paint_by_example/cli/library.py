"""``pbe library``: add, search, index, list, remove."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from ..errors import DataError
from .arguments import UsageError

if TYPE_CHECKING:
    from ..library import Entry, Found


@dataclass(frozen=True)
class Place:
    """Where the library is."""

    library: str = "library"
    """Folder of the library. A name that ends in .lance, or an address such as s3://bucket/name, is kept by LanceDB."""
    json: bool = False
    """Print JSON, a line a picture."""


@dataclass(frozen=True)
class LibraryAdd(Place):
    """Add the pictures of folders. Run again it adds what is new, and notes what was moved or is gone."""

    places: Annotated[tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(metavar="PATH ...")] = ()
    """Folders, looked through to their bottom, and pictures."""
    tag: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """A tag for all of these pictures; may be given several times."""
    licence: str | None = None
    """Licence of all of these pictures."""
    model: str = "embedded"
    """The model whose exemplar encoder is used, as for pbe edit. Fine-tuned models share it."""
    compat: Literal["none", "original", "diffusers"] = "none"
    """As for pbe edit; it changes how an exemplar is cut."""
    text_encoder: Annotated[str | None, tyro.conf.arg(metavar="MODEL")] = None
    """A CLIP model, folder or hub name, so that words find the pictures; the library's own if it has one."""
    offline: bool = False
    """Use only models that are on this machine."""
    device: str | None = None
    """cpu, cuda, cuda:1, ...; the best there is if not given."""


@dataclass(frozen=True)
class LibrarySearch(Place):
    """Find pictures: those like another one, those with tags, or those that fit a hole in a photograph."""

    like: Path | None = None
    """Picture that they should be like."""
    text: str | None = None
    """What they should show, in words; for libraries made with a text encoder."""
    tag: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """A tag that they must have; may be given several times."""
    photo: Annotated[Path | None, tyro.conf.arg(name="for", metavar="PHOTO")] = None
    """Photograph with a hole that they should fit; with --mask or --box."""
    mask: Path | None = None
    """The hole: picture of the photograph's size, white is repainted."""
    box: Annotated[str | None, tyro.conf.arg(metavar="L,T,R,B")] = None
    """The hole as a rectangle, pixels."""
    top: int = 10
    """How many, at most."""
    model: str | None = None
    """Model for --like; the one the library was made with if not given."""
    text_encoder: Annotated[str | None, tyro.conf.arg(metavar="MODEL")] = None
    """CLIP model for --text; the one the library was made with if not given."""
    offline: bool = False
    """Use only models that are on this machine."""
    device: str | None = None
    """For --like: cpu, cuda, cuda:1, ...; the best there is if not given."""


@dataclass(frozen=True)
class LibraryIndex(Place):
    """Make an index, so that --like is quick among many pictures. It may miss some. Used until pictures change."""


@dataclass(frozen=True)
class LibraryList(Place):
    """List the pictures, in the order in which they were added."""

    duplicates: bool = False
    """Only pictures that several files hold."""
    missing: bool = False
    """Only pictures whose files are gone."""
    broken: bool = False
    """Instead, the files that could not be used, and why."""


@dataclass(frozen=True)
class LibraryRemove(Place):
    """Take pictures out. Files stay where they are."""

    places: Annotated[tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(metavar="PATH ...")] = ()
    """Files and folders whose pictures are taken out."""
    missing: bool = False
    """Also take out all pictures whose files are gone."""


LibraryCommand = (
    Annotated[LibraryAdd, tyro.conf.subcommand("add")]
    | Annotated[LibrarySearch, tyro.conf.subcommand("search")]
    | Annotated[LibraryIndex, tyro.conf.subcommand("index")]
    | Annotated[LibraryList, tyro.conf.subcommand("list")]
    | Annotated[LibraryRemove, tyro.conf.subcommand("remove")]
)


def library_options() -> Any:
    """The commands of the group."""
    return LibraryCommand


def library(options: LibraryAdd | LibrarySearch | LibraryIndex | LibraryList | LibraryRemove) -> None:
    """Carry out one of them."""
    if isinstance(options, LibraryAdd):
        add(options)
    elif isinstance(options, LibrarySearch):
        search(options)
    elif isinstance(options, LibraryIndex):
        index(options)
    elif isinstance(options, LibraryList):
        show(options)
    else:
        remove(options)


def add(options: LibraryAdd) -> None:
    """Add pictures, print how many."""
    if not options.places:
        raise UsageError("missing: folders or pictures to add")
    from ..library import TextEncoder, add_pictures
    from ..pipeline import load_pipeline

    encoder = options.text_encoder or text_model_of(options.library)
    text = None if encoder is None else TextEncoder(encoder, options.offline)
    pipeline = load_pipeline(options.model, device=options.device, local_files_only=options.offline)
    pipeline.compat = None if options.compat == "none" else options.compat
    with bar("adding", "file") as progress:
        outcome = add_pictures(
            options.library,
            pipeline,
            options.places,
            tags=options.tag,
            licence=options.licence,
            text=text,
            progress=progress,
        )
    counts = dataclasses.asdict(outcome)
    print(json.dumps(counts) if options.json else "\n".join(f"{name:11}{n:,}" for name, n in counts.items()))
    if outcome.broken:
        print(
            f"pbe: files that could not be used: pbe library list --broken --library {options.library}", file=sys.stderr
        )


@contextlib.contextmanager
def bar(what: str, unit: str) -> Iterator[Callable[[int, int], None]]:
    """A progress bar, as what tells it how many are done, and of how many."""
    from tqdm import tqdm

    with tqdm(desc=what, unit=unit, total=None) as shown:

        def progress(done: int, total: int) -> None:
            shown.total = total
            shown.update(done - shown.n)

        try:
            yield progress
        except KeyboardInterrupt:
            shown.close()
            print("pbe: stopped; run the same command again to go on", file=sys.stderr)
            raise


def index(options: LibraryIndex) -> None:
    """Make the index, print how many pictures it is of."""
    from ..library import make_index, open_library

    with open_library(options.library) as opened, bar("indexing", "picture") as progress:
        count = make_index(opened, progress)
    print(json.dumps({"indexed": count}) if options.json else f"indexed {count:,}")


def text_model_of(place: str) -> str | None:
    """The text encoder that a library was made with, if there is a library and it was made with one."""
    from ..library import open_library

    try:
        with open_library(place) as opened:
            return None if opened.text is None else opened.text.model
    except DataError:  # there is none yet
        return None


def search(options: LibrarySearch) -> None:
    """Print what was found, best first."""
    if options.top < 1:
        raise UsageError("--top must be at least 1")
    if (options.photo is None) != (options.mask is None and options.box is None) or (options.mask and options.box):
        raise UsageError("--for needs --mask or --box, and they need --for")
    if not (options.like or options.tag or options.photo or options.text is not None):
        raise UsageError("missing: --like, --text, --tag or --for")
    if options.text is not None and (options.like or options.photo):
        raise UsageError("--text goes with --tag, not with --like or --for")
    from ..crops import box_mask, parse_box
    from ..images import load_exemplar, load_image, load_mask
    from ..library import Hole, TextEncoder, find_exemplars, find_words, open_library

    with open_library(options.library) as opened:
        hole = None
        if options.photo is not None:
            photo = load_image(options.photo)
            if options.box is not None:
                selected = box_mask(parse_box(options.box), photo.size)
            else:
                assert options.mask is not None
                selected = load_mask(options.mask, photo.size)
            hole = Hole.of(photo, selected)
        like = None if options.like is None else load_exemplar(options.like)
        painter = None
        if like is not None:
            painter = open_encoder(opened.encoder, options.model, options.device, options.offline)
        words = None
        if options.text is not None:
            model = options.text_encoder or opened.text_encoder().model
            words = find_words(opened, options.text, TextEncoder(model, options.offline))
        for one in find_exemplars(
            opened, options.top, painter=painter, like=like, tags=options.tag, hole=hole, words=words
        ):
            print(found_line(one, options.json))


def open_encoder(encoder: Any, model: str | None, device: str | None, offline: bool) -> Any:
    """The model that a library was made with, or the one that was named."""
    from ..pipeline import load_pipeline

    pipeline = load_pipeline(model or encoder.model, device=device, local_files_only=offline)
    pipeline.compat = encoder.compat
    return pipeline


def show(options: LibraryList) -> None:
    """Print a line a picture."""
    from ..library import open_library

    with open_library(options.library) as opened:
        if options.broken:
            for path, reason in opened.broken():
                print(json.dumps({"path": path, "reason": reason}) if options.json else f"{path}\t{reason}")
            return
        for entry in opened.entries(opened.missing() if options.missing else None):
            if len(entry.paths) > 1 or not options.duplicates:
                print(entry_line(entry, options.json))


def remove(options: LibraryRemove) -> None:
    """Take pictures out, print how many."""
    if not (options.places or options.missing):
        raise UsageError("missing: files or folders to remove, or --missing")
    from ..library import open_library

    with open_library(options.library) as opened:
        numbers = set(opened.missing()) if options.missing else set()
        for place in options.places:
            if not (named := opened.named(place)):
                raise DataError(
                    f"no picture of the library {options.library} is in {place}; pbe library list shows all"
                )
            numbers |= set(named)
        removed = opened.remove(sorted(numbers))
    print(json.dumps({"removed": removed}) if options.json else f"removed {removed:,}")


def entry_line(entry: Entry, as_json: bool) -> str:
    """A picture: its number, size, file and tags."""
    if as_json:
        return json.dumps(dataclasses.asdict(entry))
    size = f"{entry.width}x{entry.height}"
    return "\t".join((str(entry.id), size, "; ".join(entry.paths) or "(missing)", " ".join(entry.tags)))


def found_line(found: Found, as_json: bool) -> str:
    """A picture that was found, with its score."""
    if as_json:
        return json.dumps(dataclasses.asdict(found.entry) | {"score": found.score, "likeness": found.likeness})
    return f"{found.score:.4f}\t{entry_line(found.entry, False)}"
