-- name: insert_key
INSERT INTO api_key (id, name, owner, scopes, digest, created_at, revoked_at, expires_at)
VALUES (:id, :name, :owner, :scopes, :digest, :created_at, :revoked_at, :expires_at)

-- name: key_by_digest
SELECT id, name, owner, scopes, digest, created_at, revoked_at, expires_at FROM api_key WHERE digest = :digest

-- name: all_keys
SELECT id, name, owner, scopes, digest, created_at, revoked_at, expires_at FROM api_key ORDER BY created_at DESC, id DESC

-- name: revoke_key
UPDATE api_key SET revoked_at = coalesce(revoked_at, :now) WHERE id = :id

-- name: bind_runner_once
INSERT INTO runner_key (runner, key) VALUES (:runner, :key) ON CONFLICT (runner) DO NOTHING

-- name: give_runner
INSERT INTO runner_key (runner, key) VALUES (:runner, :key) ON CONFLICT (runner) DO UPDATE SET key = excluded.key

-- name: key_of_runner
SELECT key FROM runner_key WHERE runner = :runner

-- name: setting
SELECT value FROM setting WHERE name = :name

-- name: set_setting_once
INSERT INTO setting (name, value) VALUES (:name, :value) ON CONFLICT (name) DO NOTHING
