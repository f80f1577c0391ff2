"""The line of tasks that wait for an instance that another task holds (`onDuplicate: "queue"`).

`queued_key` is the duplicate key that a task waits for. It stands on `tasks` because it moves with the state: whoever settles
the holder gives the key to the first of the line, and what is settled waits for nothing.
"""

from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.execute(
        """
ALTER TABLE tasks
    ADD COLUMN queued_key text,
    ADD CONSTRAINT queued_holds_nothing CHECK (queued_key IS NULL OR (duplicate_key IS NULL AND finalized_at IS NULL))
"""
    )
    op.execute("CREATE INDEX tasks_queued ON tasks (queued_key, id) WHERE queued_key IS NOT NULL")
