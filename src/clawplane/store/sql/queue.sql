-- The queue and the lease. `jobs` parameters are JSON arrays of ids; see queue.sqlite.sql for those statements.

-- name: insert_job
INSERT INTO job (id, kind, subject, caps, ready_at, timeout_ms, max_attempts, silence_ms, spec)
VALUES (:id, :kind, :subject, :caps, :ready_at, :timeout_ms, :max_attempts, :silence_ms, :spec)

-- name: insert_ready
INSERT INTO ready (caps, ready_at, job, attempts) VALUES (:caps, :ready_at, :job, :attempts)

-- name: insert_timer
INSERT INTO timer (due_at, job, attempts) VALUES (:due_at, :job, :attempts)

-- name: due_timers
SELECT t.job, t.attempts, j.caps, j.ready_at, t.due_at FROM timer t JOIN job j ON j.id = t.job WHERE t.due_at <= :now

-- name: delete_due_timers
DELETE FROM timer WHERE due_at <= :now

-- name: pick_ready
SELECT r.ready_at, r.job, r.attempts, j.kind, j.subject, j.timeout_ms, j.silence_ms, j.spec, r.caps
FROM ready r JOIN job j ON j.id = r.job
WHERE r.caps = :caps ORDER BY r.ready_at, r.job LIMIT :count

-- name: insert_lease
INSERT INTO lease (job, fence, nonce, runner, attempt, offered_at, offer_until, silence_ms)
VALUES (:job, :fence, :nonce, :runner, :attempt, :offered_at, :offer_until, :silence_ms)

-- name: cancel_lease
UPDATE lease SET cancel = :cancel WHERE job = :job

-- name: insert_attempt
INSERT INTO attempt (ended_at, ended, outcome, job, fence, nonce, attempt, runner, offered_at, confirmed_at)
SELECT :ended_at, :ended, :outcome, job, fence, nonce, attempt, runner, offered_at, confirmed_at
FROM lease WHERE job = :job

-- name: attempts_of_job
SELECT job, attempt, fence, runner, offered_at, confirmed_at, ended_at, ended, outcome
FROM attempt WHERE job = :job ORDER BY fence

-- name: waiting_caps
SELECT caps FROM queue_count WHERE ready > 0

-- name: next_value
INSERT INTO counter (name, value) VALUES (:name, :step)
ON CONFLICT (name) DO UPDATE SET value = counter.value + excluded.value RETURNING value

-- name: counter_value
SELECT value FROM counter WHERE name = :name

-- name: count_jobs
INSERT INTO queue_count (caps, ready, offered, leased) VALUES (:caps, :ready, :offered, :leased)
ON CONFLICT (caps) DO UPDATE SET ready = queue_count.ready + excluded.ready,
    offered = queue_count.offered + excluded.offered, leased = queue_count.leased + excluded.leased

-- name: queue_depth
SELECT caps, ready, offered, leased FROM queue_count

-- name: highest_job
SELECT max(id) FROM job

-- name: lost_leases
SELECT l.job, CASE WHEN l.confirmed_at IS NULL THEN 'offer_expired'
                   WHEN l.deadline_at <= :now THEN 'deadline' ELSE 'runner_lost' END
FROM (SELECT job, fence, runner, confirmed_at, offer_until, deadline_at,
             CASE WHEN silence_ms > :silence THEN silence_ms ELSE :silence END AS patience FROM lease) l
LEFT JOIN runner_seen s ON s.runner = l.runner
WHERE CASE WHEN l.confirmed_at IS NULL THEN l.offer_until <= :now
           ELSE l.deadline_at <= :now
                OR (l.confirmed_at + l.patience <= :now AND coalesce(s.seen_at, 0) + l.patience <= :now) END
ORDER BY l.fence

-- name: next_expiry
SELECT min(CASE WHEN l.confirmed_at IS NULL THEN l.offer_until
                WHEN l.deadline_at <= l.confirmed_at + l.patience OR l.deadline_at <= coalesce(s.seen_at, 0) + l.patience
                THEN l.deadline_at
                WHEN coalesce(s.seen_at, 0) > l.confirmed_at THEN s.seen_at + l.patience
                ELSE l.confirmed_at + l.patience END)
FROM (SELECT runner, confirmed_at, offer_until, deadline_at,
             CASE WHEN silence_ms > :silence THEN silence_ms ELSE :silence END AS patience FROM lease) l
LEFT JOIN runner_seen s ON s.runner = l.runner

-- name: next_timer
SELECT min(due_at) FROM timer

-- name: begun_attempt
SELECT 1 FROM attempt WHERE job = :job AND fence = :fence AND nonce = :nonce AND runner = :runner
    AND confirmed_at IS NOT NULL

-- name: all_leases
SELECT l.job, l.fence, l.nonce, l.attempt, l.confirmed_at, l.cancel, j.kind, j.caps, j.ready_at, j.max_attempts,
       l.runner, j.subject, l.deadline_at, j.timeout_ms
FROM lease l JOIN job j ON j.id = l.job ORDER BY l.fence

-- name: leases_of_runner
SELECT l.job, l.fence, l.nonce, l.attempt, l.confirmed_at, l.cancel, j.kind, j.caps, j.ready_at, j.max_attempts,
       l.runner, j.subject, l.deadline_at, j.timeout_ms
FROM lease l JOIN job j ON j.id = l.job WHERE l.runner = :runner ORDER BY l.fence

-- name: leases_step_back
UPDATE lease SET offered_at = :now, offer_until = offer_until - offered_at + :now,
    deadline_at = deadline_at - confirmed_at + :now,
    confirmed_at = CASE WHEN confirmed_at IS NULL THEN NULL ELSE :now END
WHERE offered_at > :now OR confirmed_at > :now

-- name: seen_step_back
UPDATE runner_seen SET seen_at = :now WHERE seen_at > :now

-- name: see_runner
INSERT INTO runner_seen (runner, seen_at) VALUES (:runner, :seen_at)
ON CONFLICT (runner) DO UPDATE SET seen_at = excluded.seen_at

-- name: see_runner_at_least
INSERT INTO runner_seen (runner, seen_at) VALUES (:runner, :seen_at)
ON CONFLICT (runner) DO UPDATE SET seen_at = excluded.seen_at WHERE excluded.seen_at > runner_seen.seen_at

-- name: upsert_runner
INSERT INTO runner (id, name, version, capabilities, labels, slots, connected, draining)
VALUES (:id, :name, :version, :capabilities, :labels, :slots, :connected, :draining)
ON CONFLICT (id) DO UPDATE SET name = excluded.name, version = excluded.version,
    capabilities = excluded.capabilities, labels = excluded.labels, slots = excluded.slots,
    connected = excluded.connected, draining = excluded.draining

-- name: all_runners
SELECT r.id, r.name, r.version, r.capabilities, r.labels, r.slots, r.connected, s.seen_at, r.draining
FROM runner r JOIN runner_seen s ON s.runner = r.id ORDER BY s.seen_at DESC, r.id DESC
