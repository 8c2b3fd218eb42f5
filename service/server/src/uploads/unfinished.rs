//! Uploads on their way, noted in the data folder: what a crash cut short is found at the next start and removed.

use std::fs::File;
use std::path::PathBuf;

use hone_job::id::Kind;

use crate::layout::Layout;
use crate::store::{self, Store};

/// The notes: an empty file each, named by the id of the upload.
#[derive(Debug, Clone)]
pub(crate) struct Unfinished {
    folder: PathBuf,
}

impl Unfinished {
    /// Notes in `folder`, which is made when it is not there.
    pub(crate) fn open(folder: PathBuf) -> std::io::Result<Self> {
        std::fs::create_dir_all(&folder)?;
        Ok(Self { folder })
    }

    /// Notes that an upload begins, before anything of it is written.
    pub(super) fn note(&self, id: &str) -> Result<(), store::Error> {
        let path = self.folder.join(id);
        let noted = File::create(&path).and_then(|file| file.sync_all());
        noted.map_err(|error| store::Error::Failed(format!("cannot note an upload in {}: {error}", path.display())))
    }

    /// The upload is kept, or nothing is left of it.
    pub(super) fn forget(&self, id: &str) {
        if let Err(error) = std::fs::remove_file(self.folder.join(id)) {
            tracing::warn!(id, %error, "the note of an upload remains");
        }
    }

    fn ids(&self) -> std::io::Result<Vec<(Kind, String)>> {
        let mut ids = Vec::new();
        for entry in std::fs::read_dir(&self.folder)? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            let kind = [Kind::Dataset, Kind::Model].into_iter().find(|kind| kind.matches(&name));
            ids.extend(kind.map(|kind| (kind, name)));
        }
        Ok(ids)
    }

    /// Removes what uploads that never ended left in storage. One that cannot be removed now is tried again at the next
    /// start.
    pub(crate) async fn sweep(&self, store: &dyn Store, layout: &Layout) -> std::io::Result<()> {
        for (kind, id) in self.ids()? {
            match store.upload(&id).await {
                // It was kept, and only the note is too much.
                Ok(_) => self.forget(&id),
                Err(store::Error::NotFound { .. }) => match layout.upload(kind, &id).delete_prefix().await {
                    Ok(files) => {
                        tracing::info!(id, files, "what a crash left of an upload was removed");
                        self.forget(&id);
                    }
                    Err(error) => tracing::warn!(id, %error, "what a crash left of an upload remains"),
                },
                Err(error) => tracing::warn!(id, %error, "an upload that a crash cut short was not looked for"),
            }
        }
        Ok(())
    }
}
