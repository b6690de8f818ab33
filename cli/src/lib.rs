//! The `qdrop` command, as a library: a program of one's own is
//! `use my_plugin as _; fn main() -> std::process::ExitCode { qdrop_cli::main() }`.

mod arguments;
mod commands;
mod console;
mod convert;
mod memory;
mod plugins;
mod recipes;
mod report;
mod sdk;

use clap::Parser;
// Linked for what they register.
use qdrop_models as _;
use qdrop_plugins as _;
use std::process::ExitCode;

/// Runs the command line of this process.
pub fn main() -> ExitCode {
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
