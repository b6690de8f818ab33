//! Packed files: a quantized network in one small file, which qdrop reads.

use qdrop_core::exporter::{ExportRequest, ExportedFile, ExportedNetwork, Exporter};
use qdrop_core::packed::{write, About};
use qdrop_core::prelude::*;

struct PackedFile;

impl Exporter for PackedFile {
    fn export(&self, request: &ExportRequest<'_>) -> Result<ExportedNetwork> {
        let ExportRequest { recipe, summary, float_weights, .. } = *request;
        let content = write(request.model, &About { recipe, summary, float_weights })?;
        let file = ExportedFile { extension: "qdrop.safetensors".into(), content };
        Ok(ExportedNetwork { files: vec![file], notes: Vec::new() })
    }
}

register_exporter! {
    name: "packed", aliases: [], summary: "the quantized network, its recipe and results in one small file, for `qdrop evaluate FILE`",
    build: |params| {
        params.expect_none()?;
        Ok(Box::new(PackedFile))
    }
}
