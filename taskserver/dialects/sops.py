"""bk-sops' `get_task_status`, for clients written for it: a task as a tree of nodes, in bk-sops' words.

A projection of the stored states and nothing else; `docs/bk-sops.md` has it as tables. Its clients take every HTTP status but 200
for a broken gateway and read `result` and `message` instead, so errors of the caller are answered with 200, like the
original's.
"""

import time
from collections.abc import Mapping
from enum import StrEnum
from functools import lru_cache
from hashlib import blake2b
from typing import Annotated, Literal, NotRequired

from fastapi import APIRouter, Request, Response
from pydantic import ConfigDict, Field, with_config
from pydantic_core import to_json
from typing_extensions import TypedDict

from schema.errors import TaskserverError
from schema.identity import subtask_hex
from schema.states import ENDED_SUBTASK_STATES, FINAL_TASK_STATES, Operation, SubtaskState, TaskState
from taskserver.api.dialect import Dialect
from taskserver.api.services import Served
from taskserver.api.trace import Trace, trace_of
from taskserver.dialects.sops_request import Asked, Caller, Question
from taskserver.queries.node_status import NodeStatus, StatusTree, Wanted, status_tree
from taskserver.views.view import HexId, View

PREFIX = "/api/c/compapi"
_PATH = f"{PREFIX}/v2/sops/get_task_status"

_OK = 200
_NOT_ALLOWED = 405
_FAILURES = 500  # and more: ours, for proxies and monitors to see
# bk-sops' own numbers, by the HTTP status that the main API would answer.
_CODES = {
    400: 3540000,
    413: 3540000,
    401: 3540100,
    403: 3540100,
    429: 3540100,
    404: 3540400,
    405: 3545000,
    503: 3555000,
}
_UNKNOWN_CODE = 3599999


class SopsState(StrEnum):
    """The words of bk-sops, for tasks and nodes alike."""

    CREATED = "CREATED"
    RUNNING = "RUNNING"
    FAILED = "FAILED"
    SUSPENDED = "SUSPENDED"
    REVOKED = "REVOKED"
    FINISHED = "FINISHED"


TASK_STATES: Mapping[TaskState, SopsState] = {
    TaskState.CREATED: SopsState.CREATED,
    TaskState.RUNNING: SopsState.RUNNING,
    TaskState.SUSPENDED: SopsState.SUSPENDED,
    TaskState.FAILED: SopsState.FAILED,
    TaskState.REVOKED: SopsState.REVOKED,
    TaskState.SUCCESSFUL: SopsState.FINISHED,
    TaskState.ROLLED_BACK: SopsState.REVOKED,
}
# By the stored words.
NODE_STATES: Mapping[str, SopsState] = {
    SubtaskState.PENDING: SopsState.CREATED,
    SubtaskState.READY: SopsState.CREATED,
    SubtaskState.RUNNING: SopsState.RUNNING,
    SubtaskState.CANCELING: SopsState.RUNNING,
    SubtaskState.FAILED: SopsState.FAILED,
    SubtaskState.SUCCESSFUL: SopsState.FINISHED,
}
_FORWARD = {Operation.EXECUTE, Operation.RETRY}


@with_config(ConfigDict(extra="forbid"))
class SopsNode(TypedDict):
    """A task or one of its nodes. Not a model: a large task has thousands of them, and is polled."""

    id: HexId
    parent_id: Annotated[str, Field(description="The task's id; empty for the task itself.")]
    state: SopsState
    name: str
    version: Annotated[str, Field(description="32 hex digits, others for each run and each skip; empty for a task.")]
    loop: int
    retry: Annotated[int, Field(description="How often it was run again or skipped.")]
    skip: bool
    error_ignorable: Annotated[bool, Field(description="The same as error_ignored.")]
    error_ignored: Annotated[bool, Field(description="It has failed and was allowed to.")]
    start_time: Annotated[str, Field(description="Such as 2018-04-26 16:08:34 +0800; empty until it begins.")]
    finish_time: Annotated[str, Field(description="Empty until it ends, and for a failed task, because it can go on.")]
    elapsed_time: Annotated[int, Field(description="Seconds between the two, or until now.")]
    children: Annotated[dict[str, "SopsNode"], Field(description="The nodes of a task by their ids; a node has none.")]
    ex_data: Annotated[
        NotRequired[dict[str, str]], Field(description="Why nodes have failed, by their ids; with with_ex_data.")
    ]


class _Envelope(View):
    model_config = ConfigDict(alias_generator=None)

    code: int
    message: str
    request_id: str
    trace_id: str


class SopsAnswer(_Envelope):
    """An answer."""

    result: Literal[True]
    data: SopsNode


class SopsFailure(_Envelope):
    """An answer that says in `message` what went wrong; `code` is bk-sops' number for that."""

    result: Literal[False]
    data: None


_SCHEMA = Question.model_json_schema()
_QUERY = {
    "parameters": [
        {
            "name": name,
            "in": "query",
            "required": name in _SCHEMA["required"],
            "description": member["description"],
            "schema": {key: value for key, value in member.items() if key != "description"},
        }
        for name, member in _SCHEMA["properties"].items()
    ]
}
_BODY = {
    "requestBody": {
        "required": True,
        "content": {form: {"schema": _SCHEMA} for form in ("application/json", "application/x-www-form-urlencoded")},
    }
}

router = APIRouter(
    tags=["bk-sops"],
    responses={
        503: {"model": SopsFailure, "description": "A server is away; Retry-After says when to ask again."},
        "default": {
            "model": SopsFailure,
            "description": "Another failure of the server, or a method that is not there.",
        },
    },
)


@router.get(
    f"{_PATH}/", response_model=SopsAnswer | SopsFailure, summary="bk-sops: get_task_status", openapi_extra=_QUERY
)
@router.post(
    f"{_PATH}/", response_model=SopsAnswer | SopsFailure, summary="bk-sops: get_task_status", openapi_extra=_BODY
)
@router.get(_PATH, include_in_schema=False)
@router.post(_PATH, include_in_schema=False)
def get_task_status(request: Request, principal: Caller, question: Asked, served: Served) -> Response:
    """Return a task with all its nodes, or one node, as bk-sops does. What the caller did wrong is a 200 with `result` false."""
    wanted = Wanted.of(question.task_id)
    tree = status_tree(
        served.engine,
        wanted,
        account=principal.account,
        business=question.bk_biz_id,
        with_errors=question.with_ex_data,
    )
    data = status_of(tree, is_node=wanted.series is not None, with_ex_data=question.with_ex_data)
    answer = {"result": True, "data": data, "code": 0, "message": "", **_ids(trace_of(request))}
    return Response(to_json(answer), media_type="application/json")


def _failure(trace: Trace, error: TaskserverError, headers: Mapping[str, str]) -> Response:
    kept = error.status >= _FAILURES or error.status == _NOT_ALLOWED
    document = {
        "result": False,
        "data": None,
        "code": _CODES.get(error.status, _UNKNOWN_CODE),
        "message": error.message,
        **_ids(trace),
    }
    return Response(
        to_json(document),
        status_code=error.status if kept else _OK,
        media_type="application/json",
        headers=dict(headers) if kept else None,
    )


def _ids(trace: Trace) -> dict[str, str]:
    return {"request_id": trace.id, "trace_id": trace.id}


DIALECT = Dialect(prefixes=(PREFIX,), router=router, failure=_failure)


def status_of(tree: StatusTree, *, is_node: bool, with_ex_data: bool) -> SopsNode:
    """Return the task with its nodes; or, for a node, the only one that the tree has."""
    nodes = [_node(tree, one) for one in tree.nodes]
    status = nodes[0] if is_node else _task(tree, nodes)
    if with_ex_data:
        failed = (one for one in tree.nodes if NODE_STATES[one.state] is SopsState.FAILED)
        status["ex_data"] = {subtask_hex(tree.task_hex, one.series_id): _reason(one) for one in failed}
    return status


def _task(tree: StatusTree, nodes: list[SopsNode]) -> SopsNode:
    return SopsNode(
        id=tree.task_hex,
        parent_id="",
        state=TASK_STATES[tree.state],
        name=tree.name,
        version="",
        loop=1,
        retry=0,
        skip=False,
        error_ignorable=False,
        error_ignored=False,
        start_time=local_time(tree.started_at),
        finish_time=local_time(tree.finalized_at if tree.state in FINAL_TASK_STATES else None),
        elapsed_time=_elapsed(tree.started_at, tree.finalized_at, tree.now),
        children={node["id"]: node for node in nodes},
    )


def _node(tree: StatusTree, one: NodeStatus) -> SopsNode:
    state = NODE_STATES[one.state]
    hex_id = subtask_hex(tree.task_hex, one.series_id)
    run = _run(one, state)
    ignored = state is SopsState.FAILED and one.allow_failure
    skipped = one.operation == Operation.SKIP
    ended = one.finalized_at if one.state in ENDED_SUBTASK_STATES else None
    # What ended without a run, such as a signal's node, began where it ended.
    began = None if state is SopsState.CREATED else one.started_at or ended
    return SopsNode(
        id=hex_id,
        parent_id=tree.task_hex,
        state=state,
        name=one.name,
        version=_version(hex_id, one, run),
        loop=1,
        retry=max(run - 1, 0) + skipped,
        skip=skipped,
        error_ignorable=ignored,
        error_ignored=ignored,
        start_time=local_time(began),
        finish_time=local_time(ended),
        elapsed_time=_elapsed(began, ended, tree.now),
        children={},
    )


def _run(one: NodeStatus, state: SopsState) -> int:
    """Return the number of its run, from 1: the one that is due, that goes on, or that was the last."""
    return one.attempt + (state is SopsState.CREATED and one.operation in _FORWARD)


def _version(hex_id: str, one: NodeStatus, run: int) -> str:
    """Return what names this run and no other; whoever retries or skips changes it at once."""
    return blake2b(f"{hex_id} {one.generation} {one.operation} {run}".encode(), digest_size=16).hexdigest()


def _elapsed(began: int | None, ended: int | None, now: int) -> int:
    return 0 if began is None else max((now if ended is None else ended) - began, 0)


def _reason(one: NodeStatus) -> str:
    error_type, message = one.error_type or "", one.error_message or ""
    if message.startswith(error_type):
        return message
    return f"{error_type}: {message}" if message else error_type


@lru_cache(maxsize=10_000)
def local_time(seconds: int | None) -> str:
    """Return the time as bk-sops writes it, in the zone of this server; empty for none."""
    return "" if seconds is None else time.strftime("%Y-%m-%d %H:%M:%S %z", time.localtime(seconds))
