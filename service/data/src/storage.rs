//! Where objects are: a URI in, a place to read, write and list out. `file://` and `s3://`.
//!
//! Every error names the URI and the step that failed, and says what to check; nothing waits long for a store that does
//! not answer, since jobs have their own retries.

use std::ops::Range;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use object_store::aws::{AmazonS3, AmazonS3Builder, Checksum};
use object_store::local::LocalFileSystem;
use object_store::path::Path as ObjectPath;
use object_store::{ClientOptions, GetOptions, ObjectStore, ObjectStoreExt, PutPayload};
use sha2::{Digest, Sha256};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use url::Url;

mod error;
mod options;
mod parts;
mod traffic;
mod watched;

use error::Place;
pub use error::{Error, Step};
pub use options::{Secret, StorageOptions};
pub use parts::Parts;
use parts::{NOTE, PART_BYTES, part_bytes};
pub use traffic::{Traffic, traffic};
use watched::Connector;
pub use watched::{Watched, Watcher};

/// Parts of an object on their way at once.
const PARTS_AT_ONCE: usize = 4;
/// Bytes in memory that go in one request; a store may refuse one of 5 GiB.
const MOST_IN_ONE: usize = 64 << 20;

pub(crate) type Result<T, E = Error> = std::result::Result<T, E>;

/// Opens URIs.
#[derive(Debug, Clone, Copy)]
pub struct Storage;

impl Storage {
    /// The place a URI names. Looks at nothing in it yet.
    pub fn open(uri: &str, options: &StorageOptions) -> Result<Location> {
        let unusable = |what: String| Error::Unusable { uri: uri.to_string(), what };
        let url = Url::parse(uri).map_err(|error| unusable(format!("{error}; give a file:// or s3:// URI")))?;
        match url.scheme() {
            "file" => open_file(uri, &url).map(|place| Location { watched: options.watched.clone(), ..place }),
            "s3" => open_s3(uri, &url, options),
            other => Err(unusable(format!("{other}:// is not supported; give a file:// or s3:// URI"))),
        }
    }

    /// The place of a local path, absolute or relative to the working directory.
    pub fn open_path(path: &Path) -> Result<Location> {
        let unusable = |what: String| Error::Unusable { uri: path.display().to_string(), what };
        let absolute = std::path::absolute(path).map_err(|error| unusable(error.to_string()))?;
        // `..` means another folder behind a link; where there is nothing yet to follow, it is taken as written.
        let absolute = absolute.canonicalize().unwrap_or_else(|_| without_dots(&absolute));
        let url = Url::from_file_path(&absolute).map_err(|()| unusable("not a usable path".into()))?;
        open_file(url.as_str(), &url)
    }
}

fn without_dots(path: &Path) -> PathBuf {
    path.components().fold(PathBuf::new(), |mut path, part| {
        match part {
            Component::ParentDir => drop(path.pop()),
            Component::CurDir => {}
            part => path.push(part),
        }
        path
    })
}

fn open_file(uri: &str, url: &Url) -> Result<Location> {
    let unusable = |what: String| Error::Unusable { uri: uri.to_string(), what };
    let local = url
        .to_file_path()
        .map_err(|()| unusable("a file URI has three slashes and an absolute path: file:///data/rows.jsonl".into()))?;
    let path = ObjectPath::from_absolute_path(&local).map_err(|error| unusable(error.to_string()))?;
    // Synced, since a checkpoint that was reported must outlive a power cut.
    let store = LocalFileSystem::new().with_fsync(true).with_automatic_cleanup(true);
    let (uri, endpoint) = (uri.to_string(), String::new());
    let watched = Watched::default();
    Ok(Location { store: Arc::new(store), multipart: None, path, uri, local: Some(local), endpoint, watched })
}

fn open_s3(uri: &str, url: &Url, options: &StorageOptions) -> Result<Location> {
    let unusable = |what: String| Error::Unusable { uri: uri.to_string(), what };
    let bucket = url.host_str().filter(|host| !host.is_empty());
    let bucket = bucket.ok_or_else(|| unusable("an s3 URI names a bucket: s3://bucket/path".into()))?;
    let path = ObjectPath::from_url_path(url.path()).map_err(|error| unusable(error.to_string()))?;
    let client = ClientOptions::new()
        .with_connect_timeout(options.connect_timeout)
        .with_read_timeout(options.read_timeout)
        .with_timeout_disabled() // it would bound whole transfers, and model files are large
        .with_allow_http(options.allow_http);
    let mut builder = AmazonS3Builder::new()
        .with_bucket_name(bucket)
        .with_region(&options.s3_region)
        .with_checksum_algorithm(Checksum::SHA256)
        .with_retry(options.retry())
        .with_client_options(client)
        .with_http_connector(Connector(options.watched.clone()));
    if let Some(endpoint) = &options.s3_endpoint {
        builder = builder.with_endpoint(endpoint);
    }
    builder = match (&options.access_key_id, &options.secret_access_key) {
        (Some(key), Some(secret)) => builder.with_access_key_id(key).with_secret_access_key(secret.expose()),
        (None, None) if options.s3_endpoint.is_none() => with_ambient_credentials(builder),
        _ => return Err(unusable("set both AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY".into())),
    };
    if let Some(token) = &options.session_token {
        builder = builder.with_token(token.expose());
    }
    let store = Arc::new(builder.build().map_err(|error| unusable(error.to_string()))?);
    let endpoint = options.s3_endpoint.clone().unwrap_or_else(|| "not set, so AWS itself".into());
    let (uri, watched) = (uri.to_string(), options.watched.clone());
    Ok(Location { multipart: Some(store.clone()), store, path, uri, local: None, endpoint, watched })
}

/// Credentials that AWS puts into a pod; without them the client asks the machine's own metadata service.
fn with_ambient_credentials(mut builder: AmazonS3Builder) -> AmazonS3Builder {
    for name in [
        "AWS_WEB_IDENTITY_TOKEN_FILE",
        "AWS_ROLE_ARN",
        "AWS_ROLE_SESSION_NAME",
        "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
        "AWS_CONTAINER_CREDENTIALS_FULL_URI",
        "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE",
    ] {
        if let (Ok(value), Ok(key)) = (std::env::var(name), name.to_ascii_lowercase().parse()) {
            builder = builder.with_config(key, value);
        }
    }
    builder
}

/// A place in a store: an object, or the folder that objects lie in.
#[derive(Debug, Clone)]
pub struct Location {
    /// The store.
    pub store: Arc<dyn ObjectStore>,
    /// The same store, where uploads in parts outlive who began them.
    multipart: Option<Arc<AmazonS3>>,
    /// Path within the store.
    pub path: ObjectPath,
    /// The URI, for messages.
    pub uri: String,
    local: Option<PathBuf>,
    endpoint: String,
    watched: Watched,
}

/// An object of a listing.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Path below the listed folder, with `/` between parts.
    pub name: String,
    /// Size.
    pub num_bytes: u64,
    /// The store's own mark of the content, which changes with it; some stores have none.
    pub e_tag: Option<String>,
    /// Where it is.
    pub location: Location,
}

/// A file that was written or read whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transferred {
    /// Size.
    pub num_bytes: u64,
    /// SHA-256 of the content, lower-case hex.
    pub sha256: String,
}

impl Location {
    /// The path on this machine, for a `file://` URI; files are memory-mapped through it.
    pub fn local_path(&self) -> Option<&Path> {
        self.local.as_deref()
    }

    /// The last part of the path.
    pub fn file_name(&self) -> &str {
        self.path.filename().unwrap_or_default()
    }

    /// A place below this one, whatever `name` says: it may hold several parts, of which `.` and `..` are left out.
    pub fn join(&self, name: &str) -> Location {
        let parts: Vec<&str> = name.split('/').filter(|part| !matches!(*part, "" | "." | "..")).collect();
        let name = parts.join("/");
        let name = name.as_str();
        let local = self.local.as_ref().map(|local| local.join(name));
        let path = match &local {
            Some(local) => ObjectPath::from_absolute_path(local).ok(),
            None => ObjectPath::parse(format!("{}/{name}", self.path)).ok(),
        };
        let path = path.unwrap_or_else(|| self.path.clone().join(name));
        Location { path, uri: format!("{}/{}", self.uri.trim_end_matches('/'), uri_part(name)), local, ..self.clone() }
    }

    /// The whole object.
    pub async fn get(&self) -> Result<Bytes> {
        let object = self.store.get(&self.path).await.map_err(self.failed(Step::Get))?;
        let bytes = object.bytes().await.map_err(self.failed(Step::Get))?;
        traffic::note_read(bytes.len());
        Ok(bytes)
    }

    /// The object in pieces.
    pub async fn get_stream(&self) -> Result<BoxStream<'static, Result<Bytes>>> {
        let object = self.store.get(&self.path).await.map_err(self.failed(Step::Get))?;
        let here = self.clone();
        let pieces = object.into_stream().inspect_ok(|piece| traffic::note_read(piece.len()));
        Ok(pieces.map_err(move |error| here.failure(Step::Get, error)).boxed())
    }

    /// Some bytes of the object, in pieces. A range that ends after the object gives what there is.
    pub async fn get_stream_of(&self, range: Range<u64>) -> Result<BoxStream<'static, Result<Bytes>>> {
        let options = GetOptions { range: Some(range.into()), ..GetOptions::default() };
        let object = self.store.get_opts(&self.path, options).await.map_err(self.failed(Step::Get))?;
        let here = self.clone();
        Ok(object.into_stream().map_err(move |error| here.failure(Step::Get, error)).boxed())
    }

    /// Copies the object into a local file, which is whole or absent afterwards.
    pub async fn get_to_file(&self, path: &Path) -> Result<Transferred> {
        let local = |source| Error::Local { uri: self.uri.clone(), step: Step::Get, path: path.to_path_buf(), source };
        let partial = path.with_extension("partial");
        let mut file = tokio::fs::File::create(&partial).await.map_err(local)?;
        let mut stream = self.get_stream().await?;
        let mut hash = Sha256::new();
        let mut num_bytes = 0;
        while let Some(piece) = stream.try_next().await? {
            hash.update(&piece);
            num_bytes += piece.len() as u64;
            file.write_all(&piece).await.map_err(local)?;
        }
        file.sync_all().await.map_err(local)?;
        tokio::fs::rename(&partial, path).await.map_err(local)?;
        Ok(Transferred { num_bytes, sha256: hex::encode(hash.finalize()) })
    }

    /// Writes the object, replacing what was there.
    pub async fn put(&self, bytes: impl Into<Bytes>) -> Result<()> {
        let bytes = bytes.into();
        if bytes.len() <= MOST_IN_ONE {
            return self.put_in_one(bytes).await;
        }
        let mut parts = Parts::begin(self, part_bytes(bytes.len() as u64), PARTS_AT_ONCE).await?;
        match parts.write(bytes).await {
            Ok(()) => parts.finish().await,
            Err(error) => {
                parts.abort().await;
                Err(error)
            }
        }
    }

    async fn put_in_one(&self, bytes: Bytes) -> Result<()> {
        let num_bytes = bytes.len();
        self.store.put(&self.path, PutPayload::from(bytes)).await.map_err(self.failed(Step::Put))?;
        traffic::note_written(num_bytes);
        Ok(())
    }

    /// Begins to write the object in parts, for what comes piece by piece; at most `at_once` parts of 8 MiB are on their way.
    pub async fn put_in_parts(&self, at_once: usize) -> Result<Parts> {
        Parts::begin(self, PART_BYTES, at_once).await
    }

    /// Writes a local file as the object, in parts when it is large, and hashes it on the way.
    pub async fn put_file(&self, path: &Path) -> Result<Transferred> {
        let local = |source| Error::Local { uri: self.uri.clone(), step: Step::Put, path: path.to_path_buf(), source };
        let mut file = tokio::fs::File::open(path).await.map_err(local)?;
        let num_bytes = file.metadata().await.map_err(local)?.len();
        if num_bytes <= PART_BYTES as u64 {
            let mut bytes = Vec::with_capacity(num_bytes as usize);
            file.read_to_end(&mut bytes).await.map_err(local)?;
            let sha256 = hex::encode(Sha256::digest(&bytes));
            let num_bytes = bytes.len() as u64;
            self.put(bytes).await?;
            return Ok(Transferred { num_bytes, sha256 });
        }
        let part_bytes = part_bytes(num_bytes);
        let mut parts = Parts::begin(self, part_bytes, PARTS_AT_ONCE).await?;
        let sent = async {
            let (mut hash, mut num_bytes) = (Sha256::new(), 0);
            loop {
                let mut part = BytesMut::with_capacity(part_bytes);
                while part.len() < part_bytes && file.read_buf(&mut part).await.map_err(local)? > 0 {}
                if part.is_empty() {
                    return Ok(Transferred { num_bytes, sha256: hex::encode(hash.finalize()) });
                }
                hash.update(&part);
                num_bytes += part.len() as u64;
                parts.write(part.freeze()).await?;
            }
        };
        match sent.await {
            Ok(transferred) => parts.finish().await.map(|()| transferred),
            Err(error) => {
                // The first failure is the one to report.
                parts.abort().await;
                Err(error)
            }
        }
    }

    /// Whether the object exists.
    pub async fn exists(&self) -> Result<bool> {
        Ok(self.num_bytes().await?.is_some())
    }

    /// Size of the object, if it exists.
    pub async fn num_bytes(&self) -> Result<Option<u64>> {
        Ok(self.entry().await?.map(|entry| entry.num_bytes))
    }

    /// The object as a listing would show it, under its own file name, if it exists.
    pub async fn entry(&self) -> Result<Option<Entry>> {
        match self.store.head(&self.path).await {
            Ok(meta) => Ok(Some(Entry {
                name: self.file_name().to_string(),
                num_bytes: meta.size,
                e_tag: meta.e_tag,
                location: self.clone(),
            })),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            // A folder of a local file system is there, but is no object.
            Err(_) if self.local.as_deref().is_some_and(Path::is_dir) => Ok(None),
            Err(error) => Err(self.failure(Step::List, error)),
        }
    }

    /// Every object below this folder, at any depth, sorted by name.
    pub async fn list(&self) -> Result<Vec<Entry>> {
        let found: Vec<_> = self.store.list(Some(&self.path)).try_collect().await.map_err(self.failed(Step::List))?;
        let mut entries: Vec<Entry> = found
            .into_iter()
            .filter_map(|meta| {
                let parts: Vec<_> = meta.location.prefix_match(&self.path)?.collect();
                let name = parts.iter().map(|part| part.as_ref()).collect::<Vec<_>>().join("/");
                (!name.is_empty()).then(|| Entry {
                    location: self.join(&name),
                    num_bytes: meta.size,
                    e_tag: meta.e_tag,
                    name,
                })
            })
            .collect();
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(entries)
    }

    /// Deletes the object; that it was not there is no error.
    pub async fn delete(&self) -> Result<()> {
        match self.store.delete(&self.path).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(self.failure(Step::Delete, error)),
        }
    }

    /// Deletes every object below this folder, and what uploads into it that never ended left, and returns how many objects
    /// there were.
    pub async fn delete_prefix(&self) -> Result<u64> {
        let entries = self.list().await?;
        for entry in &entries {
            if entry.name.ends_with(NOTE) {
                entry.location.abort_noted().await?;
            }
            entry.location.delete().await?;
        }
        if let Some(path) = &self.local {
            // What is left are empty folders, and the beginnings of files that no listing shows.
            match tokio::fs::remove_dir_all(path).await {
                Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
                    return Err(Error::Local { uri: self.uri.clone(), step: Step::Delete, path: path.clone(), source });
                }
                _ => {}
            }
        }
        Ok(entries.len() as u64)
    }

    fn failed(&self, step: Step) -> impl Fn(object_store::Error) -> Error + '_ {
        move |error| self.failure(step, error)
    }

    /// An error of the store that this place is in, for those who use [`Self::store`] themselves.
    pub fn failure(&self, step: Step, error: object_store::Error) -> Error {
        let place = Place { uri: &self.uri, is_local: self.local.is_some(), endpoint: &self.endpoint };
        let error = Error::from_store(place, step, error);
        if !matches!(error, Error::NotFound { .. }) {
            self.watched.failed(step);
        }
        error
    }
}

/// A name as it stands in a URI: the characters that would mean something else there are escaped.
fn uri_part(name: &str) -> String {
    name.replace('%', "%25").replace('#', "%23").replace('?', "%3F")
}

#[cfg(test)]
mod tests;
