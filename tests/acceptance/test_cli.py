import json
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from taskserver.client import ServerRefused, TaskServer
from tests.acceptance.conftest import Dev, run_taskserver, submission

SLOW = {"key": "slow", "kind": "builtin.sleep", "arguments": {"seconds": 0.5}}


def test_submit_waits_for_success_and_prints_the_detail_as_json(dev: Dev) -> None:
    done = dev.run(
        "submit",
        "--kind",
        "builtin.echo",
        "--arg",
        "host=db1",
        "--arg",
        "port=5432",
        "--arg",
        'tags=["a"]',
        "--wait",
        "--json",
    )

    detail = json.loads(done.stdout)
    assert done.returncode == 0
    assert detail["state"] == "SUCCESSFUL"
    assert detail["subtasks"][0]["result"] == {"host": "db1", "port": 5432, "tags": ["a"]}


def test_submit_takes_a_file_or_standard_input(dev: Dev) -> None:
    document = submission({"key": "a", "kind": "builtin.noop"}, name="from a file")
    file = dev.directory / "task.json"
    file.write_text(document)

    from_file = dev.run_json("submit", str(file))
    from_input = dev.run_json("submit", "-", stdin=document)

    assert from_file["name"] == from_input["name"] == "from a file"
    assert from_file["id"] != from_input["id"]


def test_submit_prints_only_the_id_for_a_program_to_take(dev: Dev) -> None:
    done = dev.run("submit", "--kind", "builtin.noop")

    assert done.returncode == 0
    assert done.stdout.strip().isdigit()
    assert (
        done.stderr == f"task {int(done.stdout)} submitted; `taskserver status {int(done.stdout)} --watch` follows it\n"
    )


def test_a_failed_task_ends_the_wait_with_1_and_tells_the_subtask_and_its_error(dev: Dev) -> None:
    done = dev.run("submit", "--kind", "builtin.fail", "--arg", "message=out of luck", "--wait")

    assert done.returncode == 1
    assert "FAILED" in done.stdout
    assert "out of luck" in done.stdout


def test_waiting_shows_plain_lines_without_a_terminal_and_the_success_once(dev: Dev) -> None:
    done = dev.run("submit", "-", "--wait", stdin=submission(SLOW))

    task = done.stdout.split()[1]
    assert done.returncode == 0
    assert done.stdout == f"task {task} SUCCESSFUL 1/1 successful\n"
    assert done.stderr.startswith(f"task {task} ")
    assert "SUCCESSFUL" not in done.stderr


def test_what_the_server_refuses_ends_with_3_and_its_reason(dev: Dev) -> None:
    done = dev.run("submit", "--kind", "builtin.eco")

    assert done.returncode == 3
    assert done.stdout == ""
    assert "builtin.echo" in done.stderr


def test_a_number_given_for_a_text_is_refused_with_how_to_write_a_text(dev: Dev) -> None:
    words = ("submit", "--kind", "builtin.fail", "--arg")

    refused = dev.run(*words, "message=5", "--arg", "times=1")
    cured = dev.run(*words, 'message="5"', "--arg", "times=1")
    otherwise = dev.run(*words, "message=[5]")

    assert refused.returncode == 3
    assert refused.stderr.endswith("""write --arg 'message="5"' to give a text\n""")
    assert cured.returncode == 0
    assert "to give a text" not in otherwise.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ("submit",),
        ("submit", "x.json", "--kind", "builtin.noop"),
        ("submit", "no-such-file.json"),
        ("submit", "--kind", "builtin.noop", "--arg", "novalue"),
        ("submit", "--kind", "builtin.noop", "--definition", "x"),
        ("submit", "--kind", "builtin.noop", "--name", "half a character \udcff"),
        ("submit", "--kind", "builtin.noop", "--idempotency-key", "ключ"),
        ("status", "abc"),
        ("status",),
        ("nonsense",),
        ("list", "--nonsense"),
        ("list", "--size", "2001"),
        ("plan", "no-such-file.json"),
    ],
)
def test_wrong_usage_ends_with_2_and_says_so_on_standard_error(dev: Dev, arguments: tuple[str, ...]) -> None:
    done = dev.run(*arguments)

    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr


def test_a_server_that_does_not_answer_ends_with_4_and_names_the_address(tmp_path: Path) -> None:
    done = run_taskserver("list", cwd=tmp_path, env={"TASKSERVER_URL": "http://127.0.0.1:1", "TASKSERVER_TOKEN": "x"})

    assert done.returncode == 4
    assert "http://127.0.0.1:1" in done.stderr


@pytest.mark.parametrize(
    ("words", "code"),
    [
        ("submit --kind builtin.fail --wait", 1),
        ("submit", 2),
        ("list --nonsense", 2),
        ("show 999999999", 3),
        ("list --type NONSENSE", 3),
        ("definitions show nonsense", 3),
        ("principals rotate nonsense", 3),
    ],
)
def test_json_is_one_document_on_standard_output_however_a_command_ends(dev: Dev, words: str, code: int) -> None:
    done = dev.run(*words.split(), "--json")

    document = json.loads(done.stdout)
    assert done.returncode == code
    assert document["error"]["message"]
    assert "Traceback" not in done.stderr


def test_an_unreachable_server_is_one_json_document_too(tmp_path: Path) -> None:
    done = run_taskserver(
        *("list", "--json"), cwd=tmp_path, env={"TASKSERVER_URL": "http://127.0.0.1:1", "TASKSERVER_TOKEN": "x"}
    )

    assert done.returncode == 4
    assert json.loads(done.stdout)["error"]["code"] == 10003


def test_without_settings_and_without_a_dev_the_client_says_what_to_set(tmp_path: Path) -> None:
    done = run_taskserver("list", cwd=tmp_path)

    assert done.returncode == 4
    assert "TASKSERVER_URL" in done.stderr
    assert "taskserver dev" in done.stderr


def test_a_url_without_a_token_is_wrong_usage(dev: Dev) -> None:
    done = dev.run("list", TASKSERVER_URL=dev.url)

    assert done.returncode == 2
    assert "TASKSERVER_TOKEN" in done.stderr


def test_the_client_uses_url_and_token_of_the_settings_from_anywhere(dev: Dev, tmp_path: Path) -> None:
    done = run_taskserver(
        "list", "--json", cwd=tmp_path, env={"TASKSERVER_URL": dev.url, "TASKSERVER_TOKEN": dev.token}
    )

    assert done.returncode == 0
    assert "contents" in json.loads(done.stdout)


def test_the_client_uses_the_dev_of_a_given_directory(dev: Dev, tmp_path: Path) -> None:
    done = run_taskserver("list", "--data", str(dev.data), cwd=tmp_path)

    assert done.returncode == 0


def test_list_filters_by_name_and_state(dev: Dev) -> None:
    wanted = dev.run_json(
        "submit", "-", "--wait", stdin=submission({"key": "a", "kind": "builtin.noop"}, name="needle in hay")
    )

    found = dev.run_json("list", "--name", "needle in", "--state", "SUCCESSFUL")
    none = dev.run_json("list", "--name", "needle in", "--state", "FAILED")
    table = dev.run("list", "--name", "needle in")

    assert [one["id"] for one in found["contents"]] == [wanted["id"]]
    assert none["contents"] == []
    assert "needle in hay" in table.stdout


def test_list_takes_every_filter_of_the_api(dev: Dev) -> None:
    document = submission({"key": "a", "kind": "builtin.noop"}, instanceId=4711, onDuplicate="allow", type="SYS_ONCE")
    first, second = (dev.run_json("submit", "-", "--wait", stdin=document)["id"] for _ in range(2))
    created = dev.run_json("show", str(first))["createTime"]
    words = ("--instance-id", "4711", "--type", "SYS_ONCE", "--task-type", "inline", "--creator", "admin")

    found = dev.run_json("list", *words, "--status", "SUCCESSFUL", "--created-after", created, "--sort", "id,asc")
    before = dev.run_json("list", *words, "--created-before", created)
    paged = dev.run("list", *words, "--size", "1", "--page", "2")

    assert [one["id"] for one in found["contents"]] == [first, second]
    assert before["contents"] == []
    assert paged.stdout.splitlines()[1].startswith(f"{first}\t")
    assert paged.stderr == "page 2 of 2, 2 tasks\n"


def test_a_plain_date_is_the_first_moment_of_that_day_in_utc(dev: Dev) -> None:
    task = dev.run_json("submit", "--kind", "builtin.noop", "--name", "dated", "--wait")
    created = datetime.fromisoformat(task["createTime"]).astimezone(UTC).date()
    following = str(created + timedelta(days=1))

    found = dev.run_json("list", "--name", "dated", "--created-after", str(created), "--created-before", following)
    later = dev.run_json("list", "--name", "dated", "--created-after", following)
    nonsense = dev.run("list", "--created-after", "2026-13-01")

    assert [one["id"] for one in found["contents"]] == [task["id"]]
    assert later["contents"] == []
    assert nonsense.returncode == 3


def test_show_tells_arguments_and_results_and_cuts_long_ones(dev: Dev) -> None:
    document = submission(
        {"key": "short", "kind": "builtin.echo", "arguments": {"host": {"$arg": "/host"}}},
        {"key": "long", "kind": "builtin.echo", "arguments": {"text": "x" * 1000}},
        {"key": "none", "kind": "builtin.noop"},
        arguments={"host": "db1"},
    )
    task = dev.run_json("submit", "-", "--wait", stdin=document)["id"]

    shown = dev.run("show", str(task)).stdout.splitlines()

    rows = {cells[1]: cells for cells in (line.split("\t") for line in shown[3:])}
    assert shown[1] == 'arguments {"host": "db1"}'
    assert rows["short"][-1] == '{"host": "db1"}'
    assert len(rows["long"][-1]) == 80
    assert rows["long"][-1].endswith("xxx…")
    assert rows["none"][-1] == ""


def test_kinds_and_workers_are_listed(dev: Dev) -> None:
    kinds = dev.run_json("kinds")["contents"]
    workers = dev.run_json("workers")["contents"]

    assert "builtin.echo" in {one["name"] for one in kinds}
    assert [one["alive"] for one in workers if one["concurrency"] == 2]
    assert "builtin.echo" in dev.run("kinds").stdout
    assert [one for one in workers if one["alive"] and "builtin.echo" in one["kinds"]]
    assert re.search(r"\talive\t.*builtin\.echo", dev.run("workers").stdout)


def test_definitions_are_put_shown_listed_and_deleted(dev: Dev) -> None:
    document = submission({"key": "a", "kind": "builtin.noop"})

    put = dev.run_json("definitions", "put", "cli_noop", "-", stdin=document)
    shown = dev.run_json("definitions", "show", "cli_noop")
    listed = dev.run_json("definitions", "list")["contents"]
    deleted = dev.run("definitions", "delete", "cli_noop")
    gone = dev.run("definitions", "show", "cli_noop")

    assert (put["name"], put["version"]) == ("cli_noop", 1)
    assert shown["subtasks"][0]["kind"] == "builtin.noop"
    assert "cli_noop" in {one["name"] for one in listed}
    assert deleted.returncode == 0
    assert gone.returncode == 3


def test_show_and_log_find_a_subtask_by_key_and_by_id(dev: Dev) -> None:
    arguments = {"lines": ["first line", "second line"]}
    document = submission({"key": "words", "kind": "builtin.log", "arguments": arguments})
    task = dev.run_json("submit", "-", "--wait", stdin=document)
    subtask = task["subtasks"][0]["id"]

    shown = dev.run("show", str(task["id"]))
    by_key = dev.run("log", str(task["id"]), "words")
    by_id = dev.run_json("log", str(task["id"]), str(subtask))
    tail = dev.run("log", str(task["id"]), "words", "--tail", "1")
    unknown = dev.run("log", str(task["id"]), "nothing")

    assert "words" in shown.stdout
    assert by_key.stdout.endswith("first line\nsecond line\n")
    assert by_id["log"] == by_key.stdout
    assert tail.stdout == "second line\n"
    assert unknown.returncode == 3


def test_a_principal_may_do_what_its_role_says_until_it_is_rotated_or_deleted(dev: Dev) -> None:
    made = dev.run_json("principals", "create", "reader", "--role", "TASK_VIEWER", "--account", "0")
    with TaskServer(dev.url, made["token"]) as reader:
        assert reader.tasks().page.number == 1
        with pytest.raises(ServerRefused, match="TASK_SUBMITTER"):
            reader.submit({"subtasks": [{"key": "a", "kind": "builtin.noop"}]})

    rotated = dev.run_json("principals", "rotate", "reader")["token"]
    with TaskServer(dev.url, made["token"]) as reader, pytest.raises(ServerRefused) as refused:
        reader.tasks()
    assert refused.value.http_status == 401
    listed = {one["name"]: one["role"] for one in dev.run_json("principals", "list")["contents"]}
    assert listed["reader"] == "TASK_VIEWER"

    assert dev.run("principals", "delete", "reader").returncode == 0
    with TaskServer(dev.url, rotated) as reader, pytest.raises(ServerRefused) as gone:
        reader.tasks()
    assert gone.value.http_status == 401


def test_plan_needs_no_server_but_checks_kinds_with_one(dev: Dev, tmp_path: Path) -> None:
    fan_out = submission(
        {"key": "a", "kind": "no.such.kind"},
        {"key": "b", "kind": "no.such.kind", "upstreams": ["a"], "foreach": [1, 2]},
        {"key": "c", "kind": "no.such.kind", "upstreams": ["b"]},
    )

    offline = run_taskserver("plan", "-", "--json", cwd=tmp_path, stdin=fan_out)
    tree = run_taskserver("plan", "-", cwd=tmp_path, stdin=fan_out)
    drawn = run_taskserver("plan", "-", "--mermaid", cwd=tmp_path, stdin=fan_out)
    online = dev.run("plan", "-", stdin=fan_out)

    header = [{"unit": ["b[0]"]}, {"unit": ["b[1]"]}]
    canvas = {"chain": [{"unit": ["a"]}, {"chord": {"header": header, "body": {"unit": ["c"]}}}]}
    assert json.loads(offline.stdout)["fragments"] == [{"id": 0, "after": [], "canvas": canvas}]
    assert "chord" in tree.stdout
    assert "b[1]" in tree.stdout
    assert drawn.stdout.startswith("flowchart")
    assert online.returncode == 2
    assert "no.such.kind" in online.stderr


def test_plan_refuses_a_cycle_with_2(tmp_path: Path) -> None:
    cycle = submission(
        {"key": "a", "kind": "builtin.noop", "upstreams": ["b"]},
        {"key": "b", "kind": "builtin.noop", "upstreams": ["a"]},
    )

    done = run_taskserver("plan", "-", cwd=tmp_path, stdin=cycle)

    assert done.returncode == 2
    assert "a → b → a" in done.stderr
