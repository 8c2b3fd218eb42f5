//! Copies are whole or absent, and made once.

use std::path::Path;

use super::*;

struct Fixture {
    _runtime: tokio::runtime::Runtime,
    workspace: Workspace,
    root: tempfile::TempDir,
}

/// A cache and, beside it, a store of local files that is treated as one that is far away.
fn fixture() -> Fixture {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let root = tempfile::tempdir().unwrap();
    let cache = Cache::new(root.path().join("cache"), None);
    let storage = StorageOptions::default();
    let workspace = Workspace { cache, used: Arc::default(), storage, runtime: runtime.handle().clone() };
    Fixture { _runtime: runtime, workspace, root }
}

impl Fixture {
    fn write(&self, name: &str, text: &str) {
        let path = self.root.path().join("store").join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    fn place(&self, name: &str) -> Location {
        Storage::open_path(&self.root.path().join("store").join(name)).unwrap()
    }

    /// Fetches; gives the path and what progress was told.
    fn fetch(&self, name: &str) -> (Result<PathBuf, Error>, Vec<(u64, u64)>) {
        let told = Mutex::new(Vec::new());
        let tell = |bytes: u64, total: u64| told.lock().unwrap().push((bytes, total));
        let path = self.workspace.runtime.block_on(self.workspace.fetch(&self.place(name), &tell));
        (path, told.into_inner().unwrap())
    }

    /// Names in the cache.
    fn cached(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.root.path().join("cache")).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }
}

fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).unwrap();
    let mut names: Vec<String> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn a_file_uri_is_its_own_path() {
    let f = fixture();
    f.write("model/config.json", "{}");
    let folder = f.root.path().join("store/model").canonicalize().unwrap();
    let uri = format!("file://{}", folder.display());
    assert_eq!(f.workspace.local(&uri, &|_, _| panic!("nothing is fetched")).unwrap(), folder);
    let absent = f.workspace.local(&format!("{uri}/absent"), &|_, _| {}).unwrap_err();
    assert!(absent.to_string().contains("model/absent"), "{absent}");
    assert!(!f.root.path().join("cache").exists());
}

#[test]
fn a_folder_is_fetched_once_without_what_no_model_needs() {
    let f = fixture();
    for name in ["config.json", "model.safetensors", "tokenizer.json", "chat_template.jinja"] {
        f.write(&format!("model/{name}"), name);
    }
    for name in ["pytorch_model.bin", "README.md", "onnx/model.safetensors"] {
        f.write(&format!("model/{name}"), name);
    }
    let (path, told) = f.fetch("model");
    let path = path.unwrap();
    assert_eq!(names(&path), ["chat_template.jinja", "config.json", "model.safetensors", "tokenizer.json"]);
    assert_eq!(std::fs::read_to_string(path.join("model.safetensors")).unwrap(), "model.safetensors");
    let total = 19 + 11 + 17 + 14;
    assert!(told.iter().all(|(_, of)| *of == total), "{told:?}");
    assert_eq!(told.iter().map(|(bytes, _)| *bytes).max(), Some(total));

    let (again, told) = f.fetch("model");
    assert_eq!((again.unwrap(), told), (path.clone(), vec![]));

    f.write("model/config.json", "{\"other\": 1}");
    let (changed, told) = f.fetch("model");
    assert_ne!(changed.unwrap(), path);
    assert!(!told.is_empty());
    assert_eq!(f.cached().len(), 2);
}

#[test]
fn a_single_object_keeps_its_name() {
    let f = fixture();
    f.write("SmolLM2.Q4_1.gguf", "GGUF");
    let path = f.fetch("SmolLM2.Q4_1.gguf").0.unwrap();
    assert_eq!(path.file_name().unwrap(), "SmolLM2.Q4_1.gguf");
    assert_eq!(std::fs::read_to_string(path).unwrap(), "GGUF");
}

#[test]
fn what_is_not_there_is_named() {
    let f = fixture();
    f.write("other", "");
    let error = f.fetch("model").0.unwrap_err();
    assert!(error.to_string().contains("store/model") && error.to_string().contains("does not exist"), "{error}");
}

#[test]
fn a_fetch_that_breaks_off_leaves_nothing_behind() {
    let f = fixture();
    f.write("model/config.json", "{}");
    f.write("model/model.safetensors", "weights");
    let place = f.place("model");
    let entries = f.workspace.runtime.block_on(place.list()).unwrap();
    // The object changes between listing and reading.
    f.write("model/model.safetensors", "longer weights");
    let outcome = f.workspace.runtime.block_on(f.workspace.fetch_all(&place, &entries, "copy", &|_, _| {}));
    let error = outcome.unwrap_err().to_string();
    assert!(error.contains("model.safetensors") && error.contains("14 bytes") && error.contains("lists 7"), "{error}");
    assert_eq!(f.cached(), Vec::<String>::new());
}
