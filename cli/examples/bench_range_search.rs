//! Measures the exhaustive range search, alone or in comparison with another implementation.
//!
//! ```sh
//! cargo run --release -p qdrop --example bench_range_search -- --against "python3 cli/examples/torch_range_search.py"
//! ```
//!
//! Prints nanoseconds per element and candidate on one thread: for trying every candidate on every
//! element, and for the search that discards candidates early and finds the same one. `--against`
//! names a command that prints `{"ns": ...}` for `KIND ELEMENTS`; both run in turn, and the ratio is printed.

#![expect(clippy::print_stdout, reason = "prints its measurements")]

use anyhow::{bail, ensure, Context, Result};
use qdrop_core::kernels::random::Stream;
use qdrop_core::kernels::range_search::{error, min_max, search, Bounds, Candidate, POWER};
use std::time::Instant;

/// A case of the search.
struct Case {
    name: &'static str,
    /// Its name in the other implementation.
    kind: &'static str,
    elements: usize,
    /// Whether values below zero become zero.
    one_sided: bool,
    bits: u32,
    /// Whether to try every candidate too and compare the results.
    exhaustive: bool,
}

const CASES: [Case; 4] = [
    Case {
        name: "activation after ReLU, 4 bits, 1-D",
        kind: "1d",
        elements: 1 << 20,
        one_sided: true,
        bits: 4,
        exhaustive: true,
    },
    Case {
        name: "weights of a channel, 2 bits, 2-D",
        kind: "2d",
        elements: 1152,
        one_sided: false,
        bits: 2,
        exhaustive: true,
    },
    Case {
        name: "signed activation, 4 bits, 2-D",
        kind: "2d",
        elements: 1 << 18,
        one_sided: false,
        bits: 4,
        exhaustive: true,
    },
    // The output of a projection of MobileNetV2 (24 x 56 x 56) for 256 images.
    Case {
        name: "256 images of a projection, 4 bits, 2-D",
        kind: "2d",
        elements: 256 * 24 * 56 * 56,
        one_sided: false,
        bits: 4,
        exhaustive: false,
    },
];

impl Case {
    fn values(&self) -> Vec<f32> {
        let random = Stream { seed: 3, id: [0; 3] };
        let value = |i: usize| {
            let sum: f64 = random.block(i as u32).iter().map(|v| f64::from(*v) / f64::from(u32::MAX)).sum();
            let v = ((sum - 2.0) * 1.732) as f32;
            if self.one_sided {
                v.max(0.0)
            } else {
                v
            }
        };
        (0..self.elements).map(value).collect()
    }

    /// 100 widths, each with every zero point unless the values are one-sided.
    fn candidates(&self, x: &[f32]) -> Vec<Candidate> {
        let (low, high) = min_max(x);
        let qmax = ((1 << self.bits) - 1) as f32;
        let last = if self.one_sided { 0 } else { (1 << self.bits) - 1 };
        let candidate =
            |t: i32, z: i32| Candidate { scale: (high - low) / 100.0 * t as f32 / qmax, zero_point: z as f32 };
        (1..=100).flat_map(|t| (0..=last).map(move |z| (t, z))).map(|(t, z)| candidate(t, z)).collect()
    }
}

/// Seconds of one call, averaged over a quarter of a second.
fn time(mut work: impl FnMut()) -> f64 {
    let start = Instant::now();
    let mut calls = 0;
    while calls == 0 || start.elapsed().as_secs_f64() < 0.25 {
        work();
        calls += 1;
    }
    start.elapsed().as_secs_f64() / f64::from(calls)
}

fn other(command: &str, case: &Case) -> Result<f64> {
    let line = format!("{command} {} {}", case.kind, case.elements.min(1 << 20));
    let output = std::process::Command::new("sh").args(["-c", &line]).output().context("running the other command")?;
    if !output.status.success() {
        bail!("`{line}` failed: {}", String::from_utf8_lossy(&output.stderr));
    }
    let value: serde_json::Value =
        serde_json::from_slice(&output.stdout).context("reading the other command's JSON")?;
    value["ns"].as_f64().context("the other command printed no ns")
}

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let against = match arguments.next().as_deref() {
        None => None,
        Some("--against") => Some(arguments.next().context("--against takes a command")?),
        Some(option) => bail!("unknown option {option}"),
    };
    qdrop::set_threads(1)?;
    for case in &CASES {
        let x = case.values();
        let candidates = case.candidates(&x);
        let bounds = Bounds { qmin: 0.0, qmax: ((1 << case.bits) - 1) as f32, power: POWER };
        let each = 1e9 / (x.len() * candidates.len()) as f64;
        let mut found = None;
        let seconds = time(|| found = search(&x, &candidates, bounds));
        print!("{:40} search {:8.3} ns ({:9.3} ms)", case.name, seconds * each, seconds * 1e3);
        if case.exhaustive {
            let mut scores = Vec::new();
            let all = time(|| scores = candidates.iter().map(|c| error(&x, *c, bounds)).collect());
            let first =
                scores.iter().enumerate().fold((0, f64::INFINITY), |b, (i, s)| if *s < b.1 { (i, *s) } else { b });
            ensure!(found.is_some_and(|f| f.0 == first.0), "the search found {found:?}, the winner is {first:?}");
            print!("  every candidate {:6.3} ns", all * each);
            if let Some(command) = &against {
                let theirs = other(command, case)?;
                print!(
                    "  other {theirs:6.2} ns, {:.1} and {:.1} times as long",
                    theirs / (seconds * each),
                    theirs / (all * each)
                );
            }
        }
        println!();
    }
    Ok(())
}
