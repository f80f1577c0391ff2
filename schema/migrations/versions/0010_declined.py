"""Which subtasks wait because a worker had no handler for them, so that their delay is not taken for a retry's.

`declined` goes with `scheduled_at`, and says nothing without it: it is set where a worker leaves a subtask to others, and the next
claim takes it back.
"""

from alembic import op

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    op.execute("ALTER TABLE subtasks ADD COLUMN declined boolean NOT NULL DEFAULT false")
