-- Host tasks, their results, trail, conversations and callbacks; sets of ids are in host_tasks.sqlite.sql.

-- name: insert_host_task
INSERT INTO host_task (job, id, owner, type, created_at, timeout_ms, session_id, session_key, priority, not_before,
    on_loss, callback_channel, callback_token, callback_url, deliver_to, asked, idempotency, request_digest)
VALUES (:job, :id, :owner, :type, :created_at, :timeout_ms, :session_id, :session_key, :priority, :not_before,
    :on_loss, :callback_channel, :callback_token, :callback_url, :deliver_to, :asked, :idempotency, :request_digest)

-- name: insert_host_state
INSERT INTO host_state (job, status, approval, aging_since) VALUES (:job, :status, :approval, :aging_since)

-- name: host_task_of_key
SELECT id, request_digest FROM host_task WHERE owner = :owner AND idempotency = :idempotency

-- name: take_head
INSERT INTO host_head (session_key, job) VALUES (:session_key, :job) ON CONFLICT (session_key) DO NOTHING

-- name: insert_behind
INSERT INTO host_behind (session_key, job) VALUES (:session_key, :job)

-- name: delete_behind
DELETE FROM host_behind WHERE session_key = :session_key AND job = :job

-- name: release_head
DELETE FROM host_head WHERE session_key = :session_key AND job = :job

-- name: next_behind
SELECT job FROM host_behind WHERE session_key = :session_key ORDER BY job LIMIT 1

-- name: head_of_key
SELECT t.id, t.job FROM host_head h JOIN host_task t ON t.job = h.job WHERE h.session_key = :session_key

-- name: count_host
INSERT INTO host_count (what, number) VALUES (:what, :number)
ON CONFLICT (what) DO UPDATE SET number = host_count.number + excluded.number

-- name: host_counts
SELECT what, number FROM host_count

-- name: start_host
UPDATE host_state SET status = 'running', started_at = :now, attempt = :attempt, runner = :runner,
    server_delivers = :server_delivers WHERE job = :job

-- name: unstart_host
UPDATE host_state SET status = 'pending', started_at = NULL, attempt = :attempt, runner = NULL,
    aging_since = coalesce(:aging_since, aging_since) WHERE job = :job

-- name: end_host
UPDATE host_state SET status = :status, completed_at = :now, reason = :reason WHERE job = :job

-- name: set_host_approval
UPDATE host_state SET approval = :approval, aging_since = :aging_since WHERE job = :job

-- name: insert_host_result
INSERT INTO host_result (task, digest, exit_code, created_at, body)
VALUES (:task, :digest, :exit_code, :created_at, :body) ON CONFLICT (task) DO NOTHING

-- name: find_host_result
SELECT r.task, r.body, r.created_at, f.consumed_at, r.exit_code
FROM host_result r LEFT JOIN host_fetched f ON f.task = r.task WHERE r.task = :task

-- name: digest_of_host_result
SELECT digest FROM host_result WHERE task = :task

-- name: consume_host_result
INSERT INTO host_fetched (task, consumed_at) VALUES (:task, :now) ON CONFLICT (task) DO NOTHING

-- name: unconsume_host_result
DELETE FROM host_fetched WHERE task = :task

-- name: host_page
SELECT * FROM host_whole h
WHERE h.job < :before AND (:owner IS NULL OR h.owner = :owner) AND (:type IS NULL OR h.type = :type)
    AND (:status IS NULL OR h.status = :status)
    AND (:runner = '' OR h.runner = :runner)
ORDER BY h.job DESC LIMIT :limit

-- name: host_page_of_session
SELECT * FROM host_whole h
WHERE h.session_id = :session_id AND h.job < :before AND (:owner IS NULL OR h.owner = :owner)
    AND (:type IS NULL OR h.type = :type) AND (:status IS NULL OR h.status = :status)
    AND (:runner = '' OR h.runner = :runner)
ORDER BY h.job DESC LIMIT :limit

-- name: host_task_by_id
SELECT * FROM host_whole WHERE id = :id

-- name: host_outlook
SELECT (SELECT 1 FROM host_result WHERE task = :task), (SELECT 1 FROM host_fetched WHERE task = :task),
    (SELECT s.status FROM host_task t JOIN host_state s ON s.job = t.job WHERE t.id = :task)

-- name: caps_ahead
SELECT count(*) FROM (SELECT 1 FROM ready WHERE caps = :caps AND (ready_at, job) < (:ready_at, :job) LIMIT 1000) a

-- name: job_place
SELECT j.caps, j.ready_at, (SELECT t.due_at FROM timer t WHERE t.job = j.id) FROM job j WHERE j.id = :job

-- name: oldest_waits
SELECT q.caps, q.ready, (SELECT min(t.created_at) FROM
    (SELECT r.job FROM ready r WHERE r.caps = q.caps ORDER BY r.ready_at, r.job LIMIT 100) r
    JOIN host_task t ON t.job = r.job)
FROM queue_count q WHERE q.ready > 0 AND q.caps >= 'host@' AND q.caps < 'hostA'

-- name: old_host_results
SELECT r.task FROM host_result r WHERE r.created_at <= :before
    AND NOT EXISTS (SELECT 1 FROM host_fetched f WHERE f.task = r.task) ORDER BY r.created_at LIMIT :limit

-- name: old_fetched_results
SELECT task FROM host_fetched WHERE consumed_at <= :before ORDER BY consumed_at LIMIT :limit

-- name: insert_host_event
INSERT INTO host_event (id, type, created_at, task, task_type, task_status, session_id, origin, dispatch_mode,
    response_mode, entrypoint, details, source)
VALUES (:id, :type, :created_at, :task, :task_type, :task_status, :session_id, :origin, :dispatch_mode,
    :response_mode, :entrypoint, :details, :source)

-- name: last_host_event
SELECT seq, id, type, created_at, task, task_type, task_status, session_id, origin, dispatch_mode, response_mode,
    entrypoint, details, source
FROM host_event ORDER BY seq DESC LIMIT 1

-- name: undo_host_event
DELETE FROM host_event WHERE seq = (SELECT seq FROM host_event
    WHERE task = :task AND type = :type AND source = 'server' ORDER BY seq DESC LIMIT 1)
RETURNING type, coalesce(task_status, 'unknown')

-- name: last_custody_of_task
SELECT type FROM host_event WHERE task = :task AND source = 'server'
    AND type IN ('task.started', 'task.recovery-preserved') ORDER BY seq DESC LIMIT 1

-- name: host_events
SELECT seq, id, type, created_at, task, task_type, task_status, session_id, origin, dispatch_mode, response_mode,
    entrypoint, details, source
FROM host_event ORDER BY seq DESC LIMIT :limit

-- name: host_events_since
SELECT seq, id, type, created_at, task, task_type, task_status, session_id, origin, dispatch_mode, response_mode,
    entrypoint, details, source
FROM host_event WHERE seq > :since ORDER BY seq LIMIT :limit

-- name: host_events_of_type
SELECT seq, id, type, created_at, task, task_type, task_status, session_id, origin, dispatch_mode, response_mode,
    entrypoint, details, source
FROM host_event WHERE type = :type ORDER BY seq DESC LIMIT :limit

-- name: host_events_of_type_since
SELECT seq, id, type, created_at, task, task_type, task_status, session_id, origin, dispatch_mode, response_mode,
    entrypoint, details, source
FROM host_event WHERE type = :type AND seq > :since ORDER BY seq LIMIT :limit

-- name: host_events_of_task
SELECT seq, id, type, created_at, task, task_type, task_status, session_id, origin, dispatch_mode, response_mode,
    entrypoint, details, source
FROM host_event WHERE task = :task AND (:type = '' OR type = :type) ORDER BY seq DESC LIMIT :limit

-- name: host_events_of_task_since
SELECT seq, id, type, created_at, task, task_type, task_status, session_id, origin, dispatch_mode, response_mode,
    entrypoint, details, source
FROM host_event WHERE task = :task AND (:type = '' OR type = :type) AND seq > :since ORDER BY seq LIMIT :limit

-- name: newest_host_event
SELECT max(seq) FROM host_event

-- name: count_host_events
INSERT INTO host_event_count (type, task_status, number) VALUES (:type, :task_status, :number)
ON CONFLICT (type, task_status) DO UPDATE SET number = host_event_count.number + excluded.number

-- name: delete_idle_host_event_count
DELETE FROM host_event_count WHERE type = :type AND task_status = :task_status AND number <= 0

-- name: host_event_stats
SELECT coalesce(sum(number), 0), (SELECT created_at FROM host_event ORDER BY seq LIMIT 1),
    (SELECT created_at FROM host_event ORDER BY seq DESC LIMIT 1) FROM host_event_count

-- name: host_events_by_type
SELECT type, sum(number) FROM host_event_count GROUP BY type ORDER BY sum(number) DESC, type LIMIT :limit

-- name: host_events_by_status
SELECT task_status, sum(number) FROM host_event_count
GROUP BY task_status ORDER BY sum(number) DESC, task_status LIMIT :limit

-- name: number_of_host_events
SELECT coalesce(sum(number), 0) FROM host_event_count WHERE type = :type

-- name: oldest_host_events
SELECT seq, created_at, type, coalesce(task_status, 'unknown') FROM host_event ORDER BY seq LIMIT :limit

-- name: delete_host_events
DELETE FROM host_event WHERE seq <= :seq

-- name: touch_agent_session
INSERT INTO agent_session (session_id, cli_type, callback_channel, task_count, last_activity, created_at)
VALUES (:session_id, :cli_type, :callback_channel, :count, :now, :now)
ON CONFLICT (session_id) DO UPDATE SET cli_type = excluded.cli_type,
    callback_channel = coalesce(excluded.callback_channel, agent_session.callback_channel),
    task_count = agent_session.task_count + excluded.task_count, last_activity = excluded.last_activity

-- name: agent_sessions
SELECT session_id, cli_type, callback_channel, task_count, last_activity, created_at FROM agent_session
WHERE :cli_type = '' OR cli_type = :cli_type ORDER BY last_activity DESC, session_id LIMIT :limit

-- name: agent_session_stats
SELECT count(*), min(last_activity), max(last_activity) FROM agent_session

-- name: agent_sessions_by_type
SELECT cli_type, count(*) FROM agent_session GROUP BY cli_type ORDER BY count(*) DESC, cli_type

-- name: old_agent_sessions
SELECT a.session_id FROM agent_session a WHERE a.last_activity < :before AND NOT EXISTS
    (SELECT 1 FROM host_task t JOIN host_state s ON s.job = t.job
     WHERE t.session_id = a.session_id AND s.status IN ('pending', 'running')) ORDER BY a.last_activity LIMIT :limit

-- name: delete_agent_session
DELETE FROM agent_session WHERE session_id = :session_id

-- name: find_agent_binding
SELECT conversation FROM agent_binding WHERE cli_type = :cli_type AND id = :id

-- name: agent_bindings_by_prefix
SELECT DISTINCT conversation FROM agent_binding
WHERE cli_type = :cli_type AND id >= :prefix AND id < :beyond AND length(id) >= :whole LIMIT 2

-- name: provider_of_conversation
SELECT id FROM agent_binding WHERE cli_type = :cli_type AND conversation = :conversation AND provider = 1
ORDER BY touched_at DESC LIMIT 1

-- name: upsert_agent_binding
INSERT INTO agent_binding (cli_type, id, conversation, provider, touched_at)
VALUES (:cli_type, :id, :conversation, :provider, :now)
ON CONFLICT (cli_type, id) DO UPDATE SET conversation = excluded.conversation, touched_at = excluded.touched_at,
    provider = CASE WHEN agent_binding.provider = 1 THEN 1 ELSE excluded.provider END

-- name: move_agent_bindings
UPDATE agent_binding SET conversation = :to WHERE cli_type = :cli_type AND conversation = :of

-- name: delete_old_agent_bindings
DELETE FROM agent_binding WHERE (cli_type, id) IN
    (SELECT b.cli_type, b.id FROM agent_binding b WHERE b.touched_at < :before AND NOT EXISTS
        (SELECT 1 FROM host_head h WHERE h.session_key = b.cli_type || '-cli:' || b.conversation)
     ORDER BY b.touched_at LIMIT :limit)

-- name: insert_host_parcel
INSERT INTO host_parcel (id, task, kind, destination, body, token, next_at, created_at)
VALUES (:id, :task, :kind, :destination, :body, :token, :next_at, :created_at)

-- name: due_host_parcels
SELECT id, task, kind, destination, body, token, attempts, sent, next_at, created_at FROM host_parcel
WHERE next_at <= :now ORDER BY next_at, id LIMIT :limit

-- name: next_host_parcel
SELECT min(next_at) FROM host_parcel

-- name: progress_host_parcel
UPDATE host_parcel SET sent = :sent, attempts = :attempts, next_at = :next_at WHERE id = :id

-- name: delete_host_parcel
DELETE FROM host_parcel WHERE id = :id

-- name: poller_leases
SELECT job FROM lease WHERE runner LIKE 'poll:%' AND silence_ms >= :never ORDER BY fence

-- name: stock_of_runner
SELECT number FROM host_stock WHERE runner = :runner

-- name: set_stock
INSERT INTO host_stock (runner, number) VALUES (:runner, :number)
ON CONFLICT (runner) DO UPDATE SET number = excluded.number

-- name: make_lease_patient
UPDATE lease SET silence_ms = :silence WHERE job = :job

-- name: insert_direct_lease
INSERT INTO lease (job, fence, nonce, runner, attempt, offered_at, offer_until, confirmed_at, deadline_at, silence_ms)
VALUES (:job, :fence, :nonce, :runner, :attempt, :now, :now, :now, :deadline_at, :silence_ms)

-- name: set_host_spec
UPDATE job SET spec = :spec WHERE id = :job

-- name: delete_idle_host_counts
DELETE FROM queue_count WHERE caps >= 'host@' AND caps < 'hostA' AND ready = 0 AND offered = 0 AND leased = 0
