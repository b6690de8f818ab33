//! Preparations of the float network before calibration.

mod bias_correction;
mod columns;
mod equalize;
mod percentile;
