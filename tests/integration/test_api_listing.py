"""The list of tasks: filters, pages, order."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote

import pytest
from sqlalchemy import Engine

from taskserver.embedded.stack import EmbeddedStack
from taskserver.queries import listing
from taskserver.queries.listing import SORT_COLUMNS
from tests.api_client import ApiClient, running_api
from tests.factories import execute, make_task, one

GRAPH: dict[str, tuple[str, ...]] = {"a": ()}


@pytest.fixture
def api(engine: Engine, stack: EmbeddedStack) -> Iterator[ApiClient]:
    with running_api(engine, stack.redis_url) as api:
        yield api


def names(api: ApiClient, query: str) -> list[str]:
    return [row["name"] for row in api.data(f"/instances?sort=id,asc&size=100&{query}")["contents"]]


def in_state(engine: Engine, state: str) -> None:
    """Store a task that an operator's verb, of another module, has brought to the state."""
    task = make_task(engine, GRAPH, name=state)
    if state == "SUCCESSFUL":
        task.run("a")
    elif state == "FAILED":
        task.run("a", verdict="FAILED")
    elif state == "RUNNING":
        task.begin("a")
    else:
        settled = "now()" if state in {"REVOKED", "ROLLED_BACK"} else "NULL"
        execute(engine, f"UPDATE tasks SET state = '{state}', finalized_at = {settled} WHERE id = :id", id=task.id)


@pytest.fixture
def _all_states(engine: Engine) -> None:
    for state in ("CREATED", "RUNNING", "SUSPENDED", "FAILED", "REVOKED", "SUCCESSFUL", "ROLLED_BACK"):
        in_state(engine, state)


@pytest.mark.usefixtures("_all_states")
@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("status=RUNNING", ["CREATED", "RUNNING", "SUSPENDED"]),
        ("status=FAILED", ["FAILED", "REVOKED"]),
        ("status=successful", ["SUCCESSFUL", "ROLLED_BACK"]),
        ("status=FAILED,SUCCESSFUL", ["FAILED", "REVOKED", "SUCCESSFUL", "ROLLED_BACK"]),
        ("status=FAILED&status=SUCCESSFUL", ["FAILED", "REVOKED", "SUCCESSFUL", "ROLLED_BACK"]),
        ("status=" + quote('["FAILED", "SUCCESSFUL"]'), ["FAILED", "REVOKED", "SUCCESSFUL", "ROLLED_BACK"]),
        ("state=REVOKED,CREATED", ["CREATED", "REVOKED"]),
        ("status=FAILED&state=REVOKED,CREATED", ["REVOKED"]),
        ("status=FAILED&state=CREATED", []),
    ],
)
def test_states_can_be_asked_for_in_every_published_way(api: ApiClient, query: str, expected: list[str]) -> None:
    assert names(api, query) == expected


@pytest.mark.usefixtures("_all_states")
def test_a_state_is_shown_in_ocps_words(api: ApiClient) -> None:
    rows = {row["state"]: row for row in api.data("/instances?size=100")["contents"]}

    shown = {state: (row["status"], row["operation"], row["rolledBack"]) for state, row in rows.items()}
    assert shown == {
        "CREATED": ("RUNNING", "EXECUTE", False),
        "RUNNING": ("RUNNING", "EXECUTE", False),
        "SUSPENDED": ("RUNNING", "EXECUTE", False),
        "FAILED": ("FAILED", "EXECUTE", False),
        "REVOKED": ("FAILED", "CANCEL", False),
        "SUCCESSFUL": ("SUCCESSFUL", "EXECUTE", False),
        "ROLLED_BACK": ("SUCCESSFUL", "ROLLBACK", True),
    }


def test_a_name_is_searched_literally_and_in_any_case(api: ApiClient, engine: Engine) -> None:
    for name in ("100%", "100x", "a_b", "aXb", "back\\slash", "Prepare Host", "O'Brien"):
        make_task(engine, GRAPH, name=name)

    assert names(api, "name=" + quote("0%")) == ["100%"]
    assert names(api, "name=a_b") == ["a_b"]
    assert names(api, "name=" + quote("\\")) == ["back\\slash"]
    assert names(api, "name=pare+ho") == ["Prepare Host"]
    assert names(api, "name=" + quote("'")) == ["O'Brien"]
    assert names(api, "name=nothing") == []
    assert len(names(api, "name=")) == 7


def test_each_filter_tells_tasks_apart(api: ApiClient, engine: Engine) -> None:
    make_task(
        engine,
        GRAPH,
        name="this",
        type="SYS_ONCE",
        task_type="prepare",
        instance_id=42,
        creator="alice",
        host_id=7,
        cluster={"id": 100, "name": "meta_1", "obClusterId": 1, "type": "PRIMARY"},
        tenant={"id": 5, "name": "SYS", "obTenantId": 1, "mode": "MYSQL"},
    )
    make_task(
        engine,
        GRAPH,
        name="that",
        instance_id=43,
        host_id=8,
        cluster={"id": 101, "name": "metaX1"},
        tenant={"id": 6, "name": "SYS2"},
    )
    make_task(engine, GRAPH, name="bare")

    for query in (
        "type=SYS_ONCE",
        "type=SYS_ONECE",
        "taskType=prepare",
        "instanceId=42",
        "creator=alice",
        "hostId=7",
        "clusterId=100",
        "clusterName=ETA_",
        "cluterName=eta_1",
        "tenantName=SYS",
        "tenantId=5",
        "clusterId=100&tenantName=SYS&type=SYS_ONCE",
    ):
        assert names(api, query) == ["this"], query
    assert names(api, "clusterId=101&tenantName=SYS") == []


def test_the_time_of_creation_can_be_bounded(api: ApiClient, engine: Engine) -> None:
    task = make_task(engine, GRAPH, name="now")
    created = datetime.fromtimestamp(task.column("created_at") / 1000, UTC)
    later = quote((created + timedelta(milliseconds=1)).isoformat())
    exactly = quote(created.isoformat())
    elsewhere = created.isoformat().replace("+00:00", "Z")

    assert names(api, f"createdAfter={exactly}") == ["now"]
    assert names(api, f"createdAfter={later}") == []
    assert names(api, f"createdBefore={exactly}") == []
    assert names(api, f"createdBefore={later}") == ["now"]
    assert names(api, f"createdAfter={elsewhere}") == ["now"]
    assert names(api, f"createdAfter={created.isoformat()}") == ["now"]  # the plus arrives as a space
    assert api.error("/instances?createdAfter=2026-01-01T00:00:00", 400)["code"] == 10001


@pytest.mark.parametrize(
    "query",
    [
        "status=WAITING",
        "status=" + quote('["RUNNING"'),
        "state=READY",
        "type=ODD",
        "sort=argument,asc",
        "sort=id,sideways",
        "sort=" + quote("id;drop table tasks"),
        "size=0",
    ],
)
def test_a_filter_that_cannot_be_is_refused(api: ApiClient, query: str) -> None:
    assert api.error(f"/instances?{query}", 400)["code"] == 10001


def test_pages_hold_every_task_once(api: ApiClient, engine: Engine) -> None:
    ids = [make_task(engine, GRAPH, name="same", priority=index % 3).id for index in range(7)]

    pages = [api.data(f"/instances?page={page}&size=3&sort=name,asc") for page in (1, 2, 3, 4)]

    assert [row["id"] for page in pages for row in page["contents"]] == ids[::-1]
    assert [page["page"] for page in pages] == [
        {"totalElements": 7, "totalPages": 3, "number": number, "size": 3} for number in (1, 2, 3, 4)
    ]


def test_an_empty_list_is_a_page_too(api: ApiClient) -> None:
    page = {"totalElements": 0, "totalPages": 0, "number": 1, "size": 10}

    assert api.data("/instances") == {"contents": [], "page": page}


@pytest.mark.parametrize("field", list(SORT_COLUMNS))
def test_every_field_on_the_list_can_be_sorted_by(api: ApiClient, engine: Engine, field: str) -> None:
    tasks = [make_task(engine, GRAPH, name=name, priority=priority) for name, priority in (("b", 1), ("a", 9))]
    tasks[0].run("a")

    for direction in ("asc", "desc"):
        rows = api.data(f"/instances?sort={field},{direction}")["contents"]
        assert {row["id"] for row in rows} == {task.id for task in tasks}
    assert [row["name"] for row in api.data("/instances?sort=name")["contents"]] == ["a", "b"]
    assert [row["name"] for row in api.data("/instances?sort=priority,desc&sort=id,asc")["contents"]] == ["a", "b"]


def test_a_row_lists_at_most_a_thousand_subtasks_and_counts_all(api: ApiClient, engine: Engine) -> None:
    make_task(engine, {f"k{index}": () for index in range(1_002)})

    row = api.data("/instances")["contents"][0]

    assert len(row["subtasks"]) == 1_000
    assert row["subtaskCount"] == 1_002
    assert row["subtasks"][0]["name"] == "k0"
    assert set(row["subtasks"][0]) == {"id", "name", "description", "status", "operation"}


def test_one_answer_lists_only_so_many_subtasks_in_all(
    api: ApiClient, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listing, "MAX_SUBTASKS_IN_ALL", 8)
    for count in (1, 5, 9):
        make_task(engine, {f"k{index}": () for index in range(count)})

    rows = api.data("/instances?sort=id,asc")["contents"]

    assert [row["subtaskCount"] for row in rows] == [1, 5, 9]
    assert [[one["name"] for one in row["subtasks"]] for row in rows] == [
        ["k0"],
        ["k0", "k1", "k2"],
        ["k0", "k1", "k2"],
    ]


def test_a_row_that_plain_sql_inserted_is_listed_and_shown(api: ApiClient, engine: Engine) -> None:
    inserted: dict[str, Any] = dict(
        one(
            engine,
            "INSERT INTO tasks (template_id, argument, created_at, cluster, error)"
            " VALUES (1, 'no json', 9223372036854775807, '[1]', '7') RETURNING id, status",
        )
    )

    row = api.data("/instances")["contents"][0]
    detail = api.data(f"/instances/{inserted['id']}")

    assert (row["id"], row["status"], row["subtaskCount"], row["subtasks"]) == (inserted["id"], "RUNNING", 0, [])
    assert "createTime" not in row
    assert detail["arguments"] == "no json"
