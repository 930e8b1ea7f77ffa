-- name: insert_worker
INSERT INTO worker (slug, owner, name, title, description, categories, icon, current_version, created_at, updated_at)
VALUES (:slug, :owner, :name, :title, :description, :categories, :icon, :current_version, :created_at, :updated_at)

-- name: find_worker
SELECT slug, owner, name, title, description, categories, icon, current_version, created_at, updated_at
FROM worker WHERE removed_at IS NULL AND (slug = :slug OR (owner = :owner AND name = :name)) LIMIT 1

-- name: count_workers
SELECT count(*) FROM worker
WHERE removed_at IS NULL AND (:owner IS NULL OR owner = :owner)
  AND (lower(title) LIKE lower(:pattern) ESCAPE '\' OR lower(slug) LIKE lower(:pattern) ESCAPE '\'
       OR lower(owner || '~' || name) LIKE lower(:pattern) ESCAPE '\')

-- name: page_workers
SELECT slug, owner, name, title, description, categories, icon, current_version, created_at, updated_at
FROM worker
WHERE removed_at IS NULL AND (:owner IS NULL OR owner = :owner)
  AND (lower(title) LIKE lower(:pattern) ESCAPE '\' OR lower(slug) LIKE lower(:pattern) ESCAPE '\'
       OR lower(owner || '~' || name) LIKE lower(:pattern) ESCAPE '\')
ORDER BY created_at DESC, id DESC LIMIT :limit OFFSET :offset

-- name: update_worker
UPDATE worker SET title = :title, description = :description, categories = :categories, icon = :icon,
    updated_at = :updated_at
WHERE slug = :slug AND removed_at IS NULL

-- name: remove_worker
UPDATE worker SET removed_at = :now WHERE slug = :slug AND removed_at IS NULL

-- name: version_status
SELECT status FROM worker_version WHERE worker = :worker AND version = :version

-- name: delete_version
DELETE FROM worker_version WHERE worker = :worker AND version = :version

-- name: insert_version
INSERT INTO worker_version (worker, version, language, status, package_key, package_sha256, package_size, input_schema,
    output_schema, readme, diagnostics, environment, build_job, build_error, created_at, ready_at)
VALUES (:worker, :version, :language, :status, :package_key, :package_sha256, :package_size, :input_schema,
    :output_schema, :readme, :diagnostics, :environment, :build_job, :build_error, :created_at, :ready_at)

-- name: find_version
SELECT worker, version, language, status, package_key, package_sha256, package_size, input_schema, output_schema,
    readme, diagnostics, environment, build_job, build_error, created_at, ready_at
FROM worker_version WHERE worker = :worker AND version = :version

-- name: versions_of_worker
SELECT worker, version, language, status, package_key, package_sha256, package_size, input_schema, output_schema,
    readme, diagnostics, environment, build_job, build_error, created_at, ready_at
FROM worker_version WHERE worker = :worker ORDER BY id DESC

-- name: settle_version
UPDATE worker_version SET status = :status, environment = :environment, build_error = :build_error,
    ready_at = :ready_at
WHERE id = :id

-- name: set_current_version
UPDATE worker SET current_version = (
    SELECT version FROM worker_version v WHERE v.worker = :worker AND v.status = 'ready' ORDER BY v.id DESC LIMIT 1)
WHERE slug = :worker
