"""Somebody's open transaction holds an instance or an idempotency key: whoever wants it is told soon, all others go on."""

import time
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from sqlalchemy import Engine, create_engine

from schema.database import transaction
from schema.kinds import KindInfo
from schema.transitions.registrations import register_kinds
from taskserver.embedded.stack import EmbeddedStack
from taskserver.submission import submit
from tests.api_client import ApiClient, running_api
from tests.eventually import eventually
from tests.factories import many, one

DOCUMENT = {"name": "n", "subtasks": [{"key": "a", "kind": "test.kind"}]}
INSTANCE = {**DOCUMENT, "instanceId": 1}
KEY = {"Idempotency-Key": "k"}
MANY = 60  # more than the server has threads
SOON_SECONDS = 5  # less than half of what all of them would wait for one another


@pytest.fixture
def api(engine: Engine, stack: EmbeddedStack) -> Iterator[ApiClient]:
    with transaction(engine) as connection:
        register_kinds(connection, [KindInfo("test.kind")], code_version="1")
    with running_api(engine, stack.redis_url) as api:
        yield api


@pytest.fixture
def senders() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(MANY) as senders:
        yield senders


@pytest.fixture
def another(engine: Engine) -> Iterator[Engine]:
    """Return what another program holds its connection with: not from the pool that is judged here."""
    another = create_engine(engine.url)
    yield another
    another.dispose()


def waiting(engine: Engine) -> int:
    query = "SELECT count(*) AS n FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    return int(one(engine, query)["n"])


def send(
    api: ApiClient, senders: ThreadPoolExecutor, document: object, headers: Mapping[str, str], path: str = "/instances"
) -> "list[Future[httpx.Response]]":
    return [senders.submit(api.post, path, json=document, headers=headers) for _ in range(MANY)]


@pytest.mark.parametrize("held", [(DOCUMENT, "k"), (INSTANCE, None)], ids=["of an idempotency key", "of an instance"])
def test_who_waits_for_an_open_transaction_holds_up_nobody_else(
    api: ApiClient,
    engine: Engine,
    another: Engine,
    senders: ThreadPoolExecutor,
    held: tuple[dict[str, Any], str | None],
) -> None:
    document, key = held
    with another.connect() as holding:
        task = submit(holding, document, idempotency_key=key)
        sent = send(api, senders, document, {} if key is None else KEY)
        eventually(lambda: waiting(engine) > 0)

        began = time.monotonic()
        codes = [api.get(path).status_code for path in ("//readyz", "/instances", "/kinds")]
        stored = [api.post("/instances", json=one) for one in (DOCUMENT, {**DOCUMENT, "instanceId": 2}) for _ in "ab"]
        took = time.monotonic() - began
        held_up = waiting(engine)
        answers = [one.result() for one in sent]
        holding.commit()

    assert codes == [200, 200, 200]
    assert [one.status_code for one in stored] == [201, 201, 201, 409]
    assert took < SOON_SECONDS
    assert held_up <= 2
    assert Counter(one.status_code for one in answers) == {503: MANY}
    assert {one.json()["error"]["code"] for one in answers} == {10003}
    assert {one.headers["retry-after"] for one in answers} == {"1"}
    again = api.post("/instances", json={**document, "onDuplicate": "return"} if key is None else document, headers=KEY)
    assert (again.status_code, again.json()["data"]["id"]) == (200, task)


def test_who_waits_goes_on_as_soon_as_the_other_has_ended(
    api: ApiClient, engine: Engine, another: Engine, senders: ThreadPoolExecutor
) -> None:
    with another.connect() as holding:
        task = submit(holding, DOCUMENT, idempotency_key="k")
        sent = send(api, senders, DOCUMENT, KEY)
        eventually(lambda: waiting(engine) > 0)
        holding.commit()

    answers = [one.result() for one in sent]
    assert Counter((one.status_code, one.json()["data"]["id"]) for one in answers) == {(200, task): MANY}


def test_a_batch_waits_for_none_of_its_instances_for_long(
    api: ApiClient, engine: Engine, another: Engine, senders: ThreadPoolExecutor
) -> None:
    batch = [{**DOCUMENT, "instanceId": place} for place in range(3)]
    with another.connect() as holding:
        submit(holding, {**DOCUMENT, "instanceId": 2})
        sent = send(api, senders, batch, {}, path="/instances/batch")
        eventually(lambda: waiting(engine) > 0)

        assert api.post("/instances", json=DOCUMENT).status_code == 201
        assert Counter(one.result().status_code for one in sent) == {503: MANY}

    assert len(many(engine, "SELECT id FROM tasks")) == 1


def test_a_verb_does_not_wait_for_its_key_for_long(api: ApiClient, another: Engine) -> None:
    task = api.post("/instances", json=DOCUMENT).json()["data"]["id"]
    with another.connect() as holding:
        submit(holding, DOCUMENT, idempotency_key="k")
        began = time.monotonic()

        refused = api.post(f"/instances/{task}/pause", headers=KEY)

        assert (refused.status_code, refused.json()["error"]["code"]) == (503, 10003)
        assert time.monotonic() - began < SOON_SECONDS
    assert api.post(f"/instances/{task}/pause", headers=KEY).status_code == 200


def test_many_at_once_that_have_nothing_in_common_are_all_stored(
    api: ApiClient, engine: Engine, senders: ThreadPoolExecutor
) -> None:
    documents = [{**DOCUMENT, "instanceId": place} for place in range(5 * MANY)]

    answers = list(senders.map(lambda one: api.post("/instances", json=one), documents))

    assert Counter(one.status_code for one in answers) == {201: len(documents)}
    assert len(many(engine, "SELECT id FROM tasks")) == len(documents)
