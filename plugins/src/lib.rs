//! The built-in strategies of qdrop, written as plugins: they use only the public interface of
//! `qdrop-core`, and register themselves.

pub mod datasets;
pub mod exporters;
pub mod observers;
pub mod preparations;
pub mod quantizers;
pub mod reconstructors;
pub mod tasks;
