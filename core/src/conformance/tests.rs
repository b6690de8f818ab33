//! Deliberately wrong strategies must each fail the check that is meant for their mistake.

use super::*;
use crate::architecture::{Architecture, ArchitectureKind};
use crate::graph::{Conv2d, Graph, GraphBuilder, Operator};
use crate::grid::{QParams, QuantSpec, Range};
use crate::head::Output;
use crate::observer::{Consistency, Observer, ObserverKind};
use crate::params::Params;
use crate::quantizer::{groups, Parameter, Quantizer, QuantizerKernel, QuantizerKind};
use crate::reconstructor::{Context, Grouping, Reconstructor, ReconstructorKind, UnitTask};
use crate::registry::Entry;
use crate::report::UnitReport;
use crate::target::{Target, TargetSpec};
use crate::task::{Comparison, Measurement, Meter, Metric, Task, TaskKind};
use crate::weights::KeyMap;
use crate::{ops, Error};
use candle_core::{Device, Tensor, Var};

fn entry<F>(constructor: F) -> &'static Entry<F> {
    Box::leak(Box::new(Entry {
        name: "wrong",
        aliases: &[],
        summary: "",
        defined_in: "tests",
        record: &[],
        constructor,
    }))
}

/// Names of the failed checks.
fn failures<F>(check: fn(&'static Entry<F>, &mut Report), constructor: F) -> Vec<&'static str> {
    let mut report = Report::default();
    check(entry(constructor), &mut report);
    let failed = report.checks.iter().filter(|c| matches!(c.outcome, Outcome::Failed(_)));
    failed.map(|c| c.name).collect()
}

/// Forgets earlier calls and ignores half of the values.
struct WrongObserver(Option<(f32, f32)>);

impl Observer for WrongObserver {
    fn observe(&mut self, x: &Tensor) -> Result<()> {
        let range = ops::host_values(x, qdrop_kernels::range_search::min_max)?;
        self.0 = Some((range.0 * 0.5, range.1 * 0.5));
        Ok(())
    }

    fn range(&self) -> Result<Range> {
        let (min, max) = self.0.ok_or_else(|| Error::message("nothing"))?;
        Ok(Range { min: vec![min], max: vec![max] })
    }

    fn consistency(&self) -> Result<Consistency> {
        Ok(Consistency::Values)
    }
}

#[test]
fn a_wrong_observer_fails() {
    let failed = failures(observer::check, ObserverKind::new(|_, _| Ok(Box::new(WrongObserver(None)))));
    assert!(failed.contains(&"ranges are finite, and represent the values"), "{failed:?}");
    assert!(failed.contains(&"the range depends on calls and their order as declared"), "{failed:?}");
    assert!(failed.contains(&"channels do not depend on each other's place"), "{failed:?}");
}

/// Quantizes, but forgets the zero point, and blocks all gradients.
struct WrongQuantizer(QuantSpec, Option<QParams>);

impl Quantizer for WrongQuantizer {
    fn spec(&self) -> &QuantSpec {
        &self.0
    }

    fn set_qparams(&mut self, params: &QParams, _: &Device) -> Result<()> {
        self.1 = Some(params.clone());
        Ok(())
    }

    fn qparams(&self) -> Result<QParams> {
        self.1.clone().ok_or_else(|| Error::message("no range"))
    }

    fn fake_quantize(&self, x: &Tensor) -> Result<Tensor> {
        let scale = f64::from(self.qparams()?.scale[0]);
        Ok(((x.detach() / scale)?.round()? * scale)?)
    }
}

#[test]
fn a_wrong_quantizer_fails() {
    let build = QuantizerKind::new(|spec, _| Ok(Box::new(WrongQuantizer(*spec, None))));
    let failed = failures(quantizer::check, build);
    assert!(failed.contains(&"values lie on the grid, within qmin and qmax"), "{failed:?}");
    assert!(failed.contains(&"the gradient passes where values are not clamped, and only there"), "{failed:?}");
}

/// Learns a scale, but twice as fast as its kernel says; its rate may be relative to what is no size of it.
struct Liar(QuantSpec, Option<(Var, Tensor)>, Option<[f32; 2]>);

impl Quantizer for Liar {
    fn spec(&self) -> &QuantSpec {
        &self.0
    }

    fn set_qparams(&mut self, params: &QParams, device: &Device) -> Result<()> {
        let scale = Var::from_tensor(&Tensor::new(params.scale.as_slice(), device)?)?;
        self.1 = Some((scale, Tensor::new(params.zero_point.as_slice(), device)?));
        Ok(())
    }

    fn qparams(&self) -> Result<QParams> {
        let (scale, zero_point) = self.1.as_ref().ok_or_else(|| Error::message("no range"))?;
        Ok(QParams { scale: scale.to_vec1()?, zero_point: zero_point.to_vec1()? })
    }

    fn fake_quantize(&self, x: &Tensor) -> Result<Tensor> {
        let (scale, zero_point) = self.1.as_ref().ok_or_else(|| Error::message("no range"))?;
        let factor = 2.0 * self.0.lsq_gradient_scale(x.elem_count() / scale.elem_count());
        let scale = ops::scale_gradient(scale.as_tensor(), factor)?;
        Ok(ops::fake_quantize(x, &scale, zero_point, &(&self.0).into())?)
    }

    fn parameters(&self) -> Result<Vec<Parameter>> {
        let var = self.1.as_ref().map(|(scale, _)| scale.clone());
        let size = self.2.map(|size| Tensor::new(&size, &Device::Cpu)).transpose()?;
        Ok(var.map(|var| Parameter { name: "scale", var, group: groups::SCALE, size }).into_iter().collect())
    }

    fn kernel(&self) -> Result<Option<QuantizerKernel>> {
        Ok(self.1.as_ref().map(|(scale, _)| QuantizerKernel::LearnedScale { scale: scale.clone() }))
    }
}

#[test]
fn a_quantizer_that_names_another_kernel_fails() {
    let build = || QuantizerKind::new(|spec, _| Ok(Box::new(Liar(*spec, None, None))));
    let failed = failures(quantizer::check, build());
    assert!(failed.is_empty(), "its own gradients are right up to a factor: {failed:?}");
    let failed = failures(kernel::check, build());
    assert_eq!(failed, ["activations: while it learns, it computes what its kernel says"]);
    let sized = QuantizerKind::new(|spec, _| Ok(Box::new(Liar(*spec, None, Some([1.0, 2.0])))));
    let both = ["weights", "activations"].map(|what| format!("{what}: gradients agree with finite differences"));
    assert_eq!(failures(quantizer::check, sized), both);
}

/// Doubles its input, but its gradient is that of the identity.
struct WrongOperator;

impl Operator for WrongOperator {
    fn name(&self) -> &'static str {
        "wrong"
    }

    fn shape(&self, inputs: &[&[usize]]) -> Result<Vec<usize>> {
        Ok(inputs[0].to_vec())
    }

    fn forward(&self, inputs: &[&Tensor], _: &[&Tensor]) -> Result<Tensor> {
        // The gradient of the absolute value is detached.
        Ok((inputs[0] + inputs[0].abs()?.detach())?)
    }
}

struct WrongArchitecture;

impl Architecture for WrongArchitecture {
    fn graph(&self, _: &Params) -> Result<Graph> {
        let mut b = GraphBuilder::new([3, 8, 8]);
        let x = b.input();
        // This layer belongs to no unit.
        let x = b.conv2d("stem", x, Conv2d::new(4, 3).padding(1))?;
        let x = b.operator("wrong", WrongOperator, &[x])?;
        let x = b.global_average_pool("pool", x)?;
        let x = b.flatten("flatten", x)?;
        let x = b.unit("fc", |b| b.linear("fc", x, 10))?;
        b.finish(x)
    }

    fn key_maps(&self, _: &Graph) -> Result<Vec<KeyMap>> {
        let same = ["stem", "fc"].map(|name| (name.to_string(), "layer".to_string()));
        Ok(vec![KeyMap::of_nodes(same)])
    }
}

#[test]
fn a_wrong_architecture_fails() {
    let failed = failures(architecture::check, ArchitectureKind::new(|| Box::new(WrongArchitecture)));
    assert!(failed.contains(&"every layer lies in one unit, and units follow the network's order"), "{failed:?}");
    assert!(failed.contains(&"names of checkpoints are one to one"), "{failed:?}");
    assert!(failed.contains(&"gradients of its operators agree with finite differences"), "{failed:?}");
}

/// Begins and finishes without learning.
struct WrongReconstructor;

impl Reconstructor for WrongReconstructor {
    fn grouping(&self) -> Grouping {
        Grouping::Block
    }

    fn reconstruct(&self, unit: &mut UnitTask<'_>, _: &Context<'_>) -> Result<UnitReport> {
        unit.begin(&[groups::ROUNDING, groups::SCALE])?;
        unit.finish()?;
        Ok(UnitReport { name: unit.name.into(), ..Default::default() })
    }
}

#[test]
fn a_wrong_reconstructor_fails() {
    let failed = failures(reconstructor::check, ReconstructorKind::new(|_| Ok(Box::new(WrongReconstructor))));
    assert!(failed.contains(&"brings a unit's outputs closer to the float network's"), "{failed:?}");
}

/// Averages the batches' shares without regard to their sizes, and takes less for better.
struct WrongTask;

impl Task for WrongTask {
    fn targets(&self, _: &[Output]) -> Result<TargetSpec> {
        Ok(TargetSpec::Class { classes: 10 })
    }

    fn metrics(&self) -> Vec<Metric> {
        vec![Metric::percent("right", "right")]
    }

    fn meter(&self) -> Result<Box<dyn Meter>> {
        Ok(Box::new(WrongMeter(Vec::new())))
    }

    /// Another mean than the metric.
    fn image_metrics(&self) -> Vec<Metric> {
        self.metrics()
    }

    fn image_values(&self, _: &[Tensor], _: &[Tensor], targets: &[Target]) -> Result<Vec<Vec<f64>>> {
        Ok(vec![vec![100.0]; targets.len()])
    }

    fn comparison(&self, published: f64) -> Result<Option<Box<dyn Comparison>>> {
        Ok(Some(Box::new(WrongComparison(published))))
    }
}

struct WrongMeter(Vec<f64>);

impl Meter for WrongMeter {
    fn update(&mut self, outputs: &[Tensor], targets: &[Target]) -> Result<()> {
        let Some(output) = outputs.first() else { return Ok(()) };
        let found = output.argmax(1)?.to_vec1::<u32>()?;
        let right = found.iter().zip(targets).filter(|(f, t)| t.class().is_ok_and(|c| c == **f as usize)).count();
        self.0.push(100.0 * right as f64 / targets.len() as f64);
        Ok(())
    }

    fn compute(&self) -> Result<Measurement> {
        let mean = self.0.iter().sum::<f64>() / self.0.len().max(1) as f64;
        Ok(Measurement::new(self.0.len(), [("right", mean)]))
    }
}

struct WrongComparison(f64);

impl Comparison for WrongComparison {
    fn observe(&mut self, _: &Tensor, _: &[Tensor], _: &[Target]) -> Result<()> {
        Ok(())
    }

    fn problem(&self, measured: &Measurement) -> Result<Option<String>> {
        Ok((measured.values["right"] > self.0).then(|| "too many are right".into()))
    }
}

#[test]
fn a_wrong_task_fails() {
    let failed = failures(task::check, TaskKind::new(|_| Ok(Box::new(WrongTask))));
    assert_eq!(
        failed,
        [
            "no image at all is an error",
            "every image counts once, and every value is there",
            "the measurement does not depend on how images are divided into batches",
            "outputs and targets that do not fit each other are errors",
            "compares networks image by image",
            "perfect outputs measure better than guesses",
        ]
    );
}
