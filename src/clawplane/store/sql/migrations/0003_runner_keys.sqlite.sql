-- Which key a runner's id belongs to: the one with which it was first heard of, or the one an operator gave it since.

CREATE TABLE runner_key (runner TEXT PRIMARY KEY, key TEXT NOT NULL) WITHOUT ROWID;
