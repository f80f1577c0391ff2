import pytest

from schema.errors import Conflict, InvalidArgument, InvalidGraph, NotFound, SubError, TaskserverError, Unavailable
from taskserver.cli.exits import EPILOG, MAX_SHOWN, Exit, exit_code_of, report
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
    ],
)
def test_each_sort_of_error_has_its_exit_code(error: TaskserverError, code: Exit) -> None:
    assert exit_code_of(error) is code


def test_the_help_tells_every_exit_code() -> None:
    assert all(f"{code.value} " in EPILOG for code in Exit)


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
