-- Version 1. Ordinals are never used twice, so that a page token stays true while rows come and go.

CREATE TABLE jobs (
    ordinal         INTEGER PRIMARY KEY AUTOINCREMENT,
    job_id          TEXT NOT NULL UNIQUE,
    spec            TEXT NOT NULL, -- JSON
    state           TEXT NOT NULL,
    state_detail    TEXT NOT NULL,
    create_time     TEXT NOT NULL,
    start_time      TEXT,
    end_time        TEXT,
    attempt         INTEGER NOT NULL,
    attempt_over    INTEGER NOT NULL,
    secret_sha256   TEXT NOT NULL,
    process         TEXT NOT NULL,
    last_report     INTEGER NOT NULL,
    last_sequence   INTEGER NOT NULL,
    step            INTEGER NOT NULL,
    total_steps     INTEGER NOT NULL,
    last_checkpoint TEXT NOT NULL,
    failure         TEXT, -- JSON
    result          TEXT  -- JSON
) STRICT;

CREATE INDEX jobs_by_state ON jobs (state, ordinal);

CREATE TABLE labels (
    job_id TEXT NOT NULL REFERENCES jobs (job_id) ON DELETE CASCADE,
    key    TEXT NOT NULL,
    value  TEXT NOT NULL,
    PRIMARY KEY (key, value, job_id)
) STRICT, WITHOUT ROWID;

CREATE INDEX labels_by_job ON labels (job_id);

CREATE TABLE events (
    job_id   TEXT NOT NULL REFERENCES jobs (job_id) ON DELETE CASCADE,
    sequence INTEGER NOT NULL,
    time     TEXT NOT NULL,
    attempt  INTEGER NOT NULL,
    event    TEXT NOT NULL, -- JSON
    PRIMARY KEY (job_id, sequence)
) STRICT, WITHOUT ROWID;

CREATE TABLE requests (
    request_id  TEXT PRIMARY KEY,
    body_sha256 TEXT NOT NULL,
    job_id      TEXT NOT NULL REFERENCES jobs (job_id) ON DELETE CASCADE
) STRICT;

CREATE INDEX requests_by_job ON requests (job_id);

-- Uploads that a job reads.
CREATE TABLE inputs (
    job_id    TEXT NOT NULL REFERENCES jobs (job_id) ON DELETE CASCADE,
    upload_id TEXT NOT NULL,
    PRIMARY KEY (upload_id, job_id)
) STRICT, WITHOUT ROWID;

CREATE INDEX inputs_by_job ON inputs (job_id);

CREATE TABLE uploads (
    ordinal INTEGER PRIMARY KEY AUTOINCREMENT,
    id      TEXT NOT NULL UNIQUE,
    kind    TEXT NOT NULL,
    record  TEXT NOT NULL -- JSON
) STRICT;

CREATE INDEX uploads_by_kind ON uploads (kind, ordinal);
