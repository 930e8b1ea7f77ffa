-- name: subtasks_of_jobs
SELECT t.job, t.run, t.status, t.row_count
FROM json_each(:jobs) wanted JOIN subtask t ON t.job = wanted.value

-- name: set_subtask_status
UPDATE subtask SET status = :status WHERE job IN (SELECT value FROM json_each(:jobs))

-- name: start_runs
UPDATE run_state SET status = 'running', started_at = :now
WHERE status = 'ready' AND run IN (SELECT value FROM json_each(:runs))
RETURNING (SELECT slug FROM run WHERE id = run_state.run), (SELECT owner FROM run WHERE id = run_state.run)

-- name: runs_without_work
SELECT s.run, r.slug, r.owner, s.status, s.succeeded, s.failed, s.aborted
FROM json_each(:runs) wanted JOIN run_state s ON s.run = wanted.value JOIN run r ON r.id = s.run
WHERE s.ready = 0 AND s.running = 0 AND s.finished_at IS NULL

-- name: shipping_of_jobs
SELECT l.job, l.fence, l.stored, j.subject, t.run, s.last_ordinal
FROM json_each(:jobs) wanted JOIN lease l ON l.job = wanted.value JOIN job j ON j.id = l.job
LEFT JOIN subtask t ON t.job = l.job LEFT JOIN run_state s ON s.run = t.run
WHERE l.confirmed_at IS NOT NULL

-- name: upserted_rows
SELECT u.digest, u.ordinal, c.job, c.body
FROM json_each(:digests) wanted JOIN upsert u ON u.run = :run AND u.digest = wanted.value
JOIN row_chunk c ON c.run = u.run AND c.first = u.ordinal
