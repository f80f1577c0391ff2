"""Who is let in to store something, who waits for it, and who is sent away."""

import asyncio
from collections.abc import Collection

import pytest

from schema.errors import Busy
from taskserver.api import submission_gate
from taskserver.api.submission_gate import SubmissionGate

NOTHING: frozenset[str] = frozenset()
LONG = 30.0
SHORT = 0.01


def claims(*names: str) -> frozenset[str]:
    return frozenset(names)


async def entering(gate: SubmissionGate, wanted: Collection[str]) -> "asyncio.Task[None]":
    """Begin to enter, and return once that waits or has been done."""

    async def enter() -> None:
        async with gate.entered(wanted):
            pass

    task = asyncio.create_task(enter())
    for _ in range(3):
        await asyncio.sleep(0)
    return task


def test_so_many_are_let_in_and_no_more() -> None:
    gate = SubmissionGate(most=3)

    assert [gate.try_enter(NOTHING) for _ in range(4)] == [True, True, True, False]
    gate.leave(NOTHING)
    assert [gate.try_enter(NOTHING) for _ in range(2)] == [True, False]


def test_two_that_claim_the_same_are_let_in_and_others_pass_them() -> None:
    gate = SubmissionGate(most=10)

    assert [gate.try_enter(claims("a", name)) for name in "xyz"] == [True, True, False]
    assert [gate.try_enter(claims("b")), gate.try_enter(claims("z"))] == [True, True]
    gate.leave(claims("a", "x"))
    assert [gate.try_enter(claims("a")), gate.try_enter(claims("a"))] == [True, False]


def test_who_waits_goes_in_as_soon_as_there_is_room_and_in_turn() -> None:
    async def scenario() -> list[bool]:
        gate = SubmissionGate(most=2, seconds=LONG)
        assert gate.try_enter(claims("a"))
        assert gate.try_enter(claims("a"))
        same, other = await entering(gate, claims("a")), await entering(gate, claims("b"))

        await asyncio.to_thread(gate.leave, claims("a"))
        await same
        await other
        return [gate.try_enter(claims("a")), gate.try_enter(NOTHING)]

    assert asyncio.run(scenario()) == [True, False]


def test_who_lacks_only_room_does_not_wait_behind_who_lacks_a_claim() -> None:
    async def scenario() -> None:
        gate = SubmissionGate(most=3, seconds=LONG)
        assert all(gate.try_enter(one) for one in (claims("a"), claims("a"), NOTHING))
        same, other = await entering(gate, claims("a")), await entering(gate, claims("b"))

        gate.leave(NOTHING)
        await other
        assert not same.done()
        gate.leave(claims("a"))
        await same

    asyncio.run(scenario())


def test_who_waits_too_long_for_what_others_claim_is_sent_away() -> None:
    async def scenario() -> bool:
        gate = SubmissionGate(most=3, seconds=SHORT)
        assert all(gate.try_enter(claims("a")) for _ in range(2))
        with pytest.raises(Busy, match="can be made again"):
            await (await entering(gate, claims("a")))
        gate.leave(claims("a"))
        return gate.try_enter(claims("a"))

    assert asyncio.run(scenario())


def test_room_is_waited_for_longer_and_not_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        gate = SubmissionGate(most=1, seconds=SHORT)
        assert gate.try_enter(claims("a"))
        patient = await entering(gate, claims("b"))
        done, _ = await asyncio.wait([patient], timeout=20 * SHORT)
        assert not done
        gate.leave(claims("a"))
        await patient

        monkeypatch.setattr(submission_gate, "_ROOM_SECONDS", SHORT)
        assert gate.try_enter(claims("a"))
        with pytest.raises(Busy):
            await (await entering(gate, claims("b")))

    asyncio.run(scenario())


def test_too_long_a_line_is_not_joined(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        monkeypatch.setattr(submission_gate, "_MOST_WAITING", 1)
        gate = SubmissionGate(most=1, seconds=LONG)
        assert gate.try_enter(NOTHING)
        first = await entering(gate, NOTHING)
        with pytest.raises(Busy):
            await (await entering(gate, NOTHING))
        gate.leave(NOTHING)
        await first

    asyncio.run(scenario())


def test_who_is_cancelled_leaves_no_trace() -> None:
    async def scenario() -> list[bool]:
        gate = SubmissionGate(most=1, seconds=LONG)
        assert gate.try_enter(NOTHING)
        waiting, admitted = await entering(gate, NOTHING), await entering(gate, NOTHING)
        waiting.cancel()
        await asyncio.wait([waiting])

        gate.leave(NOTHING)  # lets the other in, which is cancelled before it learns of it
        admitted.cancel()
        await asyncio.wait([admitted])
        return [gate.try_enter(NOTHING), gate.try_enter(NOTHING)]

    assert asyncio.run(scenario()) == [True, False]


def test_what_fails_inside_is_outside_again() -> None:
    async def fails(gate: SubmissionGate) -> None:
        async with gate.entered(claims("a")):
            raise ValueError("inside")

    gate = SubmissionGate(most=1)
    with pytest.raises(ValueError, match="inside"):
        asyncio.run(fails(gate))

    assert gate.try_enter(claims("a"))
