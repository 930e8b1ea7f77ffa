-- How many records the trail of host tasks has: a million of them are not counted for every /health.
CREATE TABLE host_event_count (
    type TEXT NOT NULL,
    task_status TEXT NOT NULL,  -- 'unknown' for none
    number INTEGER NOT NULL,
    PRIMARY KEY (type, task_status)
) WITHOUT ROWID;
INSERT INTO host_event_count (type, task_status, number)
    SELECT type, coalesce(task_status, 'unknown'), count(*) FROM host_event GROUP BY 1, 2;
