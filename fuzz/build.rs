//! Lets the binaries and tests of this package find LibTorch: its folder becomes their rpath.
//!
//! hone-ops passes the folder on, see its build script.

fn main() {
    println!("cargo:rerun-if-env-changed=DEP_HONE_OPS_LIBTORCH_LIB");
    if let Ok(lib) = std::env::var("DEP_HONE_OPS_LIBTORCH_LIB") {
        println!("cargo:rustc-link-arg=-Wl,-rpath,{lib}");
    }
}
