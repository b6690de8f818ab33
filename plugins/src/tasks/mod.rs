//! Tasks: the purposes of networks.

mod classification;
pub mod detection;
