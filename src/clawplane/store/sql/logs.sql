-- name: find_log_stream
SELECT id, last_seq FROM log_stream WHERE subject = :subject

-- name: insert_log_stream
INSERT INTO log_stream (subject, last_seq) VALUES (:subject, 0) RETURNING id, last_seq

-- name: advance_log_stream
UPDATE log_stream SET last_seq = :last_seq WHERE id = :id

-- name: insert_log_chunk
INSERT INTO log_chunk (stream, first, count, origin, body) VALUES (:stream, :first, :count, :origin, :body)

-- name: log_chunks_before
SELECT c.first, c.count, c.origin, c.body FROM log_stream s JOIN log_chunk c ON c.stream = s.id
WHERE s.subject = :subject AND c.first < :before ORDER BY c.first DESC LIMIT :limit

-- name: log_chunks_behind
SELECT c.first, c.count, c.origin, c.body FROM log_stream s JOIN log_chunk c ON c.stream = s.id
WHERE s.subject = :subject AND c.first >= coalesce(
    (SELECT max(b.first) FROM log_chunk b WHERE b.stream = s.id AND b.first <= :seq + 1), 0)
ORDER BY c.first LIMIT :limit
