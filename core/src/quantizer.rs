//! Quantizers: the mapping to the grid, and what of it is learned.

use crate::error::Result;
use crate::fused::FusedKernel;
use crate::grid::{QParams, QuantSpec, Range};
use crate::params::Params;
use crate::plugin::guard::{GuardedQuantizer, Origin};
use crate::registry::{define_kind, Entry};
use candle_core::{Device, Tensor, Var};

/// Which learning rate of the reconstructor applies to a parameter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ParameterGroup {
    /// Rounding variables, such as AdaRound's alpha.
    Rounding,
    /// Grid parameters, such as LSQ's scale.
    Scale,
}

/// A learnable variable of a quantizer.
#[derive(Debug, Clone)]
pub struct Parameter {
    /// Name within the quantizer, such as "alpha".
    pub name: &'static str,
    /// The variable.
    pub var: Var,
    /// Its learning rate.
    pub group: ParameterGroup,
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
    /// The tensor library's.
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
    /// The tensor library's.
    fn regularizer(&self, b: f32) -> Result<Option<Tensor>> {
        let _ = b;
        Ok(None)
    }

    /// What it computes, if the kernels know it. Between begin and finish it must compute just that, with
    /// what [`parameters`](Self::parameters) learns; at other times a quantizer of activations that answers
    /// rounds to the nearest point of the grid of [`qparams`](Self::qparams).
    ///
    /// # Errors
    /// No range was set yet.
    fn kernel(&self) -> Result<Option<FusedKernel>> {
        Ok(None)
    }

    /// Ends learning. A weight quantizer returns the hard weight, which replaces the float one;
    /// from then on [`fake_quantize`](Self::fake_quantize) must return it unchanged.
    ///
    /// # Errors
    /// The tensor library's.
    fn finish_reconstruction(&mut self, weight: Option<&Tensor>) -> Result<Option<Tensor>> {
        weight.map(|w| Ok(self.fake_quantize(w)?.detach())).transpose()
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
