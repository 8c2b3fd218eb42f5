-- Version 4: what belongs to which trace. What was there before belongs to none.

ALTER TABLE jobs ADD COLUMN trace TEXT NOT NULL DEFAULT '';
ALTER TABLE jobs ADD COLUMN attempt_trace TEXT NOT NULL DEFAULT '';
ALTER TABLE events ADD COLUMN trace_id TEXT NOT NULL DEFAULT '';
