//! Plugins: crates that bring strategies without being part of this repository.
//!
//! A plugin crate uses `register_*!` like any other. Linked into a program, its strategies are
//! there as `inventory` collects them. Built as a shared library, it is loaded at run time by
//! [`load`], in this order:
//!
//! 1. [`inspect`](PluginFile::inspect) reads the file without running any of it. What every
//!    registration leaves in it ([`record`]) says what it was built with ([`Stamp`]) and what it
//!    registers. A file without it, with another stamp, or that does not use the shared library of
//!    the framework is refused.
//! 2. The file is loaded. Its strategies register themselves.
//! 3. The framework that it found must be that of this program, at the same address: with a copy of
//!    its own, tensor identities would collide and gradients would be silently wrong.
//! 4. What it declared must have appeared in this program's registries.
//!
//! A plugin is never unloaded. Whatever panics in it becomes an [`Error`](crate::Error) that names it.

mod inspect;
mod load;
mod record;
mod stamp;

pub use inspect::{PluginFile, Verdict};
pub use load::{load, loaded, shared_library, Loaded, LIBRARY};
pub use record::Declaration;
#[doc(hidden)]
pub use record::{record, record_len};
pub use stamp::Stamp;
#[doc(hidden)]
pub use stamp::STAMP;
