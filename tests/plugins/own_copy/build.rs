//! Makes the plugin depend on the framework's shared library although it uses its own copy. Then it passes
//! every check except that of the framework's identity.

use std::path::PathBuf;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    let out = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let source = out.join("empty.c");
    std::fs::write(&source, "void qdrop_nothing(void) {}\n").expect("OUT_DIR can be written");
    let library = out.join("libqdrop_dylib.so");
    let mut compiler = cc::Build::new().get_compiler().to_command();
    compiler.args(["-shared", "-fPIC", "-Wl,-soname,libqdrop_dylib.so", "-o"]).arg(&library).arg(&source);
    assert!(compiler.status().expect("the C compiler runs").success());
    println!("cargo:rustc-link-arg-cdylib=-Wl,--no-as-needed");
    println!("cargo:rustc-link-arg-cdylib={}", library.display());
}
