//! Dynamically loaded plugins.
