//! `qdrop-core` as a shared library.
//!
//! A program and a dynamically loaded plugin that both link this library share one copy of the
//! framework and of candle at run time. With two copies, tensor ids would
//! collide and gradients would be silently wrong.
//!
//! Plugins are compiled against it under the name `qdrop_core`.

pub use qdrop_core::*;

/// The allocator of every program that links this library (see that of the static program).
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;
