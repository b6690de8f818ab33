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
mod interrupt;
mod manual;
mod output;
mod sdk;

use clap::Parser;
use output::Unwritten;
use std::ffi::OsString;
use std::process::ExitCode;

/// Exit status after an error.
const FAILED: u8 = 1;
/// Exit status if nobody reads the result: 128 + SIGPIPE, as a shell reports it of a process that the signal ended.
const CLOSED_PIPE: u8 = 141;

/// Runs the command line with the arguments of this process.
pub fn main() -> ExitCode {
    run(std::env::args_os().collect()).into()
}

/// Runs a command line, of which the first argument is the program, and returns the exit status. The handlers of signals are
/// those of the program from now on, so this is for a process that does nothing else.
pub fn run(arguments: Vec<OsString>) -> u8 {
    let arguments = match arguments::Arguments::try_parse_from(&arguments) {
        Ok(arguments) => arguments,
        Err(message) => {
            let code = u8::try_from(message.exit_code()).unwrap_or(FAILED);
            // The arguments were not understood, but whoever wrote `--json` reads JSON.
            let json = arguments.iter().any(|argument| argument == "--json");
            return output::usage(&message, json).map_or_else(|e| failed(&e.into(), false), |()| code);
        }
    };
    let json = arguments.json;
    let done = interrupt::watch(json).map_err(Into::into).and_then(|()| commands::run(arguments));
    interrupt::begin_to_end();
    let printed = done.and_then(|value| match json {
        true => Ok(output::result(&format!("{value}\n"))?),
        false => Ok(()),
    });
    printed.map_or_else(|error| failed(&error, json), |()| 0)
}

/// Reports an error and returns the exit status.
fn failed(error: &anyhow::Error, json: bool) -> u8 {
    if error.downcast_ref().is_some_and(Unwritten::is_closed_pipe) {
        return CLOSED_PIPE;
    }
    output::failure(&format!("{error:#}"), json);
    let cancelled = error.downcast_ref().is_some_and(crate::Error::is_cancelled)
        || matches!(error.downcast_ref(), Some(qdrop_core::Error::Cancelled));
    if cancelled {
        interrupt::STOPPED
    } else {
        FAILED
    }
}
