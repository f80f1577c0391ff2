"""Definitions as they are answered: the document as it was put, and which version of it this is."""

from typing import Any

from pydantic import Field

from taskserver.views.tasks import Page
from taskserver.views.view import Id, Moment, View


class Author(View):
    """Who put a definition."""

    name: str


class DefinitionVersion(View):
    """One version of a definition."""

    id: Id = Field(description="What tasks made of this version have as taskDefinitionId.")
    name: str = Field(description="The task type.")
    version: int = Field(description="Counts from 1, without gaps.")
    creator: Author = Field(description="The principal that put it, or the worker whose handlers hold it.")
    create_time: Moment
    delete_time: Moment | None = Field(None, description="Since when no task can be made of it.")


class Definition(DefinitionVersion):
    """A definition: the document as it was put."""

    description: str | None = None
    subtask_count: int | None = Field(None, description="How many subtasks there are as written, foreach not expanded.")
    subtasks: list[dict[str, Any]] | None = Field(None, description="As written; left out of a list where very large.")
    arguments: dict[str, Any] | None = Field(None, description="Values of task arguments that a submission leaves out.")
    queue: str | None = Field(None, description="Where subtasks go that name no queue themselves.")
    callback: dict[str, Any] | None = None
    concurrency: int | None = None
    on_duplicate: str | None = None
    redact: list[str] | None = Field(None, description="Arguments whose values are shown as ******.")


class Definitions(View):
    """The newest version of each definition, by name; where all are too large together, the largest without all members."""

    contents: list[Definition]


class DefinitionVersions(View):
    """One page of the versions of one definition, the newest first."""

    contents: list[DefinitionVersion]
    page: Page
