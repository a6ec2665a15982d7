"""Faults that `make fuzz` found, each as the input that showed it."""

import json
import shutil
import sqlite3
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from paint_by_example.batch.run import identify
from paint_by_example.batch.table import read_table
from paint_by_example.checkpoint import read_weights
from paint_by_example.data.dataset import read_index
from paint_by_example.data.packages import read_entries
from paint_by_example.data.sources import read_coco
from paint_by_example.errors import DataError, ModelError, PictureError, UserError
from paint_by_example.images import load_image
from paint_by_example.library import Library, Search, add_pictures, make_index, open_search
from paint_by_example.record import KEY, gather, read_record
from paint_by_example.server.access import _place
from paint_by_example.state import read_log, start_run
from tests import tiny

DEEP = '{"a":' * 100_000


@pytest.mark.parametrize("name", ["\x1b[2J.png", "\u202egnp.exe", "\udcff.png"])
def test_messages_hold_nothing_that_a_terminal_obeys(name: str, tmp_path: Path) -> None:
    with pytest.raises(PictureError) as raised:
        load_image(tmp_path / name)
    assert str(raised.value).isprintable()
    assert name.encode("unicode_escape").decode() in str(raised.value)


def test_documents_nested_too_deep_are_refused_everywhere(tmp_path: Path) -> None:
    for name in ("index.jsonl", "composites.jsonl", "table.jsonl", "coco.json"):
        (tmp_path / name).write_text(DEEP)
    with pytest.raises(DataError, match="line 1: this is no JSON"):
        read_index(tmp_path / "index.jsonl")
    with pytest.raises(DataError, match="line 1 is no entry"):
        read_entries(tmp_path)
    with pytest.raises(DataError, match="not in COCO's layout"):
        list(read_coco(tmp_path / "coco.json", tmp_path))
    ((number, reason),) = read_table(tmp_path / "table.jsonl")  # type: ignore[misc]
    assert (number, reason.partition(":")[0]) == (1, "it is no JSON")


@pytest.mark.parametrize(
    ("number", "edge"), [([1], "1"), ({}, "1"), (1, "9" * 400)], ids=["a list", "an object", "an edge without end"]
)
def test_numbers_that_are_none_in_coco_s_layout(number: Any, edge: str, tmp_path: Path) -> None:
    box = {"image_id": 1, "bbox": [0, 0, 10, json.loads(edge)]}
    picture = {"id": number, "file_name": "a.png", "width": 60, "height": 50}
    (tmp_path / "coco.json").write_text(json.dumps({"annotations": [box], "images": [picture]}))
    with pytest.raises(DataError, match="not in COCO's layout"):
        list(read_coco(tmp_path / "coco.json", tmp_path))


def test_a_name_too_long_to_ask_for_is_not_there(tmp_path: Path) -> None:
    box = {"image_id": 1, "bbox": [0, 0, 10, 10]}
    picture = {"id": 1, "file_name": "9" * 5000, "width": 60, "height": 50}
    (tmp_path / "coco.json").write_text(json.dumps({"annotations": [box], "images": [picture]}))
    (found,) = read_coco(tmp_path / "coco.json", tmp_path)
    assert found.picture.name == "9" * 5000


def test_an_edge_without_end_is_refused_in_an_index(tmp_path: Path) -> None:
    line = json.dumps({"picture": "a.png", "boxes": [[0, 0, 10, 10**400]]})
    (tmp_path / "index.jsonl").write_text(line + "\n")
    with pytest.raises(DataError, match="not a box of four numbers"):
        read_index(tmp_path / "index.jsonl")


def test_a_list_of_cut_outs_that_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "composites.jsonl").write_bytes(b"\xff\xfe")
    with pytest.raises(DataError, match="cannot read"):
        read_entries(tmp_path)


def test_a_row_whose_path_is_none_fails_alone(tmp_path: Path) -> None:
    rows = [{"source": source, "box": [0, 0, 4, 4], "exemplar": "b.png"} for source in ("a\0.png", "x" * 300)]
    (tmp_path / "table.jsonl").write_text("\n".join(map(json.dumps, rows)))
    tasks, failed = identify(read_table(tmp_path / "table.jsonl"), "fingerprint")
    assert tasks == []
    assert [line["reason"].startswith("cannot read") for line in failed] == [True, True]


def record_in(folder: Path, text: str) -> Path:
    info = PngInfo()
    info.add_text(KEY, text)
    Image.new("RGB", (4, 4)).save(folder / "result.png", pnginfo=info)
    return folder / "result.png"


@pytest.mark.parametrize("text", [DEEP, '{"steps": 1e999, "version": "1"}'])
def test_a_record_that_cannot_be_is_refused(text: str, tmp_path: Path) -> None:
    with pytest.raises(PictureError, match="its record is damaged"):
        read_record(record_in(tmp_path, text))


def test_a_record_s_numbers_and_names_may_be_anything(tmp_path: Path) -> None:
    tiny.picture(40, 40).save(tmp_path / "a.png")
    made = tiny.embedded_pipeline().edit(tmp_path / "a.png", box=(4, 4, 30, 30), exemplar=tmp_path / "a.png", steps=1)
    whole: dict[str, Any] = json.loads(made.records[0].info(tmp_path)[KEY])
    with pytest.raises(PictureError, match="its record is damaged"):
        read_record(record_in(tmp_path, json.dumps(whole | {"seed": float("inf")})))
    for name in ("x" * 300, "a\0b"):
        record = read_record(record_in(tmp_path, json.dumps(whole | {"source": {"path": name, "sha256": "0"}})))
        with pytest.raises(PictureError, match="of the recorded edit is gone"):
            gather(record)


def test_weights_in_parts_lie_in_their_folder(tmp_path: Path) -> None:
    (tmp_path / "unet").mkdir()
    listed = tmp_path / "unet" / "diffusion_pytorch_model.safetensors.index.json"
    listed.write_text(json.dumps({"weight_map": {"a": "../secret.safetensors"}}))
    (tmp_path / "secret.safetensors").write_bytes(struct.pack("<Q", 2) + b"{}")
    with pytest.raises(ModelError, match=r"lists '../secret.safetensors', which is no file of this folder"):
        read_weights(tmp_path / "unet")


def test_a_damaged_log_is_named(tmp_path: Path) -> None:
    for content in (b'{"step": 1} x}\n', b'{"step": \xff}\n', b"[1]}\n"):
        (tmp_path / "log.jsonl").write_bytes(content)
        with pytest.raises(DataError, match=r"log.jsonl is damaged"):
            read_log(tmp_path, "log")
        with pytest.raises(DataError, match=r"log.jsonl is damaged"):
            start_run(tmp_path, {}, 1)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("library")
    for seed in range(4):
        tiny.picture(40, 30, seed=seed).save(folder / f"{seed}.png")
    add_pictures(folder / "library", tiny.embedded_pipeline(), [folder], tags=("red",))
    return folder / "library"


@pytest.fixture
def library(whole: Path, tmp_path: Path) -> Path:
    return shutil.copytree(whole, tmp_path / "library")


@pytest.mark.parametrize(
    "change",
    [
        "update library set value = 'x' where key = 'size'",
        "update library set value = null where key = 'count'",
        "update library set value = -1 where key = 'count'",
        "delete from library where key = 'version'",
        "update pictures set width = 'x'",
        "update pictures set aspect = 0",
        "update library set value = 2 where key = 'count'",
        "drop table pictures",
        "drop table tags",
    ],
)
def test_a_library_s_database_that_somebody_changed_is_damaged(change: str, library: Path) -> None:
    with sqlite3.connect(library / "library.db") as rows:
        rows.execute(change)
    rows.close()
    with (
        pytest.raises(DataError, match=r"the library .* is damaged|cannot use the library"),
        Library(library) as opened,
    ):
        open_search(opened).browse(4, ("red",))


def test_a_thumbnail_that_is_none_is_left_out(library: Path) -> None:
    with sqlite3.connect(library / "library.db") as rows:
        rows.execute("update thumbnails set webp = 4611686018427387904")
    rows.close()
    with Library(library) as opened:
        assert opened.thumbnail(0) is None


def test_an_index_cut_short_is_not_used(library: Path) -> None:
    with Library(library) as opened:
        make_index(opened)
        assert Search(opened).index is not None
        query = opened.feature(2)
        path = library / "index.usearch"
        path.write_bytes(path.read_bytes()[:-8])
        search = Search(opened)
        assert search.index is None
        assert search.nearest(np.asarray(query), 1)[0].entry.id == 2


def test_a_page_s_address_that_is_none_is_another_site() -> None:
    assert _place("http://127.0.0.1:8080") == "127.0.0.1:8080"
    assert _place("http://[") is None


def test_damaged_lance_files_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("lancedb")
    from paint_by_example.library.lance import LanceLibrary

    class Panic(Exception):
        """As LanceDB's own, which no other error is related to."""

    def panics(place: LanceLibrary) -> None:
        raise Panic("rust future panicked")

    monkeypatch.setattr(LanceLibrary, "noted", panics)
    tiny.picture(40, 30).save(tmp_path / "a.png")
    with pytest.raises(UserError, match="cannot use the library .*: rust future panicked"):
        add_pictures(tmp_path / "library.lance", tiny.embedded_pipeline(), [tmp_path])
