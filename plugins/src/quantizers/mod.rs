//! Quantizers: mappings to the grid.

mod adaround;
mod fixed;
mod grid_state;
mod lsq;
