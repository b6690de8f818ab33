//! The `qdrop` command as one static program.

/// Keeps freed memory: the large tensors of a step are allocated again in the next one, and the
/// system's allocator would return their pages each time.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    qdrop::cli::main()
}
