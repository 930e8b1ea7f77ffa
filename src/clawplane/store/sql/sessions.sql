-- name: insert_session
INSERT INTO session (id, owner, name, workspace, options, branch_of, created_at, state, job, runner, used_at, sleeps_at,
                     expires_at, ended_at, end_reason, exec_count, lives)
VALUES (:id, :owner, :name, :workspace, :options, :branch_of, :created_at, :state, :job, :runner, :used_at, :sleeps_at,
        :expires_at, :ended_at, :end_reason, :exec_count, :lives)

-- name: find_session
SELECT id, owner, state, options, job, runner, created_at, used_at, sleeps_at, coalesce(ends_at, expires_at), ended_at,
       end_reason, exec_count, lives, branch_of
FROM session WHERE id = :id

-- name: live_session_of_name
SELECT id, owner, state, options, job, runner, created_at, used_at, sleeps_at, coalesce(ends_at, expires_at), ended_at,
       end_reason, exec_count, lives, branch_of
FROM session WHERE owner = :owner AND name = :name AND name <> '' AND state <> 'ended'

-- name: count_live_sessions
SELECT count(*) FROM session WHERE owner = :owner AND state <> 'ended'

-- name: count_sessions
SELECT count(*) FROM session
WHERE (:owner IS NULL OR owner = :owner) AND (:state IS NULL OR state = :state) AND (:name = '' OR name = :name)
    AND (:ended OR state <> 'ended')

-- name: page_sessions
SELECT id, owner, state, options, job, runner, created_at, used_at, sleeps_at, coalesce(ends_at, expires_at), ended_at,
       end_reason, exec_count, lives, branch_of
FROM session
WHERE (:owner IS NULL OR owner = :owner) AND (:state IS NULL OR state = :state) AND (:name = '' OR name = :name)
    AND (:ended OR state <> 'ended')
ORDER BY number DESC LIMIT :limit OFFSET :offset

-- name: session_place
SELECT state, job, runner, workspace, lived, owner FROM session WHERE id = :id

-- name: note_session
UPDATE session SET state = :state, sleeps_at = :sleeps_at,
    expires_at = coalesce(:expires_at, expires_at), lived = 1 WHERE id = :id

-- name: wake_session
UPDATE session SET state = 'creating', job = :job, lives = lives + 1, used_at = :now, sleeps_at = NULL, end_reason = ''
WHERE id = :id

-- name: end_session
UPDATE session SET state = 'ended', ended_at = :now, end_reason = :reason, sleeps_at = NULL, expires_at = NULL,
    ends_at = NULL
WHERE id = :id

-- name: sleep_session
UPDATE session SET state = 'sleeping', sleeps_at = NULL, end_reason = :reason, runner = :runner WHERE id = :id

-- name: restart_session
UPDATE session SET state = 'creating' WHERE id = :id

-- name: place_session
UPDATE session SET state = :state, runner = :runner WHERE id = :id

-- name: ends_of_history
SELECT '', coalesce(max(seq), 0) FROM session_exec WHERE session = :session
UNION ALL SELECT running, seq FROM session_exec WHERE session = :session AND running IS NOT NULL

-- name: put_exec
INSERT INTO session_exec (session, seq, running, body) VALUES (:session, :seq, :running, :body)
ON CONFLICT (session, seq) DO UPDATE SET running = excluded.running, body = excluded.body

-- name: running_execs
SELECT session, seq, body FROM session_exec WHERE running IS NOT NULL ORDER BY session, running LIMIT :limit

-- name: prune_execs
DELETE FROM session_exec WHERE session = :session AND seq <= :seq

-- name: sessions_with_old_execs
SELECT id FROM session WHERE used_at < :before AND EXISTS (SELECT 1 FROM session_exec e WHERE e.session = session.id)
ORDER BY number LIMIT :limit

-- name: prune_old_execs
DELETE FROM session_exec
WHERE session = :session AND EXISTS (SELECT 1 FROM session s WHERE s.id = :session AND s.used_at < :before)

-- name: use_session
UPDATE session SET used_at = max(used_at, :now), exec_count = exec_count + :count,
    expires_at = CASE WHEN state = 'ended' OR expires_at IS NULL THEN expires_at ELSE max(expires_at, :expires_at) END
WHERE id = :id

-- name: count_execs
SELECT count(*) FROM session_exec WHERE session = :session

-- name: page_execs
SELECT body FROM session_exec WHERE session = :session ORDER BY seq DESC LIMIT :limit OFFSET :offset

-- name: expired_sessions
SELECT id, owner, state, options, job, runner, created_at, used_at, sleeps_at, coalesce(ends_at, expires_at), ended_at,
       end_reason, exec_count, lives, branch_of
FROM session WHERE state <> 'ended' AND coalesce(ends_at, expires_at) <= :now ORDER BY coalesce(ends_at, expires_at) LIMIT :limit

-- name: next_session_expiry
SELECT min(coalesce(ends_at, expires_at)) FROM session WHERE state <> 'ended'

-- name: set_session_end
UPDATE session SET ends_at = :ends_at WHERE id = :id AND state <> 'ended'

-- name: find_workspace
SELECT runner FROM workspace WHERE owner = :owner AND name = :name

-- name: insert_workspace
INSERT INTO workspace (owner, name, runner, created_at, used_at) VALUES (:owner, :name, :runner, :now, :now)

-- name: place_workspace
UPDATE workspace SET runner = :runner WHERE owner = :owner AND name = :name AND runner IS NULL

-- name: use_workspace
UPDATE workspace SET used_at = :now WHERE owner = :owner AND name = :name

-- name: delete_workspace
DELETE FROM workspace WHERE owner = :owner AND name = :name

-- name: drop_unplaced_workspace
DELETE FROM workspace WHERE owner = :owner AND name = :name AND runner IS NULL

-- name: workspaces_of_owner
SELECT w.name, w.runner, w.created_at, w.used_at, s.id
FROM workspace w LEFT JOIN session s ON s.owner = w.owner AND s.workspace = w.name AND s.state <> 'ended'
WHERE w.owner = :owner ORDER BY w.name, s.number

-- name: sessions_of_workspace
SELECT id FROM session WHERE owner = :owner AND workspace = :workspace AND state <> 'ended' ORDER BY number

-- name: litter_of_runner
SELECT session FROM session_litter WHERE runner = :runner ORDER BY session

-- name: insert_litter
INSERT INTO session_litter (runner, session) VALUES (:runner, :session) ON CONFLICT (runner, session) DO NOTHING

-- name: delete_litter
DELETE FROM session_litter WHERE runner = :runner AND session = :session
