"""What operators' verbs need: why a task stops, and what is still to be rolled back.

`stopping` and `undoing` stand on the hot row, because the step that ends a subtask decides by them. A subtask that waits
to be rolled back, or has been, is PENDING behind a gate, so that every question about what may start leaves it out.
"""

from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.execute(
        """
ALTER TABLE task_progress
    ADD COLUMN stopping text CHECK (stopping IN ('CANCEL', 'DEADLINE')),
    ADD COLUMN undoing integer CHECK (undoing >= 0)
"""
    )
    op.execute("ALTER TABLE subtasks DROP CONSTRAINT subtasks_gate_check")
    op.execute(
        "ALTER TABLE subtasks ADD CONSTRAINT subtasks_gate_check"
        " CHECK (gate IN ('when', 'signal', 'foreach', 'downstreams', 'undone'))"
    )
