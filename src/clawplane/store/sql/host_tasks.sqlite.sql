-- Statements over a set of jobs or of tasks, which PostgreSQL writes with unnest(:jobs::bigint[]).

-- name: host_tasks_of_jobs
SELECT h.* FROM json_each(:jobs) wanted JOIN host_whole h ON h.job = wanted.value

-- name: host_tasks_of_ids
SELECT h.* FROM json_each(:tasks) wanted JOIN host_whole h ON h.id = wanted.value

-- name: host_results_of_ids
SELECT r.task, r.body, r.created_at, NULL, r.exit_code FROM json_each(:tasks) wanted
JOIN host_result r ON r.task = wanted.value
WHERE NOT EXISTS (SELECT 1 FROM host_fetched f WHERE f.task = r.task)

-- name: delete_behind_jobs
DELETE FROM host_behind WHERE (session_key, job) IN
    (SELECT t.session_key, t.job FROM json_each(:jobs) wanted JOIN host_task t ON t.job = wanted.value)

-- name: delete_host_states
DELETE FROM host_state WHERE job IN (SELECT value FROM json_each(:jobs))

-- name: delete_host_tasks
DELETE FROM host_task WHERE job IN (SELECT value FROM json_each(:jobs))

-- name: delete_host_jobs
DELETE FROM job WHERE id IN (SELECT value FROM json_each(:jobs))

-- name: delete_host_attempts
DELETE FROM attempt WHERE job IN (SELECT value FROM json_each(:jobs))

-- name: delete_host_results
DELETE FROM host_result WHERE task IN (SELECT value FROM json_each(:tasks))

-- name: delete_host_fetched
DELETE FROM host_fetched WHERE task IN (SELECT value FROM json_each(:tasks))

-- name: delete_host_chunks
DELETE FROM log_chunk WHERE stream IN
    (SELECT l.id FROM json_each(:tasks) wanted JOIN log_stream l ON l.subject = wanted.value)

-- name: delete_host_logs
DELETE FROM log_stream WHERE subject IN (SELECT value FROM json_each(:tasks))

-- name: old_pending_host
SELECT s.job FROM host_state s INDEXED BY host_state_aging
WHERE s.status = 'pending' AND s.aging_since IS NOT NULL AND s.aging_since <= :before
    AND NOT EXISTS (SELECT 1 FROM lease l WHERE l.job = s.job) ORDER BY s.aging_since LIMIT :limit

-- name: host_events_of_rare_type
SELECT seq, id, type, created_at, task, task_type, task_status, session_id, origin, dispatch_mode, response_mode,
    entrypoint, details, source
FROM host_event INDEXED BY host_event_type WHERE type = :type AND task = :task ORDER BY seq DESC LIMIT :limit

-- name: host_events_of_rare_type_since
SELECT seq, id, type, created_at, task, task_type, task_status, session_id, origin, dispatch_mode, response_mode,
    entrypoint, details, source
FROM host_event INDEXED BY host_event_type WHERE type = :type AND task = :task AND seq > :since ORDER BY seq LIMIT :limit
