//! Observers: the statistics from which a quantizer gets its range.

mod brent;
mod minmax;
mod mse;
mod mse_fast;
mod statistics;
