//! Conformance checks of an observer.

use super::{normal, require, Report};
use crate::error::{Error, Result};
use crate::grid::{Granularity, QParams, QuantSpec, Range};
use crate::observer::{Consistency, Observer, ObserverKind};
use crate::ops;
use crate::params::Params;
use crate::registry::Entry;
use candle_core::{Device, Tensor};

/// Largest share of a signal's energy that quantization to 8 bits may lose with a sensible range.
const LOSS_AT_8_BITS: f64 = 0.01;
/// Relative difference up to which ranges count as equal.
const TOLERANCE: f32 = 1e-4;
/// Shape of the observed tensors: samples, channels, pixels.
const SHAPE: [usize; 3] = [8, 4, 30];

pub fn check(entry: &'static Entry<ObserverKind>, report: &mut Report) {
    let build = |spec: &QuantSpec| entry.build(spec, &Params::none("conformance"));
    let spec = |bits, symmetric, granularity| QuantSpec { bits, symmetric, granularity };
    let whole = spec(8, false, Granularity::PerTensor);
    report.run("is built without parameters", || build(&whole).map(|_| ()));
    report.run("a range without any value is an error", || {
        require(build(&whole)?.range().is_err(), || "there was a range before anything was observed".into())
    });
    report.run("ranges are finite, and represent the values", || {
        for bits in [2, 4, 8] {
            for symmetric in [false, true] {
                for (side, values) in signals() {
                    let spec = spec(bits, symmetric, Granularity::PerTensor);
                    let range = observed(&mut *build(&spec)?, std::slice::from_ref(&values))?;
                    check_range(&range, 1)?;
                    if bits == 8 {
                        check_loss(&values, &range, &spec).map_err(|e| Error::message(format!("{side}: {e}")))?;
                    }
                }
            }
        }
        Ok(())
    });
    report.run("values of one sign give a range of that sign", || {
        for (side, values) in signals() {
            let range = observed(&mut *build(&whole)?, &[values])?;
            let (min, max) = (range.min[0], range.max[0]);
            require(side != "positive" || min >= 0.0, || format!("the minimum of positive values is {min}"))?;
            require(side != "negative" || max <= 0.0, || format!("the maximum of negative values is {max}"))?;
        }
        Ok(())
    });
    report.run("a tensor of zeros has a finite range", || {
        check_range(&observed(&mut *build(&whole)?, &[vec![0.0; SHAPE.iter().product()]])?, 1)
    });
    report.run("the range depends on calls and their order as declared", || {
        let consistency = build(&whole)?.consistency()?;
        let parts: Vec<Vec<f32>> = (0..3).map(|i| scaled(&signals()[2].1, 1.0 + 0.3 * i as f32)).collect();
        let range = observed(&mut *build(&whole)?, &parts)?;
        if consistency != Consistency::Order {
            let other: Vec<Vec<f32>> = parts.iter().rev().cloned().collect();
            close(&range, &observed(&mut *build(&whole)?, &other)?, "in another order")?;
        }
        if consistency == Consistency::Values {
            close(&range, &observed(&mut *build(&whole)?, &[parts.concat()])?, "in one call")?;
        }
        close(&range, &observed(&mut *build(&whole)?, &parts)?, "by another observer of the same kind")
    });
    let channels = spec(4, false, Granularity::PerAxis(1));
    let name = "channels do not depend on each other's place";
    match build(&channels) {
        Err(Error::Setting { message, .. }) => report.skip(name, message),
        Err(error) => report.run(name, || Err(error)),
        Ok(mut observer) => report.run(name, || {
            let order = [2_usize, 0, 3, 1];
            let x = tensor(&per_channel())?;
            let permuted = x.index_select(&Tensor::new(order.map(|i| i as u32).as_slice(), &Device::Cpu)?, 1)?;
            observer.observe(&x)?;
            let range = observer.range()?;
            check_range(&range, SHAPE[1])?;
            let mut other = build(&channels)?;
            other.observe(&permuted)?;
            let want = Range { min: order.map(|i| range.min[i]).into(), max: order.map(|i| range.max[i]).into() };
            close(&want, &other.range()?, "with the channels in another order")
        }),
    }
}

/// Signals of either sign and of both, with their names.
fn signals() -> [(&'static str, Vec<f32>); 3] {
    let noise = normal(SHAPE.iter().product(), 1);
    let magnitude: Vec<f32> = noise.iter().map(|v| v.abs()).collect();
    [("positive", magnitude.clone()), ("negative", scaled(&magnitude, -1.0)), ("mixed", scaled(&noise, 0.7))]
}

fn scaled(values: &[f32], factor: f32) -> Vec<f32> {
    values.iter().map(|v| v * factor).collect()
}

/// Noise with a different magnitude in each channel.
fn per_channel() -> Vec<f32> {
    let noise = normal(SHAPE.iter().product(), 2);
    noise.iter().enumerate().map(|(i, v)| v * (1 << (i / SHAPE[2] % SHAPE[1])) as f32).collect()
}

fn tensor(values: &[f32]) -> Result<Tensor> {
    let samples = values.len() / (SHAPE[1] * SHAPE[2]);
    Ok(Tensor::from_slice(values, (samples, SHAPE[1], SHAPE[2]), &Device::Cpu)?)
}

fn observed(observer: &mut dyn Observer, calls: &[Vec<f32>]) -> Result<Range> {
    for values in calls {
        observer.observe(&tensor(values)?)?;
    }
    observer.range()
}

fn check_range(range: &Range, channels: usize) -> Result<()> {
    let (min, max) = (&range.min, &range.max);
    require(min.len() == channels && max.len() == channels, || {
        format!("{} minima and {} maxima for {channels} channels", min.len(), max.len())
    })?;
    let wrong = min.iter().zip(max).find(|(min, max)| !(min.is_finite() && max.is_finite() && min <= max));
    require(wrong.is_none(), || format!("a channel has the range {wrong:?}"))
}

/// Quantizes values with the range and checks how much of their energy is lost.
fn check_loss(values: &[f32], range: &Range, spec: &QuantSpec) -> Result<()> {
    let params = QParams::from_range(range, spec)?;
    let vector = |values: Vec<f32>| Tensor::new(values, &Device::Cpu);
    let x = vector(values.to_vec())?;
    let quantized = ops::fake_quantize(&x, &vector(params.scale)?, &vector(params.zero_point)?, &spec.into())?;
    let lost: f64 =
        ops::host_values(&quantized, |q| q.iter().zip(values).map(|(q, v)| f64::from(q - v).powi(2)).sum())?;
    let share = lost / values.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>();
    require(share <= LOSS_AT_8_BITS, || {
        format!(
            "{:.1} % of the energy is lost at 8 bits with the range [{}, {}]",
            share * 100.0,
            range.min[0],
            range.max[0]
        )
    })
}

fn close(a: &Range, b: &Range, when: &str) -> Result<()> {
    let near = |a: &f32, b: &f32| (a - b).abs() <= TOLERANCE * a.abs().max(b.abs());
    let all = |a: &[f32], b: &[f32]| a.len() == b.len() && a.iter().zip(b).all(|(a, b)| near(a, b));
    require(all(&a.min, &b.min) && all(&a.max, &b.max), || format!("the range is {a:?}, and {b:?} {when}"))
}
