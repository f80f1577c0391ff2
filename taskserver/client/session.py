"""Calls that are made again where that is safe.

A call is repeated when nobody answered it and doing it twice does no more than doing it once, or when it is certain that
it never arrived. What a server refused is never repeated. Holds no state of a call, so threads and tasks may share it.
"""

from collections.abc import AsyncGenerator
from typing import Any

from httpx_sse import ServerSentEvent
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, wait_random_exponential

from taskserver.client.calls import Call
from taskserver.client.connections import Connection
from taskserver.client.errors import NotFound, ServerUnreachable
from taskserver.client.following import Followed
from taskserver.client.replies import NO_ANSWER, Reply, no_answer, reply_of

TIMEOUT_SECONDS = 60.0
PATIENCE_SECONDS = 10.0
WAITING_PATIENCE_SECONDS = 60.0
_backoff = wait_random_exponential(multiplier=0.2, max=2)


class Session:
    """One principal's calls to one server."""

    def __init__(self, connection: Connection, *, patience_seconds: float, waiting_patience_seconds: float) -> None:
        self._connection = connection
        self.patience_seconds = patience_seconds
        self.waiting_patience_seconds = waiting_patience_seconds

    @property
    def url(self) -> str:
        """The server's address."""
        return self._connection.url

    async def call(self, call: Call, *, patience_seconds: float | None = None) -> Reply:
        """Make a call, again while that is safe and the patience lasts.

        Raises:
            ServerUnreachable: Nobody answered; whether a change was made is then unknown.
            ServerRefused: The server answered with an error.

        """
        may_be_done = False

        async def attempt() -> Reply:
            nonlocal may_be_done
            try:
                return await self._exchange(call)
            except ServerUnreachable as error:
                may_be_done |= error.may_have_arrived
                raise
            except NotFound:
                if may_be_done and call.method == "DELETE":
                    return Reply(None)  # removed by the attempt whose answer was lost
                raise

        patience = self.patience_seconds if patience_seconds is None else patience_seconds
        reply: Reply = await self._repeating(call, patience)(attempt)
        return reply

    async def data(self, call: Call) -> Any:
        """Make a call like `call` and return what the answer holds."""
        return (await self.call(call)).data

    async def follow(self, call: Call) -> AsyncGenerator[ServerSentEvent, None]:
        """Yield the events of a stream up to its end, over as many connections as it takes.

        Raises:
            ServerUnreachable: The stream broke off and could not be opened again in time.
            ServerRefused: The server answered with an error.

        """
        stream = Followed(self._connection, call)
        try:
            while True:
                repeating = self._repeating(call, self.waiting_patience_seconds)
                event: ServerSentEvent | None = await repeating(stream.next)
                if event is None:
                    return
                yield event
        finally:
            await stream.close()

    async def close(self) -> None:
        """Close the connections."""
        await self._connection.close()

    async def _exchange(self, call: Call) -> Reply:
        try:
            response = await self._connection.exchange(call)
        except NO_ANSWER as error:
            raise no_answer(error, self.url) from error
        return reply_of(response, self.url)

    def _repeating(self, call: Call, patience_seconds: float) -> AsyncRetrying:
        def is_safe(error: BaseException) -> bool:
            return isinstance(error, ServerUnreachable) and (call.is_repeatable or not error.may_have_arrived)

        return AsyncRetrying(
            sleep=self._connection.pause,
            retry=retry_if_exception(is_safe),
            wait=_wait,
            stop=_Patience(patience_seconds),
            reraise=True,
        )


class _Patience:
    """Ends the repeating so long after the first failure: a call that was held for long before it has lost nothing."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._first_failure: float | None = None

    def __call__(self, state: RetryCallState) -> bool:
        assert state.outcome_timestamp is not None  # asked only after an attempt
        if self._first_failure is None:
            self._first_failure = state.outcome_timestamp
        return state.outcome_timestamp + state.upcoming_sleep > self._first_failure + self._seconds


def _wait(state: RetryCallState) -> float:
    error = state.outcome.exception() if state.outcome is not None else None
    asked_for = error.retry_after_seconds if isinstance(error, ServerUnreachable) else 0.0
    return asked_for + _backoff(state)
