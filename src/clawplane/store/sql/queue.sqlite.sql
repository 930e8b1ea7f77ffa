-- Statements over a set of ids. PostgreSQL writes them with unnest(:jobs::bigint[]), and pick_ready with SKIP LOCKED.

-- name: leases_of_jobs
SELECT l.job, l.fence, l.nonce, l.attempt, l.confirmed_at, l.cancel, j.kind, j.caps, j.ready_at, j.max_attempts,
       l.runner, j.subject, l.deadline_at, j.timeout_ms
FROM json_each(:jobs) wanted JOIN lease l ON l.job = wanted.value JOIN job j ON j.id = l.job

-- name: claims_of_jobs
SELECT l.job, l.fence, l.nonce, l.attempt, l.confirmed_at, l.cancel, j.kind, j.caps, j.ready_at, j.max_attempts
FROM json_each(:jobs) wanted JOIN lease l ON l.job = wanted.value JOIN job j ON j.id = l.job

-- name: offers_of_jobs
SELECT l.job, l.fence, l.nonce, l.runner, l.offer_until, l.confirmed_at, l.cancel, j.kind, j.caps, j.timeout_ms
FROM json_each(:jobs) wanted JOIN lease l ON l.job = wanted.value JOIN job j ON j.id = l.job

-- name: confirm_leases
UPDATE lease SET confirmed_at = :now, deadline_at = :deadline_at WHERE job IN (SELECT value FROM json_each(:jobs))

-- name: delete_leases
DELETE FROM lease WHERE job IN (SELECT value FROM json_each(:jobs))

-- name: delete_ready_upto
DELETE FROM ready WHERE caps = :caps AND (ready_at, job) <= (:ready_at, :job)

-- name: waiting_jobs
SELECT r.job, j.kind, j.subject, j.caps, r.ready_at
FROM json_each(:jobs) wanted JOIN job j ON j.id = wanted.value
JOIN ready r ON r.caps = j.caps AND r.ready_at = j.ready_at AND r.job = j.id

-- name: delete_ready
DELETE FROM ready WHERE caps = :caps AND ready_at = :ready_at AND job = :job

-- name: delayed_jobs
SELECT t.job, j.kind, j.subject, j.caps, t.due_at FROM timer t JOIN job j ON j.id = t.job
WHERE t.job IN (SELECT value FROM json_each(:jobs))

-- name: delete_timer
DELETE FROM timer WHERE due_at = :due_at AND job = :job

-- name: ended_attempts
SELECT a.job, a.fence, a.nonce FROM json_each(:claims) wanted
JOIN attempt a ON a.job = wanted.value ->> 0 AND a.fence = wanted.value ->> 1
WHERE a.outcome IS NOT NULL
