"""What a plain INSERT into the published table means, and a DELETE.

A row without `subtask_count` was inserted by somebody who knows the ten published columns only. It belongs to the account of
the definition that `template_id` names, which hides its secrets from the first moment. Times may come in seconds, as ORMs write
them that take the published struct by its letter, and numbers that ORMs leave at zero are none. Those who insert need rights
on `tasks` alone: what the triggers write beside it, they write with the rights of the tables' owner. Whoever waits for
such rows is told once for each transaction, however many it inserts.

A row can be deleted while nothing of it is out. Its subtasks and records go with it, the history stays.
"""

from alembic import op

revision = "0008"
down_revision = "0007"

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

# Before `tasks_status`, by its name.
INSERTED = (
    """
CREATE FUNCTION tasks_take_inserted() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
DECLARE
    owner text;
    template text;
BEGIN
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

HISTORY = """
CREATE OR REPLACE FUNCTION tasks_keep_history() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
BEGIN
    IF TG_OP = 'INSERT' THEN
        INSERT INTO task_progress (id, account, priority) VALUES (NEW.id, NEW.account, NEW.priority);
        INSERT INTO sync_history (task_id, task_hex, account, task_type, instance_id, extra, state, creator)
        VALUES (NEW.id, NEW.task_id, NEW.account, NEW.task_type, NEW.instance_id, NEW.extra, NEW.state, NEW.creator);
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
    for statement in (MILLISECONDS, *INSERTED, HISTORY, *DELETED, *UNEXPANDED):
        op.execute(statement)
