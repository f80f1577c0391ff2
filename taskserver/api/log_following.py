"""A subtask's log as events, while it is written.

A mark tells that there is more, then the text is read from the cursor on: so nothing is lost or sent twice, whatever the
marks do. What is read after a mark holds all that the mark tells of; hence the mark that is the last is asked for before
the text that is. Followers who are at the same place read together.
"""

from collections.abc import AsyncGenerator, Callable
from dataclasses import replace
from functools import partial

import anyio

from schema.errors import NotFound, Unavailable
from schema.identity import SubtaskId
from taskserver.api.event_stream import event
from taskserver.api.polling import Following
from taskserver.api.waiting import Watch
from taskserver.queries.logs import Cursor, LogMark, LogQuestion
from taskserver.views.subtasks import LogText

# Many may follow, and each holds what its client has not taken yet.
_PIECE_BYTES = 128 * 1024
_RETRY_SECONDS = 0.5

ReadLog = Callable[[LogQuestion], LogText]


def in_pieces(question: LogQuestion) -> LogQuestion:
    """Return the question for a piece of its answer."""
    return replace(question, most_bytes=_PIECE_BYTES)


async def followed_log(
    watch: Watch, subtask: SubtaskId, read: ReadLog, question: LogQuestion, part: LogText | None
) -> AsyncGenerator[bytes, None]:
    """Yield the log from the part on that answers the question, until nothing more will come."""
    mark: LogMark | None = None
    with watch.logs([subtask]) as following:
        while part is not None:
            if part.log or part.cursor != str(question.after):
                yield event("log", LogText(log=part.log, cursor=part.cursor), id_=part.cursor)
            question = in_pieces(replace(question, after=Cursor.parse(part.cursor), tail=None))
            if not part.more:
                if mark is not None and mark.is_last(question.attempt):
                    yield event("end", {"state": mark.state})
                    return
                mark = await following.other_than(subtask, mark)
                if mark is None:
                    return  # who comes back is told why, or is served by another server
            part = await _patiently(watch, following, (subtask, question, mark), partial(read, question))


async def _patiently(
    watch: Watch, following: Following[SubtaskId, LogMark], key: object, read: Callable[[], LogText]
) -> LogText | None:
    """Read, again and again while PostgreSQL is away; None when the subtask is gone or the server is about to end."""
    while not following.stopped:
        try:
            return await watch.log_reads.read(key, read)
        except Unavailable:
            await anyio.sleep(_RETRY_SECONDS)
        except NotFound:
            return None
    return None
