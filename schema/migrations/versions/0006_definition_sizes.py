"""What a list of definitions shows of each, and how large each is, without reading the documents themselves.

The size counts characters as they are answered: what is stored is compressed, up to a hundredth of that.
"""

from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    op.execute(
        """
ALTER TABLE task_definitions
    ADD COLUMN document_bytes integer NOT NULL GENERATED ALWAYS AS (octet_length(document::text)) STORED,
    ADD COLUMN summary jsonb NOT NULL GENERATED ALWAYS AS (
        CASE WHEN jsonb_typeof(document) = 'object' THEN document - 'subtasks' - 'arguments' ELSE '{}' END
    ) STORED,
    ADD COLUMN subtask_count integer GENERATED ALWAYS AS (
        CASE WHEN jsonb_typeof(document -> 'subtasks') = 'array' THEN jsonb_array_length(document -> 'subtasks') END
    ) STORED
"""
    )
