//! Dynamically loaded plugins, in a distribution that was moved after it was made.

mod refused;
mod scaffold;
mod support;

// The framework as a shared library: this program can load plugins itself.
use qdrop_dylib as _;
use qdrop_models as _;
use qdrop_plugins as _;
