"""What a plain INSERT into the published table means, an UPDATE, and a DELETE.

The published columns are never NULL: numbers and texts that are not there are 0 and empty, as readers with plain types need them,
and as an ORM makes the table that migrates it to the published struct. Triggers fill what an ORM sends as NULL, also where such a
migration has dropped the defaults.

A row without `subtask_count` was inserted by somebody who knows the ten published columns only. It belongs to the account of
the definition that `template_id` names, which hides its secrets from the first moment. Times may come in seconds, as ORMs write
them that take the published struct by its letter, and numbers that ORMs leave at zero are none. Those who insert need rights
on `tasks` alone: what the triggers write beside it, they write with the rights of the tables' owner. Whoever waits for
such rows is told once for each transaction, however many it inserts. A row that comes as done or failed is another system's
past: it is stored as that, and nothing of it runs.

Once a row is taken, it tells what was started: what it was started with stays. A row can be deleted while nothing of it is out. Its subtasks and records go with it, the history stays.
"""

from alembic import op

revision = "0008"
down_revision = "0007"

# All in one pass, which moves no `updated_at`, for it writes the table anew instead of updating rows.
_REFERENCES = ("integration_id", "user_id", "client_id", "account_id", "template_id")
NOT_NULL = "ALTER TABLE tasks " + ", ".join(
    f"ALTER COLUMN {name} TYPE {kind} USING coalesce({name}, {nothing}),"
    f" ALTER COLUMN {name} SET DEFAULT {nothing}, ALTER COLUMN {name} SET NOT NULL"
    for name, kind, nothing in (*((name, "bigint", "0") for name in _REFERENCES), ("argument", "text", "''"))
)

# A number below is a time in seconds (until the year 5138), one above in milliseconds (since March 1973).
MILLISECONDS = """
CREATE FUNCTION tasks_milliseconds(given bigint) RETURNS bigint LANGUAGE sql STABLE AS $$
SELECT CASE
    WHEN given IS NULL OR given = 0 THEN (extract(epoch FROM now()) * 1000)::bigint
    WHEN given BETWEEN 1 AND 99999999999 THEN given * 1000
    ELSE given
END
$$
"""

# Triggers fire in the order of their names: this one before those that look at what it fills.
FILLED = (
    """
CREATE FUNCTION tasks_fill() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    NEW.integration_id := coalesce(NEW.integration_id, 0);
    NEW.user_id := coalesce(NEW.user_id, 0);
    NEW.client_id := coalesce(NEW.client_id, 0);
    NEW.account_id := coalesce(NEW.account_id, 0);
    NEW.template_id := coalesce(NEW.template_id, 0);
    NEW.argument := coalesce(NEW.argument, '');
    NEW.created_at := coalesce(NEW.created_at, tasks_milliseconds(NULL));
    NEW.updated_at := coalesce(NEW.updated_at, tasks_milliseconds(NULL));
    RETURN NEW;
END $$
""",
    f"CREATE TRIGGER tasks_filled BEFORE INSERT OR UPDATE OF {', '.join(_REFERENCES)}, argument ON tasks FOR EACH ROW WHEN ("
    + " OR ".join(f"NEW.{name} IS NULL" for name in (*_REFERENCES, "argument", "created_at", "updated_at"))
    + ") EXECUTE FUNCTION tasks_fill()",
)

# Before `tasks_status`, by its name. Times are cut to those that programs can read (until the year 9999).
INSERTED = (
    """
CREATE FUNCTION tasks_take_inserted() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
DECLARE
    owner text;
    template text;
BEGIN
    IF NEW.status NOT BETWEEN 0 AND 3 THEN
        RAISE EXCEPTION 'status % is not a status: use 0 (waiting) or 1, which start, or 2 (done) or 3 (failed), which do not',
            NEW.status USING ERRCODE = 'check_violation';
    END IF;
    IF NEW.id IS NULL OR NEW.id = 0 THEN
        NEW.id := nextval('tasks_id_seq');
    END IF;
    NEW.created_at := tasks_milliseconds(NEW.created_at);
    NEW.updated_at := tasks_milliseconds(NEW.updated_at);
    SELECT account, name INTO owner, template FROM task_definitions
    WHERE id = NEW.template_id AND NEW.account IN ('0', account);
    IF FOUND THEN
        NEW.account := owner;
        NEW.definition_id := NEW.template_id;
        NEW.task_type := template;
    END IF;
    NEW.name := coalesce(nullif(NEW.name, ''), template, 'task');
    NEW.creator := coalesce(nullif(NEW.creator, ''), 'sql:' || session_user);
    IF NEW.status IN (2, 3) THEN
        NEW.subtask_count := 0;
        NEW.state := CASE NEW.status WHEN 2 THEN 'SUCCESSFUL' ELSE 'FAILED' END;
        NEW.started_at := to_timestamp(least(greatest(NEW.created_at, 0), 253402300799000) / 1000.0);
        NEW.finalized_at := to_timestamp(least(greatest(NEW.created_at, NEW.updated_at, 0), 253402300799000) / 1000.0);
        NEW.error := CASE NEW.status WHEN 3 THEN jsonb_build_object('type', 'inserted', 'message', 'inserted as failed') END;
    END IF;
    RETURN NEW;
END $$
""",
    "CREATE TRIGGER tasks_inserted BEFORE INSERT ON tasks FOR EACH ROW WHEN (NEW.subtask_count IS NULL)"
    " EXECUTE FUNCTION tasks_take_inserted()",
    """
CREATE FUNCTION tasks_keep_created() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    NEW.created_at := CASE WHEN coalesce(NEW.created_at, 0) = 0 THEN OLD.created_at ELSE tasks_milliseconds(NEW.created_at) END;
    RETURN NEW;
END $$
""",
    "CREATE TRIGGER tasks_created BEFORE UPDATE OF created_at ON tasks FOR EACH ROW EXECUTE FUNCTION tasks_keep_created()",
)

# What an ORM inserted, it may save again, also where the definition has added arguments since.
TAKEN = (
    "ALTER TABLE tasks ADD COLUMN inserted_digest bytea",
    """
CREATE FUNCTION tasks_keep_taken() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
    changed text[];
BEGIN
    IF sha256(convert_to(NEW.argument, 'UTF8')) = OLD.inserted_digest THEN
        NEW.argument := OLD.argument;
    END IF;
    changed := array_remove(ARRAY[
        CASE WHEN NEW.argument <> OLD.argument THEN 'argument' END,
        CASE WHEN NEW.template_id <> OLD.template_id THEN 'template_id' END
    ], NULL);
    IF changed <> '{}' THEN
        RAISE EXCEPTION 'task % has been taken: its % cannot be changed any more', OLD.id, array_to_string(changed, ' and ')
            USING ERRCODE = 'object_not_in_prerequisite_state', HINT = 'Insert another row with what is to run.';
    END IF;
    RETURN NEW;
END $$
""",
    "CREATE TRIGGER tasks_taken BEFORE UPDATE OF argument, template_id ON tasks FOR EACH ROW"
    " WHEN (OLD.subtask_count IS NOT NULL AND (NEW.argument <> OLD.argument OR NEW.template_id <> OLD.template_id))"
    " EXECUTE FUNCTION tasks_keep_taken()",
)

# Its creator is whom the task is for: the user that the request of a callback task named, else who made it.
HISTORY = """
CREATE OR REPLACE FUNCTION tasks_keep_history() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
BEGIN
    IF TG_OP = 'INSERT' THEN
        INSERT INTO task_progress (id, account, priority) VALUES (NEW.id, NEW.account, NEW.priority);
        INSERT INTO sync_history (task_id, task_hex, account, task_type, instance_id, extra, state, creator, error)
        VALUES (NEW.id, NEW.task_id, NEW.account, NEW.task_type, NEW.instance_id, NEW.extra, NEW.state,
            coalesce(NEW.header ->> 'X-Bkcmdb-User', NEW.header ->> 'BK_User', NEW.creator), NEW.error);
        IF NEW.subtask_count IS NULL THEN
            PERFORM pg_notify('taskserver_inserted', '');
        END IF;
    ELSIF NEW.state <> OLD.state THEN
        UPDATE sync_history SET state = NEW.state, error = NEW.error, updated_at = now() WHERE task_id = NEW.id;
    END IF;
    RETURN NULL;
END $$
"""

DELETED = (
    """
CREATE FUNCTION tasks_refuse_delete() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF OLD.state IN ('RUNNING', 'SUSPENDED') THEN
        RAISE EXCEPTION 'task % is %: it cannot be deleted while something of it may run', OLD.id, OLD.state
            USING ERRCODE = 'object_in_use', HINT = 'Cancel it first, and delete it once it is REVOKED.';
    END IF;
    RETURN OLD;
END $$
""",
    "CREATE TRIGGER tasks_deletable BEFORE DELETE ON tasks FOR EACH ROW EXECUTE FUNCTION tasks_refuse_delete()",
    """
CREATE FUNCTION tasks_delete_parts() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
DECLARE
    parts bigint[];
BEGIN
    parts := ARRAY(SELECT d.id FROM subtask_specs AS d JOIN gone AS g ON g.id = d.task_id);
    DELETE FROM subtask_logs WHERE subtask_id = ANY (parts);
    DELETE FROM subtask_attempts WHERE subtask_id = ANY (parts);
    DELETE FROM subtask_results WHERE subtask_id = ANY (parts);
    DELETE FROM subtask_signals WHERE subtask_id = ANY (parts);
    DELETE FROM subtask_edges WHERE task_id IN (SELECT id FROM gone);
    DELETE FROM subtasks WHERE id = ANY (parts);
    DELETE FROM subtask_specs WHERE id = ANY (parts);
    DELETE FROM operations WHERE task_id IN (SELECT id FROM gone);
    UPDATE sync_history AS h SET state = 'REVOKED', updated_at = now(),
        error = jsonb_build_object('type', 'deleted', 'message', 'the task was deleted before it started')
    FROM gone AS g WHERE h.task_id = g.id AND g.finalized_at IS NULL;
    RETURN NULL;
END $$
""",
    "CREATE TRIGGER tasks_deleted AFTER DELETE ON tasks REFERENCING OLD TABLE AS gone FOR EACH STATEMENT"
    " EXECUTE FUNCTION tasks_delete_parts()",
)

# By turns between accounts, so that one that inserts very many keeps no other waiting.
UNEXPANDED = (
    "DROP INDEX tasks_unexpanded",
    "CREATE INDEX tasks_unexpanded ON tasks (account, priority DESC, id) WHERE subtask_count IS NULL AND state = 'CREATED'",
)


def upgrade() -> None:
    for statement in (NOT_NULL, MILLISECONDS, *FILLED, *INSERTED, *TAKEN, HISTORY, *DELETED, *UNEXPANDED):
        op.execute(statement)
