-- name: insert_event
INSERT INTO event (at, kind, subject, data) VALUES (:at, :kind, :subject, :data)

-- name: events_after
SELECT seq, at, kind, subject, data FROM event WHERE seq > :seq ORDER BY seq LIMIT :limit

-- name: events_of_subject
SELECT seq, at, kind, subject, data FROM event WHERE subject = :subject AND seq > :seq ORDER BY seq LIMIT :limit
