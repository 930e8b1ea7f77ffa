-- Host tasks: what was asked is wide and immutable (host_task), how it stands is narrow (host_state). Likewise a result
-- is written once (host_result), and that it was fetched is a row of its own (host_fetched).

CREATE TABLE host_task (
    job INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    owner TEXT NOT NULL,
    type TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    timeout_ms INTEGER NOT NULL,
    session_id TEXT,
    session_key TEXT,
    priority INTEGER NOT NULL,
    not_before INTEGER,
    on_loss TEXT NOT NULL,
    callback_channel TEXT,
    callback_token BLOB,  -- sealed
    callback_url TEXT NOT NULL,
    deliver_to TEXT,  -- the channel that the control plane tells the end to; '' when there is none
    asked BLOB NOT NULL,  -- work, target, cwd, env, labels; see host_blobs.py
    idempotency TEXT,
    request_digest TEXT
);
CREATE UNIQUE INDEX host_task_idempotency ON host_task (owner, idempotency) WHERE idempotency IS NOT NULL;
CREATE INDEX host_task_session ON host_task (session_id) WHERE session_id IS NOT NULL;

CREATE TABLE host_state (
    job INTEGER PRIMARY KEY,
    status TEXT NOT NULL,
    approval TEXT NOT NULL,
    started_at INTEGER,
    completed_at INTEGER,
    attempt INTEGER NOT NULL DEFAULT 0,
    runner TEXT,
    server_delivers INTEGER NOT NULL DEFAULT 1,
    reason TEXT NOT NULL DEFAULT '',
    aging_since INTEGER  -- from when its time to wait counts; NULL while it waits for a person's yes
);
CREATE INDEX host_state_status ON host_state (status, job);
CREATE INDEX host_state_aging ON host_state (aging_since) WHERE status = 'pending' AND aging_since IS NOT NULL;

-- The oldest unfinished task of each conversation, and those behind it.
CREATE TABLE host_head (session_key TEXT PRIMARY KEY, job INTEGER NOT NULL) WITHOUT ROWID;
CREATE INDEX host_head_job ON host_head (job);
CREATE TABLE host_behind (
    session_key TEXT NOT NULL,
    job INTEGER NOT NULL,
    PRIMARY KEY (session_key, job)
) WITHOUT ROWID;

CREATE TABLE host_result (
    task TEXT NOT NULL UNIQUE,
    digest BLOB NOT NULL,  -- of the report, to tell a repeat from a conflict
    exit_code TEXT NOT NULL,  -- JSON
    created_at INTEGER NOT NULL,
    body BLOB NOT NULL
);
CREATE INDEX host_result_created ON host_result (created_at);

-- Results that were fetched: the Task API knows them and their tasks no more.
CREATE TABLE host_fetched (task TEXT PRIMARY KEY, consumed_at INTEGER NOT NULL) WITHOUT ROWID;
CREATE INDEX host_fetched_at ON host_fetched (consumed_at);

CREATE VIEW host_whole AS
SELECT t.job, t.id, t.owner, t.type, t.created_at, t.session_id, t.session_key, t.priority, t.not_before, t.on_loss,
    t.callback_channel, t.callback_url, t.asked, t.callback_token, t.timeout_ms, t.deliver_to,
    s.status, s.approval, s.started_at, s.completed_at, s.attempt, s.runner, s.reason, s.server_delivers,
    EXISTS (SELECT 1 FROM host_fetched f WHERE f.task = t.id) AS consumed
FROM host_task t JOIN host_state s ON s.job = t.job;

CREATE TABLE host_count (what TEXT PRIMARY KEY, number INTEGER NOT NULL) WITHOUT ROWID;

CREATE TABLE host_event (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL,
    type TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    task TEXT,
    task_type TEXT,
    task_status TEXT,
    session_id TEXT,
    origin TEXT NOT NULL,
    dispatch_mode TEXT NOT NULL,
    response_mode TEXT NOT NULL,
    entrypoint TEXT,
    details TEXT,
    source TEXT NOT NULL
);
CREATE INDEX host_event_task ON host_event (task, seq);
CREATE INDEX host_event_type ON host_event (type, seq);

CREATE TABLE agent_session (
    session_id TEXT PRIMARY KEY,
    cli_type TEXT NOT NULL,
    callback_channel TEXT,
    task_count INTEGER NOT NULL,
    last_activity INTEGER NOT NULL,
    created_at INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX agent_session_activity ON agent_session (last_activity);

-- Which ids name one conversation: API ids, provider ids.
CREATE TABLE agent_binding (
    cli_type TEXT NOT NULL,
    id TEXT NOT NULL,
    conversation TEXT NOT NULL,
    provider INTEGER NOT NULL,  -- 1 when the id is the CLI's own
    touched_at INTEGER NOT NULL,
    PRIMARY KEY (cli_type, id)
) WITHOUT ROWID;
CREATE INDEX agent_binding_conversation ON agent_binding (cli_type, conversation);
CREATE INDEX agent_binding_touched ON agent_binding (touched_at);

CREATE TABLE host_parcel (
    id TEXT PRIMARY KEY,
    task TEXT NOT NULL,
    kind TEXT NOT NULL,
    destination TEXT NOT NULL,
    body BLOB NOT NULL,
    token BLOB,
    attempts INTEGER NOT NULL DEFAULT 0,
    sent INTEGER NOT NULL DEFAULT 0,
    next_at INTEGER NOT NULL,
    created_at INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX host_parcel_next ON host_parcel (next_at);

-- How long a lease outlives its runner's last word; NULL is the store's rule for everybody.
ALTER TABLE job ADD COLUMN silence_ms INTEGER;
ALTER TABLE lease ADD COLUMN silence_ms INTEGER;

-- Which capabilities have something waiting: those of host tasks are as many as there are targets.
CREATE INDEX queue_count_waiting ON queue_count (caps) WHERE ready > 0;

-- A delayed job is asked for by its id when it is cancelled, reported or explained.
CREATE INDEX timer_job ON timer (job);
