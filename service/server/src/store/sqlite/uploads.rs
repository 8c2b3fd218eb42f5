//! Uploads as rows.

use hone_job::id::Kind;
use rusqlite::{Connection, OptionalExtension, Row, params};

use crate::store::{Error, Result, Upload, upload_kind};

pub(super) fn create(connection: &mut Connection, mut upload: Upload) -> Result<Upload> {
    let insert = "INSERT INTO uploads (id, kind, record) VALUES (?1, ?2, ?3)";
    let record = serde_json::to_string(&upload)?;
    connection.execute(insert, params![upload.id, upload.kind().prefix(), record])?;
    upload.ordinal = connection.last_insert_rowid() as u64;
    Ok(upload)
}

pub(super) fn get(connection: &Connection, id: &str) -> Result<Upload> {
    let mut statement = connection.prepare_cached("SELECT ordinal, record FROM uploads WHERE id = ?1")?;
    let mut rows = statement.query([id])?;
    match rows.next()? {
        Some(row) => from_row(row),
        None => Err(Error::NotFound { kind: upload_kind(id), id: id.to_string() }),
    }
}

pub(super) fn list(connection: &Connection, kind: Kind, before: Option<u64>, limit: usize) -> Result<Vec<Upload>> {
    let select = "SELECT ordinal, record FROM uploads WHERE kind = ?1 AND ordinal < ?2 ORDER BY ordinal DESC LIMIT ?3";
    let mut statement = connection.prepare_cached(select)?;
    let before = before.map_or(i64::MAX, |before| before as i64);
    let mut rows = statement.query(params![kind.prefix(), before, limit as i64])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        found.push(from_row(row)?);
    }
    Ok(found)
}

pub(super) fn delete(connection: &mut Connection, id: &str) -> Result<Upload> {
    let transaction = connection.transaction()?;
    let upload = get(&transaction, id)?;
    let user = "SELECT job_id FROM inputs JOIN jobs USING (job_id)
        WHERE upload_id = ?1 AND state NOT IN ('CANCELLED', 'SUCCEEDED', 'FAILED') LIMIT 1";
    if let Some(job_id) = transaction.query_row(user, [id], |row| row.get(0)).optional()? {
        return Err(Error::InUse { id: id.to_string(), job_id });
    }
    transaction.execute("DELETE FROM uploads WHERE id = ?1", [id])?;
    transaction.commit()?;
    Ok(upload)
}

fn from_row(row: &Row<'_>) -> Result<Upload> {
    let mut upload: Upload = serde_json::from_str(&row.get::<_, String>("record")?)?;
    upload.ordinal = row.get::<_, i64>("ordinal")?.max(0) as u64;
    Ok(upload)
}
