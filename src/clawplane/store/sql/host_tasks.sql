-- Host tasks, their results, trail, conversations and callbacks; sets of ids are in host_tasks.sqlite.sql.

-- name: insert_host_task
INSERT INTO host_task (job, id, owner, type, created_at, timeout_ms, session_id, session_key, priority, not_before,
    on_loss, callback_channel, callback_token, callback_url, deliver_to, asked, idempotency, request_digest)
VALUES (:job, :id, :owner, :type, :created_at, :timeout_ms, :session_id, :session_key, :priority, :not_before,
    :on_loss, :callback_channel, :callback_token, :callback_url, :deliver_to, :asked, :idempotency, :request_digest)

-- name: insert_host_state
INSERT INTO host_state (job, status, approval) VALUES (:job, :status, :approval)

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
UPDATE host_state SET status = 'pending', started_at = NULL, attempt = :attempt, runner = NULL WHERE job = :job

-- name: end_host
UPDATE host_state SET status = :status, completed_at = :now, reason = :reason WHERE job = :job

-- name: set_host_approval
UPDATE host_state SET approval = :approval WHERE job = :job

-- name: set_host_consumed
UPDATE host_state SET consumed = :consumed WHERE job = (SELECT job FROM host_task WHERE id = :id)

-- name: insert_host_result
INSERT INTO host_result (task, body, digest, created_at) VALUES (:task, :body, :digest, :created_at)
ON CONFLICT (task) DO NOTHING

-- name: find_host_result
SELECT task, body, digest, created_at, consumed_at FROM host_result WHERE task = :task

-- name: consume_host_result
UPDATE host_result SET consumed_at = :now WHERE task = :task AND consumed_at IS NULL

-- name: unconsume_host_result
UPDATE host_result SET consumed_at = NULL WHERE task = :task AND consumed_at IS NOT NULL

-- name: host_page
SELECT t.job, t.id, t.owner, t.type, t.created_at, t.session_id, t.session_key, t.priority, t.not_before, t.on_loss,
    t.callback_channel, t.callback_url, t.asked, t.callback_token, t.timeout_ms, t.deliver_to,
    s.status, s.approval, s.started_at, s.completed_at, s.attempt, s.runner, s.reason, s.consumed, s.server_delivers
FROM host_task t JOIN host_state s ON s.job = t.job
WHERE (:before IS NULL OR t.job < :before) AND (:owner IS NULL OR t.owner = :owner)
    AND (:status IS NULL OR s.status = :status) AND (:type IS NULL OR t.type = :type)
    AND (:session_id = '' OR t.session_id = :session_id) AND (:runner = '' OR s.runner = :runner)
ORDER BY t.job DESC LIMIT :limit

-- name: host_task_by_id
SELECT t.job, t.id, t.owner, t.type, t.created_at, t.session_id, t.session_key, t.priority, t.not_before, t.on_loss,
    t.callback_channel, t.callback_url, t.asked, t.callback_token, t.timeout_ms, t.deliver_to,
    s.status, s.approval, s.started_at, s.completed_at, s.attempt, s.runner, s.reason, s.consumed, s.server_delivers
FROM host_task t JOIN host_state s ON s.job = t.job WHERE t.id = :id

-- name: host_outlook
SELECT (SELECT 1 FROM host_result WHERE task = :task AND consumed_at IS NULL), t.status, t.consumed
FROM (SELECT 1) one LEFT JOIN
    (SELECT s.status, s.consumed FROM host_task t JOIN host_state s ON s.job = t.job WHERE t.id = :task) t ON 1 = 1

-- name: caps_ahead
SELECT count(*) FROM (SELECT 1 FROM ready WHERE caps = :caps AND (ready_at, job) < (:ready_at, :job) LIMIT 1000) a

-- name: job_place
SELECT j.caps, j.ready_at, (SELECT 1 FROM ready r WHERE r.caps = j.caps AND r.ready_at = j.ready_at AND r.job = j.id),
    (SELECT t.due_at FROM timer t WHERE t.job = j.id)
FROM job j WHERE j.id = :job

-- name: oldest_waits
SELECT q.caps, q.ready, (SELECT min(h.created_at) FROM ready r JOIN host_task h ON h.job = r.job WHERE r.caps = q.caps)
FROM queue_count q WHERE q.ready > 0 AND q.caps LIKE 'host@%'

-- name: old_host_results
SELECT task, consumed_at IS NULL FROM host_result
WHERE created_at <= :unconsumed_before OR (consumed_at IS NOT NULL AND consumed_at <= :consumed_before) LIMIT :limit

-- name: delete_host_result
DELETE FROM host_result WHERE task = :task

-- name: old_pending_host
SELECT job FROM host_state WHERE status = 'pending' AND job IN
    (SELECT job FROM host_task WHERE created_at <= :before ORDER BY job LIMIT 2000) LIMIT :limit

-- name: delete_host_state
DELETE FROM host_state WHERE job = :job

-- name: delete_host_task
DELETE FROM host_task WHERE job = :job

-- name: delete_host_job
DELETE FROM job WHERE id = :job

-- name: delete_host_attempts
DELETE FROM attempt WHERE job = :job

-- name: insert_host_event
INSERT INTO host_event (id, type, created_at, task, task_type, task_status, session_id, origin, dispatch_mode,
    response_mode, entrypoint, details, source)
VALUES (:id, :type, :created_at, :task, :task_type, :task_status, :session_id, :origin, :dispatch_mode,
    :response_mode, :entrypoint, :details, :source)

-- name: last_host_event
SELECT max(seq) FROM host_event

-- name: undo_host_event
DELETE FROM host_event WHERE seq = (SELECT max(seq) FROM host_event WHERE task = :task AND type = :type)

-- name: host_events
SELECT seq, id, type, created_at, task, task_type, task_status, session_id, origin, dispatch_mode, response_mode,
    entrypoint, details, source
FROM host_event WHERE (:task = '' OR task = :task) AND (:type = '' OR type = :type) ORDER BY seq DESC LIMIT :limit

-- name: host_events_since
SELECT seq, id, type, created_at, task, task_type, task_status, session_id, origin, dispatch_mode, response_mode,
    entrypoint, details, source
FROM host_event WHERE seq > :since AND (:task = '' OR task = :task) AND (:type = '' OR type = :type)
ORDER BY seq LIMIT :limit

-- name: host_event_stats
SELECT count(*), min(created_at), max(created_at) FROM host_event

-- name: host_events_by_type
SELECT type, count(*) FROM host_event GROUP BY type ORDER BY count(*) DESC, type

-- name: host_events_by_status
SELECT coalesce(task_status, 'unknown'), count(*) FROM host_event GROUP BY 1 ORDER BY count(*) DESC, 1

-- name: trim_old_host_events
DELETE FROM host_event WHERE created_at < :cutoff

-- name: trim_many_host_events
DELETE FROM host_event WHERE seq <= (SELECT seq FROM host_event ORDER BY seq DESC LIMIT 1 OFFSET :keep)

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
     WHERE t.session_id = a.session_id AND s.status IN ('pending', 'running')) LIMIT :limit

-- name: delete_agent_session
DELETE FROM agent_session WHERE session_id = :session_id

-- name: find_agent_binding
SELECT conversation FROM agent_binding WHERE cli_type = :cli_type AND id = :id

-- name: agent_bindings_by_prefix
SELECT DISTINCT conversation FROM agent_binding
WHERE cli_type = :cli_type AND id >= :prefix AND id < :beyond LIMIT 2

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
DELETE FROM agent_binding WHERE touched_at < :before AND NOT EXISTS
    (SELECT 1 FROM host_head h WHERE h.session_key = agent_binding.cli_type || ':' || agent_binding.conversation)

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
SELECT l.job FROM lease l JOIN job j ON j.id = l.job WHERE j.kind = 'host' AND l.runner LIKE 'poll:%' ORDER BY l.fence

-- name: make_lease_patient
UPDATE lease SET silence_ms = :silence WHERE job = :job

-- name: insert_direct_lease
INSERT INTO lease (job, fence, nonce, runner, attempt, offered_at, offer_until, confirmed_at, deadline_at, silence_ms)
VALUES (:job, :fence, :nonce, :runner, :attempt, :now, :now, :now, :deadline_at, :silence_ms)
