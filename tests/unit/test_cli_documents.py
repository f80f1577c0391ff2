import io
from pathlib import Path

import pytest

from schema.errors import InvalidArgument
from taskserver.cli.documents import read_submission, single_subtask, with_arguments


def test_values_are_json_and_else_plain_text() -> None:
    given = ["port=5432", "host=db1", 'tags=["a"]', "empty=", "equation=a=b", "off=false", 'quoted="5432"', "odd=NaN"]

    submission = single_subtask("host.check", given)

    assert submission["name"] == "host.check"
    assert submission["subtasks"] == [
        {
            "key": "check",
            "kind": "host.check",
            "arguments": {
                "port": 5432,
                "host": "db1",
                "tags": ["a"],
                "empty": "",
                "equation": "a=b",
                "off": False,
                "quoted": "5432",
                "odd": "NaN",
            },
        }
    ]


@pytest.mark.parametrize("argument", ["novalue", "=5"])
def test_an_argument_without_a_name_or_a_value_is_named(argument: str) -> None:
    with pytest.raises(InvalidArgument, match=argument):
        single_subtask("host.check", [argument])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[1]", "JSON object"),
        (b'{"a": }', "line 1, column 7"),
        (b"\xff", "not UTF-8"),
        (b'{"a": NaN}', "NaN is no number"),
        (b"[" * 100_000, "nested too deep"),
    ],
)
def test_what_is_no_document_is_told_with_its_file(tmp_path: Path, content: bytes, message: str) -> None:
    file = tmp_path / "task.json"
    file.write_bytes(content)

    with pytest.raises(InvalidArgument, match=message) as raised:
        read_submission(str(file))

    assert str(file) in raised.value.message


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match=r"none\.json cannot be read: No such file"):
        read_submission(str(tmp_path / "none.json"))


def test_a_dash_reads_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO('{"subtasks": []}'))

    assert read_submission("-") == {"subtasks": []}


def test_arguments_of_the_line_come_before_those_of_the_file() -> None:
    document = {"subtasks": [], "arguments": {"host": "db1", "port": 1}}

    assert with_arguments(document, ["port=2", "new=3"])["arguments"] == {"host": "db1", "port": 2, "new": 3}
    assert with_arguments(document, []) is document
    assert document["arguments"] == {"host": "db1", "port": 1}


def test_arguments_of_the_line_need_a_place_in_the_file() -> None:
    with pytest.raises(InvalidArgument, match="no JSON object"):
        with_arguments({"arguments": []}, ["a=1"])
