//! The built-in exporters, but for those of ONNX.

mod packed;
