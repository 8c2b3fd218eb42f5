//! Compiles the C++ operators against the LibTorch that tch was built with, and passes its place on.
//!
//! Binaries need an rpath to LibTorch, and a build script can only give link arguments to its own package. So the place
//! travels as `DEP_HONE_OPS_LIBTORCH_LIB` to crates that depend on this one, whose build scripts do the same.

use std::path::PathBuf;

/// Includes the others but for the loops over rows.
const SOURCE: &str = "cpp/ops.cpp";

/// Levels of x86-64 processors that the loops over rows are compiled for, and the compiler's names for them.
const LEVELS: [(&str, &str); 3] = [("v4", "x86-64-v4"), ("v3", "x86-64-v3"), ("v1", "x86-64")];

fn main() {
    // Set by torch-sys, whose `links` key is `tch`.
    let lib = PathBuf::from(std::env::var("DEP_TCH_LIBTORCH_LIB").expect("torch-sys says where LibTorch lies"));
    let include = lib.parent().expect("LibTorch's lib folder has a parent").join("include");
    println!("cargo:rerun-if-changed=cpp");
    cc::Build::new()
        .cpp(true)
        .std("c++17")
        .opt_level(2)
        .debug(false)
        .flag("-D_GLIBCXX_USE_CXX11_ABI=1")
        // The nodes share their rows out to threads.
        .flag("-fopenmp")
        // LibTorch's headers are not ours to warn about.
        .flag(format!("-isystem{}", include.display()))
        .flag(format!("-isystem{}", include.join("torch/csrc/api/include").display()))
        .file(SOURCE)
        .compile("hone_ops");
    for (level, architecture) in LEVELS {
        kernels(level)
            .define("HONE_LEVEL", level)
            .flag(format!("-march={architecture}"))
            .flag("-mprefer-vector-width=512")
            .file("cpp/kernels/level.cpp")
            .compile(&format!("hone_kernels_{level}"));
    }
    kernels("choose").file("cpp/kernels/choose.cpp").compile("hone_kernels");
    // The one that LibTorch has loaded: the same name, found by the same rpath.
    println!("cargo:rustc-link-lib=dylib=gomp");
    println!("cargo:rustc-link-arg=-Wl,-rpath,{}", lib.display());
    println!("cargo:libtorch_lib={}", lib.display());
}

/// Needs no LibTorch; slow without optimisation, whatever the profile.
fn kernels(folder: &str) -> cc::Build {
    let out = PathBuf::from(std::env::var("OUT_DIR").expect("cargo names a folder")).join(folder);
    let mut build = cc::Build::new();
    build
        .cpp(true)
        .std("c++17")
        .opt_level(3)
        .debug(false)
        .flag("-fno-math-errno")
        .flag("-fno-trapping-math")
        .out_dir(out);
    build
}
