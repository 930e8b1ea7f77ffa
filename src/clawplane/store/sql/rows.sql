-- Rows, in chunks. A chunk is visible unless its subtask failed in a run that succeeded (:hide = 1).

-- name: advance_batches
UPDATE lease SET stored = :stored WHERE job = :job

-- name: insert_row_chunk
INSERT INTO row_chunk (run, first, count, job, body) VALUES (:run, :first, :count, :job, :body)

-- name: replace_row
UPDATE row_chunk SET job = :job, body = :body WHERE run = :run AND first = :first

-- name: insert_upsert
INSERT INTO upsert (run, digest, ordinal, job) VALUES (:run, :digest, :ordinal, :job)

-- name: share_upsert
UPDATE upsert SET job = 0 WHERE run = :run AND digest = :digest

-- name: add_rows_to_run
UPDATE run_state SET last_ordinal = :last_ordinal, result_count = result_count + :added WHERE run = :run

-- name: add_rows_to_subtask
UPDATE subtask SET row_count = row_count + :added WHERE job = :job

-- name: drop_rows_of_job
DELETE FROM row_chunk WHERE run = :run AND job = :job

-- name: drop_upserts_of_job
DELETE FROM upsert WHERE run = :run AND job = :job

-- name: rows_of_run
SELECT r.id, s.status = 'succeeded' AND s.failed > 0, s.result_count, s.last_ordinal
FROM run r JOIN run_state s ON s.run = r.id WHERE r.slug = :slug

-- name: chunk_with_ordinal
SELECT first, first - 1 FROM row_chunk WHERE run = :run AND first <= :ordinal ORDER BY first DESC LIMIT 1

-- name: chunk_at_offset
SELECT first, before FROM (
    SELECT c.first, c.count, sum(c.count) OVER (ORDER BY c.first) - c.count AS before FROM row_chunk c
    WHERE c.run = :run
      AND (:hide = 0 OR NOT EXISTS (SELECT 1 FROM subtask t WHERE t.job = c.job AND t.status = 'failed'))
) counted WHERE before + count > :offset ORDER BY first LIMIT 1

-- name: chunk_sizes
SELECT c.first, c.count, length(c.body) FROM row_chunk c
WHERE c.run = :run AND c.first >= :first
  AND (:hide = 0 OR NOT EXISTS (SELECT 1 FROM subtask t WHERE t.job = c.job AND t.status = 'failed'))
ORDER BY c.first LIMIT :limit

-- name: chunks_between
SELECT c.first, c.body FROM row_chunk c
WHERE c.run = :run AND c.first >= :first AND c.first <= :last
  AND (:hide = 0 OR NOT EXISTS (SELECT 1 FROM subtask t WHERE t.job = c.job AND t.status = 'failed'))
ORDER BY c.first
