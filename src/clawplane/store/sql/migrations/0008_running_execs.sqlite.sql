-- Execs are written down while they run. What was stored before has ended; so has every row without an id here, and the
-- index has only those that run: a short exec, which is stored once, costs it nothing.
ALTER TABLE session_exec ADD COLUMN running TEXT;
CREATE UNIQUE INDEX session_exec_running ON session_exec (session, running) WHERE running IS NOT NULL;
