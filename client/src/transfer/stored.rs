//! What the server already holds of local files, so that they need not be sent again.

use std::path::Path;

use hone_proto::v1 as pb;
use tokio::io::AsyncReadExt;

use super::local::{LocalFile, model_files};
use super::{CHUNK_BYTES, Tally};
use crate::client::Client;
use crate::error::{Error, Result};

impl Client {
    /// The newest dataset that has the name and the bytes of a local file, by their SHA-256; the file is read only when
    /// one has its size.
    ///
    /// ```no_run
    /// # async fn example(client: hone_client::Client) -> hone_client::Result<()> {
    /// let rows = match client.find_dataset("rows.jsonl").await? {
    ///     Some(rows) => rows,
    ///     None => client.upload_dataset("rows.jsonl").await?,
    /// };
    /// # Ok(())
    /// # }
    /// ```
    pub async fn find_dataset(&self, path: impl AsRef<Path>) -> Result<Option<pb::Dataset>> {
        let file = LocalFile::open(path.as_ref())?;
        let mut sha256 = None;
        let mut page_token = String::new();
        loop {
            let page = self.list_datasets(pb::ListDatasetsRequest { page_size: 0, page_token }).await?;
            for dataset in page.datasets {
                if dataset.file_name != file.name || dataset.size_bytes != file.size_bytes {
                    continue;
                }
                let own = match &sha256 {
                    Some(own) => own,
                    None => &*sha256.insert(digest(&file).await?),
                };
                if dataset.sha256.eq_ignore_ascii_case(own) {
                    return Ok(Some(dataset));
                }
            }
            if page.next_page_token.is_empty() {
                return Ok(None);
            }
            page_token = page.next_page_token;
        }
    }

    /// The newest model that has the files of a local folder or GGUF file, by their SHA-256; the files are read only when
    /// one has their names and sizes.
    ///
    /// ```no_run
    /// # async fn example(client: hone_client::Client) -> hone_client::Result<()> {
    /// let model = match client.find_model("model.gguf").await? {
    ///     Some(model) => model,
    ///     None => client.upload_model("model.gguf", "").await?,
    /// };
    /// # Ok(())
    /// # }
    /// ```
    pub async fn find_model(&self, path: impl AsRef<Path>) -> Result<Option<pb::Model>> {
        let files = model_files(path.as_ref())?;
        let mut digests = None;
        let mut page_token = String::new();
        loop {
            let page = self.list_models(pb::ListModelsRequest { page_size: 0, page_token }).await?;
            for model in page.models {
                if !same_names_and_sizes(&files, &model.files) {
                    continue;
                }
                let own = match &digests {
                    Some(own) => own,
                    None => &*digests.insert(all_digests(&files).await?),
                };
                let stored = |name: &str| model.files.iter().find(|stored| stored.name == name);
                let same = |(file, own): (&LocalFile, &String)| {
                    stored(&file.name).is_some_and(|stored| stored.sha256.eq_ignore_ascii_case(own))
                };
                if files.iter().zip(own).all(same) {
                    return Ok(Some(model));
                }
            }
            if page.next_page_token.is_empty() {
                return Ok(None);
            }
            page_token = page.next_page_token;
        }
    }
}

fn same_names_and_sizes(files: &[LocalFile], stored: &[pb::ModelFile]) -> bool {
    let there =
        |file: &LocalFile| stored.iter().any(|stored| stored.name == file.name && stored.size_bytes == file.size_bytes);
    files.len() == stored.len() && files.iter().all(there)
}

async fn all_digests(files: &[LocalFile]) -> Result<Vec<String>> {
    let mut digests = Vec::with_capacity(files.len());
    for file in files {
        digests.push(digest(file).await?);
    }
    Ok(digests)
}

/// SHA-256 of a local file.
async fn digest(file: &LocalFile) -> Result<String> {
    tally_of(&file.path).await.map(|(_, sha256)| sha256)
}

/// Size and SHA-256 of a local file.
pub(super) async fn tally_of(path: &Path) -> Result<(u64, String)> {
    let unreadable = |error| Error::file("read", path, error);
    let mut reader = tokio::fs::File::open(path).await.map_err(unreadable)?;
    let mut tally = Tally::default();
    let mut chunk = vec![0; CHUNK_BYTES];
    loop {
        match reader.read(&mut chunk).await.map_err(unreadable)? {
            0 => return Ok(tally.finish()),
            size => tally.add(&chunk[..size]),
        }
    }
}
