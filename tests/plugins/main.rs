//! Dynamically loaded plugins, with a distribution that was moved after it was made.

mod engines;
mod refused;
mod scaffold;
mod stopped;
mod support;
