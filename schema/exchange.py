"""Statements of a worker's steps, sent and answered at once, on a connection of our own.

The driver's pipeline waits for the answer to BEGIN, and wakes the server with each statement anew; of a short step that was most of
the time. Here BEGIN and the statements leave in one piece and are answered in one. Each is prepared when a connection sees it first,
however long it is. Parameters are what steps have: numbers, lists of numbers, and texts; so they need no types found out.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any
from weakref import WeakKeyDictionary

import psycopg
from psycopg import generators
from psycopg.abc import PQGen, Transformer
from psycopg.adapt import Transformer as DriverTransformer
from psycopg.errors import error_from_result
from psycopg.pq import ExecStatus, TransactionStatus
from psycopg.pq.abc import PGconn, PGresult

Value = int | str | Sequence[int] | None

_UNKNOWN, _INT8, _TEXT, _INT8_ARRAY = 0, 20, 25, 1016


@dataclass(frozen=True, slots=True)
class Statement:
    """A statement with `$1` and so on, and the names of its parameters in that order."""

    sql: bytes
    names: Sequence[str]


@dataclass(slots=True)
class _Sent:
    """One of what was sent together: the name that it is to be prepared under, or the statement that was run."""

    statement: Statement | None = None
    name: bytes | None = None


@dataclass(frozen=True, slots=True)
class _Session:
    """What one connection has prepared, and how it reads values."""

    transformer: Transformer
    names: dict[Statement, bytes] = field(default_factory=dict)


_numbers = count(1)
_sessions: WeakKeyDictionary[psycopg.Connection[Any], _Session] = WeakKeyDictionary()


def exchange(
    driver: psycopg.Connection[Any], asked: Sequence[tuple[Statement, Mapping[str, Value]]]
) -> list[list[dict[str, Any]]]:
    """Run the statements in their order, in the transaction under way, or else in one that begins with them; return their rows.

    Raises:
        psycopg.Error: What the first that failed has said. The transaction is to be rolled back then.

    """
    session = _sessions.get(driver)
    if session is None:
        session = _sessions[driver] = _Session(DriverTransformer(driver))
    with driver.lock:
        pgconn = driver.pgconn
        pgconn.enter_pipeline_mode()
        try:
            sent = _send(pgconn, session, asked, begin=not driver.autocommit)
            answers = driver.wait(_answers(pgconn, len(sent)))
        finally:
            _leave(pgconn)
    return _rows(session, sent, answers)


def forget_prepared(driver: psycopg.Connection[Any]) -> None:
    """Prepare everything anew: when it rolls back, the driver lets the server forget all that was prepared."""
    _sessions.pop(driver, None)


def _send(
    pgconn: PGconn, session: _Session, asked: Sequence[tuple[Statement, Mapping[str, Value]]], *, begin: bool
) -> list[_Sent]:
    """Write everything into the driver's buffer, which leaves when it is asked for the answers."""
    sent = []
    fresh: dict[Statement, bytes] = {}
    if begin and pgconn.transaction_status == TransactionStatus.IDLE:
        pgconn.send_query_params(b"BEGIN", None)
        sent.append(_Sent())
    for statement, parameters in asked:
        values = [parameters[name] for name in statement.names]
        name = session.names.get(statement) or fresh.get(statement)
        if name is None:
            name = fresh[statement] = b"step_%d" % next(_numbers)  # no connection has it twice
            pgconn.send_prepare(name, statement.sql, [_type(value) for value in values])
            sent.append(_Sent(statement, name))
        pgconn.send_query_prepared(name, [_text(value) for value in values])
        sent.append(_Sent(statement))
    pgconn.pipeline_sync()
    return sent


def _answers(pgconn: PGconn, expected: int) -> PQGen[list[list[PGresult]]]:
    yield from generators.send(pgconn)
    answers = []
    for _ in range(expected + 1):  # and one that says that these were all
        results = yield from generators.fetch_many(pgconn)
        answers.append(results)
    return answers[:-1]


def _leave(pgconn: PGconn) -> None:
    """Leave the pipeline; a connection with something unread, because the wait was broken off, is of no use any more."""
    try:
        pgconn.exit_pipeline_mode()
    except psycopg.OperationalError:
        pgconn.finish()


def _rows(
    session: _Session, sent: Sequence[_Sent], answers: Sequence[Sequence[PGresult]]
) -> list[list[dict[str, Any]]]:
    rows = []
    for one, (result,) in zip(sent, answers, strict=True):
        if result.status == ExecStatus.FATAL_ERROR:
            raise error_from_result(result)
        if one.statement is None:
            continue
        if one.name is not None:
            session.names[one.statement] = one.name
        else:
            rows.append(_read(session.transformer, result))
    return rows


def _read(transformer: Transformer, result: PGresult) -> list[dict[str, Any]]:
    if not result.ntuples:
        return []
    names = [(result.fname(place) or b"").decode() for place in range(result.nfields)]
    transformer.set_pgresult(result)
    return transformer.load_rows(0, result.ntuples, lambda values: dict(zip(names, values, strict=True)))


def _type(value: Value) -> int:
    match value:
        case None:
            return _UNKNOWN
        case int():
            return _INT8
        case str():
            return _TEXT
        case _:
            return _INT8_ARRAY


def _text(value: Value) -> bytes | None:
    match value:
        case None:
            return None
        case int():
            return b"%d" % value
        case str():
            return value.encode()
        case _:
            return b"{%s}" % b",".join(b"%d" % one for one in value)
