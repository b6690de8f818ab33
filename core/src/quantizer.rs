//! Quantizers: the mapping of values to the grid, and its learned parameters.

use crate::error::Result;
use crate::grid::{QParams, QuantSpec, Range};
use crate::guard::Origin;
use crate::params::Params;
use crate::registry::{define_kind, Entry};
use candle_core::{Device, Tensor, Var};

/// Names of the parameter groups of the framework and the built-in quantizers. A reconstructor sets a learning rate
/// for each group. A quantizer may use groups of its own, for which its reconstructor must have learning rates.
pub mod groups {
    /// Rounding variables, such as AdaRound's alpha.
    pub const ROUNDING: &str = "rounding";
    /// Scales of activations, such as LSQ's, and other grid parameters that use the same learning rate.
    pub const SCALE: &str = "scale";
    /// Zero points, such as those of LSQ+.
    pub const ZERO_POINT: &str = "zero_point";
    /// Scales of weights that are learned together with the rounding (Genie-M, arXiv 2212.04780).
    pub const WEIGHT_SCALE: &str = "weight_scale";
    /// Biases of layers. They belong to no quantizer; they are learned if the reconstructor has a rate for them.
    pub const BIAS: &str = "bias";
}

/// A learned variable of a quantizer.
#[derive(Debug, Clone)]
pub struct Parameter {
    /// Name within the quantizer, such as "alpha".
    pub name: &'static str,
    /// The variable.
    pub var: Var,
    /// The parameter group, which decides the learning rate: one of [`groups`] or a name of the quantizer's own.
    pub group: &'static str,
    /// What learning rates of this variable are relative to, in its shape: a learning rate of 0.01 then changes an element
    /// by at most about 0.01 of its size here in each step. `None`: rates are absolute. It must stay the same while the
    /// variable is learned.
    pub size: Option<Tensor>,
}

impl Parameter {
    /// A variable with absolute learning rates, in a parameter group: one of [`groups`] or a name of the quantizer's own.
    pub fn new(name: &'static str, var: &Var, group: &'static str) -> Self {
        Self { name, var: var.clone(), group, size: None }
    }

    /// The same with learning rates relative to `size`, in the variable's shape.
    pub fn relative_to(self, size: Tensor) -> Self {
        Self { size: Some(size), ..self }
    }
}

/// What a quantizer computes while it learns, for computations that the fused engine supports. Scale and zero point
/// are those of [`Quantizer::qparams`], unless they are learned.
#[derive(Debug, Clone)]
pub enum QuantizerKernel {
    /// Rounds to the nearest integer and learns nothing.
    Nearest,
    /// Learns the scale as LSQ does (arXiv 1902.08153): its gradient is multiplied by
    /// [`lsq_gradient_scale`](crate::grid::QuantSpec::lsq_gradient_scale); the scale is at least the epsilon of f32.
    LearnedScale {
        /// The scale, one element.
        scale: Var,
    },
    /// Learns scale and zero point as LSQ+ does (arXiv 2004.09576). The zero point is rounded with a straight-through
    /// estimator and clamped to the grid.
    LearnedScaleAndZeroPoint {
        /// The scale, one element.
        scale: Var,
        /// The zero point, one element.
        zero_point: Var,
    },
    /// Learns the rounding of a weight as AdaRound does (arXiv 2004.10568), and optionally its scale as Genie-M does.
    SoftRounding {
        /// The rounding variables, in the weight's shape.
        alpha: Var,
        /// `floor(weight / scale)`, with the scale at the beginning of learning.
        floor: Tensor,
        /// The scale, if it is learned: one element for each output channel, or a single one. It is at least the
        /// epsilon of f32.
        scale: Option<Var>,
        /// Whether passes compute with hard roundings, up where `h(alpha)` is at least 0.5 and down elsewhere. The
        /// gradient of alpha is that of the soft rounding all the same, and there is no regularizer.
        straight_through: bool,
    },
}

/// Maps a tensor to its quantization grid and back (fake quantization).
///
/// Calls come in this order: [`set_range`](Self::set_range) once, at the end of calibration; then
/// [`fake_quantize`](Self::fake_quantize) in any forward pass. When its unit is reconstructed,
/// [`begin_reconstruction`](Self::begin_reconstruction) comes before and
/// [`finish_reconstruction`](Self::finish_reconstruction) after the passes in which
/// [`parameters`](Self::parameters) learn. The model applies QDrop's drop to the result of `fake_quantize`.
pub trait Quantizer: Send + Sync {
    /// The grid.
    fn spec(&self) -> &QuantSpec;

    /// Computes scale and zero point from an observed range.
    ///
    /// # Errors
    /// The range is not finite.
    fn set_range(&mut self, range: &Range, device: &Device) -> Result<()> {
        let params = QParams::from_range(range, self.spec())?;
        self.set_qparams(&params, device)
    }

    /// Sets scale and zero point directly, one for each channel.
    ///
    /// # Errors
    /// A tensor cannot be made on the device.
    fn set_qparams(&mut self, params: &QParams, device: &Device) -> Result<()>;

    /// Scale and zero point, one for each channel. Outside of reconstruction they must be the whole state:
    /// after [`set_qparams`](Self::set_qparams) with them, another quantizer must compute the same.
    /// Checkpoints and saved models rely on it.
    ///
    /// # Errors
    /// No range was set yet.
    fn qparams(&self) -> Result<QParams>;

    /// Quantizes and dequantizes `x`. The result has the same shape and is differentiable with respect to
    /// `x` and to [`parameters`](Self::parameters).
    ///
    /// # Errors
    /// No range was set yet, or `x` has another number of channels than the range.
    fn fake_quantize(&self, x: &Tensor) -> Result<Tensor>;

    /// Prepares for learning. `weight` is the float weight for a weight quantizer, and `None` for an
    /// activation quantizer.
    ///
    /// # Errors
    /// The quantizer cannot learn for this kind of tensor, or no range was set yet.
    fn begin_reconstruction(&mut self, weight: Option<&Tensor>) -> Result<()> {
        let _ = weight;
        Ok(())
    }

    /// The variables that are learned between begin and finish.
    ///
    /// # Errors
    /// No range was set yet.
    fn parameters(&self) -> Result<Vec<Parameter>> {
        Ok(Vec::new())
    }

    /// The unweighted regularizer that pushes soft roundings to hard ones: a scalar tensor, or
    /// `None`. `b` is the exponent that the reconstructor anneals (AdaRound, equation 24).
    ///
    /// # Errors
    /// No range was set yet, or an operation of candle fails.
    fn regularizer(&self, b: f32) -> Result<Option<Tensor>> {
        let _ = b;
        Ok(None)
    }

    /// What the quantizer computes, if the fused engine supports it. If it returns `None`, the generic engine computes
    /// the unit. Between begin and finish the quantizer must compute exactly this, and learn all of
    /// [`parameters`](Self::parameters) in this way. At other times a quantizer of activations that returns a kernel
    /// must round to the nearest point of the grid of [`qparams`](Self::qparams). The conformance suite checks this.
    ///
    /// # Errors
    /// No range was set yet.
    fn kernel(&self) -> Result<Option<QuantizerKernel>> {
        Ok(None)
    }

    /// The hard weight that [`finish_reconstruction`](Self::finish_reconstruction) would return if learning ended here.
    /// `weight` is the float weight. The default is for quantizers whose roundings are hard while they learn.
    ///
    /// # Errors
    /// No range was set yet, or an operation of candle fails.
    fn hard_weight(&self, weight: &Tensor) -> Result<Tensor> {
        Ok(self.fake_quantize(weight)?.detach())
    }

    /// Ends learning. A weight quantizer returns the hard weight, which replaces the float one. From then on
    /// [`fake_quantize`](Self::fake_quantize) must return that weight unchanged.
    ///
    /// # Errors
    /// No range was set yet, or an operation of candle fails.
    fn finish_reconstruction(&mut self, weight: Option<&Tensor>) -> Result<Option<Tensor>> {
        weight.map(|w| Ok(self.fake_quantize(w)?.detach())).transpose()
    }
}

/// Wraps the quantizer of a registry entry, so that its panics become errors.
struct GuardedQuantizer {
    origin: Origin,
    spec: QuantSpec,
    inner: Box<dyn Quantizer>,
}

impl GuardedQuantizer {
    fn new(origin: Origin, inner: Box<dyn Quantizer>) -> Result<Self> {
        // The grid never changes, so it was read once.
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

    fn hard_weight(&self, weight: &Tensor) -> Result<Tensor> {
        self.origin.call("hard_weight", || self.inner.hard_weight(weight))
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
    /// Builds a quantizer.
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
