//! A plugin whose strategies panic in the call that their parameter names.

use qdrop_core::prelude::*;
use qdrop_core::{candle_core, reconstructor};

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(crate = "qdrop_core::serde", deny_unknown_fields, default)]
struct Where {
    call: String,
}

impl Where {
    fn new(params: &Params) -> Result<Self> {
        let parsed = params.parse::<Self>()?;
        parsed.here("build");
        Ok(parsed)
    }

    fn here(&self, call: &str) {
        assert!(self.call != call, "boom in {call}");
    }
}

struct PanickingObserver(Where);

impl Observer for PanickingObserver {
    fn observe(&mut self, _: &Tensor) -> Result<()> {
        self.0.here("observe");
        Ok(())
    }

    fn range(&self) -> Result<Range> {
        self.0.here("range");
        Ok(Range { min: vec![-1.0], max: vec![1.0] })
    }
}

register_observer! {
    name: "panicking_observer", aliases: [], summary: "panics",
    build: |_, params| Ok(Box::new(PanickingObserver(Where::new(params)?)))
}

struct PanickingQuantizer(Where, QuantSpec, Option<QParams>);

impl Quantizer for PanickingQuantizer {
    fn spec(&self) -> &QuantSpec {
        self.0.here("spec");
        &self.1
    }

    fn set_range(&mut self, range: &Range, device: &Device) -> Result<()> {
        self.0.here("set_range");
        let params = QParams::from_range(range, &self.1)?;
        self.set_qparams(&params, device)
    }

    fn set_qparams(&mut self, params: &QParams, _: &Device) -> Result<()> {
        self.0.here("set_qparams");
        self.2 = Some(params.clone());
        Ok(())
    }

    fn qparams(&self) -> Result<QParams> {
        self.0.here("qparams");
        self.2.clone().ok_or_else(|| Error::message("no range"))
    }

    fn fake_quantize(&self, x: &Tensor) -> Result<Tensor> {
        self.0.here("fake_quantize");
        let params = self.2.clone().ok_or_else(|| Error::message("no range"))?;
        let vector = |v: Vec<f32>| Tensor::new(v, x.device());
        Ok(ops::fake_quantize(x, &vector(params.scale)?, &vector(params.zero_point)?, &(&self.1).into())?)
    }

    fn begin_reconstruction(&mut self, _: Option<&Tensor>) -> Result<()> {
        self.0.here("begin_reconstruction");
        Ok(())
    }

    fn parameters(&self) -> Result<Vec<Parameter>> {
        self.0.here("parameters");
        Ok(Vec::new())
    }

    fn regularizer(&self, _: f32) -> Result<Option<Tensor>> {
        self.0.here("regularizer");
        Ok(None)
    }

    fn kernel(&self) -> Result<Option<QuantizerKernel>> {
        self.0.here("kernel");
        Ok(None)
    }

    fn finish_reconstruction(&mut self, weight: Option<&Tensor>) -> Result<Option<Tensor>> {
        self.0.here("finish_reconstruction");
        weight.map(|w| self.fake_quantize(w)).transpose()
    }
}

register_quantizer! {
    name: "panicking_quantizer", aliases: [], summary: "panics",
    build: |spec, params| Ok(Box::new(PanickingQuantizer(Where::new(params)?, *spec, None)))
}

struct PanickingReconstructor(Where);

impl Reconstructor for PanickingReconstructor {
    fn grouping(&self) -> Grouping {
        self.0.here("grouping");
        Grouping::Block
    }

    fn check_samples(&self, _: usize) -> Result<()> {
        self.0.here("check_samples");
        Ok(())
    }

    fn shorten(&mut self, _: usize) -> Result<()> {
        self.0.here("shorten");
        Ok(())
    }

    fn steps(&self) -> usize {
        self.0.here("steps");
        0
    }

    fn notice(&self) -> Option<String> {
        self.0.here("notice");
        None
    }

    fn reconstruct(&self, unit: &mut UnitTask<'_>, _: &reconstructor::Context<'_>) -> Result<UnitReport> {
        // The first units do not panic, so that they leave checkpoints.
        if unit.index == 2 {
            self.0.here("reconstruct");
        }
        unit.begin(&[groups::ROUNDING, groups::SCALE])?;
        unit.finish()?;
        Ok(UnitReport { name: unit.name.into(), ..Default::default() })
    }
}

register_reconstructor! {
    name: "panicking_reconstructor", aliases: [], summary: "panics",
    build: |params| Ok(Box::new(PanickingReconstructor(Where::new(params)?)))
}

/// Carries the name of the call in which the network's operator or key maps panic.
#[derive(Clone)]
struct PanickingOperator(Where);

impl Operator for PanickingOperator {
    fn name(&self) -> &'static str {
        "panicking"
    }

    fn shape(&self, inputs: &[&[usize]]) -> Result<Vec<usize>> {
        self.0.here("operator_shape");
        Ok(inputs.first().map(|shape| shape.to_vec()).unwrap_or_default())
    }

    fn parameters(&self, _: &[&[usize]]) -> Vec<(&'static str, Vec<usize>)> {
        self.0.here("operator_parameters");
        Vec::new()
    }

    fn moves_only(&self) -> bool {
        self.0.here("operator_moves_only");
        true
    }

    fn forward(&self, inputs: &[&Tensor], _: &[&Tensor]) -> Result<Tensor> {
        self.0.here("operator_forward");
        match inputs {
            [x] => Ok((*x).clone()),
            _ => Err(Error::message("takes one input")),
        }
    }
}

struct PanickingArchitecture;

impl Architecture for PanickingArchitecture {
    fn graph(&self, params: &Params) -> Result<Graph> {
        let place = Where::new(params)?;
        place.here("graph");
        let mut b = GraphBuilder::new([1, 28, 28]);
        let x = b.input();
        let x = b.unit("conv", |b| b.conv2d("conv", x, Conv2d::new(4, 3)))?;
        let x = b.operator("operator", PanickingOperator(place.clone()), &[x])?;
        let x = b.global_average_pool("pool", x)?;
        let x = b.flatten("flatten", x)?;
        // The graph passes the name of the call on to key_maps.
        let name = if place.call == "key_maps" { "fc.panics" } else { "fc" };
        let x = b.unit("fc", |b| b.linear(name, x, 10))?;
        b.finish(x)
    }

    fn key_maps(&self, graph: &Graph) -> Result<Vec<KeyMap>> {
        assert!(graph.find("fc.panics").is_none(), "boom in key_maps");
        Ok(Vec::new())
    }
}

register_architecture! {
    name: "panicking_architecture", aliases: [], summary: "panics",
    build: || Box::new(PanickingArchitecture)
}

struct PanickingDataset(Where);

impl Dataset for PanickingDataset {
    fn len(&self) -> usize {
        self.0.here("len");
        100
    }

    fn targets(&self) -> TargetSpec {
        self.0.here("targets");
        TargetSpec::Class { classes: 10 }
    }

    fn sample(&self, index: usize) -> Result<Sample> {
        self.0.here("sample");
        Ok(Sample::new(vec![index as f32 * 0.01; 28 * 28], Target::Class(index % 10)))
    }
}

register_dataset! {
    name: "panicking_dataset", aliases: [], summary: "panics",
    build: |params, _| Ok(Box::new(PanickingDataset(Where::new(params)?)))
}

/// Measures the magnitude of the outputs.
struct PanickingTask(Where);

impl Task for PanickingTask {
    fn targets(&self, outputs: &[Output]) -> Result<TargetSpec> {
        self.0.here("targets");
        match outputs {
            [Output::Values(shape)] => Ok(TargetSpec::Class { classes: shape.iter().product() }),
            other => Err(Error::message(Output::list(other))),
        }
    }

    fn metrics(&self) -> Vec<Metric> {
        self.0.here("metrics");
        vec![Metric::number("size", "mean output size")]
    }

    fn meter(&self) -> Result<Box<dyn Meter>> {
        self.0.here("meter");
        Ok(Box::new(PanickingMeter { place: self.0.clone(), sum: 0.0, images: 0 }))
    }

    fn image_metrics(&self) -> Vec<Metric> {
        self.0.here("image_metrics");
        vec![Metric::number("far", "far")]
    }

    fn image_values(&self, _: &[Tensor], _: &[Tensor], targets: &[Target]) -> Result<Vec<Vec<f64>>> {
        self.0.here("image_values");
        Ok(vec![vec![0.0]; targets.len()])
    }

    fn comparison(&self, _: f64) -> Result<Option<Box<dyn Comparison>>> {
        self.0.here("comparison");
        Ok(Some(Box::new(PanickingComparison(self.0.clone()))))
    }
}

struct PanickingMeter {
    place: Where,
    sum: f64,
    images: usize,
}

impl Meter for PanickingMeter {
    fn update(&mut self, outputs: &[Tensor], targets: &[Target]) -> Result<()> {
        self.place.here("update");
        for output in outputs {
            self.sum += f64::from(output.abs()?.mean_all()?.to_scalar::<f32>()?) * targets.len() as f64;
        }
        self.images += targets.len();
        Ok(())
    }

    fn compute(&self) -> Result<Measurement> {
        self.place.here("compute");
        Ok(Measurement::new(self.images, [("size", self.sum / self.images as f64)]))
    }
}

struct PanickingComparison(Where);

impl Comparison for PanickingComparison {
    fn observe(&mut self, _: &Tensor, _: &[Tensor], _: &[Target]) -> Result<()> {
        self.0.here("observe");
        Ok(())
    }

    fn problem(&self, _: &Measurement) -> Result<Option<String>> {
        self.0.here("problem");
        Ok(None)
    }
}

register_task! {
    name: "panicking_task", aliases: [], summary: "panics",
    build: |params| Ok(Box::new(PanickingTask(Where::new(params)?)))
}

// The plugin uses the program's copy of candle.
const _: fn(&Tensor) -> candle_core::Result<Tensor> = Tensor::copy;
