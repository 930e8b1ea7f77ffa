-- Statements over a set of jobs. PostgreSQL writes them with unnest(:jobs::bigint[]).

-- name: host_tasks_of_jobs
SELECT t.job, t.id, t.owner, t.type, t.created_at, t.session_id, t.session_key, t.priority, t.not_before, t.on_loss,
    t.callback_channel, t.callback_url, t.asked, t.callback_token, t.timeout_ms, t.deliver_to,
    s.status, s.approval, s.started_at, s.completed_at, s.attempt, s.runner, s.reason, s.consumed, s.server_delivers
FROM json_each(:jobs) wanted JOIN host_task t ON t.job = wanted.value JOIN host_state s ON s.job = t.job

-- name: vacuum_database
PRAGMA incremental_vacuum
