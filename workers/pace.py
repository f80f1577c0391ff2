"""How quick each kind has proved in this process, and so how many subtasks one claim may take."""

_NEWEST_WEIGHT = 0.2
_MOST = 500
_MUCH = 3.0


class Pace:
    """A moving average of run times by kind."""

    def __init__(self, batch_seconds: float) -> None:
        self._batch_seconds = batch_seconds
        self._seconds: dict[str, float] = {}
        self._told: dict[str, float] = {}

    def observe(self, kind: str, seconds: float) -> None:
        """Take one run time into account; a slow one counts in full, so that claims shrink at once."""
        known = self._seconds.get(kind)
        if known is None or seconds > known * 4:
            self._seconds[kind] = seconds
        else:
            self._seconds[kind] = known + (seconds - known) * _NEWEST_WEIGHT

    def batch(self, kind: str) -> int:
        """Return how many of the kind fit into the expected work of one claim; one while it is unknown."""
        known = self._seconds.get(kind)
        if known is None:
            return 1
        return max(1, min(_MOST, int(self._batch_seconds / max(known, 1e-6))))

    def news(self) -> dict[str, float]:
        """Return the averages that have changed much since they were last returned."""
        changed = {
            kind: seconds
            for kind, seconds in self._seconds.items()
            if not self._told.get(kind, 0.0) / _MUCH <= seconds <= self._told.get(kind, 0.0) * _MUCH
        }
        self._told.update(changed)
        return changed
