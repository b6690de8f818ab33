//! The description in a packed file: recipe, graph, and what the other tensors are.

use super::packed::{allowed, loads, seed};
use super::Target;
use flate2::read::ZlibDecoder;
use flate2::write::ZlibEncoder;
use flate2::Compression;
use safetensors::{tensor::TensorView, Dtype, SafeTensors};
use std::collections::HashMap;
use std::io::{Read, Write};
use std::sync::OnceLock;

pub const TARGET: Target = Target { name: "packed_description", seeds, read, allowed: of_text };

/// The text is as long as a file that holds it could be; the other tensors of the seed come to it.
fn of_text(length: usize) -> usize {
    allowed(length + file().len())
}

fn file() -> &'static [u8] {
    static FILE: OnceLock<Vec<u8>> = OnceLock::new();
    FILE.get_or_init(seed)
}

fn seeds() -> Vec<Vec<u8>> {
    let tensors = SafeTensors::deserialize(file()).unwrap();
    let mut text = String::new();
    ZlibDecoder::new(tensors.tensor("description").unwrap().data()).read_to_string(&mut text).unwrap();
    // Without a graph, the recipe's architecture builds the network.
    let mut without: serde_json::Value = serde_json::from_str(&text).unwrap();
    without.as_object_mut().unwrap().remove("graph").unwrap();
    vec![text.into_bytes(), without.to_string().into_bytes()]
}

fn read(bytes: &[u8]) -> bool {
    let (_, header) = SafeTensors::read_metadata(file()).unwrap();
    let tensors = SafeTensors::deserialize(file()).unwrap();
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    let compressed = encoder.finish().unwrap();
    let mut views: HashMap<String, TensorView<'_>> = tensors.tensors().into_iter().collect();
    views.remove("sha256");
    views.insert("description".into(), TensorView::new(Dtype::U8, vec![compressed.len()], &compressed).unwrap());
    // The last name in the file's order.
    views.insert("~".into(), TensorView::new(Dtype::U8, vec![32], &[0; 32]).unwrap());
    loads(safetensors::serialize(views, header.metadata().clone()).unwrap())
}
