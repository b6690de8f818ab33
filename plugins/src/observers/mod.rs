//! Observers: range statistics.

mod brent;
mod minmax;
mod mse;
mod mse_fast;
mod statistics;
