//! Quantizers: the mapping to the grid, and what of it is learned.

use crate::error::Result;
use crate::grid::{QParams, QuantSpec, Range};
use crate::guard::Origin;
use crate::params::Params;
use crate::registry::{define_kind, Entry};
use candle_core::{Device, Tensor, Var};

/// Names of the groups of parameters that the framework and the built-in quantizers have. A reconstructor maps the
/// name of a group to a learning rate; a quantizer may name groups of its own, which its reconstructor must know.
pub mod groups {
    /// Rounding variables, such as AdaRound's alpha.
    pub const ROUNDING: &str = "rounding";
    /// Scales of activations, such as LSQ's, and other parameters of a grid that learn like them.
    pub const SCALE: &str = "scale";
    /// Zero points, such as those of LSQ+.
    pub const ZERO_POINT: &str = "zero_point";
    /// Scales of weights that are learned beside the rounding (Genie-M, arXiv 2212.04780).
    pub const WEIGHT_SCALE: &str = "weight_scale";
    /// Biases of layers. They belong to no quantizer: they are learned where the reconstructor has a rate for them.
    pub const BIAS: &str = "bias";
}

/// A learnable variable of a quantizer.
#[derive(Debug, Clone)]
pub struct Parameter {
    /// Name within the quantizer, such as "alpha".
    pub name: &'static str,
    /// The variable.
    pub var: Var,
    /// Which of the reconstructor's learning rates applies: a name such as those of [`groups`].
    pub group: &'static str,
}

/// What a quantizer computes while it learns, for those that the engines' kernels know. Scale and zero point
/// are those of [`Quantizer::qparams`], unless they are learned.
#[derive(Debug, Clone)]
pub enum QuantizerKernel {
    /// Rounds to nearest and learns nothing.
    Nearest,
    /// Learns the scale as LSQ does: its gradient times
    /// [`lsq_gradient_scale`](crate::grid::QuantSpec::lsq_gradient_scale), its value at least the epsilon of f32.
    LearnedScale {
        /// The scale, one element.
        scale: Var,
    },
    /// Learns scale and zero point as LSQ+ does; the zero point is rounded straight-through and clamped to
    /// the grid.
    LearnedScaleAndZeroPoint {
        /// The scale, one element.
        scale: Var,
        /// The zero point, one element.
        zero_point: Var,
    },
    /// Learns the rounding of a weight as AdaRound does, and its scale as Genie-M does where that is wanted.
    SoftRounding {
        /// The rounding variables, of the weight's shape.
        alpha: Var,
        /// `floor(weight / scale)`, with the scale that learning begins with.
        floor: Tensor,
        /// The scale, if it is learned: one element for each output channel, or a single one. Its value is at least
        /// the epsilon of f32.
        scale: Option<Var>,
    },
}

/// Maps a tensor to its quantization grid and back.
///
/// Life of a quantizer: [`set_range`](Self::set_range) once after calibration; then
/// [`fake_quantize`](Self::fake_quantize) in any forward pass. While the unit that holds it is
/// reconstructed, [`begin_reconstruction`](Self::begin_reconstruction) and
/// [`finish_reconstruction`](Self::finish_reconstruction) enclose the passes in which
/// [`parameters`](Self::parameters) learn. QDrop's drop is applied outside, to the result.
pub trait Quantizer: Send + Sync {
    /// The grid.
    fn spec(&self) -> &QuantSpec;

    /// Takes scale and zero point from an observed range.
    ///
    /// # Errors
    /// The range is not finite.
    fn set_range(&mut self, range: &Range, device: &Device) -> Result<()> {
        let params = QParams::from_range(range, self.spec())?;
        self.set_qparams(&params, device)
    }

    /// Takes scale and zero point as they are, one for each channel.
    ///
    /// # Errors
    /// A tensor cannot be made on the device.
    fn set_qparams(&mut self, params: &QParams, device: &Device) -> Result<()>;

    /// Scale and zero point, one for each channel. Outside of reconstruction they are the whole state:
    /// a quantizer that gets them through [`set_qparams`](Self::set_qparams) computes the same.
    /// Checkpoints and saved models rely on it.
    ///
    /// # Errors
    /// No range was set yet.
    fn qparams(&self) -> Result<QParams>;

    /// The quantized and dequantized tensor, of the same shape; differentiable with respect to
    /// `x` and to [`parameters`](Self::parameters).
    ///
    /// # Errors
    /// No range was set yet, or the channels of `x` do not fit it.
    fn fake_quantize(&self, x: &Tensor) -> Result<Tensor>;

    /// Prepares learning. `weight` is the float weight for a weight quantizer, `None` for an
    /// activation quantizer.
    ///
    /// # Errors
    /// The quantizer is not made for such a tensor.
    fn begin_reconstruction(&mut self, weight: Option<&Tensor>) -> Result<()> {
        let _ = weight;
        Ok(())
    }

    /// What is learned between begin and finish.
    ///
    /// # Errors
    /// No range was set yet.
    fn parameters(&self) -> Result<Vec<Parameter>> {
        Ok(Vec::new())
    }

    /// The regularizer that drives soft decisions to hard ones, unweighted: a scalar tensor, or
    /// `None`. `b` is the sharpness that the reconstructor anneals (AdaRound, equation 24).
    ///
    /// # Errors
    /// An operation fails.
    fn regularizer(&self, b: f32) -> Result<Option<Tensor>> {
        let _ = b;
        Ok(None)
    }

    /// What it computes, if the engines' kernels know it; without an answer the unit goes through candle. Between
    /// begin and finish it must compute just that, with all that [`parameters`](Self::parameters) learns; at other
    /// times a quantizer of activations that answers rounds to the nearest point of the grid of
    /// [`qparams`](Self::qparams). The conformance suite holds it to its answer.
    ///
    /// # Errors
    /// No range was set yet.
    fn kernel(&self) -> Result<Option<QuantizerKernel>> {
        Ok(None)
    }

    /// Ends learning. A weight quantizer returns the hard weight, which replaces the float one;
    /// from then on [`fake_quantize`](Self::fake_quantize) must return it unchanged.
    ///
    /// # Errors
    /// An operation fails.
    fn finish_reconstruction(&mut self, weight: Option<&Tensor>) -> Result<Option<Tensor>> {
        weight.map(|w| Ok(self.fake_quantize(w)?.detach())).transpose()
    }
}

/// A quantizer of a registry entry.
struct GuardedQuantizer {
    origin: Origin,
    spec: QuantSpec,
    inner: Box<dyn Quantizer>,
}

impl GuardedQuantizer {
    fn new(origin: Origin, inner: Box<dyn Quantizer>) -> Result<Self> {
        // The grid never changes.
        let spec = origin.ask("spec", || *inner.spec())?;
        Ok(Self { origin, spec, inner })
    }
}

impl Quantizer for GuardedQuantizer {
    fn spec(&self) -> &QuantSpec {
        &self.spec
    }

    fn set_range(&mut self, range: &Range, device: &Device) -> Result<()> {
        self.origin.call("set_range", || self.inner.set_range(range, device))
    }

    fn set_qparams(&mut self, params: &QParams, device: &Device) -> Result<()> {
        self.origin.call("set_qparams", || self.inner.set_qparams(params, device))
    }

    fn qparams(&self) -> Result<QParams> {
        self.origin.call("qparams", || self.inner.qparams())
    }

    fn fake_quantize(&self, x: &Tensor) -> Result<Tensor> {
        self.origin.call("fake_quantize", || self.inner.fake_quantize(x))
    }

    fn begin_reconstruction(&mut self, weight: Option<&Tensor>) -> Result<()> {
        self.origin.call("begin_reconstruction", || self.inner.begin_reconstruction(weight))
    }

    fn parameters(&self) -> Result<Vec<Parameter>> {
        self.origin.call("parameters", || self.inner.parameters())
    }

    fn regularizer(&self, b: f32) -> Result<Option<Tensor>> {
        self.origin.call("regularizer", || self.inner.regularizer(b))
    }

    fn kernel(&self) -> Result<Option<QuantizerKernel>> {
        self.origin.call("kernel", || self.inner.kernel())
    }

    fn finish_reconstruction(&mut self, weight: Option<&Tensor>) -> Result<Option<Tensor>> {
        self.origin.call("finish_reconstruction", || self.inner.finish_reconstruction(weight))
    }
}

define_kind!(
    /// Constructor of a quantizer.
    QuantizerKind,
    "quantizer",
    fn(&QuantSpec, &Params) -> Result<Box<dyn Quantizer>>
);

impl Entry<QuantizerKind> {
    /// A new quantizer.
    ///
    /// # Errors
    /// A parameter is wrong.
    pub fn build(&self, spec: &QuantSpec, params: &Params) -> Result<Box<dyn Quantizer>> {
        let origin = Origin::of(self);
        let inner = origin.call("build", || (self.constructor.0)(spec, params))?;
        Ok(Box::new(GuardedQuantizer::new(origin, inner)?))
    }
}

/// Registers a quantizer; the fields are those of [`register_observer!`](crate::register_observer).
#[macro_export]
macro_rules! register_quantizer {
    (name: $name:expr, aliases: [$($alias:expr),*], summary: $summary:expr, build: $build:expr) => {
        $crate::__register!($crate::quantizer::QuantizerKind, $name, [$($alias),*], $summary, $build);
    };
}
