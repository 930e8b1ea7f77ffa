-- Runs and subtasks

-- name: insert_run
INSERT INTO run (slug, worker, worker_title, version, owner, input, system, origin, callback_url, rerun_of,
                 subtask_count, created_at)
VALUES (:slug, :worker, :worker_title, :version, :owner, :input, :system, :origin, :callback_url, :rerun_of,
        :subtask_count, :created_at)
RETURNING id

-- name: insert_run_state
INSERT INTO run_state (run, status, ready) VALUES (:run, :status, :ready)

-- name: insert_subtask
INSERT INTO subtask (job, run, position, status) VALUES (:job, :run, :position, :status)

-- name: find_run
SELECT r.slug, r.worker, r.worker_title, r.version, r.owner, s.status, r.input, r.system, r.origin, r.callback_url,
       r.rerun_of, r.subtask_count, s.result_count, s.header, s.error, s.cpu_ms, s.traffic, r.created_at, s.started_at,
       s.finished_at
FROM run r JOIN run_state s ON s.run = r.id WHERE r.slug = :slug

-- name: last_run_of_owner
SELECT slug FROM run WHERE owner = :owner ORDER BY created_at DESC, id DESC LIMIT 1

-- name: last_run_of_worker
SELECT slug FROM run WHERE worker = :worker AND owner = :owner ORDER BY created_at DESC, id DESC LIMIT 1

-- name: count_runs
SELECT count(*) FROM run r JOIN run_state s ON s.run = r.id
WHERE (:owner IS NULL OR r.owner = :owner) AND (:worker IS NULL OR r.worker = :worker)
  AND (:status IS NULL OR s.status = :status)
  AND (:created_from IS NULL OR r.created_at >= :created_from)
  AND (:created_before IS NULL OR r.created_at < :created_before)

-- name: page_runs
SELECT r.slug, r.worker, r.worker_title, r.version, r.owner, s.status, r.input, r.system, r.origin, r.callback_url,
       r.rerun_of, r.subtask_count, s.result_count, s.header, s.error, s.cpu_ms, s.traffic, r.created_at, s.started_at,
       s.finished_at
FROM run r JOIN run_state s ON s.run = r.id
WHERE (:owner IS NULL OR r.owner = :owner) AND (:worker IS NULL OR r.worker = :worker)
  AND (:status IS NULL OR s.status = :status)
  AND (:created_from IS NULL OR r.created_at >= :created_from)
  AND (:created_before IS NULL OR r.created_at < :created_before)
ORDER BY r.created_at DESC, r.id DESC LIMIT :limit OFFSET :offset

-- name: subtasks_of_run
SELECT t.job, r.slug, t.position, t.status, t.outcome
FROM run r JOIN subtask t ON t.run = r.id WHERE r.slug = :slug ORDER BY t.position

-- name: run_to_abort
SELECT r.id, r.owner, s.status FROM run r JOIN run_state s ON s.run = r.id WHERE r.slug = :slug

-- name: unfinished_jobs
SELECT job FROM subtask WHERE run = :run AND status IN ('ready', 'running') ORDER BY position

-- name: abort_run
UPDATE run_state SET status = 'aborting' WHERE run = :run

-- name: end_subtask
UPDATE subtask SET status = :status, outcome = :outcome WHERE job = :job

-- name: change_run_state
UPDATE run_state SET ready = ready + :ready, running = running + :running, succeeded = succeeded + :succeeded,
    failed = failed + :failed, aborted = aborted + :aborted, cpu_ms = cpu_ms + :cpu_ms,
    traffic = traffic + :traffic
WHERE run = :run

-- name: first_failed_outcome
SELECT outcome FROM subtask WHERE run = :run AND status = 'failed' ORDER BY position LIMIT 1

-- name: rows_of_failed_subtasks
SELECT coalesce(sum(row_count), 0) FROM subtask WHERE run = :run AND status = 'failed'

-- name: end_run
UPDATE run_state SET status = :status, error = :error, result_count = result_count - :hidden, finished_at = :now
WHERE run = :run

-- name: subtract_results
UPDATE run_state SET result_count = result_count - :rows WHERE run = :run

-- name: forget_row_count
UPDATE subtask SET row_count = 0 WHERE job = :job

-- name: set_header
UPDATE run_state SET header = :header WHERE run = :run
