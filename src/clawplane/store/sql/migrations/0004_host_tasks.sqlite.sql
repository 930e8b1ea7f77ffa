-- Host tasks: what was asked is wide and immutable (host_task), how it stands is narrow (host_state).

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
    asked BLOB NOT NULL,  -- msgpack: work, target, cwd, env, labels
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
    consumed INTEGER NOT NULL DEFAULT 0  -- 1 once its result was fetched: the Task API knows it no more
);
CREATE INDEX host_state_status ON host_state (status, job);

-- The oldest unfinished task of each conversation, and those behind it.
CREATE TABLE host_head (session_key TEXT PRIMARY KEY, job INTEGER NOT NULL) WITHOUT ROWID;
CREATE INDEX host_head_job ON host_head (job);
CREATE TABLE host_behind (
    session_key TEXT NOT NULL,
    job INTEGER NOT NULL,
    PRIMARY KEY (session_key, job)
) WITHOUT ROWID;

CREATE TABLE host_result (
    task TEXT PRIMARY KEY,
    body BLOB NOT NULL,
    digest BLOB NOT NULL,  -- of the report, to tell a repeat from a conflict
    created_at INTEGER NOT NULL,
    consumed_at INTEGER
) WITHOUT ROWID;
CREATE INDEX host_result_created ON host_result (created_at);

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
