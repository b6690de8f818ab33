//! The architecture of networks that come from ONNX files.

use crate::file::OnnxFile;
use crate::import::{import, Groups};
use qdrop_core::prelude::*;
use qdrop_core::recipe::RecipePath;
use std::collections::HashMap;
use std::path::PathBuf;

/// Parameters of `onnx`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct OnnxParams {
    /// The file.
    file: Option<RecipePath<'static>>,
    /// Height and width of images, where the file leaves them open.
    image_size: Option<usize>,
    /// Units that are set by the names or patterns of their layers; the others are found.
    #[serde(default)]
    units: Groups,
}

impl OnnxParams {
    fn of(params: &Params) -> Result<(Self, PathBuf)> {
        let parsed: Self = params.parse()?;
        if let Some(size) = parsed.image_size {
            params.at_least_one(&[("image_size", size)])?;
        }
        match &parsed.file {
            Some(file) => {
                let path = params.resolve("file", &file.0);
                Ok((parsed, path))
            }
            None => Err(Error::not_given("model.onnx", Input::Network)),
        }
    }
}

struct Onnx;

impl Architecture for Onnx {
    fn graph(&self, params: &Params) -> Result<Graph> {
        let (parsed, file) = OnnxParams::of(params)?;
        Ok(import(&file, parsed.image_size, &parsed.units)?.graph)
    }

    fn files(&self, params: &Params) -> Result<Vec<PathBuf>> {
        OnnxFile::read(&OnnxParams::of(params)?.1)?.files()
    }

    fn parameters(&self, params: &Params) -> Result<HashMap<String, Tensor>> {
        let (parsed, file) = OnnxParams::of(params)?;
        Ok(import(&file, parsed.image_size, &parsed.units)?.parameters)
    }
}

register_architecture! {
    name: "onnx", aliases: [], summary: "the network of an ONNX file, with its weights",
    build: || Box::new(Onnx)
}
