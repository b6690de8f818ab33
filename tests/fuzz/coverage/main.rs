//! Runs one fuzz target, which the environment names, under libFuzzer.
#![no_main]

#[path = "../allocator.rs"]
mod allocator;
#[path = "../targets/mod.rs"]
mod targets;

use libfuzzer_sys::fuzz_target;
use std::sync::OnceLock;
use targets::Target;

static CHOSEN: OnceLock<&Target> = OnceLock::new();

/// Finds the target, or only writes its seeds.
fn start() {
    let name = std::env::var("QDROP_FUZZ_TARGET").expect("QDROP_FUZZ_TARGET names a target");
    let found = targets::ALL.into_iter().find(|target| target.name == name);
    let target = found.unwrap_or_else(|| panic!("there is no target '{name}'"));
    if let Ok(folder) = std::env::var("QDROP_FUZZ_SEEDS") {
        for (i, seed) in (target.seeds)().iter().enumerate() {
            std::fs::write(format!("{folder}/seed-{i}"), seed).expect("the folder of seeds can be written");
        }
        std::process::exit(0);
    }
    CHOSEN.get_or_init(|| target);
}

fuzz_target!(init: start(), |bytes: &[u8]| {
    if let Some(target) = CHOSEN.get() {
        targets::check(target, bytes);
    }
});
