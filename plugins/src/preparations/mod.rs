//! Preparations of the float network before calibration.

mod equalize;
mod percentile;
