//! Plugins: crates outside of this repository that add strategies.
//!
//! A plugin crate uses `register_*!` like any other. If it is linked into a program, `inventory` collects its
//! strategies. If it is built as a shared library, [`load()`] loads it at run time, in this order:
//!
//! 1. [`inspect`](PluginFile::inspect) reads the file without running any of it. Every
//!    registration leaves a record in it (`record.rs`), with what it was built with ([`Stamp`]) and what it
//!    registers. The file is refused if it has no record, if its stamp differs from the program's, or if it does not
//!    use the shared library of the framework.
//! 2. The file is loaded. Its strategies register themselves.
//! 3. The plugin must use this program's copy of the framework, at the same address. With a copy of
//!    its own, tensor ids would collide and gradients would be silently wrong.
//! 4. The registrations in its records must appear in this program's registries.
//!
//! The loader is part of builds with the feature `dynamic-plugins` on Unix. Without it, [`load()`] returns an error,
//! as in a static program.
//!
//! A plugin is never unloaded. A panic in it becomes an [`Error`](crate::Error) that names the plugin.

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
