//! The command line.

use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use qdrop_core::engine::Engine;
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
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Quantize a network as a recipe says, and measure it.
    Quantize(QuantizeArguments),
    /// Go on with a run that was stopped.
    Resume {
        /// The folder of `quantize --out`.
        dir: PathBuf,
    },
    /// Measure a saved result, or the float network of a recipe.
    Evaluate(EvaluateArguments),
    /// List architectures, observers, quantizers, reconstructors, datasets and tasks.
    List {
        /// Only one kind.
        kind: Option<ListKind>,
    },
    /// List or show the built-in recipes.
    Recipes {
        /// What to do with them (default: list).
        #[command(subcommand)]
        action: Option<RecipesAction>,
    },
    /// Validate all of a recipe that can be validated without running it.
    Check(RecipeArguments),
    /// Make, build, inspect and test plugins.
    Plugin {
        /// What to do with them.
        #[command(subcommand)]
        action: PluginAction,
    },
    /// Show an architecture's (or a recipe's) units, layers, shapes, bits, parameters and operations.
    Describe(RecipeArguments),
    /// Print a shell's script that completes commands and options.
    Completions {
        /// The shell.
        shell: Shell,
    },
    /// Write manual pages, one for each command.
    Man {
        /// The folder to write them to.
        dir: PathBuf,
    },
    /// Measure steps of single blocks, evaluations and estimates of whole networks on this machine.
    Bench(BenchArguments),
}

/// Arguments of `bench`.
#[derive(Debug, Args)]
pub struct BenchArguments {
    /// What to measure, such as resnet18.layer1.0, evaluate.resnet18 or network.resnet18 (default: everything).
    pub names: Vec<String>,
    /// How blocks are reconstructed: auto (fused where a block allows it), generic or fused.
    #[arg(long, value_name = "ENGINE")]
    pub engine: Option<EngineArgument>,
    /// Measurements of which the median counts.
    #[arg(long, value_name = "N", default_value_t = 10)]
    pub iters: usize,
    /// Another command that measures blocks and evaluations, such as "python3 cli/examples/torch_block.py": both
    /// run in turn, and the median ratio is printed.
    #[arg(long, value_name = "COMMAND")]
    pub against: Option<String>,
    /// How often both run.
    #[arg(long, value_name = "N", default_value_t = 5)]
    pub pairs: usize,
}

/// A recipe and what replaces parts of it.
#[derive(Debug, Args)]
pub struct RecipeArguments {
    /// A YAML file or the name of a built-in recipe (see `qdrop recipes`).
    pub recipe: String,
    /// Replace a value of the recipe, such as quant.weight.bits=3 (repeatable).
    #[arg(long, value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// Run fewer iterations, with the learning rates scaled up; not comparable with full runs.
    #[arg(long, value_name = "N")]
    pub iters: Option<usize>,
    /// How units are reconstructed: auto (fused where a unit allows it), generic or fused.
    #[arg(long, value_name = "ENGINE")]
    pub engine: Option<EngineArgument>,
    /// Data folder.
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// Checkpoint with the float weights.
    #[arg(long, value_name = "FILE")]
    pub weights: Option<PathBuf>,
    /// Where to compute: cpu, cuda or cuda:N.
    #[arg(long, default_value = "cpu")]
    pub device: String,
}

/// How units are reconstructed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum EngineArgument {
    /// Fused where a unit allows it.
    Auto,
    /// Through the tensor library.
    Generic,
    /// Fused, or an error.
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
    /// What to run.
    #[command(flatten)]
    pub recipe: RecipeArguments,
    /// Keep the run in this folder: checkpoints that `resume` goes on from, events, the result.
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Check everything, print the plan with the estimated time and memory, and stop there.
    #[arg(long)]
    pub dry_run: bool,
}

/// Arguments of `evaluate`.
#[derive(Debug, Args)]
pub struct EvaluateArguments {
    /// A folder that `quantize --out` wrote, or a recipe (with --float).
    #[command(flatten)]
    pub target: RecipeArguments,
    /// Measure the float network.
    #[arg(long)]
    pub float: bool,
}

/// A kind of strategy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ListKind {
    /// Networks.
    Architectures,
    /// Range statistics.
    Observers,
    /// Mappings to the grid.
    Quantizers,
    /// Optimizations.
    Reconstructors,
    /// Images and their targets.
    Datasets,
    /// What networks are for.
    Tasks,
}

/// What a new plugin registers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum PluginKind {
    /// A network.
    Architecture,
    /// Range statistics.
    Observer,
    /// A mapping to the grid.
    Quantizer,
    /// An optimization.
    Reconstructor,
}

/// What to do with plugins.
#[derive(Debug, Subcommand)]
pub enum PluginAction {
    /// Write a new plugin crate that builds and passes its own tests.
    New {
        /// Name of the crate and of its strategy; the crate is written into a folder of this name.
        name: String,
        /// What it registers.
        #[arg(long)]
        kind: PluginKind,
    },
    /// Build a plugin crate against this qdrop, in release mode.
    Build {
        /// The crate's folder.
        dir: PathBuf,
    },
    /// Say what a plugin's file was built with, what it registers and whether it can be loaded,
    /// without running any of it.
    Inspect {
        /// The file.
        file: PathBuf,
    },
    /// Hold everything that a plugin registers against the conformance suite, as the built-in
    /// strategies are.
    Test {
        /// The file.
        file: PathBuf,
    },
}

/// What to do with the built-in recipes.
#[derive(Debug, Subcommand)]
pub enum RecipesAction {
    /// List them.
    List,
    /// Print the recipe that says the same as a configuration file of the reference implementation.
    Convert {
        /// The configuration.
        file: String,
    },
    /// Print one with everything that it inherits.
    Show {
        /// Its name, or a YAML file.
        name: String,
    },
}
