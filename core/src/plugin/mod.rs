//! Plugins: crates that bring strategies without being part of this repository.
//!
//! A plugin crate uses `register_*!` like any other. Linked into a program, its strategies are
//! there as `inventory` collects them. Built as a shared library, it is loaded at run time by
//! [`load()`], in this order:
//!
//! 1. [`inspect`](PluginFile::inspect) reads the file without running any of it. What every
//!    registration leaves in it (`record.rs`) says what it was built with ([`Stamp`]) and what it
//!    registers. A file without it, with another stamp, or that does not use the shared library of
//!    the framework is refused.
//! 2. The file is loaded. Its strategies register themselves.
//! 3. The framework that it found must be that of this program, at the same address: with a copy of
//!    its own, tensor identities would collide and gradients would be silently wrong.
//! 4. What it declared must have appeared in this program's registries.
//!
//! The loader is part of builds with the feature `dynamic-plugins` on Unix. Without it, [`load()`] refuses every plugin as
//! a static program does.
//!
//! A plugin is never unloaded. Whatever panics in it becomes an [`Error`](crate::Error) that names it.

#[cfg(feature = "dynamic-plugins")]
mod inspect;
#[cfg(all(unix, feature = "dynamic-plugins"))]
mod load;
mod loaded;
#[cfg(not(all(unix, feature = "dynamic-plugins")))]
mod no_loader;
mod record;
mod stamp;

#[cfg(feature = "dynamic-plugins")]
pub use inspect::{PluginFile, Verdict};
#[cfg(all(unix, feature = "dynamic-plugins"))]
pub use load::{load, shared_library};
pub use loaded::{loaded, Loaded};
#[cfg(not(all(unix, feature = "dynamic-plugins")))]
pub use no_loader::{load, shared_library};
pub use record::Declaration;
#[doc(hidden)]
pub use record::{record, record_len};
pub use stamp::Stamp;
#[doc(hidden)]
pub use stamp::STAMP;

/// Name of the framework's shared library, without prefix and extension.
pub const LIBRARY: &str = "qdrop_dylib";
