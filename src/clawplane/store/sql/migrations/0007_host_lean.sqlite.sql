-- Nobody reads these: two indexes that every step of a task wrote, and a column that was looked up for every task.
DROP INDEX host_state_status;
DROP INDEX host_head_job;
DROP VIEW host_whole;
CREATE VIEW host_whole AS
SELECT t.job, t.id, t.owner, t.type, t.created_at, t.session_id, t.session_key, t.priority, t.not_before, t.on_loss,
    t.callback_channel, t.callback_url, t.asked, t.callback_token, t.timeout_ms, t.deliver_to,
    s.status, s.approval, s.started_at, s.completed_at, s.attempt, s.runner, s.reason, s.server_delivers
FROM host_task t JOIN host_state s ON s.job = t.job;
