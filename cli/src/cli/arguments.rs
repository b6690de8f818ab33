//! The command line.

use crate::Extras;
use clap::builder::RangedU64ValueParser;
use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use qdrop_core::engine::Engine;
use std::ffi::OsString;
use std::path::PathBuf;

/// Post-training quantization of vision networks to 2, 3 or 4 bits with QDrop.
#[derive(Debug, Parser)]
#[command(name = "qdrop", version = crate::VERSION)]
pub struct Arguments {
    /// End with one JSON line on stdout; everything else goes to stderr.
    #[arg(long, global = true)]
    pub json: bool,
    /// Worker threads (default: all cores).
    #[arg(long, global = true, value_name = "N")]
    pub threads: Option<usize>,
    /// Load a plugin: a file, or a folder of files (repeatable; see also QDROP_PLUGIN_PATH).
    #[arg(long, global = true, value_name = "PATH")]
    pub plugin: Vec<PathBuf>,
    /// The command to run.
    #[command(subcommand)]
    pub command: Command,
}

/// The command to run.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Quantize a network as a recipe says, and measure it.
    Quantize(QuantizeArguments),
    /// Resume an interrupted run.
    Resume {
        /// The folder of `quantize --out`.
        dir: PathBuf,
    },
    /// Measure a saved result, or the float network of a recipe.
    Evaluate(EvaluateArguments),
    /// Rank layers and units by what each of them alone loses at 2, 3, 4 and 8 bits, without reconstruction.
    Analyze(AnalyzeArguments),
    /// Write the report of a run, finished or not, as one HTML file; or that of several runs side by side.
    Report(ReportArguments),
    /// Measure the loss around the weights of saved results, along their quantization and in random directions.
    Flatness(FlatnessArguments),
    /// Compare two saved results on the same images, with paired standard errors and McNemar's test.
    Compare(CompareArguments),
    /// Write a saved result in a format of another program, such as ONNX.
    Export(ExportArguments),
    /// List architectures, preparations, observers, quantizers, reconstructors, datasets, tasks and exporters.
    List {
        /// Only one kind.
        kind: Option<ListKind>,
    },
    /// List what this machine has for computing: the CPU, GPUs, and the libraries that they need.
    Devices,
    /// List or show the built-in recipes.
    Recipes {
        /// What to do with them (default: list).
        #[command(subcommand)]
        action: Option<RecipesAction>,
    },
    /// Check everything in a recipe that can be checked without running it.
    Check(RecipeArguments),
    /// Make, build, inspect and test plugins.
    Plugin {
        /// What to do with them.
        #[command(subcommand)]
        action: PluginAction,
    },
    /// Show an architecture's (or a recipe's) units, layers, shapes, bits, parameters and operations.
    Describe(RecipeArguments),
    /// Print a script that completes commands and options in a shell.
    Completions {
        /// The shell.
        shell: Shell,
    },
    /// Write manual pages, one for each command.
    Man {
        /// The folder to write them to.
        dir: PathBuf,
    },
    /// Measure the time of steps of single blocks, of evaluations and of whole networks on this machine.
    Bench(BenchArguments),
}

/// Parses a number that is not 0.
fn at_least_one() -> RangedU64ValueParser<usize> {
    RangedU64ValueParser::new().range(1..)
}

/// Arguments of `bench`.
#[derive(Debug, Args)]
pub struct BenchArguments {
    /// What to measure, such as resnet18.layer1.0, evaluate.resnet18 or network.resnet18 (default: everything).
    pub names: Vec<String>,
    /// The engine: auto (fused if it can compute the block, else generic), generic or fused.
    #[arg(long, value_name = "ENGINE")]
    pub engine: Option<EngineArgument>,
    /// Number of measurements; the median is printed.
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = at_least_one())]
    pub iters: usize,
    /// Device of blocks and evaluations: cpu, cuda or cuda:N. Networks are estimated on the CPU.
    #[arg(long, default_value = "cpu")]
    pub device: String,
    /// Allow a GPU to compute products in TF32.
    #[arg(long)]
    pub tf32: bool,
    /// Another command that measures the same, such as "python3 cli/examples/torch_block.py": both
    /// run in turn, and the median ratio is printed.
    #[arg(long, value_name = "COMMAND")]
    pub against: Option<OsString>,
    /// How often both commands run.
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = at_least_one())]
    pub pairs: usize,
}

/// Arguments of `report`.
#[derive(Debug, Args)]
pub struct ReportArguments {
    /// Folders of `quantize --out`. The report of one run stands in its folder as report.html.
    #[arg(required = true, value_name = "DIR")]
    pub dirs: Vec<PathBuf>,
    /// The file to write (default: report.html in the folder of one run, in the current folder for several).
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
}

/// Arguments of `flatness`.
#[derive(Debug, Args)]
pub struct FlatnessArguments {
    /// Folders of finished runs; the measurements stand there as flatness.json, .csv and .svg.
    #[arg(required = true, value_name = "DIR")]
    pub dirs: Vec<PathBuf>,
    /// Number of calibration and of evaluation images (default: 256, and 8 where images differ in size).
    #[arg(long, value_name = "N", value_parser = at_least_one())]
    pub images: Option<usize>,
    /// Also draws all runs in one figure, an SVG file.
    #[arg(long, value_name = "FILE")]
    pub figure: Option<PathBuf>,
}

/// A recipe and changes to it.
#[derive(Debug, Args)]
pub struct RecipeArguments {
    /// A YAML file, the name of a built-in recipe (see `qdrop recipes`), or a network as .onnx file.
    pub recipe: PathBuf,
    /// Bits of weights and activations, such as w4a4 (default for a network without a recipe) or w2a4.
    #[arg(long, value_name = "BITS")]
    pub bits: Option<String>,
    /// What a network without a recipe is quantized with: fast (default, minutes) or published (hours).
    #[arg(long, value_name = "PRESET")]
    pub preset: Option<String>,
    /// Replace a value of the recipe, such as quant.weight.bits=3 (repeatable).
    #[arg(long, value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// Run another number of iterations, with learning rates to match; with published recipes not comparable with full runs.
    #[arg(long, value_name = "N")]
    pub iters: Option<usize>,
    /// The engine: auto (fused if it can compute the unit, else generic), generic or fused.
    #[arg(long, value_name = "ENGINE")]
    pub engine: Option<EngineArgument>,
    /// Data folder.
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// Checkpoint with the float weights.
    #[arg(long, value_name = "FILE")]
    pub weights: Option<PathBuf>,
    /// Device: cpu, cuda or cuda:N.
    #[arg(long, default_value = "cpu")]
    pub device: String,
}

impl RecipeArguments {
    /// Whether the recipe is as it is saved, without any change.
    pub fn is_unchanged(&self) -> bool {
        let Self { recipe: _, bits, preset, set, iters, engine, data, weights, device: _ } = self;
        let same = bits.is_none() && preset.is_none() && set.is_empty() && iters.is_none();
        same && engine.is_none() && data.is_none() && weights.is_none()
    }
}

/// The engine that reconstructs units.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum EngineArgument {
    /// The fused engine if it can compute the unit, else the generic engine.
    Auto,
    /// The generic engine, which uses candle's operations.
    Generic,
    /// The fused engine; an error if it cannot compute a unit.
    Fused,
}

impl From<EngineArgument> for Engine {
    fn from(argument: EngineArgument) -> Self {
        match argument {
            EngineArgument::Auto => Self::Auto,
            EngineArgument::Generic => Self::Generic,
            EngineArgument::Fused => Self::Fused,
        }
    }
}

/// Arguments of `quantize`.
#[derive(Debug, Args)]
pub struct QuantizeArguments {
    /// The recipe to run.
    #[command(flatten)]
    pub recipe: RecipeArguments,
    /// Save the run in this folder: checkpoints from which `resume` can continue, events, and the result.
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Check everything, print the plan with the estimated time and memory, and stop there.
    #[arg(long)]
    pub dry_run: bool,
}

/// Arguments of `evaluate`.
#[derive(Debug, Args)]
pub struct EvaluateArguments {
    /// A folder that `quantize --out` wrote, a packed file, or a recipe (with --float).
    #[command(flatten)]
    pub target: RecipeArguments,
    /// Measure the float network.
    #[arg(long)]
    pub float: bool,
    /// Also compare a saved result with the float network of its recipe: agreement and KL divergence.
    #[arg(long, conflicts_with = "float")]
    pub against_float: bool,
    /// Write what is found to this file, as the results of the COCO benchmark (JSON); for the task `detection`.
    #[arg(long, value_name = "FILE")]
    pub detections: Option<PathBuf>,
    /// Draw pictures into this folder: what is annotated, what the float network finds, and what the quantized one finds, side by
    /// side; for the task `detection`.
    #[arg(long, value_name = "DIR")]
    pub draw: Option<PathBuf>,
    /// The number of pictures that --draw draws.
    #[arg(long, value_name = "N", default_value_t = Extras::DRAWN, requires = "draw")]
    pub drawn: usize,
}

/// Arguments of `analyze`.
#[derive(Debug, Args)]
pub struct AnalyzeArguments {
    /// The recipe, whose observers and preparations are used.
    #[command(flatten)]
    pub recipe: RecipeArguments,
    /// The number of calibration images to measure on.
    #[arg(long, value_name = "N", default_value_t = 128, value_parser = at_least_one())]
    pub images: usize,
}

/// Arguments of `compare`.
#[derive(Debug, Args)]
pub struct CompareArguments {
    /// A folder that `quantize --out` wrote, or a packed file.
    pub a: PathBuf,
    /// Another one, whose differences from A are shown.
    pub b: PathBuf,
    /// Data folder for both, if it is not that of the runs.
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// Device: cpu, cuda or cuda:N.
    #[arg(long, default_value = "cpu")]
    pub device: String,
}

/// Arguments of `export`.
#[derive(Debug, Args)]
pub struct ExportArguments {
    /// A folder that `quantize --out` wrote, or a packed file.
    pub dir: PathBuf,
    /// The format: onnx, onnx-float or another one of `qdrop list exporters`.
    #[arg(long, value_name = "NAME")]
    pub format: String,
    /// Compute in floating point exactly what qdrop computes, instead of in integers: larger and slower, for comparisons.
    #[arg(long)]
    pub exact: bool,
    /// Set a parameter of the format (repeatable).
    #[arg(long, value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// The file to write (default: `model` in the folder, with the format's extension). It must not exist.
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
}

/// A kind of strategy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ListKind {
    /// Networks.
    Architectures,
    /// Changes of the float network before calibration.
    Preparations,
    /// Range statistics.
    Observers,
    /// Mappings to the grid.
    Quantizers,
    /// Optimizations.
    Reconstructors,
    /// Images and their targets.
    Datasets,
    /// Purposes of networks.
    Tasks,
    /// Formats of exported networks.
    Exporters,
}

/// The kind of strategy that a new plugin registers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum PluginKind {
    /// A network.
    Architecture,
    /// A change of the float network before calibration.
    Preparation,
    /// Range statistics.
    Observer,
    /// A mapping to the grid.
    Quantizer,
    /// An optimization.
    Reconstructor,
    /// A format of exported networks.
    Exporter,
}

/// The command for plugins.
#[derive(Debug, Subcommand)]
pub enum PluginAction {
    /// Write a new plugin crate that builds and passes its own tests.
    New {
        /// Name of the crate and of its strategy; the crate is written into a folder of this name.
        name: PathBuf,
        /// The kind of strategy that it registers.
        #[arg(long)]
        kind: PluginKind,
    },
    /// Build a plugin crate against this qdrop, in release mode.
    Build {
        /// The crate's folder.
        dir: PathBuf,
    },
    /// Show what a plugin's file was built with, what it registers and whether it can be loaded,
    /// without running any of it.
    Inspect {
        /// The file.
        file: PathBuf,
    },
    /// Run the conformance suite on everything that a plugin registers. The built-in strategies pass
    /// the same suite.
    Test {
        /// The file.
        file: PathBuf,
    },
}

/// The command for the built-in recipes.
#[derive(Debug, Subcommand)]
pub enum RecipesAction {
    /// List them.
    List,
    /// Convert a configuration file of the reference implementation to a recipe, and print it.
    Convert {
        /// The configuration.
        file: PathBuf,
    },
    /// Print a recipe with everything that it inherits.
    Show {
        /// Its name, or a YAML file.
        name: PathBuf,
    },
}
