"""The answers of the BK-CMDB dialect as programs find them described; the documents themselves come from the queries.

Members are spelled as published. With `fields` an answer has only those asked for, so none is required.
"""

from typing import Any, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from taskserver.queries.cmdb_conditions import Word
from taskserver.views.view import HexId, Moment

T = TypeVar("T")


def _require_nothing(schema: dict[str, Any]) -> None:
    schema.pop("required", None)


class CmdbDocument(BaseModel):
    """What tasks and rows of the sync history share."""

    model_config = ConfigDict(extra="forbid", json_schema_extra=_require_nothing)

    id: str = Field(alias="_id", description="24 hex digits.")
    task_id: HexId
    task_type: str = Field(description="The definition's name.")
    bk_inst_id: int | None = Field(description="null for a task that was submitted without an instance.")
    extra: str = Field(description="Only where it is not empty; always text, also where a number was given.")
    status: Word
    bk_supplier_account: str
    create_time: Moment | None
    last_time: Moment | None


class CmdbSubtask(BaseModel):
    """One element of a task."""

    sub_task_id: HexId
    data: Any = Field(description="The element; of a subtask of another kind its arguments.")
    status: Word
    response: dict[str, Any] | None = Field(description="The receiver's whole answer; null until there is one.")


class CmdbTask(CmdbDocument):
    """A row of cc_APITask."""

    user: str = Field(description="The user that the request named; else who made the task.")
    header: dict[str, list[str]] = Field(description="What was sent along, its names as Go's http.Header spells them.")
    header_omitted: bool = Field(description="true where this answer leaves the header out; only there.")
    detail: list[CmdbSubtask]
    detail_omitted: int = Field(description="How many subtasks this answer leaves out; only where it does.")


class CmdbSyncStatus(CmdbDocument):
    """A row of cc_APITaskSyncHistory."""

    creator: str = Field(description="The user that the request named; else who made the task.")


class CmdbFound(BaseModel):
    """A task, if there is one."""

    info: CmdbTask | None


class CmdbPage(BaseModel):
    """The page that was asked for."""

    start: int
    limit: int = 0
    sort: str = ""


class CmdbTasks(BaseModel):
    """One page of tasks."""

    info: list[CmdbTask]
    count: int = Field(description="How many match, on all pages.")
    page: CmdbPage


class CmdbHistory(BaseModel):
    """One page of the sync history."""

    count: int = Field(description="How many match, on all pages; 0 with disable_counter.")
    info: list[CmdbSyncStatus]


class CmdbAnswer(BaseModel, Generic[T]):
    """The envelope of every answer; `result` false says that `bk_error_msg` tells what is wrong."""

    result: bool
    bk_error_code: int = Field(description="0 where all is well.")
    bk_error_msg: str
    permission: None
    data: T | None


class CmdbFailure(BaseModel):
    """An answer that says what went wrong."""

    result: Literal[False]
    bk_error_code: int
    bk_error_msg: str
    permission: None
    data: None
