//! The `qdrop` command as a static program.

/// Keeps freed memory, because the next step allocates large tensors of the same sizes again. The
/// system's allocator would return their pages to the system each time.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    qdrop::cli::main()
}
