"""Whatever the API's own schema allows, and what it does not, is answered, and never by a 500."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from starlette.testclient import TestClient

from paint_by_example.server.app import Options, create_app
from paint_by_example.server.browsing import Roots
from paint_by_example.server.jobs import Jobs
from paint_by_example.server.models import Shelf
from paint_by_example.server.serving import devices
from paint_by_example.server.store import Store
from tests import server_client as ask

BASE = "http://127.0.0.1"
BOUNDED = settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture(scope="module")
def app(models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    folder = tmp_path_factory.mktemp("input")
    (folder / "room.png").write_bytes(ask.png())
    store = Store(tmp_path_factory.mktemp("server"), 3600)
    jobs = Jobs(Shelf(str(models["embedded"])), store, devices("cpu"), capacity=4)
    jobs.start()
    yield create_app(jobs, Options(roots=Roots(input=folder), pixels=100_000))
    jobs.close()


@pytest.fixture(scope="module")
def api(app: Any) -> Any:
    return schemathesis.openapi.from_asgi("/openapi.json", app, headers={"Host": "127.0.0.1"})


def answers_of(operation: Any, mode: GenerationMode) -> set[int]:
    """The statuses of a route's answers, none of which says that the server failed."""
    answers: set[int] = set()

    @BOUNDED
    @given(case=operation.as_strategy(generation_mode=mode))
    def send(case: Any) -> None:
        answer = case.call(headers={"Host": "127.0.0.1"})
        answers.add(answer.status_code)
        case.validate_response(answer, checks=[not_a_server_error])

    with contextlib.suppress(Unsatisfiable):  # a route that takes nothing cannot be sent what it does not take
        send()
    return answers


@pytest.mark.parametrize("mode", list(GenerationMode))
def test_no_request_ends_in_a_500(api: Any, mode: GenerationMode) -> None:
    """For every route, requests that its schema allows, and requests that it does not."""
    statuses = {}
    for found in api.get_all_operations():
        operation = found.ok()
        statuses[f"{operation.method} {operation.path}"] = answers_of(operation, mode)
    assert len(statuses) == 20
    answered = set().union(*statuses.values())
    assert {200, 404, 422} <= answered
    assert max(answered) < 500 or 503 in answered


# The schema knows the settings as a text; what may stand in it is sent here.
VALUES: Any = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
NAMES = st.sampled_from(
    [
        *("model", "regions", "seeds", "guidance_scale", "steps", "scheduler", "preset", "feather", "strength", "eta"),
        *("structure", "structure_scale", "context", "source_exemplar", "harmonise", "x"),
    ]
)
REGIONS = st.lists(
    st.dictionaries(st.sampled_from(["mask", "box", "exemplars", "weights", "y"]), VALUES, max_size=3)
    | st.fixed_dictionaries({"box": st.lists(st.integers(-100, 100), min_size=4, max_size=4)}),
    max_size=3,
)


@BOUNDED
@given(asked=st.dictionaries(NAMES, VALUES, max_size=3), regions=REGIONS | st.none())
def test_no_settings_end_in_a_500(app: Any, asked: dict[str, Any], regions: Any) -> None:
    changes = dict(asked) if regions is None else {**asked, "regions": regions}
    client = TestClient(app, base_url=BASE)
    answer = client.post("/api/edits", files=ask.parts(**changes))
    assert answer.status_code in (202, 404, 422, 503), answer.text
    if answer.status_code == 202:
        edit = ask.wait(client, answer.json()["id"])
        assert edit["state"] == "done" or "the server could not do this" not in str(edit["error"])
    else:
        assert list(answer.json()) == ["error"]


@BOUNDED
@given(content=st.binary(max_size=400), cut=st.integers(0, 3000), at=st.integers(0, 3000))
def test_no_damaged_picture_ends_in_a_500(app: Any, content: bytes, cut: int, at: int) -> None:
    client, whole = TestClient(app, base_url=BASE), ask.png()
    for source in (content, whole[:at] + content, whole[:at] + content + whole[at + len(content) :], whole[cut:]):
        answer = client.post("/api/edits", files=ask.parts(source=source or b"x"))
        assert answer.status_code in (202, 422, 503), answer.text
