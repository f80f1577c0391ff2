"""Noticing that a slice's subtask takes long."""

import threading

from workers.watchdog import Watchdog

_SECONDS = 5


def test_a_slow_subtask_makes_its_unit_give_way_once() -> None:
    gave_way: list[str] = []
    called = threading.Event()

    def give_way() -> None:
        gave_way.append("once")
        called.set()

    watchdog = Watchdog(0.01)
    with watchdog.watching(give_way, enabled=True):
        watchdog.begin(may_give_way=True)
        assert called.wait(_SECONDS)
        watchdog.end()

    assert gave_way == ["once"]


def test_who_has_nothing_to_give_is_left_alone() -> None:
    called, seen = threading.Event(), threading.Event()
    watchdog = Watchdog(0.01)
    with watchdog.watching(called.set, enabled=True):
        watchdog.begin(may_give_way=False)
        watchdog.end()
    with watchdog.watching(seen.set, enabled=True):
        watchdog.begin(may_give_way=True)
        assert seen.wait(_SECONDS)

    assert not called.is_set()


def test_the_end_of_a_batch_waits_for_a_giving_way_under_way() -> None:
    begun, go_on, ended = threading.Event(), threading.Event(), threading.Event()

    def give_way() -> None:
        begun.set()
        assert go_on.wait(_SECONDS)

    def end() -> None:
        watchdog.end()
        ended.set()

    watchdog = Watchdog(0.01)
    with watchdog.watching(give_way, enabled=True):
        watchdog.begin(may_give_way=True)
        assert begun.wait(_SECONDS)
        runner = threading.Thread(target=end)
        runner.start()
        assert not ended.wait(0.05)
        go_on.set()
        assert ended.wait(_SECONDS)
        runner.join()
