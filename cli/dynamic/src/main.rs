//! The `qdrop` command that can load plugins: it shares the framework with them as a library.

// Linked, so that this program and its plugins have one copy of the framework.
use qdrop_dylib as _;

fn main() -> std::process::ExitCode {
    qdrop::cli::main()
}
