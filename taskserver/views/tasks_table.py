"""A row of the published tasks table on the wire: its ten columns, all of them always there."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from taskserver.views.view import Id

_Time = Annotated[Id, Field(description="Milliseconds since 1970.")]


class TableRow(BaseModel):
    """A row; `status` is 0 waiting, 1 in progress, 2 done, 3 failed."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: Id
    integration_id: Id
    user_id: Id
    client_id: Id
    account_id: Id
    template_id: Id
    argument: Annotated[str, Field(description="JSON text; empty where there is none.")]
    status: Annotated[int, Field(ge=0, le=3)]
    created_at: _Time
    updated_at: _Time


class TableRows(BaseModel):
    """Rows; `next_cursor` is there where there are more."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    data: list[TableRow]
    next_cursor: str | None = None
