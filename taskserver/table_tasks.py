"""From rows of the published tasks table to new tasks, within one transaction.

Rows that name the same definition get the same version of it: the newest, whichever version their `template_id` is the id of.
"""

from collections.abc import Mapping
from dataclasses import replace

from schema.documents.specification import Submission
from schema.errors import InvalidGraph
from schema.kinds import KindInfo
from schema.limits import Limits
from schema.roundtrip import AnyConnection
from schema.transitions.creation import NewTask
from schema.transitions.registrations import load_kinds
from taskserver.definitions import Resolver
from taskserver.expansion import expand
from taskserver.new_rows import Submitter, new_task
from taskserver.table_rows import TEMPLATE


class TableTasks:
    """Makes the tasks that rows ask for, and asks the database for each definition and its kinds once."""

    def __init__(self, connection: AnyConnection, *, limits: Limits) -> None:
        self._connection = connection
        self._limits = limits
        self._resolvers: dict[str, Resolver] = {}
        self._kinds: dict[frozenset[str], Mapping[str, KindInfo]] = {}

    def make(self, submission: Submission, argument: str | None, submitter: Submitter) -> NewTask:
        """Return the task to store; it keeps the row's text as its argument, unless the definition has more to say.

        Args:
            submission: What the row asks for.
            argument: The text that it gave.
            submitter: Whose it is.

        Raises:
            InvalidGraph: The definition is gone, takes no submissions, or makes no right graph of these arguments.
            InvalidArgument: The arguments are not what its kinds take, or it cannot be read any more.
            TooLarge: There is too much of it.
            Unavailable: PostgreSQL is away.

        """
        resolver = self._resolvers.setdefault(
            submitter.account, Resolver(self._connection, submitter.account, limits=self._limits)
        )
        resolved = resolver.resolve(submission)
        kinds = self._known(frozenset(one.kind for one in resolved.submission.subtasks or () if one.kind is not None))
        expanded = expand(resolved.submission, kinds=kinds, limits=self._limits)
        new = new_task(expanded, resolved.definition_id, submitter, kinds)
        return replace(new, argument_text=argument) if argument and new.arguments == submission.arguments else new

    def _known(self, names: frozenset[str]) -> Mapping[str, KindInfo]:
        if names not in self._kinds:
            self._kinds[names] = load_kinds(self._connection, names)
        return self._kinds[names]


def no_template(template_id: int, account: str) -> InvalidGraph:
    """Return the error for a `template_id` that is not the id of a definition of the account, or of another one's."""
    return InvalidGraph(
        f"template_id {template_id} is not the id of a definition of account {account!r}: list the definitions to see their ids,"
        " or put one",
        target=TEMPLATE,
    )
