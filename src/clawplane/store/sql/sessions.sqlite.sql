-- name: sessions_of_jobs
SELECT s.job, s.id, s.state, s.runner, s.owner, s.workspace, s.lived, s.exec_count, l.runner
FROM json_each(:jobs) wanted JOIN session s ON s.job = wanted.value LEFT JOIN lease l ON l.job = s.job
