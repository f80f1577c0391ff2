"""The BK-CMDB dialect's lists, and the deletion of what they find."""

import json
from collections.abc import Iterator

import pytest
from sqlalchemy import Engine

from taskserver.dialects import cmdb
from taskserver.embedded.stack import EmbeddedStack
from tests.api_client import ApiClient
from tests.cmdb_calls import cmdb_api, create, data, define, hands, post, refusal, shown
from tests.factories import make_task, many


@pytest.fixture
def api(engine: Engine, stack: EmbeddedStack) -> Iterator[ApiClient]:
    with cmdb_api(engine, stack.redis_url) as api:
        yield api


class TestLists:
    def test_a_list_has_count_and_page(self, api: ApiClient) -> None:
        for instance in range(5):
            create(api, instance)

        found = data(api, "/task/findmany/list/sync", {"page": {"start": 1, "limit": 2, "sort": "-bk_inst_id"}})

        assert [one["bk_inst_id"] for one in found["info"]] == [3, 2]
        assert (found["count"], found["page"]) == (5, {"start": 1, "limit": 2, "sort": "-bk_inst_id"})

    def test_without_an_order_the_oldest_come_first(self, api: ApiClient) -> None:
        created = [create(api, instance)["task_id"] for instance in (3, 1, 2)]

        assert [one["task_id"] for one in data(api, "/task/findmany/list/sync", {})["info"]] == created

    def test_a_list_is_of_one_type(self, api: ApiClient) -> None:
        define(api, "other")
        create(api)

        assert data(api, "/task/findmany/list/other", {})["info"] == []
        assert data(api, "/task/findmany/list/sync", {"condition": {"task_type": "other"}})["info"] == []

    def test_no_body_asks_for_all(self, api: ApiClient) -> None:
        create(api)

        assert data(api, "/task/findmany/list/sync")["count"] == 1
        assert data(api, "/task/findmany/list/sync", content=b"null")["count"] == 1

    def test_a_page_that_asks_for_a_count_is_answered_as_by_the_original(self, api: ApiClient) -> None:
        create(api)

        found = data(api, "/task/findmany/list/sync", {"page": {"start": 0, "limit": 5, "enable_count": True}})

        assert (len(found["info"]), found["count"], found["page"]) == (1, 1, {"start": 0, "limit": 5})

    def test_more_than_a_page_can_hold_must_be_paged(self, api: ApiClient, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(cmdb, "MAX_TASKS", 2)
        monkeypatch.setattr(cmdb, "MAX_HISTORY", 2)
        for instance in range(3):
            create(api, instance)

        for path in (
            "/task/findmany/list/sync",
            "/task/findmany/list/latest/sync",
            "/findmany/latest/sync_status",
            "/findmany/sync_status_history",
        ):
            assert "more than 2 match" in refusal(post(api, path, {}))[1]
            assert "more than 2 match" in refusal(post(api, path, {"page": {"limit": 999_999_999}}))[1]
            assert len(json.dumps(data(api, path, {"page": {"limit": 2}}))) > 0

    def test_the_newest_task_of_each_instance_is_found(self, api: ApiClient, engine: Engine) -> None:
        define(api, "again", onDuplicate="allow")
        ids = [create(api, instance, of="again")["task_id"] for instance in (1, 2, 1, 3, 1)]
        make_task(engine, {"a": ()}, task_type="again")

        found = data(api, "/task/findmany/list/latest/again", {})

        assert [(one["bk_inst_id"], one["task_id"]) for one in found] == [(1, ids[4]), (2, ids[1]), (3, ids[3])]

    def test_only_the_fields_asked_for_are_answered(self, api: ApiClient) -> None:
        document = create(api, 4)

        tasks = data(api, "/task/findmany/list/latest/sync", {"fields": ["task_id", "status", "bk_task_id"]})
        rows = data(api, "/findmany/latest/sync_status", {"fields": ["bk_inst_id", "creator"]})

        assert tasks == [{"task_id": document["task_id"], "status": "new"}]
        assert rows == [{"bk_inst_id": 4, "creator": "admin"}]

    def test_the_newest_sync_status_is_told_for_each_type_and_instance(self, api: ApiClient) -> None:
        for name in ("other", "again"):
            define(api, name, onDuplicate="allow")
        ids = [create(api, n, of=of)["task_id"] for n, of in ((1, "other"), (1, "again"), (1, "again"), (2, "again"))]

        found = data(api, "/findmany/latest/sync_status", {"condition": {"bk_inst_id": {"$in": [1, 2]}}})
        second = data(api, "/findmany/latest/sync_status", {"page": {"start": 1, "limit": 1}})

        assert [one["task_id"] for one in found] == [ids[2], ids[3], ids[0]]
        assert [one["task_id"] for one in second] == [ids[3]]

    def test_conditions_come_before_the_newest_is_chosen(self, api: ApiClient, engine: Engine) -> None:
        old = create(api, 1)
        hands(engine, old).run("data[0]")
        create(api, 1)

        [found] = data(api, "/findmany/latest/sync_status", {"condition": {"status": "finished"}})
        [task] = data(api, "/task/findmany/list/latest/sync", {"condition": {"status": "finished"}})

        assert (found["task_id"], task["task_id"]) == (old["task_id"], old["task_id"])

    def test_the_history_counts_unless_it_must_not(self, api: ApiClient) -> None:
        for instance in range(3):
            create(api, instance)

        counted = data(api, "/findmany/sync_status_history", {"page": {"start": 0, "limit": 1}})
        not_counted = data(api, "/findmany/sync_status_history", {"disable_counter": True})

        assert (counted["count"], len(counted["info"])) == (3, 1)
        assert (not_counted["count"], len(not_counted["info"])) == (0, 3)

    def test_the_history_is_found_by_what_clients_of_the_original_ask(self, api: ApiClient) -> None:
        ids = [create(api, instance)["task_id"] for instance in range(3)]
        condition = {"task_type": "sync", "task_id": {"$in": [ids[0], ids[2], "id:c000"]}, "bk_supplier_account": "0"}

        found = data(api, "/findmany/sync_status_history", {"condition": condition, "fields": ["task_id", "status"]})

        assert [one["task_id"] for one in found["info"]] == [ids[0], ids[2]]

    def test_a_task_is_found_by_every_value_that_it_shows(self, api: ApiClient) -> None:
        create(api, 1, extra="x")
        task = create(api, 2, extra="y")
        [row] = data(api, "/findmany/sync_status_history", {"condition": {"bk_inst_id": 2}})["info"]

        for path, document in (("/task/findmany/list/sync", task), ("/findmany/sync_status_history", row)):
            for name in document.keys() - {"detail", "header"}:
                equal = data(api, path, {"condition": {name: document[name], "bk_inst_id": 2}})["info"]
                bounded = {name: {"$gte": document[name], "$lte": document[name]}, "task_id": document["task_id"]}
                between = data(api, path, {"condition": bounded})["info"]
                above = {"bk_inst_id": 2, name: {"$gt": document[name]}}
                outside = data(api, path, {"condition": above})["info"]

                assert [one["task_id"] for one in equal] == [document["task_id"]], name
                assert [one["task_id"] for one in between] == [document["task_id"]], name
                assert outside == [], name

    def test_what_has_no_instance_is_unlike_every_instance(self, api: ApiClient, engine: Engine) -> None:
        make_task(engine, {"a": ()})
        make_task(engine, {"a": ()}, instance_id=1)

        for condition, count in (
            ({"$ne": 1}, 1),
            ({"$nin": [1]}, 1),
            ({"$nin": []}, 2),
            ({"$in": []}, 0),
            ({"$gt": 0}, 1),
        ):
            found = data(api, "/task/findmany/list/inline", {"condition": {"bk_inst_id": condition}})

            assert found["count"] == count, condition

    def test_a_task_that_is_not_there_is_null(self, api: ApiClient) -> None:
        for unknown in ("0" * 32, "id:c0", "x", "A" * 32, "%00", "5"):
            assert data(api, f"/task/findone/detail/{unknown}") == {"info": None}

    def test_a_name_that_cannot_be_one_is_refused(self, api: ApiClient) -> None:
        assert "U+0000" in refusal(post(api, "/task/findmany/list/a%00b", {}))[1]


class TestDeletion:
    def test_settled_tasks_are_deleted_and_others_left(self, api: ApiClient, engine: Engine) -> None:
        ended, open_ = create(api, 1, elements=2), create(api, 2)
        hands(engine, ended).run("data[0]", verdict="FAILED")

        answer = data(api, "/task/deletemany", {"condition": {"bk_inst_id": {"$in": [1, 2]}}})

        assert answer == "success"
        assert shown(api, ended) is None
        assert shown(api, open_)["status"] == "new"
        assert data(api, "/findmany/sync_status_history", {})["count"] == 2

    @pytest.mark.parametrize("body", [None, {}, {"condition": {}}, {"condition": None}])
    def test_a_condition_is_required(self, api: ApiClient, engine: Engine, body: object) -> None:
        hands(engine, create(api)).run("data[0]")

        assert "condition: is required" in refusal(post(api, "/task/deletemany", body))[1]
        assert many(engine, "SELECT id FROM tasks")

    def test_a_deletion_cannot_be_paged(self, api: ApiClient, engine: Engine) -> None:
        hands(engine, create(api)).run("data[0]")

        _, message = refusal(post(api, "/task/deletemany", {"condition": {"bk_inst_id": 1}, "page": {"limit": 1}}))

        assert "/page: is not a field here" in message
        assert many(engine, "SELECT id FROM tasks")

    def test_too_many_at_once_delete_nothing(
        self, api: ApiClient, engine: Engine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(cmdb, "MAX_DELETED", 1)
        for instance in range(2):
            hands(engine, create(api, instance)).run("data[0]")

        _, message = refusal(post(api, "/task/deletemany", {"condition": {"task_type": "sync"}}))

        assert "more than 1 settled tasks match, none was deleted" in message
        assert len(many(engine, "SELECT id FROM tasks")) == 2
