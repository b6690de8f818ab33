//! `qdrop-core` as a shared library.
//!
//! A program and a dynamically loaded plugin that both link this library share one copy of the
//! framework and of the tensor library at run time. With two copies tensor identities would
//! collide and gradients would be silently wrong.

pub use qdrop_core;
