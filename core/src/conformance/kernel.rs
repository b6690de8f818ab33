//! Checks that a quantizer computes what its kernel says while it learns: the fused engine, which implements the
//! kernel, must agree with the generic engine, which calls the quantizer.

use super::toy::{toy_quantizer, Toy, SAMPLES};
use super::{require, Report};
use crate::engine::{self, Engine, EngineState, Refusal, Regularizer, Stepping, UnitEngine};
use crate::error::{Error, Result};
use crate::graph::SiteKind;
use crate::grid::QuantSpec;
use crate::ops::{host_values, Keep};
use crate::params::Params;
use crate::quantizer::{groups, Quantizer, QuantizerKind};
use crate::random::{RandomSource, SeededRandom};
use crate::registry::Entry;
use candle_core::Tensor;

/// Updates after which the state is compared.
const UPDATES: usize = 5;
/// Samples of a step.
const BATCH: usize = 16;
/// Relative tolerance of losses and outputs. The engines sum in another order, which now and then changes a rounding.
const VALUES: f64 = 1e-3;
/// Tolerance of gradients, relative to their norm.
const GRADIENTS: f64 = 1e-2;
/// Tolerance of the changes by the updates, relative to their norm. It is large because Adam makes a full update even
/// from a tiny gradient, which may be zero in the other order of summation.
const CHANGES: f64 = 0.1;

/// Checks a quantizer of weights and of activations.
pub fn check(entry: &'static Entry<QuantizerKind>, report: &mut Report) {
    let uses = [
        (SiteKind::Weight, "weights: while it learns, it computes what its kernel says"),
        (SiteKind::Activation, "activations: while it learns, it computes what its kernel says"),
    ];
    for (kind, name) in uses {
        match comparison(entry, kind) {
            Ok(Comparison::Compared(result)) => report.run(name, || result),
            Ok(Comparison::Skipped(why)) => report.skip(name, why),
            Err(error) => report.run(name, || Err(error)),
        }
    }
}

enum Comparison {
    Skipped(String),
    Compared(Result<()>),
}

/// The toy model with the quantizer at all sites of a kind.
fn toy(entry: &'static Entry<QuantizerKind>, kind: SiteKind) -> Result<Toy> {
    let own = |spec: &QuantSpec, site: SiteKind| -> Result<Box<dyn Quantizer>> {
        match site == kind {
            true => entry.build(spec, &Params::none("conformance")),
            false => Ok(toy_quantizer(spec)),
        }
    };
    Toy::with(&own)
}

fn comparison(entry: &'static Entry<QuantizerKind>, kind: SiteKind) -> Result<Comparison> {
    let mut toys = [toy(entry, kind)?, toy(entry, kind)?];
    let unit = toys[0].model.graph().units()[0].clone();
    for toy in &mut toys {
        if let Err(refusal) = toy.model.begin_reconstruction(unit.nodes(), false) {
            return Ok(Comparison::Skipped(refusal.to_string()));
        }
    }
    let named = match kind {
        SiteKind::Weight => toys[0].model.weight_sites().map(|(_, site)| site.quantizer.kernel()).next(),
        SiteKind::Activation => toys[0].model.activation_sites().map(|(_, site)| site.quantizer.kernel()).next(),
    };
    if !matches!(named, Some(Ok(Some(_)))) {
        return Ok(Comparison::Skipped("it names no kernel".into()));
    }
    let parameters = toys[0].model.unit_parameters(unit.nodes())?;
    let rates: Vec<(&str, f64)> =
        parameters.iter().map(|(_, p)| (p.group, if p.group == groups::ROUNDING { 1e-2 } else { 1e-3 })).collect();
    let [generic, fused] = &toys;
    let (mut generic, _) =
        engine::open(Engine::Generic, &generic.model, &unit, &generic.samples, Stepping::of(BATCH), None)?;
    let opened = engine::open(Engine::Auto, &fused.model, &unit, &fused.samples, Stepping::of(BATCH), None)?;
    match opened {
        (mut fused, None) => Ok(Comparison::Compared(compare(&mut *generic, &mut *fused, &rates))),
        // A parameter that the kernel omits would never be learned.
        (_, Some(why @ Refusal::UnknownParameter { .. })) => Err(Error::message(why)),
        (_, Some(why)) => Ok(Comparison::Skipped(why.to_string())),
    }
}

/// Computes the same steps on both engines. Values, gradients and the state after some updates must agree.
fn compare(generic: &mut dyn UnitEngine, fused: &mut dyn UnitEngine, rates: &[(&str, f64)]) -> Result<()> {
    let random = SeededRandom { seed: 23 };
    let begin = generic.state()?;
    for step in 0..UPDATES {
        let samples: Vec<usize> = random.batch(0, step, BATCH, SAMPLES);
        let keep = |site| match step {
            0 => Keep::All,
            _ => random.keep(0, step, site, 0.5),
        };
        let outputs = [generic.forward(&samples, &keep)?, fused.forward(&samples, &keep)?];
        for (want, got) in outputs[0].iter().zip(&outputs[1]) {
            agree("an output of the unit", &values(want)?, &values(got)?, VALUES)?;
        }
        let losses = [generic.loss(&samples, &keep)?, fused.loss(&samples, &keep)?];
        agree("the reconstruction loss", &losses[..1], &losses[1..], VALUES)?;
        let regularizer = (step > 1).then_some(Regularizer { weight: 0.1, b: 8.0 });
        let terms = [generic.update(rates, regularizer)?, fused.update(rates, regularizer)?];
        agree("the regularizer", &terms[..1], &terms[1..], VALUES)?;
        if step == 0 {
            // After the first update Adam's running mean is a tenth of the gradient.
            let (want, got) = (generic.state()?, fused.state()?);
            for name in want.keys().filter(|name| name.ends_with(".adam_mean")) {
                let variable = name.trim_end_matches(".adam_mean");
                let of = |state: &EngineState| state.get(name).map_or(Ok(Vec::new()), values);
                agree(&format!("the gradient of '{variable}'"), &of(&want)?, &of(&got)?, GRADIENTS)?;
            }
        }
    }
    let (want, got) = (generic.state()?, fused.state()?);
    for (name, before) in begin.iter().filter(|(name, _)| !name.contains(".adam_")) {
        let change = |state: &EngineState| -> Result<Vec<f64>> {
            let after = state.get(name).map_or(Ok(Vec::new()), values)?;
            Ok(after.iter().zip(values(before)?).map(|(after, before)| after - before).collect())
        };
        agree(&format!("what {UPDATES} updates change of '{name}'"), &change(&want)?, &change(&got)?, CHANGES)?;
    }
    Ok(())
}

fn values(x: &Tensor) -> Result<Vec<f64>> {
    Ok(host_values(x, |v| v.iter().map(|v| f64::from(*v)).collect())?)
}

/// Compares by the norm of the difference, relative to the norm of the expected values.
fn agree(what: &str, want: &[f64], got: &[f64], tolerance: f64) -> Result<()> {
    require(want.len() == got.len(), || format!("{what}: {} numbers, and {} of the kernel", want.len(), got.len()))?;
    let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|v| v * v).sum::<f64>().sqrt();
    let size = norm(&mut want.iter().copied());
    let difference = norm(&mut want.iter().zip(got).map(|(w, g)| w - g));
    require(difference <= tolerance * size + 1e-12, || {
        format!("{what} is not what its kernel computes: they differ by {:.1e} of their size", difference / size)
    })
}
