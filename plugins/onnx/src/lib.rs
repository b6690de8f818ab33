//! ONNX files in and out of qdrop, written as a plugin: it uses only the public interface of `qdrop-core`, and
//! registers itself.

mod architecture;
mod export;
mod file;
mod import;
pub mod proto;
