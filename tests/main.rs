//! All integration tests are one crate, because linking it once is much cheaper than one binary for each file.

mod architectures;
mod arrays;
mod bad_input;
mod checks;
mod cli;
mod compare;
mod conformance;
mod correction;
#[path = "plugins/cosine/src/lib.rs"]
mod cosine;
mod cuda_engine;
mod engines;
mod equalize;
mod folders;
mod fused;
mod fused_graphs;
mod fuzz;
mod golden_observers;
mod golden_quantizers;
mod golden_reconstruction;
mod gradients;
mod imagenet;
mod images;
mod inference;
mod integers;
mod interrupt;
mod library;
mod onnx_export;
mod onnx_file;
mod onnx_import;
mod output;
mod packed;
mod prediction;
mod ranges;
mod recipe_files;
mod recipes;
mod resume;
mod strategies;
mod subgraphs;
mod support;
mod tasks;
mod weights;

use qdrop_models as _;
use qdrop_onnx as _;
use qdrop_plugins as _;
