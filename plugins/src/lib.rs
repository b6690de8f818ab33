//! The built-in strategies of qdrop, written as a plugin author would write them: everything here
//! uses the public interface of `qdrop-core` alone and registers itself.

pub mod datasets;
pub mod observers;
pub mod quantizers;
pub mod reconstructors;
pub mod tasks;
