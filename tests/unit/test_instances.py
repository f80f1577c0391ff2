"""The key of an instance must fit into an index, and tell instances apart all the same."""

import pytest

from schema.instances import duplicate_key

LONG_NAME = "类" * 200
INDEX_ROW_BYTES = 2_704


def key(extra: str, *, account: str = "0", task_type: str = "inline", instance_id: int = 1) -> str:
    found = duplicate_key(
        account=account, task_type=task_type, instance_id=instance_id, extra=extra, on_duplicate="reject"
    )
    assert found is not None
    return found


@pytest.mark.parametrize("character", ["x", "ü", "类", "\U0001f600", "\x01", '"'])
def test_the_longest_members_fit_into_an_index(character: str) -> None:
    longest = [key(character * 399 + end, account="a" * 128, task_type=LONG_NAME) for end in "ab"]

    assert all(len(one.encode()) < INDEX_ROW_BYTES for one in longest)
    assert len(set(longest)) == len(longest)


def test_a_usual_key_can_be_read() -> None:
    assert key("x") == '["0", "inline", 1, "x"]'


@pytest.mark.parametrize(("instance_id", "on_duplicate"), [(None, "reject"), (1, "allow")])
def test_what_has_no_instance_or_allows_duplicates_has_no_key(instance_id: int | None, on_duplicate: str) -> None:
    members = {"account": "0", "task_type": "inline", "extra": ""}

    assert duplicate_key(**members, instance_id=instance_id, on_duplicate=on_duplicate) is None
