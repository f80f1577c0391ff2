"""The BK-CMDB dialect: its words for each state, creating tasks, who may do what, and how it says what is wrong."""

from collections.abc import Iterator

import pytest
from sqlalchemy import Engine

from schema.transitions.cancellations import cancel_task
from schema.transitions.holds import pause
from schema.transitions.orders import Order
from schema.transitions.skips import skip_subtask
from taskserver.embedded.stack import EmbeddedStack
from taskserver.principals import Role
from tests.api_client import ApiClient, running_api
from tests.cmdb_calls import Document, cmdb_api, create, data, define, hands, post, refusal, shown
from tests.factories import execute, many, one

ORDER = Order("operator", "0")


@pytest.fixture
def api(engine: Engine, stack: EmbeddedStack) -> Iterator[ApiClient]:
    with cmdb_api(engine, stack.redis_url) as api:
        yield api


class TestStatus:
    def statuses(self, api: ApiClient, document: Document) -> tuple[str, str, list[str]]:
        [row] = data(api, "/findmany/sync_status_history", {"condition": {"task_id": document["task_id"]}})["info"]
        found = shown(api, document)
        return found["status"], row["status"], [one["status"] for one in found["detail"]]

    def test_a_task_goes_from_new_to_finished(self, api: ApiClient, engine: Engine) -> None:
        document = create(api)
        task = hands(engine, document)
        seen = [self.statuses(api, document)]

        claimed = task.begin("data[0]")
        seen.append(self.statuses(api, document))
        task.record(claimed)
        seen.append(self.statuses(api, document))

        assert seen == [
            ("new", "new", ["new"]),
            ("executing", "executing", ["executing"]),
            ("finished", "finished", ["finished"]),
        ]

    def test_what_is_to_run_again_is_waiting(self, api: ApiClient, engine: Engine) -> None:
        document = create(api, elements=2)
        task = hands(engine, document)
        claimed = task.begin("data[0]")

        task.record(claimed, "RETRY", delay_seconds=60.0)

        assert self.statuses(api, document) == ("executing", "executing", ["waiting", "new"])

    def test_a_task_that_waits_for_its_instance_is_waiting(self, api: ApiClient) -> None:
        define(api, "lined", onDuplicate="queue")
        create(api, 1, of="lined")

        behind = create(api, 1, of="lined")

        assert behind["status"] == "waiting"
        found = data(api, "/task/findmany/list/lined", {"condition": {"status": "waiting"}})
        assert [one["task_id"] for one in found["info"]] == [behind["task_id"]]

    def test_a_paused_task_is_waiting(self, api: ApiClient, engine: Engine) -> None:
        document = create(api)
        with hands(engine, document).locked() as (connection, locked):
            pause(connection, locked.id, ORDER)

        assert self.statuses(api, document)[:2] == ("waiting", "waiting")

    def test_a_cancelled_task_is_a_failure(self, api: ApiClient, engine: Engine) -> None:
        document = create(api)
        with hands(engine, document).locked() as (connection, locked):
            cancel_task(connection, locked.id, ORDER)

        assert self.statuses(api, document) == ("failure", "failure", ["new"])

    def test_a_skipped_subtask_is_finished(self, api: ApiClient, engine: Engine) -> None:
        document = create(api)
        task = hands(engine, document)
        task.run("data[0]", verdict="FAILED")
        with task.locked() as (connection, locked):
            skip_subtask(connection, locked.id, task.ids["data[0]"], ORDER)

        assert self.statuses(api, document) == ("finished", "finished", ["finished"])
        assert shown(api, document)["detail"][0]["response"]["result"] is True

    @pytest.mark.parametrize(
        ("state", "status"),
        [
            ("CREATED", "new"),
            ("RUNNING", "executing"),
            ("SUSPENDED", "waiting"),
            ("SUCCESSFUL", "finished"),
            ("FAILED", "failure"),
            ("REVOKED", "failure"),
            ("ROLLED_BACK", "failure"),
        ],
    )
    def test_every_state_is_shown_and_found_under_its_word(
        self, api: ApiClient, engine: Engine, state: str, status: str
    ) -> None:
        document = create(api)
        execute(
            engine,
            "UPDATE tasks SET state = :state, finalized_at = CASE WHEN :state IN ('CREATED', 'RUNNING', 'SUSPENDED')"
            " THEN NULL ELSE now() END",
            state=state,
        )

        assert self.statuses(api, document)[:2] == (status, status)
        for path, member in (("/task/findmany/list/sync", "info"), ("/findmany/sync_status_history", "info")):
            assert len(data(api, path, {"condition": {"status": {"$in": [status]}}})[member]) == 1
            assert len(data(api, path, {"condition": {"status": {"$ne": status}}})[member]) == 0
            assert len(data(api, path, {"condition": {"status": "need_sync"}})[member]) == 0


class TestCreation:
    def test_a_second_unsettled_task_of_an_instance_is_a_duplicate(self, api: ApiClient) -> None:
        create(api, 5)

        code, message = refusal(post(api, "/task/create", {"task_type": "sync", "bk_inst_id": 5, "data": [1]}))

        assert code == 1117008
        assert "instance 5 has not settled" in message

    def test_extra_tells_tasks_of_an_instance_apart(self, api: ApiClient) -> None:
        create(api, 5, extra="a")

        assert create(api, 5, extra="b")["extra"] == "b"

    def test_another_task_can_follow_when_the_first_has_settled(self, api: ApiClient, engine: Engine) -> None:
        hands(engine, create(api, 5)).run("data[0]", verdict="FAILED")

        assert create(api, 5)["status"] == "new"

    def test_many_are_created_in_their_order(self, api: ApiClient) -> None:
        bodies = [{"task_type": "sync", "bk_inst_id": instance, "data": [instance]} for instance in (3, 1, 2)]

        created = data(api, "/createmany/task", bodies)

        assert [one["bk_inst_id"] for one in created] == [3, 1, 2]
        assert [one["detail"][0]["data"] for one in created] == [3, 1, 2]

    def test_of_many_all_are_stored_or_none(self, api: ApiClient, engine: Engine) -> None:
        create(api, 2)
        bodies = [{"task_type": "sync", "bk_inst_id": instance, "data": [1]} for instance in (1, 2, 3)]

        code, _ = refusal(post(api, "/createmany/task", bodies))

        assert code == 1117008
        assert one(engine, "SELECT count(*) AS count FROM tasks")["count"] == 1

    def test_duplicates_inside_one_call_are_found(self, api: ApiClient, engine: Engine) -> None:
        bodies = [{"task_type": "sync", "bk_inst_id": 1, "data": [n]} for n in range(2)]

        code, _ = refusal(post(api, "/createmany/task", bodies))

        assert code == 1117008
        assert one(engine, "SELECT count(*) AS count FROM tasks")["count"] == 0

    def test_no_tasks_make_none(self, api: ApiClient) -> None:
        assert data(api, "/createmany/task", []) == []

    def test_an_instance_that_is_not_given_is_0(self, api: ApiClient) -> None:
        assert data(api, "/task/create", {"task_type": "sync", "data": [1]})["bk_inst_id"] == 0

    @pytest.mark.parametrize(
        ("body", "said"),
        [
            ({"task_type": "unheard", "bk_inst_id": 1, "data": [1]}, "definition 'unheard' does not exist"),
            ({"task_type": "sync", "bk_inst_id": 1, "data": []}, "/data: must have at least 1"),
            ({"task_type": "sync", "bk_inst_id": 1, "data": ["a\x00"]}, "/data/0"),
            ({"task_type": "sync", "bk_inst_id": 1, "dat": [1]}, "/data: is required"),
            ([], "must be an object"),
        ],
    )
    def test_what_cannot_be_created_is_told(self, api: ApiClient, engine: Engine, body: object, said: str) -> None:
        code, message = refusal(post(api, "/task/create", body))

        assert code == 1199006
        assert said in message
        assert not many(engine, "SELECT id FROM tasks")

    def test_a_wrong_task_of_many_is_named_by_its_place(self, api: ApiClient) -> None:
        bodies = [{"task_type": "sync", "bk_inst_id": 1, "data": [1]}, {"task_type": "sync", "bk_inst_id": "x"}]

        code, message = refusal(post(api, "/createmany/task", bodies))

        assert code == 1199006
        assert message.startswith("/1: ")

    def test_too_many_at_once_are_refused(self, api: ApiClient) -> None:
        bodies = [{"task_type": "sync", "bk_inst_id": n, "data": [1]} for n in range(1_001)]

        assert "at most 1000 tasks" in refusal(post(api, "/createmany/task", bodies))[1]


class TestAccess:
    CALLS = (
        ("/task/findone/detail/" + "0" * 32, Role.TASK_VIEWER),
        ("/task/findmany/list/sync", Role.TASK_VIEWER),
        ("/task/findmany/list/latest/sync", Role.TASK_VIEWER),
        ("/findmany/latest/sync_status", Role.TASK_VIEWER),
        ("/findmany/sync_status_history", Role.TASK_VIEWER),
        ("/task/create", Role.TASK_SUBMITTER),
        ("/createmany/task", Role.TASK_SUBMITTER),
        ("/task/deletemany", Role.TASK_MANAGER),
    )

    @pytest.mark.parametrize("path", [path for path, _ in CALLS])
    def test_nobody_unknown_learns_anything(self, api: ApiClient, path: str) -> None:
        code, _ = refusal(post(api.bearing(None), path, {}), status=401)

        assert code == 1199027

    @pytest.mark.parametrize(("path", "needed"), CALLS)
    def test_each_call_needs_its_role(self, api: ApiClient, path: str, needed: Role) -> None:
        roles = [Role.TASK_VIEWER, Role.TASK_SUBMITTER, Role.TASK_MANAGER]

        for role in roles:
            answer = post(api.acting(role), path, {})

            if role.covers(needed):
                assert answer.status_code == 200
            else:
                assert refusal(answer, status=403)[0] == 9900403

    def test_another_account_sees_and_deletes_nothing(self, api: ApiClient, engine: Engine) -> None:
        document = create(api)
        hands(engine, document).run("data[0]")
        other = api.acting(Role.TASK_MANAGER, account="1")
        mine = {"condition": {"bk_supplier_account": "0"}}

        assert shown(other, document) is None
        assert data(other, "/task/findmany/list/sync", mine)["count"] == 0
        assert data(other, "/task/findmany/list/latest/sync", mine) == []
        assert data(other, "/findmany/latest/sync_status", mine) == []
        assert data(other, "/findmany/sync_status_history", mine)["count"] == 0
        assert data(other, "/task/deletemany", mine) == "success"
        assert shown(api, document)["status"] == "finished"


class TestErrors:
    @pytest.mark.parametrize("name", ["Cc_Request_Id", "X-Bkcmdb-Rid", "X-Bkapi-Request-Id", "x-trace-id"])
    def test_the_request_id_is_answered_and_stored(self, api: ApiClient, engine: Engine, name: str) -> None:
        body = {"task_type": "sync", "bk_inst_id": 1, "data": [1]}

        answer = post(api, "/task/create", body, headers={name: "cc-77"})

        assert answer.headers["Cc_Request_Id"] == "cc-77"
        assert one(engine, "SELECT trace_id FROM tasks")["trace_id"] == "cc-77"

    def test_an_address_that_is_not_there_is_told_in_the_envelope(self, api: ApiClient) -> None:
        assert refusal(post(api, "/task/nowhere", {}), status=404)[0] == 1199019

    def test_a_method_that_is_not_there_is_told_in_the_envelope(self, api: ApiClient) -> None:
        answer = api.get("//task/v3/task/create")

        assert refusal(answer, status=405)[0] == 1199003
        assert answer.headers["allow"] == "POST"

    @pytest.mark.parametrize(
        "body", [b"{", b'{"condition": {"a": NaN}}', b"[]", b"\xff", b'{"page": 1, "page": 2}', b"5"]
    )
    def test_a_body_that_is_none_is_refused(self, api: ApiClient, body: bytes) -> None:
        assert refusal(post(api, "/findmany/sync_status_history", content=body))[0] == 1199006

    def test_a_body_that_is_too_large_is_refused(self, engine: Engine, stack: EmbeddedStack) -> None:
        with running_api(engine, stack.redis_url, max_submission_bytes=1_000) as api:
            code, message = refusal(post(api, "/task/create", content=b" " * 2_000))

        assert code == 1199015
        assert "TASKSERVER_MAX_SUBMISSION_BYTES" in message
