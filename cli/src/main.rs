//! The `qdrop` command.

mod arguments;
mod commands;
mod console;
mod convert;
mod memory;
mod recipes;
mod report;

use clap::Parser;
// Linked for what they register.
use qdrop_models as _;
use qdrop_plugins as _;
use std::process::ExitCode;

/// Keeps freed memory: the large tensors of a step are allocated again in the next one, and the
/// system's allocator would return their pages each time.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let arguments = arguments::Arguments::parse();
    let json = arguments.json;
    match console::stop_on_request().map_err(Into::into).and_then(|()| commands::run(arguments)) {
        Ok(value) => {
            if json {
                println!("{value}");
            }
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("error: {error:#}");
            if json {
                println!("{}", serde_json::json!({ "error": format!("{error:#}") }));
            }
            match error.downcast_ref() {
                Some(qdrop_core::Error::Cancelled) => ExitCode::from(console::STOPPED as u8),
                _ => ExitCode::FAILURE,
            }
        }
    }
}
