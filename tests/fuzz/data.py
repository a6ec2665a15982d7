"""Job tables, result records, libraries, and what models are trained on."""

import contextlib
import csv
import io
import json
import shutil
import sqlite3
from pathlib import Path
from random import Random
from typing import Any, ClassVar

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from paint_by_example.batch.run import identify
from paint_by_example.batch.table import COLUMNS, read_table
from paint_by_example.data.composites import Composites
from paint_by_example.data.dataset import BoxDataset
from paint_by_example.data.shards import ShardDataset, write_shards
from paint_by_example.data.sources import build_index, read_coco, read_folder, read_openimages
from paint_by_example.library import add_pictures, make_index, open_library, open_search
from paint_by_example.record import KEY, gather, read_record
from paint_by_example.state import read_log
from tests import tiny
from tests.fuzz import damage

BOX = [10, 10, 40, 35]


class Tables:
    """Tables of edits, read and told apart as ``pbe batch`` does."""

    cases = 1500
    ROW: ClassVar[dict[str, Any]] = {
        "source": "a.png",
        "box": BOX,
        "exemplar": "b.png",
        "seed": 3,
        "steps": 4,
        "guidance_interval": "0.2-1",
    }

    def __init__(self, folder: Path) -> None:
        import pyarrow
        from pyarrow import parquet

        self.pictures = [folder / "a.png", folder / "b.png"]
        for seed, path in enumerate(self.pictures):
            tiny.picture(60, 50, seed=seed).save(path)
        file = io.BytesIO()
        parquet.write_table(
            pyarrow.Table.from_pylist([self.ROW | {"box": "1,2,3,4"}, self.ROW | {"box": "1,2,3,4"}]), file
        )
        self.parquet = file.getvalue()

    def attempt(self, rng: Random, folder: Path) -> None:
        for path in self.pictures:
            shutil.copy(path, folder)
        kind = rng.choice((".csv", ".jsonl", ".jsonl", ".parquet"))
        if kind == ".parquet":
            content = damage.damaged(rng, self.parquet)
        elif kind == ".jsonl":
            rows = [
                damage.text(rng, self.ROW) if rng.random() < 0.6 else json.dumps(self.ROW).encode() for _ in range(3)
            ]
            content = b"\n".join(rows)
        else:
            names = rng.sample(COLUMNS, 6) if rng.random() < 0.3 else list(self.ROW)
            text = io.StringIO()
            writer = csv.writer(text)
            writer.writerow(names)
            for _ in range(3):
                row = [str(damage.value(rng)) if rng.random() < 0.3 else self.ROW.get(name, "") for name in names]
                writer.writerow(row)
            content = text.getvalue().encode("utf-8", "surrogatepass")
            content = damage.damaged(rng, content) if rng.random() < 0.5 else content
        table = folder / f"table{kind}"
        table.write_bytes(content)
        identify(read_table(table), "fingerprint")


class Records:
    """How a result was made, as its PNG file has it, read back for ``pbe edit --from``."""

    cases = 1000

    def __init__(self, folder: Path) -> None:
        tiny.picture(60, 50).save(folder / "a.png")
        tiny.picture(30, 30, seed=1).save(folder / "b.png")
        Image.new("L", (60, 50), 255).save(folder / "mask.png")
        painted = tiny.embedded_pipeline().edit(
            folder / "a.png", mask=folder / "mask.png", exemplar=folder / "b.png", steps=1, seed=0
        )
        self.picture, self.folder = painted.images[0], folder
        self.record = json.loads(painted.records[0].info(folder)[KEY])
        sketch = {"path": "a.png", "sha256": "0"}
        guide = {"kind": "sketch", "scale": 1.0, "sketch": sketch, "models": None, "controlnet": None}
        self.guided = self.record | {"structure": guide}

    def attempt(self, rng: Random, folder: Path) -> None:
        for name in ("a.png", "b.png", "mask.png"):
            shutil.copy(self.folder / name, folder)
        text = damage.text(rng, rng.choice((self.record, self.guided)))
        info = PngInfo()
        info.add_itxt(KEY, text.decode("utf-8", "replace"), zip=rng.random() < 0.5)
        file = io.BytesIO()
        self.picture.save(file, "PNG", pnginfo=info)
        content = file.getvalue()
        path = folder / "result.png"
        path.write_bytes(damage.damaged(rng, content) if rng.random() < 0.2 else content)
        record = read_record(path)
        record.settings()
        gather(record)


class Libraries:
    """Libraries of exemplars whose files are damaged, searched and added to."""

    cases = 700

    def __init__(self, folder: Path) -> None:
        self.pictures, self.library = folder / "pictures", folder / "library"
        self.pictures.mkdir()
        for seed in range(8):
            tiny.picture(40 + seed, 30, seed=seed).save(self.pictures / f"{seed}.png")
        self.painter = tiny.embedded_pipeline()
        add_pictures(self.library, self.painter, [self.pictures], tags=("red",))
        with open_library(self.library) as library:
            make_index(library)
            library.rows.execute("pragma wal_checkpoint(truncate)")

    def attempt(self, rng: Random, folder: Path) -> None:
        place = folder / "library"
        shutil.copytree(self.library, place)
        for _ in range(rng.choice((1, 1, 2))):
            path = place / rng.choice(("library.db", "library.db", "features.f32", "index.usearch"))
            if rng.random() < 0.4:
                self.changed(rng, place / "library.db")
            elif rng.random() < 0.1:
                path.unlink(missing_ok=True)
            elif path.exists():
                content = path.read_bytes()
                # A graph of the right length is taken as it is, see `open_index`.
                path.write_bytes(
                    damage.cut(rng, content) if path.name.endswith(".usearch") else damage.damaged(rng, content)
                )
        with open_library(place) as library:
            search = open_search(library)
            search.total(("red",))
            found = search.browse(5, ("red",), 1)
            found += search.nearest(np.ones(library.encoder.size, np.float32), 3)
            for one in found:
                library.thumbnail(one.entry.id)
            library.broken()
            if rng.random() < 0.1:
                add_pictures(place, self.painter, [self.pictures])

    @staticmethod
    def changed(rng: Random, database: Path) -> None:
        """Values in the database that nobody wrote."""
        with contextlib.suppress(sqlite3.Error), contextlib.closing(sqlite3.connect(database)) as rows:
            given = rng.choice((None, -1, 0, 10**6, 2**62, "x", "é", b"\0", 1e308))
            table, column = rng.choice(
                (
                    ("library", "value"),
                    *(("pictures", name) for name in ("id", "width", "aspect", "red", "sha256", "licence")),
                    *(("files", name) for name in ("path", "picture", "bytes")),
                    *(("tags", name) for name in ("tag", "picture")),
                    ("thumbnails", "webp"),
                )
            )
            which = rng.choice(("1", "rowid % 2 = 0" if table in ("pictures", "thumbnails") else "1"))
            if table == "library":
                keys = ("version", "count", "encoder", "size", "model", "compat", "index_of", "index_centre")
                which = f"key = '{rng.choice(keys)}'"
            if rng.random() < 0.1:
                rows.execute(f"drop table {table}")
            elif rng.random() < 0.1:
                rows.execute(f"delete from {table} where {which}")
            else:
                rows.execute(f"update or replace {table} set {column} = ? where {which}", (given,))
            rows.commit()


class LanceLibraries:
    """The same, kept by LanceDB: files gone or cut short. Bits turned in them can end the process in LanceDB."""

    cases = 60

    def __init__(self, folder: Path) -> None:
        self.library = folder / "library.lance"
        for seed in range(4):
            tiny.picture(40 + seed, 30, seed=seed).save(folder / f"{seed}.png")
        add_pictures(self.library, tiny.embedded_pipeline(), [folder / f"{seed}.png" for seed in range(4)])

    def attempt(self, rng: Random, folder: Path) -> None:
        place = folder / "library.lance"
        shutil.copytree(self.library, place)
        path = rng.choice([one for one in sorted(place.rglob("*")) if one.is_file()])
        if rng.random() < 0.2:
            path.unlink()
        else:
            path.write_bytes(path.read_bytes()[: rng.randrange(path.stat().st_size + 1)])
        with open_library(place) as library:
            search = open_search(library)
            search.browse(5)
            search.nearest(np.ones(library.encoder.size, np.float32), 3)


class Indexes:
    """Training data: indexes, annotations of others, shards, cut-outs, read as by ``pbe prepare`` and ``pbe train``."""

    cases = 1500
    COCO: ClassVar[dict[str, Any]] = {
        "images": [{"id": 1, "file_name": "0.png", "width": 60, "height": 50}],
        "annotations": [{"image_id": 1, "bbox": [10, 10, 30, 25], "iscrowd": 0}],
    }
    OPENIMAGES = "ImageID,XMin,XMax,YMin,YMax,IsGroupOf,IsDepiction\n0,0.1,0.6,0.1,0.6,0,0\n"
    VOC = "<a><object><bndbox><xmin>5</xmin><ymin>5</ymin><xmax>40</xmax><ymax>40</ymax></bndbox></object></a>"
    BOMB = (  # each entity is ten of the one before
        '<!DOCTYPE a [<!ENTITY a "aaaaaaaaaa">'
        + "".join(f'<!ENTITY {chr(98 + n)} "{f"&{chr(97 + n)};" * 10}">' for n in range(25))
        + "]><a><bndbox><xmin>&z;</xmin></bndbox></a>"
    )

    def __init__(self, folder: Path) -> None:
        self.boxes = tiny.box_index(folder / "boxes").parent
        self.composites = tiny.composites_folder(folder / "composites")
        write_shards(self.boxes / "index.jsonl", folder / "shards")
        self.shards = folder / "shards"

    def attempt(self, rng: Random, folder: Path) -> None:
        rng.choice((self.index, self.coco, self.openimages, self.labels, self.shard, self.cutouts, self.log))(
            rng, folder
        )

    def index(self, rng: Random, folder: Path) -> None:
        place = shutil.copytree(self.boxes, folder / "boxes")
        lines = [json.loads(line) for line in (place / "index.jsonl").read_text().splitlines()]
        lines[0] |= {"masks": ["0.png"]}
        (place / "index.jsonl").write_bytes(b"\n".join(damage.text(rng, line) for line in lines))
        examples = BoxDataset(place / "index.jsonl", 32, 32)
        for number in range(min(2, len(examples))):
            examples[number]

    def coco(self, rng: Random, folder: Path) -> None:
        (folder / "instances.json").write_bytes(damage.text(rng, self.COCO))
        build_index(read_coco(folder / "instances.json", self.boxes), folder / "out", {})

    def openimages(self, rng: Random, folder: Path) -> None:
        content = damage.damaged(rng, self.OPENIMAGES.encode())
        if rng.random() < 0.5:
            content = self.OPENIMAGES.replace("0.6", str(damage.value(rng))).encode("utf-8", "surrogatepass")
        (folder / "boxes.csv").write_bytes(content)
        build_index(read_openimages(folder / "boxes.csv", self.boxes), folder / "out", {})

    def labels(self, rng: Random, folder: Path) -> None:
        (folder / "pictures").mkdir()
        shutil.copy(self.boxes / "0.png", folder / "pictures" / "0.png")
        name, text = rng.choice((("0.txt", "0 0.5 0.5 0.4 0.4\n"), ("0.xml", self.VOC), ("0.xml", self.BOMB)))
        (folder / "pictures" / name).write_bytes(
            damage.damaged(rng, text.encode()) if rng.random() < 0.9 else text.encode()
        )
        build_index(read_folder(folder / "pictures").found, folder / "out", {})

    def shard(self, rng: Random, folder: Path) -> None:
        place = shutil.copytree(self.shards, folder / "shards")
        if rng.random() < 0.5:
            tar = next(place.glob("*.tar"))
            tar.write_bytes(damage.damaged(rng, tar.read_bytes()))
        else:
            line = json.loads((place / "shards.jsonl").read_text())
            (place / "shards.jsonl").write_bytes(damage.text(rng, line))
        ShardDataset(place, 32, 32)[0]

    def cutouts(self, rng: Random, folder: Path) -> None:
        place = shutil.copytree(self.composites, folder / "composites")
        lines = (place / "composites.jsonl").read_text().splitlines()
        lines[rng.randrange(len(lines))] = damage.text(rng, json.loads(lines[0])).decode("utf-8", "replace")
        (place / "composites.jsonl").write_text("\n".join(lines), encoding="utf-8", errors="replace")
        if rng.random() < 0.3:
            picture = rng.choice(sorted(place.rglob("*.png")) + sorted(place.rglob("*.jpg")))
            picture.write_bytes(damage.damaged(rng, picture.read_bytes()))
        Composites(place, size=32, exemplar_size=32, length=2)[0]

    def log(self, rng: Random, folder: Path) -> None:
        (folder / "log.jsonl").write_bytes(damage.text(rng, {"step": 1, "loss": 0.5}) + b"\n")
        read_log(folder, "log")
