-- Version 2: a job whose attempt failed in a way that may pass is queued again, and waits a while.

ALTER TABLE jobs ADD COLUMN retries INTEGER NOT NULL DEFAULT 0;
ALTER TABLE jobs ADD COLUMN retry_time TEXT;
