//! Fuzzes everything that reads files: mutated files must give a value or an error, never a panic, and never an
//! allocation that the file's length does not allow.
//!
//! Here each target runs for a moment on mutations of its seeds. `tests/fuzz/run TARGET SECONDS` runs the same targets for
//! longer under libFuzzer, which follows what the code covers.

mod allocator;
mod mutate;
mod targets;

use std::panic::catch_unwind;
use std::time::{Duration, Instant};
use targets::Target;

/// Seconds for each target, unless the environment variable says otherwise.
const SECONDS: &str = "QDROP_FUZZ_SECONDS";

fn seconds() -> f64 {
    std::env::var(SECONDS).map_or(2.0, |text| text.parse().expect("seconds are a number"))
}

/// Reads a file, and keeps one that fails.
fn check(target: &Target, bytes: &[u8]) -> bool {
    catch_unwind(|| targets::check(target, bytes)).unwrap_or_else(|_| {
        let file = std::env::temp_dir().join(format!("qdrop-fuzz-{}", target.name));
        std::fs::write(&file, bytes).expect("the temporary folder can be written");
        panic!("{} fails on {}", target.name, file.display());
    })
}

/// Fuzzes one reader. The numbers are for the log of the tests.
#[allow(clippy::print_stdout)]
fn fuzz(target: &Target) {
    let seeds = (target.seeds)();
    let mut accepted = 0;
    for seed in &seeds {
        accepted += usize::from(check(target, seed));
    }
    // A seed that is refused at once would leave most of the reader untested.
    assert!(accepted > 0, "{} refuses all its {} seeds", target.name, seeds.len());
    let (start, mut executions, mut read) = (Instant::now(), 0_u64, 0_u64);
    while start.elapsed() < Duration::from_secs_f64(seconds()) {
        let bytes = mutate::mutated(&seeds, executions);
        read += u64::from(check(target, &bytes));
        executions += 1;
    }
    println!("{}: {executions} executions, {read} accepted", target.name);
}

macro_rules! fuzz_tests {
    ($($name:ident),+) => {
        $(#[test]
        fn $name() {
            fuzz(&targets::$name::TARGET);
        })+
    };
}

fuzz_tests!(
    annotations,
    class_list,
    idx,
    image,
    numpy,
    onnx,
    packed,
    packed_description,
    pickle,
    plugin,
    recipe,
    run_directory,
    weights
);

/// The program for libFuzzer is a workspace of its own, and is not built here: another version of a crate would be noticed
/// only by who fuzzes.
#[test]
fn the_program_for_libfuzzer_has_the_crates_of_the_tests() {
    let (workspace, program) = (include_str!("../../Cargo.toml"), include_str!("coverage/Cargo.toml"));
    let own = program.lines().skip_while(|line| *line != "[dependencies]").skip(1).take_while(|line| !line.is_empty());
    let shared: Vec<&str> = own.filter(|line| !line.contains("path =") && !line.starts_with("libfuzzer-sys")).collect();
    assert!(shared.len() > 3, "{shared:?}");
    for line in shared {
        assert!(workspace.lines().any(|other| other == line), "the workspace has another version: {line}");
    }
}
