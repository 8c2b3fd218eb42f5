//! A real S3 server, SeaweedFS: started once for all tests of a run, used by one test at a time, gone with the run.

use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use hone_data::storage::{Location, Secret, Storage, StorageOptions};
use object_store::aws::{AmazonS3, AmazonS3Builder};
use tokio::sync::{Mutex, MutexGuard, OnceCell};

use crate::{fetched, soon};

const ACCESS_KEY: &str = "tests";
const SECRET_KEY: &str = "not-a-secret";

/// The one bucket: every new one makes the server grow seven volumes.
const BUCKET: &str = "hone-tests";

/// The server. It writes gRPC sockets to /tmp beside its own folder, and grows a second port for each, 10000 higher.
pub struct SeaweedFs {
    endpoint: String,
    // Holds the pipe whose end tells the keeper that the tests are over.
    _keeper: Child,
}

/// A folder of a test's own on the server, and the server itself until it is dropped.
pub struct Bucket {
    endpoint: String,
    uri: String,
    _turn: MutexGuard<'static, ()>,
}

static RUNNING: OnceCell<SeaweedFs> = OnceCell::const_new();
static TURN: Mutex<()> = Mutex::const_new(());

/// Starts the server, waits for the end of its own standard input, which is the end of the tests however they end, and
/// kills the server then: SIGTERM takes it half a minute.
const KEEPER: &str = r#"
trap '' INT TERM HUP
folder=$1 sockets=$2; shift 2
"$@" >"$folder/log" 2>&1 &
read -r _
kill -s KILL $!
rm -rf "$folder"
for port in $sockets; do rm -f /tmp/seaweedfs-*-"$port".sock; done
"#;

impl SeaweedFs {
    /// A folder `name` on the server, once no other test uses the server.
    pub async fn bucket(name: &str) -> Bucket {
        let turn = TURN.lock().await;
        let server = RUNNING.get_or_init(Self::start).await;
        let bucket = Bucket { endpoint: server.endpoint.clone(), uri: format!("s3://{BUCKET}/{name}"), _turn: turn };
        assert!(bucket.location("").list().await.expect("listed").is_empty(), "{name} is used by another test");
        bucket
    }

    async fn start() -> Self {
        let folder = tempfile::Builder::new().prefix("hone-seaweedfs-").tempdir().expect("a folder").keep();
        let [master, volume, filer, s3] = free_ports();
        let config = folder.join("s3.json");
        std::fs::write(&config, identities()).expect("the folder is writable");
        std::fs::create_dir(folder.join("data")).expect("the folder is writable");
        let sockets = [master, volume, filer, s3].map(|port| format!("{port} {}", port + GRPC)).join(" ");
        let mut keeper = Command::new("sh");
        keeper.args(["-c", KEEPER, "keeper"]).arg(&folder).arg(sockets).arg(fetched("weed", "seaweedfs"));
        keeper.args(["-logtostderr=true", "server", "-ip=127.0.0.1", "-ip.bind=127.0.0.1"]);
        keeper.arg(format!("-dir={}", folder.join("data").display())).arg(format!("-s3.config={}", config.display()));
        keeper.args([format!("-master.port={master}"), format!("-volume.port={volume}")]);
        keeper.args(["-filer".to_owned(), format!("-filer.port={filer}"), "-s3".to_owned(), format!("-s3.port={s3}")]);
        keeper.args(["-s3.port.iceberg=0", "-s3.port.lance=0", "-master.telemetry=false"]);
        keeper.args(["-volume.max=200", "-master.volumeSizeLimitMB=64"]);
        let keeper = keeper.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let server = Self { endpoint: format!("http://127.0.0.1:{s3}"), _keeper: keeper.expect("there is a shell") };
        server.serves(&folder).await;
        server
    }

    /// Waits until an object can be written: its ports open long before.
    async fn serves(&self, folder: &Path) {
        let options = StorageOptions { max_retries: 0, ..options(&self.endpoint, SECRET_KEY) };
        let object = Storage::open(&format!("s3://{BUCKET}/started"), &options).expect("a usable URI");
        let mut last = String::new();
        for _ in 0..600 {
            match object.put("yes").await {
                Ok(()) => return,
                Err(error) => last = error.to_string(),
            }
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
        let log = std::fs::read_to_string(folder.join("log")).unwrap_or_default();
        panic!("SeaweedFS does not serve: {last}\n{log}");
    }
}

impl Bucket {
    /// The folder's URI.
    pub fn uri(&self) -> &str {
        &self.uri
    }

    /// The server's URL.
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// How to reach it.
    pub fn options(&self) -> StorageOptions {
        options(&self.endpoint, SECRET_KEY)
    }

    /// How to be refused.
    pub fn options_with_wrong_secret(&self) -> StorageOptions {
        options(&self.endpoint, "wrong")
    }

    /// A place in the folder.
    pub fn location(&self, path: &str) -> Location {
        Storage::open(&self.uri, &self.options()).expect("a usable URI").join(path)
    }

    /// A client of the whole bucket, for what hone itself does not ask of a store.
    pub fn client(&self) -> AmazonS3 {
        let client = AmazonS3Builder::new().with_endpoint(&self.endpoint).with_allow_http(true);
        let client = client.with_bucket_name(BUCKET).with_region("us-east-1");
        let client = client.with_access_key_id(ACCESS_KEY).with_secret_access_key(SECRET_KEY);
        client.build().expect("a usable endpoint")
    }

    /// Environment variables by which processes reach the server.
    pub fn environment(&self) -> Vec<(String, String)> {
        self.environment_through(&self.endpoint)
    }

    /// The same through a proxy that is reached at `endpoint`.
    pub fn environment_through(&self, endpoint: &str) -> Vec<(String, String)> {
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        vec![
            pair("HONE_S3_ENDPOINT", endpoint),
            pair("AWS_ACCESS_KEY_ID", ACCESS_KEY),
            pair("AWS_SECRET_ACCESS_KEY", SECRET_KEY),
        ]
    }

    /// Removes every object of the folder that is still there. The next test starts afresh anyway; this frees the disk.
    pub async fn clear(self) {
        soon("the bucket to be emptied", self.location("").delete_prefix()).await.expect("objects can be deleted");
    }
}

fn options(endpoint: &str, secret: &str) -> StorageOptions {
    StorageOptions {
        s3_endpoint: Some(endpoint.to_owned()),
        access_key_id: Some(ACCESS_KEY.to_owned()),
        secret_access_key: Some(Secret::new(secret)),
        allow_http: true,
        ..StorageOptions::default()
    }
}

fn identities() -> String {
    let credentials = serde_json::json!([{ "accessKey": ACCESS_KEY, "secretKey": SECRET_KEY }]);
    let actions = ["Admin", "Read", "Write", "List", "Tagging"];
    serde_json::json!({ "identities": [{ "name": "tests", "credentials": credentials, "actions": actions }] })
        .to_string()
}

/// How far above a port SeaweedFS opens the one for gRPC.
const GRPC: u16 = 10_000;

/// Ports that are free, and so are those for gRPC; below the range from which the system gives out its own.
fn free_ports() -> [u16; 4] {
    let free = |port: u16| TcpListener::bind(("127.0.0.1", port)).is_ok();
    let start = 11_000 + (std::process::id() % 10_000) as u16;
    let mut ports = (start..22_000).chain(11_000..start).filter(|port| free(*port) && free(port + GRPC));
    std::array::from_fn(|_| ports.next().expect("four ports are free"))
}
