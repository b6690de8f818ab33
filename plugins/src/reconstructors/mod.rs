//! Reconstructors: optimizations of a unit's quantizers.

mod none;
mod paths;
mod qdrop;

pub use qdrop::{optimize, QdropParams};
