"""Submitting: validate, expand, store in one transaction; after its commit the dispatcher publishes.

Nothing here touches the broker. A task that is committed will run, whatever dies in between.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine

from schema.accounts import check_account
from schema.callers_transaction import part_of_transaction
from schema.database import transaction
from schema.documents.definition import INLINE
from schema.documents.problems import shortened
from schema.documents.specification import Submission, parse_submission
from schema.errors import DuplicateInstance, IdempotencyKeyReused, Invalid, InvalidArgument, TooLarge
from schema.identity import TaskId
from schema.instances import duplicate_key
from schema.kinds import KindInfo
from schema.limits import DEFAULT_LIMITS, SUBMISSION_BYTES, Limits
from schema.roundtrip import AnyConnection
from schema.storable import find_unstorable, stored_size
from schema.transitions import creation
from schema.transitions.idempotency import IdempotentCall, claim_key, deleted_tasks, note_answer
from schema.transitions.patience import wait_a_moment_only
from schema.transitions.registrations import load_kinds
from taskserver.definitions import Resolved, Resolver, resolve
from taskserver.expansion import expand
from taskserver.idempotency import idempotent_call
from taskserver.new_rows import Submitter, new_task
from taskserver.queries.definitions import definition_name
from taskserver.table_rows import NewTableRow, arguments_of, in_columns, submission_of
from taskserver.table_tasks import TableTasks, no_template

MAX_BATCH = 1000
_T = TypeVar("_T")
_DEFAULT_USER = "application"
_MAX_USER = 128
_SUBMIT = "submit"
_SUBMIT_BATCH = "submit a batch"
_SUBMIT_ROW = "submit a row"


@dataclass(frozen=True, slots=True)
class Stored:
    """A task that a submission led to, and whether it is new: it is not where an earlier one is answered."""

    task: TaskId
    is_new: bool


@dataclass(frozen=True, slots=True)
class Prepared:
    """A call whose documents were found right; nothing was asked of the database yet.

    `claims` names what it may have to wait for while another transaction is open: instances, and its idempotency key.
    """

    claims: frozenset[str]
    steps: Callable[[Connection], list[Stored]]

    def store(self, engine: Engine) -> list[Stored]:
        """Store the tasks, all or none; return them in the order of the documents.

        Raises:
            Invalid, DuplicateInstance: One of them is refused; nothing was stored.
            IdempotencyKeyReused: The key was used with another document, or its task is gone.
            Busy: Another transaction has held the instance or the key for too long; nothing was stored.
            Unavailable: PostgreSQL is away. Whether the tasks were stored is unknown.

        """
        with transaction(engine) as connection:
            if self.claims:
                wait_a_moment_only(connection)
            return self.steps(connection)


def submit(
    connection: object,
    spec: Mapping[str, Any],
    account: str = "0",
    user: str = _DEFAULT_USER,
    *,
    idempotency_key: str | None = None,
    limits: Limits = DEFAULT_LIMITS,
) -> TaskId:
    """Store a task in the caller's transaction: rolled back with it, published after its commit.

    With a spec that is refused nothing is stored, and the transaction can go on. It waits for no lock longer than 20 seconds,
    or than the transaction's own `lock_timeout` where that is shorter::

        with engine.begin() as connection:
            connection.execute(text("INSERT INTO hosts (name) VALUES ('db1')"))
            submit(connection, {"definition": "prepare_host", "instanceId": 42}, user="inventory")

    Args:
        connection: A SQLAlchemy Connection or Session, or a psycopg.Connection, to the database of the task server.
        spec: The submission, as it would be posted.
        account: Whose task it is, as a principal's account is spelled.
        user: Who is noted as its creator: at most 128 characters.
        idempotency_key: Names this submission: made again with the same key it leads to the same task.
        limits: How large it may be; `Settings.load().limits` where the defaults have been changed.

    Returns:
        The task's id: that of an earlier task where `onDuplicate` or the idempotency key says so.

    Raises:
        TypeError: The connection is none that can be used.
        InvalidArgument, InvalidGraph, TooLarge: The spec or the account, the user or the key is wrong, or the connection
            has no transaction and begins none.
        DuplicateInstance: An unsettled task holds the instance.
        IdempotencyKeyReused: The key was used with another spec, or its task is gone.
        Busy: Another transaction was in the way. After REPEATABLE READ or SERIALIZABLE begin a new one, as the message says.
        Unavailable: PostgreSQL is away.

    """
    submitter = Submitter(_checked_user(user), check_account(account))
    document = dict(spec) if isinstance(spec, Mapping) else spec
    submission = parse_submission(document, limits=limits)
    if stored_size(document) > limits.submission_bytes:
        most = f"{limits.submission_bytes} bytes ({SUBMISSION_BYTES})"
        raise TooLarge(f"the spec takes more than {most}: submit less at once, or keep the data elsewhere")
    call = idempotent_call(idempotency_key, account=account, scope=_SUBMIT, document=document)
    with part_of_transaction(connection) as usable:
        store = partial(_store_one, usable, submission, submitter, limits)
        return _once(usable, call, store)[0].task


def _checked_user(user: object) -> str:
    if isinstance(user, str) and 1 <= len(user) <= _MAX_USER and not any(find_unstorable(user, depth=1)):
        return user
    shown = shortened(repr(user))
    raise InvalidArgument(
        f"user {shown} is none: give a text of 1 to {_MAX_USER} characters without NUL", target="user"
    )


def prepare_document(
    document: object, submitter: Submitter, *, limits: Limits, idempotency_key: str | None = None
) -> Prepared:
    """Return what stores the task that a JSON document describes.

    Raises:
        InvalidArgument, InvalidGraph, TooLarge: The document is wrong.

    """
    submission = parse_submission(document, limits=limits)
    call = idempotent_call(idempotency_key, account=submitter.account, scope=_SUBMIT, document=document)

    def steps(connection: Connection) -> list[Stored]:
        return _once(connection, call, partial(_store_one, connection, submission, submitter, limits))

    return Prepared(_claims([submission], submitter.account, call), steps)


def prepare_batch(
    documents: object, submitter: Submitter, *, limits: Limits, idempotency_key: str | None = None
) -> Prepared:
    """Return what stores the tasks that a list of JSON documents describes.

    Raises:
        InvalidArgument: It is not a list of 1 to `MAX_BATCH` documents.
        Invalid: One of them is wrong; the fields of `sub_errors` begin with its place.

    """
    if not isinstance(documents, list) or not 1 <= len(documents) <= MAX_BATCH:
        raise InvalidArgument(f"a batch is a JSON array of 1 to {MAX_BATCH} submissions; send more in several batches")
    submissions = [_located(at, partial(parse_submission, one, limits=limits)) for at, one in enumerate(documents)]
    call = idempotent_call(idempotency_key, account=submitter.account, scope=_SUBMIT_BATCH, document=documents)

    def steps(connection: Connection) -> list[Stored]:
        return _once(connection, call, partial(_store_all, connection, submissions, submitter, limits))

    return Prepared(_claims(submissions, submitter.account, call), steps)


def prepare_row(
    row: NewTableRow, submitter: Submitter, *, limits: Limits, idempotency_key: str | None = None
) -> Prepared:
    """Return what stores the task that a row of the published table asks for; its errors name columns.

    Raises:
        InvalidArgument, TooLarge: The row is wrong. `Prepared.store` tells whether the definition is.

    """
    arguments_of(row.argument, limits)
    call = idempotent_call(idempotency_key, account=submitter.account, scope=_SUBMIT_ROW, document=asdict(row))

    def steps(connection: Connection) -> list[Stored]:
        return _once(connection, call, partial(_store_row, connection, row, submitter, limits))

    return Prepared(_claims([], submitter.account, call), steps)


def submit_document(
    engine: Engine, document: object, submitter: Submitter, *, limits: Limits, idempotency_key: str | None = None
) -> Stored:
    """Store the task that a JSON document describes; it raises what `prepare_document` and `Prepared.store` do."""
    return prepare_document(document, submitter, limits=limits, idempotency_key=idempotency_key).store(engine)[0]


def submit_batch(
    engine: Engine, documents: object, submitter: Submitter, *, limits: Limits, idempotency_key: str | None = None
) -> list[Stored]:
    """Store the tasks that a list of JSON documents describes; it raises what `prepare_batch` and `Prepared.store` do."""
    return prepare_batch(documents, submitter, limits=limits, idempotency_key=idempotency_key).store(engine)


def _claims(submissions: Iterable[Submission], account: str, call: IdempotentCall | None) -> frozenset[str]:
    keys = [] if call is None else [f"key {call.account} {call.key}"]
    return frozenset([*keys, *filter(None, (_instance_key(one, account) for one in submissions))])


def _instance_key(submission: Submission, account: str) -> str | None:
    return duplicate_key(
        account=account,
        task_type=submission.definition or INLINE,
        instance_id=submission.instance_id,
        extra=submission.extra,
        on_duplicate=submission.on_duplicate or "reject",
    )


def _once(connection: AnyConnection, call: IdempotentCall | None, store: Callable[[], list[Stored]]) -> list[Stored]:
    """Store, unless the same call has been made before: then return what it stored."""
    if call is None:
        return store()
    earlier = claim_key(connection, call)
    if earlier is not None:
        _refuse_deleted(connection, call, earlier["tasks"])
        return [Stored(TaskId(task), is_new=False) for task in earlier["tasks"]]
    stored = store()
    note_answer(connection, call, {"tasks": [one.task for one in stored]})
    return stored


def _refuse_deleted(connection: AnyConnection, call: IdempotentCall, tasks: Sequence[int]) -> None:
    deleted = deleted_tasks(connection, tasks)
    if deleted:
        which = f"task {deleted[0]}" if len(deleted) == 1 else f"{len(deleted)} tasks, the first {deleted[0]},"
        raise IdempotencyKeyReused(
            f"{which} of the idempotency key {call.key!r} {'has' if len(deleted) == 1 else 'have'} been deleted since:"
            " take a new key to submit anew",
            target=call.key,
        )


def _store_one(connection: AnyConnection, submission: Submission, submitter: Submitter, limits: Limits) -> list[Stored]:
    resolved = resolve(connection, submission, submitter.account, limits=limits)
    kinds = load_kinds(connection, _kinds_of(resolved.submission))
    return [_store(connection, resolved, submitter, kinds, limits)]


def _store_row(connection: Connection, row: NewTableRow, submitter: Submitter, limits: Limits) -> list[Stored]:
    definition = definition_name(connection, row.template_id, account=submitter.account)
    if definition is None:
        raise no_template(row.template_id, submitter.account)
    try:
        asked = submission_of(row.argument, definition, limits, **row.business_ids)
        new = TableTasks(connection, limits=limits).make(asked, row.argument, submitter)
    except Invalid as error:
        raise in_columns(error) from error
    return [Stored(creation.create_task(connection, new), is_new=True)]


def _store_all(
    connection: AnyConnection, submissions: Sequence[Submission], submitter: Submitter, limits: Limits
) -> list[Stored]:
    resolver = Resolver(connection, submitter.account, limits=limits)
    resolved = [_located(at, partial(resolver.resolve, one)) for at, one in enumerate(submissions)]
    kinds = load_kinds(connection, {name for one in resolved for name in _kinds_of(one.submission)})
    # In the order of their instances, so that two batches do not wait for each other; of one instance, as they came.
    in_order = sorted(range(len(resolved)), key=lambda at: _instance(resolved[at].submission))
    stored = {at: _located(at, partial(_store, connection, resolved[at], submitter, kinds, limits)) for at in in_order}
    return [stored[at] for at in range(len(resolved))]


def _instance(submission: Submission) -> tuple[str, int, str]:
    return submission.definition or INLINE, submission.instance_id or 0, submission.extra


def _located(at: int, step: Callable[[], _T]) -> _T:
    """Take a step of one submission of a batch; an error says which one."""
    try:
        return step()
    except (Invalid, DuplicateInstance) as error:
        located = tuple(replace(one, field=f"/{at}{one.field}") for one in error.sub_errors)
        target = f"/{at}{error.target}" if (error.target or "").startswith("/") else error.target
        raise type(error)(f"submission {at}: {error.message}", target=target, sub_errors=located) from error


def _kinds_of(submission: Submission) -> set[str]:
    return {one.kind for one in submission.subtasks or () if one.kind is not None}


def _store(
    connection: AnyConnection, resolved: Resolved, submitter: Submitter, kinds: Mapping[str, KindInfo], limits: Limits
) -> Stored:
    expanded = expand(resolved.submission, kinds=kinds, limits=limits)
    new = new_task(expanded, resolved.definition_id, submitter, kinds)
    try:
        task = creation.create_task(connection, new)
    except DuplicateInstance as error:  # found without an error in PostgreSQL: the transaction goes on
        if new.on_duplicate != "return" or error.target is None:
            raise
        return Stored(TaskId(int(error.target)), is_new=False)
    return Stored(task, is_new=True)
