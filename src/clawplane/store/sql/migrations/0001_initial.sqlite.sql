-- What is immutable is wide (job, run, worker_version); what changes is narrow (lease, run_state, subtask).
-- Rows of ready and lease are inserted and deleted; whatever is counted often has a counter.

CREATE TABLE counter (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;

-- The queue

CREATE TABLE job (
    id INTEGER PRIMARY KEY,
    kind TEXT NOT NULL,
    subject TEXT NOT NULL,
    caps TEXT NOT NULL,
    ready_at INTEGER NOT NULL,
    timeout_ms INTEGER NOT NULL,
    max_attempts INTEGER NOT NULL,
    spec BLOB NOT NULL
);

CREATE TABLE ready (
    caps TEXT NOT NULL,
    ready_at INTEGER NOT NULL,
    job INTEGER NOT NULL,
    attempts INTEGER NOT NULL,  -- used up so far
    PRIMARY KEY (caps, ready_at, job)
) WITHOUT ROWID;

CREATE TABLE timer (
    due_at INTEGER NOT NULL,
    job INTEGER NOT NULL,
    attempts INTEGER NOT NULL,
    PRIMARY KEY (due_at, job)
) WITHOUT ROWID;

CREATE TABLE lease (
    job INTEGER PRIMARY KEY,
    fence INTEGER NOT NULL,
    nonce INTEGER NOT NULL,
    runner TEXT NOT NULL,
    attempt INTEGER NOT NULL,
    offered_at INTEGER NOT NULL,
    offer_until INTEGER NOT NULL,
    confirmed_at INTEGER,
    deadline_at INTEGER,
    cancel TEXT,
    stored INTEGER NOT NULL DEFAULT 0  -- the number of the attempt's last stored batch
);

CREATE TABLE attempt (
    job INTEGER NOT NULL,
    fence INTEGER NOT NULL,
    nonce INTEGER NOT NULL,
    attempt INTEGER NOT NULL,
    runner TEXT NOT NULL,
    offered_at INTEGER NOT NULL,
    confirmed_at INTEGER,
    ended_at INTEGER NOT NULL,
    ended TEXT NOT NULL,
    outcome BLOB,
    PRIMARY KEY (job, fence)
) WITHOUT ROWID;

CREATE TABLE queue_count (
    caps TEXT PRIMARY KEY,
    ready INTEGER NOT NULL,
    offered INTEGER NOT NULL,
    leased INTEGER NOT NULL
) WITHOUT ROWID;

CREATE TABLE runner (
    id TEXT PRIMARY KEY,
    name TEXT NOT NULL,
    version TEXT NOT NULL,
    capabilities TEXT NOT NULL,
    labels TEXT NOT NULL,
    slots TEXT NOT NULL,
    connected INTEGER NOT NULL,
    draining INTEGER NOT NULL
) WITHOUT ROWID;

CREATE TABLE runner_seen (runner TEXT PRIMARY KEY, seen_at INTEGER NOT NULL) WITHOUT ROWID;

-- Workers

CREATE TABLE worker (
    id INTEGER PRIMARY KEY,
    slug TEXT NOT NULL UNIQUE,
    owner TEXT NOT NULL,
    name TEXT NOT NULL,
    title TEXT NOT NULL,
    description TEXT NOT NULL,
    categories TEXT NOT NULL,
    icon TEXT NOT NULL,
    current_version TEXT,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    removed_at INTEGER
);
CREATE UNIQUE INDEX worker_path ON worker (owner, name) WHERE removed_at IS NULL;

CREATE TABLE worker_version (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    worker TEXT NOT NULL,
    version TEXT NOT NULL,
    language TEXT NOT NULL,
    status TEXT NOT NULL,
    package_key TEXT NOT NULL,
    package_sha256 TEXT NOT NULL,
    package_size INTEGER NOT NULL,
    input_schema BLOB NOT NULL,
    output_schema BLOB NOT NULL,
    readme TEXT NOT NULL,
    diagnostics TEXT NOT NULL,
    environment TEXT,
    build_job INTEGER NOT NULL,
    build_error TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    ready_at INTEGER,
    UNIQUE (worker, version)
);
CREATE INDEX worker_version_build ON worker_version (build_job);

-- Runs

CREATE TABLE run (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    slug TEXT NOT NULL UNIQUE,
    worker TEXT NOT NULL,
    worker_title TEXT NOT NULL,
    version TEXT NOT NULL,
    owner TEXT NOT NULL,
    input BLOB NOT NULL,
    system TEXT NOT NULL,
    origin TEXT NOT NULL,
    callback_url TEXT NOT NULL,
    rerun_of TEXT,
    subtask_count INTEGER NOT NULL,
    created_at INTEGER NOT NULL
);
CREATE INDEX run_created ON run (created_at, id);
CREATE INDEX run_owner ON run (owner, created_at, id);
CREATE INDEX run_worker ON run (worker, created_at, id);

CREATE TABLE run_state (
    run INTEGER PRIMARY KEY,
    status TEXT NOT NULL,
    ready INTEGER NOT NULL,
    running INTEGER NOT NULL DEFAULT 0,
    succeeded INTEGER NOT NULL DEFAULT 0,
    failed INTEGER NOT NULL DEFAULT 0,
    aborted INTEGER NOT NULL DEFAULT 0,
    result_count INTEGER NOT NULL DEFAULT 0,
    last_ordinal INTEGER NOT NULL DEFAULT 0,
    header TEXT,
    error TEXT NOT NULL DEFAULT '',
    cpu_ms INTEGER NOT NULL DEFAULT 0,
    traffic INTEGER NOT NULL DEFAULT 0,
    started_at INTEGER,
    finished_at INTEGER
);

CREATE TABLE subtask (
    job INTEGER PRIMARY KEY,
    run INTEGER NOT NULL,
    position INTEGER NOT NULL,
    status TEXT NOT NULL,
    row_count INTEGER NOT NULL DEFAULT 0,
    outcome BLOB
);
CREATE INDEX subtask_run ON subtask (run, position);

-- Rows and log lines are kept as they were shipped, many to a chunk; an upserted row is a chunk by itself.

CREATE TABLE row_chunk (
    run INTEGER NOT NULL,
    first INTEGER NOT NULL,  -- the ordinal of its first row
    count INTEGER NOT NULL,
    job INTEGER NOT NULL,  -- 0: rows that several subtasks upserted, which belong to the run
    body BLOB NOT NULL,
    PRIMARY KEY (run, first)
) WITHOUT ROWID;

CREATE TABLE upsert (
    run INTEGER NOT NULL,
    digest TEXT NOT NULL,
    ordinal INTEGER NOT NULL,
    job INTEGER NOT NULL,
    PRIMARY KEY (run, digest)
) WITHOUT ROWID;

CREATE TABLE log_stream (id INTEGER PRIMARY KEY, subject TEXT NOT NULL UNIQUE, last_seq INTEGER NOT NULL);

CREATE TABLE log_chunk (
    stream INTEGER NOT NULL,
    first INTEGER NOT NULL,
    count INTEGER NOT NULL,
    origin TEXT NOT NULL,
    body BLOB NOT NULL,
    PRIMARY KEY (stream, first)
) WITHOUT ROWID;

-- The rest

CREATE TABLE event (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    at INTEGER NOT NULL,
    kind TEXT NOT NULL,
    subject TEXT NOT NULL,
    data TEXT NOT NULL
);
CREATE INDEX event_subject ON event (subject, seq);

CREATE TABLE api_key (
    id TEXT PRIMARY KEY,
    name TEXT NOT NULL,
    owner TEXT NOT NULL,
    scopes TEXT NOT NULL,
    digest BLOB NOT NULL UNIQUE,
    created_at INTEGER NOT NULL,
    revoked_at INTEGER,
    expires_at INTEGER
);

CREATE TABLE setting (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
