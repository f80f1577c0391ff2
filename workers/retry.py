"""Which failures of a kind are worth another attempt. Pure."""

from dataclasses import dataclass

from workers.failures import BadArgument, Cancelled, TimedOut


@dataclass(frozen=True, slots=True)
class Retryable:
    """Which exceptions of a kind are worth another attempt: all but `never`, or only `only` where it is given."""

    only: tuple[type[BaseException], ...] = ()
    never: tuple[type[BaseException], ...] = ()

    def covers(self, error: BaseException) -> bool:
        """Tell whether this error may be followed by another attempt. A timeout counts as a `TimeoutError`."""
        if isinstance(error, (BadArgument, Cancelled)):
            return False
        raised = TimeoutError() if isinstance(error, TimedOut) else error
        return not isinstance(raised, self.never) and (not self.only or isinstance(raised, self.only))
