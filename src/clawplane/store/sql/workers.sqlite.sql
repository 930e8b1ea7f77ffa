-- name: building_versions
SELECT v.id, v.worker, v.version, v.build_job
FROM json_each(:jobs) wanted JOIN worker_version v ON v.build_job = wanted.value WHERE v.status = 'building'
