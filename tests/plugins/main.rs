//! Dynamically loaded plugins, with a distribution that was moved after it was made.

mod refused;
mod scaffold;
mod support;
