//! Uploads as rows.

use rusqlite::types::Value;
use rusqlite::{Connection, OptionalExtension, Row, params, params_from_iter};

use super::jobs::FINAL_STATES;
use crate::store::{Error, Result, Upload, UploadQuery, upload_kind};

/// An upload's columns, as [`from_row`] reads them by name.
const SELECT: &str = "SELECT ordinal, project, record FROM uploads";

pub(super) fn create(connection: &mut Connection, mut upload: Upload, max_bytes: Option<u64>) -> Result<Upload> {
    let transaction = connection.transaction()?;
    let size_bytes = upload.size_bytes();
    let total = bytes_of(&transaction, &upload.project)? + size_bytes;
    if let Some(max_bytes) = max_bytes.filter(|max| total > *max) {
        return Err(Error::TooManyBytes { project: upload.project, max_bytes });
    }
    let insert = "INSERT INTO uploads (id, project, kind, size_bytes, record) VALUES (?1, ?2, ?3, ?4, ?5)";
    let record = serde_json::to_string(&upload)?;
    let values = params![upload.id, upload.project, upload.kind().prefix(), size_bytes as i64, record];
    transaction.execute(insert, values)?;
    upload.ordinal = transaction.last_insert_rowid() as u64;
    transaction.commit()?;
    Ok(upload)
}

pub(super) fn bytes_of(connection: &Connection, project: &str) -> Result<u64> {
    let select = "SELECT coalesce(sum(size_bytes), 0) FROM uploads WHERE project = ?1";
    let total: i64 = connection.query_row(select, [project], |row| row.get(0))?;
    Ok(total.max(0) as u64)
}

pub(super) fn get(connection: &Connection, id: &str) -> Result<Upload> {
    let mut statement = connection.prepare_cached(&format!("{SELECT} WHERE id = ?1"))?;
    let mut rows = statement.query([id])?;
    match rows.next()? {
        Some(row) => from_row(row),
        None => Err(Error::NotFound { kind: upload_kind(id), id: id.to_string() }),
    }
}

pub(super) fn list(connection: &Connection, query: &UploadQuery) -> Result<Vec<Upload>> {
    let mut conditions = vec!["kind = ?", "ordinal < ?"];
    let before = query.before.map_or(i64::MAX, |before| before as i64);
    let mut values = vec![Value::from(query.kind.prefix().to_string()), Value::from(before)];
    if let Some(project) = &query.project {
        conditions.push("project = ?");
        values.push(Value::from(project.clone()));
    }
    values.push(Value::from(query.limit as i64));
    let select = format!("{SELECT} WHERE {} ORDER BY ordinal DESC LIMIT ?", conditions.join(" AND "));
    let mut statement = connection.prepare_cached(&select)?;
    let mut rows = statement.query(params_from_iter(values))?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        found.push(from_row(row)?);
    }
    Ok(found)
}

pub(super) fn delete(connection: &mut Connection, id: &str) -> Result<Upload> {
    let transaction = connection.transaction()?;
    let upload = get(&transaction, id)?;
    let user = format!(
        "SELECT job_id FROM inputs JOIN jobs USING (job_id)
        WHERE upload_id = ?1 AND state NOT IN {FINAL_STATES} LIMIT 1"
    );
    if let Some(job_id) = transaction.query_row(&user, [id], |row| row.get(0)).optional()? {
        return Err(Error::InUse { id: id.to_string(), job_id });
    }
    transaction.execute("DELETE FROM uploads WHERE id = ?1", [id])?;
    transaction.commit()?;
    Ok(upload)
}

fn from_row(row: &Row<'_>) -> Result<Upload> {
    let mut upload: Upload = serde_json::from_str(&row.get::<_, String>("record")?)?;
    upload.ordinal = row.get::<_, i64>("ordinal")?.max(0) as u64;
    upload.project = row.get("project")?;
    Ok(upload)
}
