"""The server's API: requests of our own making, and what schemathesis makes of the API's schema."""

import contextlib
import json
import warnings
from pathlib import Path
from random import Random
from typing import Any, ClassVar
from urllib.parse import quote

import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis.configuration import set_hypothesis_home_dir
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from starlette.testclient import TestClient

from paint_by_example.library import add_pictures
from paint_by_example.server.app import Options, create_app
from paint_by_example.server.browsing import Roots
from paint_by_example.server.jobs import Jobs
from paint_by_example.server.library import Exemplars
from paint_by_example.server.models import Shelf
from paint_by_example.server.serving import devices
from paint_by_example.server.store import Store
from tests import server_client as ask
from tests import tiny
from tests.fuzz import damage, pictures

BASE = "http://127.0.0.1"


def application(folder: Path) -> Any:
    """A server's application, in this process, with all it can have."""
    tiny.embedded_pipeline().save_pretrained(folder / "model")
    (folder / "input").mkdir()
    for number in range(3):
        (folder / "input" / f"{number}.png").write_bytes(ask.png(seed=number))
    add_pictures(folder / "library", tiny.embedded_pipeline(), [folder / "input"], tags=("red",))
    store = Store(folder / "state", 3600)
    jobs = Jobs(Shelf(str(folder / "model")), store, devices("cpu"), capacity=4)
    jobs.start()
    library = Exemplars(folder / "library", local_files_only=True)
    options = Options(roots=Roots(input=folder / "input"), pixels=100_000, library=library)
    return create_app(jobs, options)


class Requests:
    """Uploads, settings, paths and headers as no page of ours sends them."""

    cases = 1200
    SETTINGS: ClassVar[dict[str, Any]] = {
        "steps": 1,
        "regions": [{"box": [8, 8, 32, 28], "exemplars": [0], "weights": [1.0]}],
        "seeds": [0],
        "guidance_scale": 2.0,
        "feather": 1,
        "strength": 1.0,
    }
    PATHS = ("/api/edits/{}", "/api/edits/{}/events", "/api/edits/{}/results/{}", "/api/library/{}/thumbnail", "/{}")
    QUERIES = ("/api/files?folder={}", "/api/files/picture?path={}&size={}", "/api/library?tag={}&start={}&text={}")

    def __init__(self, folder: Path) -> None:
        self.client = TestClient(application(folder), base_url=BASE)
        self.record = (folder / "input" / "0.png").read_bytes()

    def attempt(self, rng: Random, folder: Path) -> None:
        which = rng.choice((self.edit, self.edit, self.body, self.address, self.headers, self.others))
        answer = which(rng)
        assert answer.status_code < 500 or answer.status_code == 503, f"{answer.status_code} {answer.text}"
        assert "Traceback" not in answer.text
        if answer.status_code >= 400 and answer.headers.get("content-type") == "application/json":
            said = answer.json()["error"]
            assert said.isprintable(), f"a message with control characters: {said!r}"
            assert str(folder.parent) not in said, f"a message that tells where files lie here: {said}"

    def edit(self, rng: Random) -> Any:
        """An edit with bad pictures, names and settings; it is waited for, or cancelled if it is a long one."""
        asked = damage.changed(rng, self.SETTINGS) if rng.random() < 0.6 else self.SETTINGS
        text = json.dumps(asked).encode("utf-8", "surrogatepass")
        files: list[Any] = []
        for name in ("source", "exemplar", "mask"):
            if name == "mask" and rng.random() < 0.7:
                continue
            whole = ask.mask_png() if name == "mask" else ask.png()
            content = pictures.bad(rng) if rng.random() < 0.4 else whole
            called = rng.choice(damage.NAMES) if rng.random() < 0.4 else "a.png"
            files.append((name, (called.encode("utf-8", "replace").decode(), content or b"x", "image/png")))
        files.append(("settings", (None, text, "application/json")))
        answer = self.client.post("/api/edits", files=files)
        if answer.status_code == 202:
            name = answer.json()["id"]
            if asked.get("steps") != 1:
                return self.client.post(f"/api/edits/{name}/cancel")
            done = ask.wait(self.client, name)
            assert "the server could not do this" not in str(done["error"]), done["error"]
        return answer

    def body(self, rng: Random) -> Any:
        """A multipart body that is damaged itself."""
        request = self.client.build_request("POST", "/api/edits", files=ask.parts())
        content = damage.damaged(rng, request.read())
        kind = request.headers["content-type"] if rng.random() < 0.8 else rng.choice(("multipart/form-data", "x", ""))
        return self.client.post("/api/edits", content=content, headers={"content-type": kind})

    def address(self, rng: Random) -> Any:
        """Paths and queries that lead elsewhere."""
        pattern = rng.choice((*self.PATHS, *self.QUERIES))
        given = [rng.choice((*damage.NAMES, *damage.LEADING_OUT, -1, 2**70)) for _ in range(3)]
        return self.client.get(pattern.format(*(quote(str(one)[:2000], "/.", errors="replace") for one in given)))

    def headers(self, rng: Random) -> Any:
        """Headers that name other hosts, are damaged or very long."""
        names = ("host", "origin", "cookie", "authorization", "content-length", "range", "sec-fetch-site", "accept")
        values = (
            "",
            "evil.example",
            "[::1",
            "http://[",
            "bytes=9-1,-5",
            "-1",
            "a=b; pbe_token",
            "\x80\xff",
            "x" * 9000,
        )
        given: Any = {rng.choice(names): rng.choice(values).encode("latin-1") for _ in range(2)}
        path = rng.choice(("/", "/health", "/api/server", "/api/files/picture?path=0.png", "/metrics"))
        return self.client.get(path, headers=given)

    def others(self, rng: Random) -> Any:
        """The other routes that take something."""
        kind = rng.randrange(3)
        if kind == 0:
            return self.client.post("/api/record", files={"picture": ("a.png", pictures.bad(rng) or b"x")})
        if kind == 1:
            files = {
                name: ("a.png", pictures.bad(rng) or b"x") for name in rng.sample(("exemplar", "source", "mask"), 2)
            }
            return self.client.post("/api/library/search", files=files)
        content = damage.text(rng, {"name": "embedded"})
        return self.client.put("/api/models/current", content=content[:5000])


class Schema:
    """What the schema allows, and what it does not, of every route: each case a route, a mode and a few requests."""

    cases = 40
    EXAMPLES = 20

    def __init__(self, folder: Path) -> None:
        schema: Any = schemathesis.openapi.from_asgi(
            "/openapi.json", application(folder), headers={"Host": "127.0.0.1"}
        )
        self.operations = [found.ok() for found in schema.get_all_operations()]

    def attempt(self, rng: Random, folder: Path) -> int:
        modes = list(GenerationMode)
        operation, mode = rng.choice(self.operations), rng.choice(modes)
        set_hypothesis_home_dir(folder)
        sent = 0

        @seed(rng.getrandbits(32))
        @settings(
            max_examples=self.EXAMPLES,
            deadline=None,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(case=operation.as_strategy(generation_mode=mode))
        def send(case: Any) -> None:
            nonlocal sent
            sent += 1
            answer = case.call(headers={"Host": "127.0.0.1"})
            case.validate_response(answer, checks=[not_a_server_error])

        with warnings.catch_warnings(), contextlib.suppress(Unsatisfiable):  # a route that takes nothing
            warnings.simplefilter("ignore")
            send()
        return sent
