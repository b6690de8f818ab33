//! Preparations of the float network before calibration.

mod bias_correction;
mod equalize;
mod percentile;
