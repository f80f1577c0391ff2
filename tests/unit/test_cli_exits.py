import json
import re
import signal
from pathlib import Path

import pytest
import typer

from schema.errors import Conflict, InvalidArgument, InvalidGraph, NotFound, SubError, TaskserverError, Unavailable
from taskserver.cli.endings import Commands, run
from taskserver.cli.exits import EPILOG, MAX_SHOWN, Exit, Interrupted, error_document, exit_code_of, report
from taskserver.client import ServerRefused, ServerUnreachable


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ServerRefused("no", http_status=400), Exit.REFUSED),
        (ServerUnreachable("no"), Exit.UNREACHABLE),
        (Unavailable("no"), Exit.UNREACHABLE),
        (InvalidArgument("no"), Exit.USAGE),
        (InvalidGraph("no"), Exit.USAGE),
        (NotFound("no"), Exit.FAILED),
        (Conflict("no"), Exit.FAILED),
        (Interrupted("no"), Exit.INTERRUPTED),
        (Interrupted("no", signal.SIGTERM), Exit.TERMINATED),
    ],
)
def test_each_sort_of_error_has_its_exit_code(error: TaskserverError, code: Exit) -> None:
    assert exit_code_of(error) is code


@pytest.mark.parametrize("code", Exit)
def test_the_help_tells_every_exit_code(code: Exit) -> None:
    assert f" {code.value} " in EPILOG


def test_the_page_tells_every_exit_code() -> None:
    page = Path(__file__).parents[2].joinpath("docs/cli.md").read_text()

    rows = re.findall(r"^\| (\d+(?:, \d+)*) \|", page, re.MULTILINE)
    assert [int(code) for row in rows for code in row.split(", ")] == list(Exit)


def test_a_report_names_each_wrong_field_once(capsys: pytest.CaptureFixture[str]) -> None:
    single = InvalidArgument("/a: is wrong", sub_errors=(SubError("/a", "is wrong"),))
    several = InvalidArgument("2 problems", sub_errors=(SubError("/a", "is wrong"), SubError("", "is too large")))

    report(single)
    report(several)

    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == "error: /a: is wrong\nerror: 2 problems\n  /a: is wrong\n  (whole): is too large\n"


def test_a_report_of_very_many_problems_is_cut_and_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    report(InvalidArgument("many", sub_errors=tuple(SubError(f"/{n}", "wrong") for n in range(MAX_SHOWN + 3))))

    assert capsys.readouterr().err.endswith("… and 3 more\n")


def test_an_error_as_a_document_is_what_the_server_answered() -> None:
    refused = ServerRefused("held", http_status=409, error_code=20005, error_type="DuplicateInstance", target="7")

    assert error_document(refused) == {
        "error": {"code": 20005, "type": "DuplicateInstance", "message": "held", "target": "7"}
    }


def test_an_error_of_our_own_has_the_same_form() -> None:
    wrong = InvalidArgument("/a: is wrong", sub_errors=(SubError("/a", "is wrong", rejected_value=5),))

    assert error_document(wrong)["error"] == {
        "code": 10001,
        "type": "InvalidArgument",
        "message": "/a: is wrong",
        "subErrors": [{"field": "/a", "message": "is wrong", "rejectedValue": 5}],
    }


def ended(monkeypatch: pytest.MonkeyPatch, error: BaseException | None, *words: str) -> int:
    """Return the exit code of a command that ends with the error."""
    app = typer.Typer(cls=Commands)

    @app.command()
    def end() -> None:
        if error is not None:
            raise error

    @app.command()
    def other() -> None:
        """Only there so that `end` has to be named."""

    monkeypatch.setattr("sys.argv", ["taskserver", *(words or ("end",))])
    return run(app)


def test_a_fault_of_our_own_is_no_failed_task_and_keeps_its_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code = ended(monkeypatch, ZeroDivisionError("of nothing"))

    told = capsys.readouterr().err
    assert code == Exit.FAULT
    assert "Traceback" in told
    assert told.splitlines()[-1] == "error: a fault of taskserver itself, please report the lines above: of nothing"


def test_an_interrupt_is_told_and_has_its_code(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code = ended(monkeypatch, KeyboardInterrupt())

    assert (code, capsys.readouterr().err) == (Exit.INTERRUPTED, "error: interrupted\n")


def test_a_command_that_returns_ends_with_0(monkeypatch: pytest.MonkeyPatch) -> None:
    assert ended(monkeypatch, None) == Exit.OK


def test_wrong_words_are_told_with_where_to_read_more_and_as_json_if_that_is_among_them(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code = ended(monkeypatch, None, "end", "--json")

    captured = capsys.readouterr()
    assert code == Exit.USAGE
    assert captured.err == "error: No such option: --json: `taskserver end --help` tells how it is used\n"
    assert json.loads(captured.out)["error"]["type"] == "InvalidArgument"
