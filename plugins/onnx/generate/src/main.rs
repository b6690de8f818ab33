//! Writes `../src/proto.rs` from `../onnx.proto`, without protoc.

use std::error::Error;
use std::path::Path;

const HEADER: &str = "\
//! The messages of an ONNX file. Generated from `onnx.proto` by the program in `generate/`; do not edit.

// The variants of enumerations have the names of the format.
#![allow(missing_docs)]

";

fn main() -> Result<(), Box<dyn Error>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let descriptors = protox::compile([root.join("onnx.proto")], [&root])?;
    let files = descriptors.file.into_iter();
    let files = files.map(|file| (prost_build::Module::from_protobuf_package_name(file.package()), file));
    let modules = prost_build::Config::new().generate(files.collect())?;
    let code: String = modules.into_values().collect();
    let file = root.join("src/proto.rs");
    std::fs::write(&file, format!("{HEADER}{code}"))?;
    let formatted = std::process::Command::new("rustfmt").arg("--edition=2021").arg(&file).status()?;
    if !formatted.success() {
        return Err("rustfmt failed".into());
    }
    Ok(())
}
