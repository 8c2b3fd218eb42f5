-- Version 3: everything belongs to a project; what was there before belongs to `default`. Request ids are per project.

ALTER TABLE jobs ADD COLUMN project TEXT NOT NULL DEFAULT 'default';
CREATE INDEX jobs_by_project ON jobs (project, ordinal);

ALTER TABLE uploads ADD COLUMN project TEXT NOT NULL DEFAULT 'default';
ALTER TABLE uploads ADD COLUMN size_bytes INTEGER NOT NULL DEFAULT 0;
UPDATE uploads SET size_bytes = coalesce(
    (SELECT sum(json_extract(value, '$.size_bytes')) FROM json_each(record, '$.files')), 0);
CREATE INDEX uploads_by_project ON uploads (project, kind, ordinal);

CREATE TABLE requests_of_projects (
    project     TEXT NOT NULL,
    request_id  TEXT NOT NULL,
    body_sha256 TEXT NOT NULL,
    job_id      TEXT NOT NULL REFERENCES jobs (job_id) ON DELETE CASCADE,
    PRIMARY KEY (project, request_id)
) STRICT;

INSERT INTO requests_of_projects SELECT 'default', request_id, body_sha256, job_id FROM requests;
DROP TABLE requests;
ALTER TABLE requests_of_projects RENAME TO requests;
CREATE INDEX requests_by_job ON requests (job_id);
