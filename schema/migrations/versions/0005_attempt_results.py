"""What a handler returned although it had been asked to stop: the subtask has failed, the attempt keeps the result."""

from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    op.execute("ALTER TABLE subtask_attempts ADD COLUMN result jsonb")
