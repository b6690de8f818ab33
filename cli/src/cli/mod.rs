//! The `qdrop` command.
//!
//! A static program with plugins links their crates and has this `main.rs`:
//!
//! ```no_run
//! # /*
//! use my_observer as _;
//! # */
//!
//! fn main() -> std::process::ExitCode {
//!     qdrop::cli::main()
//! }
//! ```

mod arguments;
mod commands;
mod console;
mod manual;
mod sdk;

use clap::Parser;
use std::process::ExitCode;

/// Runs the command line with the arguments of this process.
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
            let library = error.downcast_ref().is_some_and(crate::Error::is_cancelled);
            match library || matches!(error.downcast_ref(), Some(qdrop_core::Error::Cancelled)) {
                true => ExitCode::from(console::STOPPED as u8),
                false => ExitCode::FAILURE,
            }
        }
    }
}
