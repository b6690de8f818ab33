//! A small quantized unit, for checks of reconstructors and of quantizers' kernels.

use super::{cosine, normal};
use crate::engine::{UnitData, UnitSamples};
use crate::error::{Error, Result};
use crate::graph::{quantization_sites, Conv2d, GraphBuilder, SiteKind};
use crate::grid::{Granularity, QParams, QuantSpec, Range};
use crate::model::{Precision, QuantModel, QuantSite};
use crate::ops;
use crate::quantizer::{groups, Parameter, Quantizer, QuantizerKernel};
use candle_core::{Device, Tensor, Var};
use qdrop_kernels::adaround::alpha_of;
use std::collections::HashMap;

/// Number of cached samples.
pub const SAMPLES: usize = 64;
/// Bit width of weights and activations.
const BITS: u32 = 3;

/// A network of one unit with two convolutions, quantized to few bits.
pub struct Toy {
    /// The network.
    pub model: QuantModel,
    /// Cached inputs and outputs of its unit.
    pub samples: UnitSamples,
    data: UnitData,
}

/// Builds the quantizer of a site of the toy from its grid and kind.
pub type Build<'a> = &'a dyn Fn(&QuantSpec, SiteKind) -> Result<Box<dyn Quantizer>>;

impl Toy {
    /// The toy with quantizers that learn roundings and scales.
    pub fn new() -> Result<Self> {
        Self::with(&|spec, _| Ok(toy_quantizer(spec)))
    }

    /// The toy with quantizers made by `build`.
    pub fn with(build: Build<'_>) -> Result<Self> {
        let mut b = GraphBuilder::new([4, 6, 6]);
        let image = b.input();
        let out = b.unit("toy", |b| {
            let x = b.conv2d("first", image, Conv2d::new(8, 3).padding(1).bias())?;
            let x = b.relu("relu", x)?;
            b.conv2d("second", x, Conv2d::new(6, 3).padding(1).bias())
        })?;
        let graph = b.finish(out)?;
        let mut parameters = HashMap::new();
        for (i, (name, shape)) in graph.parameter_shapes().into_iter().enumerate() {
            let values: Vec<f32> = normal(shape.iter().product(), 50 + i as u64).iter().map(|v| 0.2 * v).collect();
            parameters.insert(name, Tensor::from_vec(values, shape, &Device::Cpu)?);
        }
        let mut model = QuantModel::new(graph.clone(), parameters, Device::Cpu);
        let input = Tensor::from_vec(normal(SAMPLES * 4 * 36, 60), (SAMPLES, 4, 6, 6), &Device::Cpu)?;
        let float_outputs = model.forward(&input, Precision::Float)?;
        // Weights lie within 3 standard deviations of 0.2; values after ReLU between 0 and 4.
        place(&mut model, BITS, [[-0.6, 0.6], [0.0, 4.0]], build)?;
        let inputs = vec![input];
        let data = UnitData { quantized_inputs: inputs.clone(), float_inputs: inputs, float_outputs };
        Ok(Self { model, samples: UnitSamples::in_memory(&data)?, data })
    }

    /// How far the outputs of the quantized network over all samples are from the float network's: the reconstruction
    /// loss, and one minus the cosine of the angle between them.
    pub fn distances(&self) -> Result<[f64; 2]> {
        let outputs = self.model.run(&self.model.graph().whole(), &self.data.quantized_inputs, Precision::Quantized)?;
        let (mut sum, mut all) = (0.0, [Vec::new(), Vec::new()]);
        for (output, target) in outputs.iter().zip(&self.data.float_outputs) {
            sum += f64::from(ops::reconstruction_loss(output, target)?.to_scalar::<f32>()?);
            for (values, tensor) in all.iter_mut().zip([output, target]) {
                values.extend(ops::host_values(tensor, |values| {
                    values.iter().map(|v| f64::from(*v)).collect::<Vec<_>>()
                })?);
            }
        }
        Ok([sum, 1.0 - cosine(&all[0], &all[1])])
    }

    /// The weights of both layers, and the largest distance of a weight from its grid, as a multiple of the scale.
    pub fn weights(&self) -> Result<(Vec<f32>, f32)> {
        let (mut all, mut worst) = (Vec::new(), 0.0_f32);
        for (node, site) in self.model.weight_sites() {
            let weight = self.model.weight(node)?;
            let values = ops::host_values(weight, <[f32]>::to_vec)?;
            let step = site.quantizer.qparams()?.scale[0];
            let hard = ops::host_values(&site.quantizer.fake_quantize(weight)?, <[f32]>::to_vec)?;
            worst = values.iter().zip(&hard).fold(worst, |m, (v, h)| m.max((v - h).abs() / step));
            all.extend(values);
        }
        Ok((all, worst))
    }
}

/// Places quantizers made by `build` at all sites of a model: weights per channel, values per tensor. `ranges` are those of
/// weights and of values.
pub fn place(model: &mut QuantModel, bits: u32, ranges: [[f32; 2]; 2], build: Build<'_>) -> Result<()> {
    for site in quantization_sites(model.graph()) {
        let (granularity, channels, [low, high]) = match site.kind {
            SiteKind::Weight => (Granularity::PerAxis(0), model.weight(site.node)?.dim(0)?, ranges[0]),
            SiteKind::Activation => (Granularity::PerTensor, 1, ranges[1]),
        };
        let mut quantizer = build(&QuantSpec { bits, symmetric: false, granularity }, site.kind)?;
        quantizer.set_range(&Range { min: vec![low; channels], max: vec![high; channels] }, &Device::Cpu)?;
        let placed = QuantSite { name: site.name.clone(), quantizer };
        match site.kind {
            SiteKind::Weight => model.set_weight_quantizer(site.node, placed),
            SiteKind::Activation => model.set_activation_quantizer(site.node, placed),
        }
    }
    Ok(())
}

/// A quantizer that learns the rounding of a weight (AdaRound), or the scale of an activation (LSQ).
pub fn toy_quantizer(spec: &QuantSpec) -> Box<dyn Quantizer> {
    Box::new(ToyQuantizer { spec: *spec, grid: None, learned: None, learning: false })
}

struct ToyQuantizer {
    spec: QuantSpec,
    grid: Option<(Var, Tensor)>,
    learned: Option<(Var, Tensor)>,
    /// Whether the scale of an activation is being learned.
    learning: bool,
}

impl ToyQuantizer {
    fn grid(&self) -> Result<&(Var, Tensor)> {
        self.grid.as_ref().ok_or_else(|| Error::message("the toy has no range"))
    }
}

impl Quantizer for ToyQuantizer {
    fn spec(&self) -> &QuantSpec {
        &self.spec
    }

    fn set_qparams(&mut self, params: &QParams, device: &Device) -> Result<()> {
        let scale = Var::from_tensor(&Tensor::new(params.scale.as_slice(), device)?)?;
        self.grid = Some((scale, Tensor::new(params.zero_point.as_slice(), device)?));
        Ok(())
    }

    fn qparams(&self) -> Result<QParams> {
        let (scale, zero_point) = self.grid()?;
        Ok(QParams { scale: scale.to_vec1()?, zero_point: zero_point.to_vec1()? })
    }

    fn fake_quantize(&self, x: &Tensor) -> Result<Tensor> {
        let (scale, zero_point) = self.grid()?;
        let grid = (&self.spec).into();
        if let Some((alpha, floor)) = &self.learned {
            return Ok(ops::adaround(alpha.as_tensor(), floor, &scale.as_detached_tensor(), zero_point, &grid)?);
        }
        let scale = match self.learning {
            true => ops::scale_gradient(scale.as_tensor(), self.spec.lsq_gradient_scale(x.elem_count()))?,
            false => scale.as_detached_tensor(),
        };
        Ok(ops::fake_quantize(x, &scale, zero_point, &grid)?)
    }

    fn begin_reconstruction(&mut self, weight: Option<&Tensor>) -> Result<()> {
        let Some(weight) = weight else {
            self.learning = true;
            return Ok(());
        };
        // All channels of the toy share one scale.
        let scale = self.qparams()?.scale[0];
        let steps = ops::host_values(weight, |w| w.iter().map(|v| v / scale).collect::<Vec<f32>>())?;
        let floor: Vec<f32> = steps.iter().map(|v| v.floor()).collect();
        let alpha: Vec<f32> = steps.iter().zip(&floor).map(|(v, f)| alpha_of(v - f)).collect();
        let tensor = |values| Tensor::from_vec(values, weight.shape(), weight.device());
        self.learned = Some((Var::from_tensor(&tensor(alpha)?)?, tensor(floor)?));
        Ok(())
    }

    fn parameters(&self) -> Result<Vec<Parameter>> {
        let (name, var, group) = match &self.learned {
            Some((alpha, _)) => ("alpha", alpha, groups::ROUNDING),
            None => ("scale", &self.grid()?.0, groups::SCALE),
        };
        Ok(vec![Parameter::new(name, var, group)])
    }

    fn regularizer(&self, b: f32) -> Result<Option<Tensor>> {
        let term = self.learned.as_ref().map(|(alpha, _)| ops::adaround_regularizer(alpha.as_tensor(), b));
        Ok(term.transpose()?)
    }

    fn kernel(&self) -> Result<Option<QuantizerKernel>> {
        Ok(Some(match &self.learned {
            Some((alpha, floor)) => {
                let (alpha, floor) = (alpha.clone(), floor.clone());
                QuantizerKernel::SoftRounding { alpha, floor, scale: None, straight_through: false }
            }
            None => QuantizerKernel::LearnedScale { scale: self.grid()?.0.clone() },
        }))
    }

    fn hard_weight(&self, weight: &Tensor) -> Result<Tensor> {
        let (scale, zero_point) = self.grid()?;
        let rounded = match &self.learned {
            Some((alpha, floor)) => {
                let up = alpha.as_detached_tensor().ge(0.0)?.to_dtype(floor.dtype())?;
                ((floor + up)? * f64::from(self.qparams()?.scale[0]))?
            }
            None => weight.clone(),
        };
        let scale = scale.as_detached_tensor();
        Ok(ops::fake_quantize(&rounded, &scale, zero_point, &(&self.spec).into())?.detach())
    }

    fn finish_reconstruction(&mut self, weight: Option<&Tensor>) -> Result<Option<Tensor>> {
        let hard = match (&self.learned, weight) {
            (Some(_), Some(weight)) => Some(self.hard_weight(weight)?),
            _ => None,
        };
        (self.learned, self.learning) = (None, false);
        Ok(hard)
    }
}
