"""How far a verb has come that moves more subtasks than one transaction should.

`turning` stands on the hot row, because whoever decides whether something of the task may start, or whether it has ended, reads
that row. The subtasks whose ids are below it are still to be turned; NULL when no verb is under way.
"""

from alembic import op

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    op.execute("ALTER TABLE task_progress ADD COLUMN turning bigint CHECK (turning >= 0)")
    op.execute("CREATE INDEX task_progress_turning ON task_progress (id) WHERE turning IS NOT NULL")
