"""Finds the newest version of a definition, and fills a submission that names it with what it says."""

from dataclasses import dataclass

from schema.documents.definition import Definition, read_definition
from schema.documents.filling import fill
from schema.documents.specification import Submission
from schema.errors import Invalid, InvalidArgument, InvalidGraph
from schema.limits import DEFAULT_LIMITS, Limits
from schema.roundtrip import AnyConnection
from taskserver.queries.definitions import closest_names, newest_version


@dataclass(frozen=True, slots=True)
class Resolved:
    """A submission with its subtasks, and the version of the definition that they come from; None where it names none."""

    submission: Submission
    definition_id: int | None = None


class Resolver:
    """Fills the submissions of one transaction: those that name the same definition get the same version of it."""

    def __init__(self, connection: AnyConnection, account: str, *, limits: Limits = DEFAULT_LIMITS) -> None:
        self._connection = connection
        self._account = account
        self._limits = limits
        self._read: dict[str, tuple[int, Definition]] = {}

    def resolve(self, submission: Submission) -> Resolved:
        """Return the submission with its definition filled in; one with subtasks of its own as it is.

        Raises:
            InvalidGraph: the account has no such definition, or it has no subtasks.
            InvalidArgument: this version of the product cannot read the definition any more.
            Unavailable: PostgreSQL is away.
        """
        name = submission.definition
        if name is None:
            return Resolved(submission)
        version, definition = self.newest(name)
        if not definition.subtasks:
            raise InvalidGraph(
                f"definition {name!r} has a callback and no subtasks, so that it takes data elements and no submission: "
                "put it with subtasks, or submit subtasks of your own",
                target="/definition",
            )
        return Resolved(fill(submission, definition), version)

    def newest(self, name: str) -> tuple[int, Definition]:
        """Return the newest version of a definition, with its id.

        Raises:
            InvalidGraph: the account has no such definition.
            InvalidArgument: this version of the product cannot read the definition any more.
            Unavailable: PostgreSQL is away.
        """
        if name not in self._read:
            self._read[name] = self._load(name)
        return self._read[name]

    def _load(self, name: str) -> tuple[int, Definition]:
        newest = newest_version(self._connection, name, account=self._account)
        if newest is None:
            raise _unknown(name, closest_names(self._connection, name, account=self._account))
        try:
            definition = read_definition(newest.document, limits=self._limits)
        except Invalid as error:
            raise InvalidArgument(
                f"definition {name!r} cannot be used by this version: {error.message}; put it again",
                target="/definition",
                sub_errors=error.sub_errors,
            ) from error
        return newest.id, definition


def resolve(
    connection: AnyConnection, submission: Submission, account: str, *, limits: Limits = DEFAULT_LIMITS
) -> Resolved:
    """Return one submission with its definition filled in, as a `Resolver` does.

    Raises:
        InvalidGraph: the account has no such definition, or it has no subtasks.
        InvalidArgument: this version of the product cannot read the definition any more.
        Unavailable: PostgreSQL is away.
    """
    return Resolver(connection, account, limits=limits).resolve(submission)


def _unknown(name: str, closest: list[str]) -> InvalidGraph:
    cure = f"did you mean {' or '.join(map(repr, closest))}?" if closest else "list the definitions to see which do"
    return InvalidGraph(f"definition {name!r} does not exist: {cure}", target="/definition")
