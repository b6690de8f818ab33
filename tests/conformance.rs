//! Every built-in strategy passes the conformance suite for plugins.

use crate::support::*;
use qdrop_core::conformance::{check, Outcome};
use qdrop_core::registry::{Kind, Registry};

fn names<F: Kind>(registry: &Registry<F>) -> Vec<&'static str> {
    registry.iter().map(|e| e.name).collect()
}

fn all_conform(kind: &str, names: Vec<&'static str>) {
    assert!(!names.is_empty());
    for name in names {
        let checks = check(registries(), kind, name).unwrap();
        let passed = checks.iter().filter(|c| c.outcome == Outcome::Passed).count();
        assert!(passed >= 1, "{kind} {name}: {checks:?}");
        let failed: Vec<_> = checks.iter().filter(|c| matches!(c.outcome, Outcome::Failed(_))).collect();
        assert!(failed.is_empty(), "{kind} {name}: {failed:?}");
    }
}

#[test]
fn built_in_observers_conform() {
    // One that a test registers here only tells the place of its files.
    let mut names = names(&registries().observers);
    names.retain(|name| *name != "files_of_a_list");
    all_conform("observer", names);
}

#[test]
fn built_in_quantizers_conform() {
    all_conform("quantizer", names(&registries().quantizers));
}

#[test]
fn built_in_reconstructors_conform() {
    all_conform("reconstructor", names(&registries().reconstructors));
}

#[test]
fn built_in_preparations_conform() {
    all_conform("preparation", names(&registries().preparations));
}

#[test]
fn tasks_conform() {
    let names = names(&registries().tasks);
    // The built-in tasks compare with classes, with objects and with nothing, the one of `tasks.rs` with numbers.
    assert_eq!(names, ["classification", "detection", "mean_absolute_error", "unlabelled"]);
    // The one of `tasks.rs` does not compare networks, and without labels there is no metric to be better in.
    for (name, passed) in names.iter().zip([7, 7, 6, 6]) {
        let checks = check(registries(), "task", name).unwrap();
        assert_eq!(checks.iter().filter(|c| c.outcome == Outcome::Passed).count(), passed, "{name}: {checks:?}");
    }
    all_conform("task", names);
}

#[test]
fn built_in_architectures_conform() {
    all_conform("architecture", names(&registries().architectures));
}

#[test]
fn built_in_exporters_conform() {
    all_conform("exporter", names(&registries().exporters));
}
