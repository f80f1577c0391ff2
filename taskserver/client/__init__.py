"""A client of the HTTP API, for programs and for the command line."""

from taskserver.client.answers import Document, Page, Principal, Subtask, TaskDetail, TaskStatus
from taskserver.client.server import TaskServer
from taskserver.client.transport import ServerRefused, ServerUnreachable

__all__ = [
    "Document",
    "Page",
    "Principal",
    "ServerRefused",
    "ServerUnreachable",
    "Subtask",
    "TaskDetail",
    "TaskServer",
    "TaskStatus",
]
