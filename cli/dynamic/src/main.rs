//! The `qdrop` command that can load plugins. It is linked to the framework's shared library, as plugins are.

// Linked dynamically, so that this program and its plugins use one copy of the framework.
use qdrop_dylib as _;

fn main() -> std::process::ExitCode {
    qdrop::cli::main()
}
