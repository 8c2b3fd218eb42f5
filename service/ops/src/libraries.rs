//! Opens LibTorch's CUDA library where it lies beside the CPU one, and says what is loaded.
//!
//! Linked with `--as-needed`, a binary drops libtorch_cuda.so, since no symbol of it is named, and a GPU machine would
//! train on its CPU without a word. Opening the library at start registers its kernels, so one binary serves both.

use std::path::{Path, PathBuf};
use std::ptr;

use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW};

use crate::ffi;

/// The shared libraries of LibTorch in this process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Libraries {
    /// Folder of libtorch_cpu.so.
    pub folder: PathBuf,
    /// Every loaded file of LibTorch: libtorch_cpu.so, libc10.so, libtorch_cuda.so, ...
    pub loaded: Vec<PathBuf>,
    /// Whether CUDA kernels are there; says nothing about a device.
    pub cuda: bool,
}

/// Why the CUDA library that is there could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The process does not say what it has mapped.
    #[error("cannot read the list of loaded libraries: {0}")]
    Maps(#[from] std::io::Error),
    /// libtorch_cpu.so is not a mapped file.
    #[error("libtorch_cpu.so is not among the loaded libraries")]
    NoLibTorch,
    /// The file is there and does not open: usually a CUDA library that it needs is missing.
    #[error("cannot open {path}: {source}; the CUDA libraries it needs must lie in its folder or on LD_LIBRARY_PATH")]
    Open {
        /// The file.
        path: PathBuf,
        /// What the loader said.
        source: libloading::Error,
    },
}

/// Opens libtorch_cuda.so if it lies beside libtorch_cpu.so. To be called once, at start, before any tensor is made.
pub fn load_cuda() -> Result<Libraries, LoadError> {
    // A call into LibTorch, so that the linker keeps libtorch_cpu.so and it is mapped.
    let _ = tch::get_num_threads();
    let cpu =
        mapped_libraries()?.into_iter().find(|path| is_named(path, "libtorch_cpu.so")).ok_or(LoadError::NoLibTorch)?;
    let folder = cpu.parent().unwrap_or(Path::new("/")).to_path_buf();
    let path = folder.join("libtorch_cuda.so");
    if path.exists() {
        // SAFETY: LibTorch's own library of the same build; its initialisers register kernels and are meant to run so.
        let library = unsafe { Library::open(Some(&path), RTLD_NOW | RTLD_GLOBAL) }
            .map_err(|source| LoadError::Open { path, source })?;
        // Registered kernels stay in use until the process ends.
        std::mem::forget(library);
    }
    let loaded: Vec<PathBuf> = mapped_libraries()?.into_iter().filter(|path| is_torch(path)).collect();
    let cuda = loaded.iter().any(|path| is_named(path, "libtorch_cuda.so"));
    Ok(Libraries { folder, loaded, cuda })
}

/// Version of the loaded LibTorch, such as `2.13.0`, as it says itself.
pub fn libtorch_version() -> String {
    let mut text = ptr::null_mut();
    // SAFETY: `text` outlives the call, which writes a C string of `strdup` into it unless it gives back a message.
    let settings = unsafe {
        ffi::check(ffi::hone_build_settings(&mut text));
        ffi::take_text(text)
    };
    let version = settings.split_once("TORCH_VERSION=").map(|(_, rest)| rest);
    version.and_then(|rest| rest.split([',', ' ', '\n']).next()).unwrap_or("unknown").to_string()
}

fn is_named(path: &Path, name: &str) -> bool {
    path.file_name().is_some_and(|file| file == name)
}

fn is_torch(path: &Path) -> bool {
    let name = path.file_name().map(|name| name.to_string_lossy()).unwrap_or_default();
    ["libtorch", "libc10", "libcudart", "libcudnn", "libcublas", "libgomp"].iter().any(|start| name.starts_with(start))
}

/// Files that the process has mapped, each once, as Linux lists them: `address perms offset dev inode path`.
fn mapped_libraries() -> Result<Vec<PathBuf>, std::io::Error> {
    let maps = std::fs::read_to_string("/proc/self/maps")?;
    let mut paths: Vec<PathBuf> = Vec::new();
    for line in maps.lines() {
        if let Some(start) = line.find('/') {
            let path = PathBuf::from(&line[start..]);
            if paths.last() != Some(&path) && !paths.contains(&path) {
                paths.push(path);
            }
        }
    }
    Ok(paths)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_three_numbers() {
        let version = libtorch_version();
        let numbers = version.split('+').next().unwrap().split('.').map(str::parse::<u32>);
        assert_eq!(numbers.filter(Result::is_ok).count(), 3, "{version}");
    }

    #[test]
    fn names_the_cpu_library_and_opens_cuda_only_where_it_lies() {
        let libraries = load_cuda().unwrap();
        assert!(libraries.loaded.iter().any(|path| is_named(path, "libtorch_cpu.so")), "{libraries:?}");
        assert_eq!(libraries.cuda, libraries.folder.join("libtorch_cuda.so").exists());
    }
}
