"""Which kinds each worker can run, so that it can be told why a subtask of a kind fails or waits.

`kinds` has the newest registration of each name, whoever made it: it cannot tell which of the live workers knows a kind.
NULL stands for a worker of an earlier version, which has not said.
"""

from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    op.execute("ALTER TABLE workers ADD COLUMN kinds text[]")
