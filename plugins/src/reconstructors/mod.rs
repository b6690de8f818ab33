//! Reconstructors: the optimization of a unit's quantizers.

mod none;
mod qdrop;

pub use qdrop::{
    optimize, Batches, Decay, DistributionCorrection, Drop, NetworkParams, PredictionDifference, QdropParams, Start,
};
