"""How the BK-CMDB dialect asks: for the tasks of one type by their age, and for rows of the sync history by a task's hex id.

Without these both read their whole table; the history outlives its tasks, so it cannot be found through them.
"""

from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    op.execute("CREATE INDEX tasks_type ON tasks (account, task_type, created_at, id)")
    op.execute("CREATE INDEX sync_history_hex ON sync_history (task_hex)")
