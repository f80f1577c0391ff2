"""The published tasks table over HTTP: rows with exactly its ten columns, which are the same through SQL.

A projection of the table and nothing else; `docs/tasks-table.md` says what the columns mean. Its own manual tells of no errors, so
they are answered with HTTP's status and a small object of their own.
"""

import base64
import binascii
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request, Response
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from schema.documents.field_errors import validated
from schema.documents.problems import Problems
from schema.errors import InvalidArgument, TaskserverError
from schema.limits import SUBMISSION_BYTES
from taskserver.api.authentication import Submitter, Viewer
from taskserver.api.bodies import parse_json, read_body
from taskserver.api.dialect import Dialect
from taskserver.api.documentation import Responses
from taskserver.api.idempotency_header import IdempotencyKey
from taskserver.api.parameters import TASK_PATH, BigInt, TaskPathId
from taskserver.api.services import Served
from taskserver.api.trace import Trace, trace_of
from taskserver.api.unknown_parameters import refuse_unknown_parameters
from taskserver.new_rows import Submitter as SubmittedBy
from taskserver.queries.tasks_table import RowFilter, table_page, table_row
from taskserver.spelling import Spelled
from taskserver.submission import Prepared, Stored, prepare_row
from taskserver.table_rows import NewTableRow
from taskserver.views.tasks_table import TableRow, TableRows
from taskserver.views.view import BIGINT_MAX

PREFIX = "/api/v1/tasks"
MAX_LIMIT = 1_000
MAX_VALUES = 100
_STATUSES = range(4)
_JSON = "application/json"


class RowProblem(BaseModel):
    """One wrong field."""

    field: str
    message: str
    rejected_value: Any = None


class RowError(BaseModel):
    """What went wrong."""

    code: int
    type: str
    message: str
    target: str | None
    sub_errors: list[RowProblem]


class RowErrorAnswer(BaseModel):
    """An answer that says what went wrong."""

    error: RowError


_ERRORS: Responses = {
    400: {"model": RowErrorAnswer, "description": "A parameter or the body is wrong; sub_errors names each."},
    401: {"model": RowErrorAnswer, "description": "No valid credential."},
    403: {"model": RowErrorAnswer, "description": "The role does not cover the call."},
    404: {"model": RowErrorAnswer, "description": "Not there, or another account's."},
    503: {"model": RowErrorAnswer, "description": "A server is away; Retry-After says when to ask again."},
    "default": {"model": RowErrorAnswer, "description": "Any other error."},
}
router = APIRouter(
    prefix=PREFIX, tags=["tasks table"], responses=_ERRORS, dependencies=[Depends(refuse_unknown_parameters)]
)


def _numbers(values: list[str]) -> list[str]:
    numbers = [int(one) for part in values if part for one in part.split(",")]
    if len(numbers) > MAX_VALUES:
        raise ValueError(f"names {len(numbers)} values, at most {MAX_VALUES} are taken: ask several times")
    if any(not -BIGINT_MAX - 1 <= one <= BIGINT_MAX for one in numbers):
        raise ValueError(f"must be whole numbers between {-BIGINT_MAX - 1} and {BIGINT_MAX}")
    return [str(one) for one in numbers]


def _statuses(values: list[str]) -> list[str]:
    for one in values:
        if int(one) not in _STATUSES:
            raise ValueError(f"names {one}: use 0 (waiting), 1 (in progress), 2 (done) or 3 (failed)")
    return values


def _place(cursor: str) -> str:
    if cursor and _id_before(cursor) is None:
        raise ValueError("is not a cursor: give the next_cursor of an answer as it is, or begin without")
    return cursor


_NUMBER_LIST = Spelled("(-?[0-9]{1,19}(,-?[0-9]{1,19})*)?", "must be whole numbers, such as 1 or 1,2,3")
Ids = Annotated[list[Annotated[str, _NUMBER_LIST]], AfterValidator(_numbers)]
Statuses = Annotated[Ids, AfterValidator(_statuses)]
_ANY_OF = "has one of these values: a comma list, or repeated; empty is not given."


class RowQuestion(BaseModel):
    """Filters and page of the list of rows."""

    model_config = ConfigDict(frozen=True)

    integration_id: Ids = Field([], description=f"The integration {_ANY_OF}")
    user_id: Ids = Field([], description=f"The user {_ANY_OF}")
    client_id: Ids = Field([], description=f"The client {_ANY_OF}")
    account_id: Ids = Field([], description=f"The account {_ANY_OF}")
    template_id: Ids = Field([], description=f"The template {_ANY_OF}")
    status: Statuses = Field([], description="0 waiting, 1 in progress, 2 done, 3 failed: a comma list, or repeated.")
    limit: int = Field(100, ge=1, le=MAX_LIMIT, description="The most rows of the answer.")
    cursor: Annotated[str, Field(max_length=100), AfterValidator(_place)] | None = Field(
        None, description="The next_cursor of the page before."
    )

    @property
    def filter(self) -> RowFilter:
        """The filters."""
        return RowFilter(
            integration_id=_values(self.integration_id),
            user_id=_values(self.user_id),
            client_id=_values(self.client_id),
            account_id=_values(self.account_id),
            template_id=_values(self.template_id),
            status=_values(self.status),
        )

    @property
    def before(self) -> int | None:
        """The id before which the page begins."""
        return _id_before(self.cursor) if self.cursor else None


def _values(numbers: Sequence[str]) -> tuple[int, ...]:
    return tuple(dict.fromkeys(int(one) for one in numbers))


_CURSOR = "before:"


def _cursor(before: int) -> str:
    return base64.urlsafe_b64encode(f"{_CURSOR}{before}".encode()).decode().rstrip("=")


def _id_before(cursor: str) -> int | None:
    try:
        text = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True).decode("ascii")
    except (binascii.Error, ValueError):
        return None
    digits = text.removeprefix(_CURSOR)
    is_place = text.startswith(_CURSOR) and digits.isdigit() and int(digits) <= BIGINT_MAX
    return int(digits) if is_place else None


@router.get("", response_model=TableRows, summary="List rows of the tasks table")
def get_rows(principal: Viewer, served: Served, question: Annotated[RowQuestion, Query()]) -> Response:
    """Return rows of the caller's account, the newest first; `next_cursor` is there where there are more.

    Filters on several columns must all be met. A page ends early where its arguments take more than 8 MiB together.
    """
    page = table_page(
        served.engine, question.filter, account=principal.account, before=question.before, limit=question.limit
    )
    return _answer(page.rows, next_cursor=None if page.before is None else _cursor(page.before))


@router.get(TASK_PATH, response_model=TableRows, summary="Show a row of the tasks table")
def get_row(principal: Viewer, served: Served, task_id: TaskPathId) -> Response:
    """Return the row with that id, in a list of one."""
    return _answer([table_row(served.engine, task_id, account=principal.account)])


def _not_given(value: int | None) -> int | None:
    if value:
        raise ValueError("is set by the server: leave it out, or give 0")
    return value


_Given = Annotated[BigInt | None, Field(description="The caller's own number.")]
_Ours = Annotated[int | None, AfterValidator(_not_given), Field(description="Set by the server: leave it out.")]


class RowBody(BaseModel):
    """A row to insert."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, hide_input_in_errors=True)

    template_id: Annotated[BigInt, Field(description="The id of a definition: its newest version is started.")]
    argument: Annotated[str | None, Field(description="The arguments: the text of a JSON object.")] = None
    integration_id: _Given = None
    user_id: _Given = None
    client_id: _Given = None
    account_id: _Given = None
    id: _Ours = None
    status: _Ours = None
    created_at: _Ours = None
    updated_at: _Ours = None


async def _body(
    request: Request,
    principal: Submitter,  # noqa: ARG001 - refused before the body is read
    served: Served,
    key: IdempotencyKey,  # noqa: ARG001 - so is a wrong key
) -> bytes:
    return await read_body(request, most=served.settings.limits.submission_bytes, setting=SUBMISSION_BYTES)


_ROW_SCHEMA = {"requestBody": {"required": True, "content": {_JSON: {"schema": RowBody.model_json_schema()}}}}


@router.post(
    "",
    response_model=TableRows,
    status_code=201,
    summary="Insert a row into the tasks table",
    responses={
        200: {"model": TableRows, "description": "The row that the same call with the same key has inserted."},
        409: {"model": RowErrorAnswer, "description": "The key was used for something else."},
        413: {"model": RowErrorAnswer, "description": "It takes more than may be stored."},
    },
    openapi_extra=_ROW_SCHEMA,
)
async def post_row(
    request: Request,
    principal: Submitter,
    served: Served,
    body: Annotated[bytes, Depends(_body)],
    key: IdempotencyKey,
) -> Response:
    """Store a task of the definition that `template_id` names, and answer its row, in a list of one."""
    trace = trace_of(request)
    by = SubmittedBy(principal.name, principal.account, trace_id=trace.id, traceparent=trace.traceparent)

    def prepare() -> Prepared:
        return prepare_row(_new_row(parse_json(body)), by, limits=served.settings.limits, idempotency_key=key)

    def answer_stored(stored: Sequence[Stored]) -> Response:
        [one] = stored
        if one.is_new:
            served.after_submission()
        row = table_row(served.engine, one.task, account=principal.account)
        return _answer([row], status=201 if one.is_new else 200, headers={"Location": f"{PREFIX}/{one.task}"})

    return await served.gate.store(served.engine, prepare, answer_stored)


def _new_row(document: object) -> NewTableRow:
    if not isinstance(document, dict):
        raise InvalidArgument('the body is not a JSON object: give a row such as {"template_id": 1, "argument": "{}"}')
    given = validated(RowBody, document, Problems("the row"), lambda _: tuple(RowBody.model_fields))
    return NewTableRow(
        template_id=given.template_id,
        argument=given.argument,
        integration_id=given.integration_id,
        user_id=given.user_id,
        client_id=given.client_id,
        account_id=given.account_id,
    )


def _answer(
    rows: Sequence[TableRow],
    *,
    next_cursor: str | None = None,
    status: int = 200,
    headers: Mapping[str, str] | None = None,
) -> Response:
    more = "" if next_cursor is None else f',"next_cursor":"{next_cursor}"'
    body = f'{{"data":[{",".join(one.model_dump_json() for one in rows)}]{more}}}'
    return Response(body, status_code=status, media_type=_JSON, headers=headers)


def failure(_trace: Trace, error: TaskserverError, headers: Mapping[str, str]) -> Response:
    """Return the error as an object of its own; its HTTP status is the error's."""
    problems = [
        RowProblem(field=one.field, message=one.message, rejected_value=one.rejected_value) for one in error.sub_errors
    ]
    said = RowError(
        code=error.code, type=type(error).__name__, message=error.message, target=error.target, sub_errors=problems
    )
    body = RowErrorAnswer(error=said).model_dump_json()
    return Response(body, status_code=error.status, media_type=_JSON, headers=dict(headers))


DIALECT = Dialect(prefixes=(PREFIX,), router=router, failure=failure)
