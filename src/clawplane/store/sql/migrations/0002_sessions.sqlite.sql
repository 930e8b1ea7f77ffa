-- Code sessions: one row each, changed when its state changes; what was executed in them; named workspaces.

CREATE TABLE session (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    owner TEXT NOT NULL,
    name TEXT NOT NULL,
    workspace TEXT,
    options TEXT NOT NULL,
    branch_of TEXT,
    created_at INTEGER NOT NULL,
    state TEXT NOT NULL,
    job INTEGER NOT NULL,
    runner TEXT,
    used_at INTEGER NOT NULL,
    sleeps_at INTEGER,
    expires_at INTEGER,  -- moves with each use
    ends_at INTEGER,  -- a fixed end, which takes its place
    ended_at INTEGER,
    end_reason TEXT NOT NULL DEFAULT '',
    exec_count INTEGER NOT NULL DEFAULT 0,
    lives INTEGER NOT NULL DEFAULT 1,
    lived INTEGER NOT NULL DEFAULT 0  -- 1 once a runner has said that it holds the session
);
CREATE UNIQUE INDEX session_name ON session (owner, name) WHERE name <> '' AND state <> 'ended';
CREATE INDEX session_live ON session (owner, number) WHERE state <> 'ended';
CREATE INDEX session_owner ON session (owner, number);
CREATE INDEX session_job ON session (job);
CREATE INDEX session_expires ON session (coalesce(ends_at, expires_at)) WHERE state <> 'ended';

CREATE TABLE session_exec (
    session TEXT NOT NULL,
    seq INTEGER NOT NULL,
    body BLOB NOT NULL,
    PRIMARY KEY (session, seq)
) WITHOUT ROWID;

CREATE TABLE workspace (
    owner TEXT NOT NULL,
    name TEXT NOT NULL,
    runner TEXT,  -- unknown until the first session that attaches it is placed
    created_at INTEGER NOT NULL,
    used_at INTEGER NOT NULL,
    PRIMARY KEY (owner, name)
) WITHOUT ROWID;

-- What runners have yet to delete of sessions that ended without a lease.
CREATE TABLE session_litter (
    runner TEXT NOT NULL,
    session TEXT NOT NULL,
    PRIMARY KEY (runner, session)
) WITHOUT ROWID;
