//! Conformance checks of a quantizer.

use super::{cosine, normal, require, Report};
use crate::error::{Error, Result};
use crate::grid::{Granularity, QuantSpec, Range};
use crate::ops::host_values;
use crate::params::Params;
use crate::quantizer::{Parameter, Quantizer, QuantizerKind};
use crate::registry::Entry;
use candle_core::{Device, Tensor, Var};
use qdrop_kernels::rounding::round_half_even;

/// Largest distance from the grid, as a multiple of the scale, that rounding errors of f32 explain.
const OFF_GRID: f32 = 2e-3;
/// Least cosine between a gradient and finite differences. A difference spans several points of
/// the grid, and their roundings remain as noise.
const LEAST_COSINE: f64 = 0.98;
/// Least cosine where the function is smooth.
const LEAST_COSINE_SMOOTH: f64 = 0.999;
/// An element lies at a kink, such as the edge of the grid, where the loss has no derivative, if the slopes on its two
/// sides differ by more than this share of the largest slope.
const KINK: f64 = 0.1;
/// Share of a parameter by which it is varied.
const STEP: f32 = 0.01;
/// Number of elements of a parameter that are varied.
const VARIED: usize = 24;
/// Shape of the tensors: channels along the first axis, as in a weight.
const SHAPE: [usize; 2] = [6, 400];

pub fn check(entry: &'static Entry<QuantizerKind>, report: &mut Report) {
    let subject = Subject { entry };
    report.run("is built without parameters", || subject.build(&subject.specs()[0]).map(|_| ()));
    report.run("quantizing without a range is an error", || {
        let quantizer = subject.build(&subject.specs()[0])?;
        require(quantizer.fake_quantize(&signal()?).is_err() && quantizer.qparams().is_err(), || {
            "it quantized before a range was set".into()
        })
    });
    report.run("values lie on the grid, within qmin and qmax", || {
        subject.for_each_spec(|spec| {
            let quantizer = subject.ready(spec)?;
            on_grid(&*quantizer, &quantizer.fake_quantize(&signal()?)?)
        })
    });
    report.run("quantizing twice changes nothing", || {
        subject.for_each_spec(|spec| {
            let quantizer = subject.ready(spec)?;
            let once = quantizer.fake_quantize(&signal()?)?;
            unchanged(&once, &quantizer.fake_quantize(&once)?)
        })
    });
    report.run("scale and zero point are the whole state", || {
        subject.for_each_spec(|spec| {
            let quantizer = subject.ready(spec)?;
            let mut other = subject.build(spec)?;
            other.set_qparams(&quantizer.qparams()?, &Device::Cpu)?;
            let x = signal()?;
            unchanged(&quantizer.fake_quantize(&x)?, &other.fake_quantize(&x)?)
        })
    });
    report.run("outside of reconstruction, it computes what its kernel says", || {
        subject.for_each_spec(|spec| {
            let quantizer = subject.ready(spec)?;
            match quantizer.kernel()? {
                Some(_) if spec.granularity == Granularity::PerTensor => nearest(&*quantizer),
                _ => Ok(()),
            }
        })
    });
    report.run("the gradient passes where values are not clamped, and only there", || {
        let quantizer = subject.ready(&subject.fine())?;
        check_input_gradient(&*quantizer)
    });
    let uses = [
        ("weights: gradients agree with finite differences", "weights: the hard value is the evaluated value", true),
        ("activations: gradients agree with finite differences", "activations: learning leaves a grid", false),
    ];
    for (gradients, hard, is_weight) in uses {
        let weight = || is_weight.then(signal).transpose();
        let refusal = subject.ready(&subject.fine()).and_then(|mut q| q.begin_reconstruction(weight()?.as_ref())).err();
        if let Some(error) = refusal {
            report.skip(gradients, error.to_string());
            continue;
        }
        report.run(gradients, || {
            for spec in [subject.fine(), QuantSpec { granularity: Granularity::PerAxis(0), ..subject.fine() }] {
                let mut quantizer = subject.ready(&spec)?;
                quantizer.begin_reconstruction(weight()?.as_ref())?;
                check_gradients(&*quantizer)?;
            }
            Ok(())
        });
        report.run(hard, || {
            subject.for_each_spec(|spec| {
                let mut quantizer = subject.ready(spec)?;
                quantizer.begin_reconstruction(weight()?.as_ref())?;
                disturb(&quantizer.parameters()?)?;
                let hard = quantizer.finish_reconstruction(weight()?.as_ref())?;
                require(hard.is_some() == is_weight, || {
                    "finish_reconstruction must return a hard weight for weights, and only for them".into()
                })?;
                let value = hard.unwrap_or(quantizer.fake_quantize(&signal()?)?);
                on_grid(&*quantizer, &value)?;
                unchanged(&value, &quantizer.fake_quantize(&value)?)
            })
        });
        if is_weight {
            report.run("weights: the hard value is known while learning", || {
                subject.for_each_spec(|spec| {
                    let mut quantizer = subject.ready(spec)?;
                    let weight = signal()?;
                    quantizer.begin_reconstruction(Some(&weight))?;
                    disturb(&quantizer.parameters()?)?;
                    let [hard, again] = [quantizer.hard_weight(&weight)?, quantizer.hard_weight(&weight)?];
                    unchanged(&hard, &again)?;
                    match quantizer.finish_reconstruction(Some(&weight))? {
                        Some(finished) => unchanged(&finished, &hard),
                        None => Ok(()),
                    }
                })
            });
        }
    }
}

struct Subject {
    entry: &'static Entry<QuantizerKind>,
}

impl Subject {
    fn build(&self, spec: &QuantSpec) -> Result<Box<dyn Quantizer>> {
        self.entry.build(spec, &Params::none("conformance"))
    }

    /// A quantizer with a range that clamps part of the signal.
    fn ready(&self, spec: &QuantSpec) -> Result<Box<dyn Quantizer>> {
        let mut quantizer = self.build(spec)?;
        let channels = spec.granularity.channels(&SHAPE)?.count;
        let factor = |i: usize| 1.0 + 0.1 * i as f32;
        let range = Range {
            min: (0..channels).map(|i| -0.8 * factor(i)).collect(),
            max: (0..channels).map(|i| 1.6 * factor(i)).collect(),
        };
        quantizer.set_range(&range, &Device::Cpu)?;
        Ok(quantizer)
    }

    /// A grid so fine that differences over several of its points are nearly derivatives.
    fn fine(&self) -> QuantSpec {
        QuantSpec { bits: 12, symmetric: false, granularity: Granularity::PerTensor }
    }

    fn specs(&self) -> Vec<QuantSpec> {
        let mut specs = Vec::new();
        for bits in [2, 4, 8] {
            for symmetric in [false, true] {
                for granularity in [Granularity::PerTensor, Granularity::PerAxis(0)] {
                    specs.push(QuantSpec { bits, symmetric, granularity });
                }
            }
        }
        specs
    }

    fn for_each_spec(&self, body: impl Fn(&QuantSpec) -> Result<()>) -> Result<()> {
        for spec in self.specs() {
            let QuantSpec { bits, symmetric, granularity } = spec;
            let at = |e| Error::message(format!("{bits} bits, symmetric {symmetric}, {granularity:?}: {e}"));
            body(&spec).map_err(at)?;
        }
        Ok(())
    }
}

/// Noise that is mostly positive, so that sums over it do not cancel.
fn signal() -> Result<Tensor> {
    let noise: Vec<f32> = normal(SHAPE.iter().product(), 3).iter().map(|v| v + 0.8).collect();
    Ok(Tensor::from_vec(noise, SHAPE.as_slice(), &Device::Cpu)?)
}

fn on_grid(quantizer: &dyn Quantizer, value: &Tensor) -> Result<()> {
    let (spec, params) = (*quantizer.spec(), quantizer.qparams()?);
    let channels = spec.granularity.channels(value.dims())?;
    require(params.scale.len() == channels.count && params.zero_point.len() == channels.count, || {
        format!(
            "{} scales and {} zero points for {} channels",
            params.scale.len(),
            params.zero_point.len(),
            channels.count
        )
    })?;
    host_values(value, |values| {
        for (i, v) in values.iter().enumerate() {
            let c = i / channels.inner % channels.count;
            let code = v / params.scale[c] + params.zero_point[c];
            let near = (code - code.round()).abs() <= OFF_GRID;
            let inside = code.round() >= spec.qmin() && code.round() <= spec.qmax();
            require(near && inside, || {
                format!(
                    "element {i} is {v}, which is {code} on the grid of integers from {} to {}",
                    spec.qmin(),
                    spec.qmax()
                )
            })?;
        }
        Ok(())
    })?
}

/// Checks that values are rounded to the nearest point of the grid.
fn nearest(quantizer: &dyn Quantizer) -> Result<()> {
    let (spec, params, x) = (*quantizer.spec(), quantizer.qparams()?, signal()?);
    let (scale, zero_point) = (params.scale[0], round_half_even(params.zero_point[0]));
    let value = |x: &f32| {
        let q = (round_half_even(x / scale) + zero_point).clamp(spec.qmin(), spec.qmax());
        (q - zero_point) * scale
    };
    let want: Vec<f32> = host_values(&x, |x| x.iter().map(value).collect())?;
    unchanged(&Tensor::from_vec(want, x.shape(), x.device())?, &quantizer.fake_quantize(&x)?)
}

fn unchanged(a: &Tensor, b: &Tensor) -> Result<()> {
    let (a, b) = (host_values(a, <[f32]>::to_vec)?, host_values(b, <[f32]>::to_vec)?);
    require(a.len() == b.len(), || format!("{} elements became {}", a.len(), b.len()))?;
    let moved = a.iter().zip(&b).position(|(a, b)| (a - b).abs() > 1e-5 * a.abs().max(1e-3));
    require(moved.is_none(), || {
        let i = moved.unwrap_or_default();
        format!("element {i} was {} and became {}", a[i], b[i])
    })
}

/// Changes every parameter by a few percent, as learning does.
fn disturb(parameters: &[Parameter]) -> Result<()> {
    for parameter in parameters {
        let values = host_values(parameter.var.as_tensor(), <[f32]>::to_vec)?;
        let noise = normal(values.len(), 5);
        let moved: Vec<f32> = values.iter().zip(&noise).map(|(v, n)| v * (1.0 + 0.03 * n.clamp(-2.0, 2.0))).collect();
        parameter.var.set(&Tensor::from_vec(moved, parameter.var.shape(), parameter.var.device())?)?;
    }
    Ok(())
}

/// Half the energy of the quantized signal.
fn energy(quantizer: &dyn Quantizer) -> Result<f64> {
    let value = quantizer.fake_quantize(&signal()?)?;
    Ok(host_values(&value, |v| v.iter().map(|v| 0.5 * f64::from(*v).powi(2)).sum())?)
}

fn check_gradients(quantizer: &dyn Quantizer) -> Result<()> {
    let energy_gradient = (quantizer.fake_quantize(&signal()?)?.sqr()?.sum_all()? * 0.5)?.backward()?;
    const B: f32 = 3.0;
    let regularizer = |quantizer: &dyn Quantizer| -> Result<f64> {
        let term = quantizer.regularizer(B)?;
        term.map_or(Ok(0.0), |t| Ok(f64::from(t.to_scalar::<f32>()?)))
    };
    let regularizer_gradient = quantizer.regularizer(B)?.map(|t| t.backward()).transpose()?;
    for Parameter { name, var, size, .. } in quantizer.parameters()? {
        if let Some(size) = size {
            let positive = host_values(&size, |values| values.iter().all(|v| v.is_finite() && *v > 0.0))?;
            if size.dims() != var.dims() || !positive {
                return Err(Error::message(format!(
                    "the size of '{name}' must be positive numbers in the shape {:?} of the variable",
                    var.dims()
                )));
            }
        }
        let gradient = |store: &candle_core::backprop::GradStore| -> Result<Vec<f32>> {
            let zeros = || Ok(vec![0.0; var.elem_count()]);
            store.get(var.as_tensor()).map_or_else(zeros, |g| Ok(host_values(g, <[f32]>::to_vec)?))
        };
        compare(name, &var, &gradient(&energy_gradient)?, LEAST_COSINE, || energy(quantizer))?;
        if let Some(store) = &regularizer_gradient {
            let name = format!("{name} (regularizer)");
            compare(&name, &var, &gradient(store)?, LEAST_COSINE_SMOOTH, || regularizer(quantizer))?;
        }
    }
    Ok(())
}

/// Compares a gradient, up to a positive factor, with differences of `loss` when elements of `var`
/// change by the share `STEP` of their size or of the mean size, whichever is larger: the differences of small elements
/// would drown in the rounding of the loss's sum. The factor is free because LSQ scales the gradients of learned scales
/// (arXiv 1902.08153, section 2.2). Elements at a [kink](KINK) are left out, unless they are more than half of all: then
/// a loss over a grid is only curved, but a smooth one is not what it should be.
fn compare(name: &str, var: &Var, gradient: &[f32], least: f64, mut loss: impl FnMut() -> Result<f64>) -> Result<()> {
    let values = host_values(var.as_tensor(), <[f32]>::to_vec)?;
    let mut set = |values: Vec<f32>| -> Result<f64> {
        var.set(&Tensor::from_vec(values, var.shape(), var.device())?)?;
        loss()
    };
    let mean = values.iter().map(|v| v.abs()).sum::<f32>() / values.len().max(1) as f32;
    let here = set(values.clone())?;
    // Gradient, and the slopes below and above.
    let mut slopes = Vec::new();
    for i in (0..values.len()).step_by((values.len() / VARIED).max(1)) {
        // A parameter at zero, such as an integer zero point, changes by more than one half.
        let step = if values[i] == 0.0 { 0.6 } else { STEP * values[i].abs().max(mean) };
        let moved = |by: f32| {
            let mut moved = values.clone();
            moved[i] += by;
            moved
        };
        let (below, above) = (here - set(moved(-step))?, set(moved(step))? - here);
        slopes.push([f64::from(gradient[i]), below / f64::from(step), above / f64::from(step)]);
    }
    set(values)?;
    let largest = slopes.iter().fold(0.0_f64, |m, [_, below, above]| m.max(below.abs()).max(above.abs()));
    let smooth = |[_, below, above]: &[f64; 3]| (below - above).abs() <= KINK * largest;
    if 2 * slopes.iter().filter(|s| smooth(s)).count() >= slopes.len() {
        slopes.retain(smooth);
    } else {
        require(least < LEAST_COSINE_SMOOTH, || format!("'{name}' lies at a kink of the loss nearly everywhere"))?;
    }
    let analytic: Vec<f64> = slopes.iter().map(|[gradient, ..]| *gradient).collect();
    let differences: Vec<f64> = slopes.iter().map(|[_, below, above]| (below + above) / 2.0).collect();
    let cosine = cosine(&analytic, &differences);
    require(cosine >= least, || {
        format!("the gradient of '{name}' does not point where finite differences do: cosine {cosine:.3}")
    })
}

fn check_input_gradient(quantizer: &dyn Quantizer) -> Result<()> {
    let x = Var::from_tensor(&signal()?)?;
    let gradients = quantizer.fake_quantize(x.as_tensor())?.sum_all()?.backward()?;
    let gradient = gradients.get(x.as_tensor()).ok_or_else(|| Error::message("no gradient reaches the input"))?;
    let gradient = host_values(gradient, <[f32]>::to_vec)?;
    let (spec, params) = (*quantizer.spec(), quantizer.qparams()?);
    let bound = |q: f32| (q - params.zero_point[0]) * params.scale[0];
    let (low, high) = (bound(spec.qmin()), bound(spec.qmax()));
    host_values(x.as_tensor(), |values| {
        for (i, v) in values.iter().enumerate() {
            // Closer to a bound than the scale, either gradient is right.
            if (v - low).abs() < params.scale[0] || (v - high).abs() < params.scale[0] {
                continue;
            }
            let want = if *v > low && *v < high { 1.0 } else { 0.0 };
            require((gradient[i] - want).abs() < 1e-3, || {
                format!("at {v}, with a grid from {low} to {high}, the gradient is {}, not {want}", gradient[i])
            })?;
        }
        Ok(())
    })?
}
