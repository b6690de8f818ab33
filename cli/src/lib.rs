//! Post-training quantization of vision networks to 2, 3 and 4 bits with QDrop (Wei et al., ICLR 2022).
//!
//! A [recipe](recipes) says what is quantized and how; a [`Run`] of it calibrates, reconstructs, evaluates and saves.
//! This quantizes the embedded demo, a small ResNet on Fashion-MNIST, shortened to take a moment:
//!
//! ```
//! use qdrop::recipes::Loader;
//! use qdrop::Run;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let folder = tempfile::tempdir()?;
//! # let folder = folder.path().join("result");
//! let recipe = Loader::new("demo")
//!     .set("calibration={images: 64, observe: 32}")
//!     .set("evaluation.images=200")
//!     .set("compare=[]")
//!     .iters(20)
//!     .load()?;
//! let outcome = Run::new(recipe)?.out(&folder)?.quantize()?;
//! println!("{}", outcome.table);
//! assert_eq!(outcome.summary.bits, "w2a4");
//!
//! // The saved network gives the same measurement.
//! let measured = qdrop::evaluate(&folder)?;
//! assert_eq!(measured, outcome.summary.quantized);
//! # Ok(())
//! # }
//! ```
//!
//! | for | see |
//! | --- | --- |
//! | progress, and stopping on request | [`Run::progress`], [`Evaluation::progress`] |
//! | two saved results on the same images | [`compare`], [`Comparison`] |
//! | the network as ONNX, or in a format of a plugin | [`export`], [`Export`] |
//! | what each layer alone loses at few bits | [`Run::analyze`] |
//! | resuming after an interruption | [`resume`], [`Run::resume`] |
//! | the time and memory of a run, and checks before it | [`Run::plan`], [`Run::check`], [`Run::check_float`] |
//! | adding architectures, observers, quantizers, reconstructors, datasets and exporters | [`core`] |
//!
//! The library never prints. All computations run on [rayon](https://docs.rs/rayon)'s global thread pool; see
//! [`set_threads`].
//!
//! # Features
//!
//! - `cli` (default): the command line, [`cli::main`]. Without it none of its dependencies are compiled, nor the loader
//!   of plugins.
//! - `cuda`: computing on CUDA GPUs.

#[cfg(feature = "cli")]
pub mod cli;
mod comparison;
mod error;
mod evaluation;
mod export;
mod extras;
mod flatness;
mod html;
mod kept;
pub mod plugins;
pub mod recipes;
pub mod report;
mod run;
mod saved;

pub use comparison::{compare, Compared, ComparedResult, Comparison};
pub use error::{Error, Result, Stage};
pub use evaluation::{evaluate, is_saved, summary, Evaluated, Evaluation};
pub use export::{export, Export, Exported};
pub use extras::Extras;
pub use html::{flatness_figure, html_comparison, html_report};
pub use kept::{Analysis, Curves, Flatness, REPORT_FILE};
#[doc(inline)]
pub use qdrop_core as core;
pub use run::{resume, Check, Outcome, Plan, Run};
pub use saved::{saved_report, SavedReport};

// Linked, so that their strategies are registered.
use qdrop_models as _;
use qdrop_onnx as _;
use qdrop_plugins as _;

/// Version of the library, the commit that it was built from (`unknown` outside of a repository) and its features:
/// `0.1.0 (26bcd6f, features: none)`.
pub const VERSION: &str =
    concat!(env!("CARGO_PKG_VERSION"), " (", env!("QDROP_COMMIT"), ", features: ", env!("QDROP_FEATURES"), ")");

/// The largest number of worker threads. Every thread has buffers of its own, and no machine has more cores.
pub const MAX_THREADS: usize = 1024;

/// Sets the number of worker threads, from 1 to [`MAX_THREADS`]; without it, there is one for each core. Results do not
/// depend on it.
///
/// # Errors
/// The number is out of range, or the thread pool is already running: call this once, before any computation.
pub fn set_threads(threads: usize) -> Result<()> {
    if !(1..=MAX_THREADS).contains(&threads) {
        let message = format!(
            "{threads} is not possible, use 1 to {MAX_THREADS}: every thread has buffers of its own, and more threads than \
             the machine has cores are only slower; leave it out for one thread for each core"
        );
        return Err(Error::Threads { message });
    }
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
    pool.build_global().map_err(|e| Error::Threads { message: e.to_string() })
}
