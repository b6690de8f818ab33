//! Operations that a plugin defines.

use crate::error::{Error, Result};
use candle_core::Tensor;
use std::fmt;
use std::sync::Arc;

/// An operation that the framework does not know: what an architecture puts into its graph with
/// [`GraphBuilder::operator`](super::GraphBuilder::operator).
///
/// Its parameters stay in floating point. Blocks are reconstructed through it, so its value must be
/// differentiable with respect to its inputs: compose it of [`ops`](crate::ops) and of the tensor
/// library's operations, or give it a forward and a backward pass of its own as a
/// `candle_core::CustomOp1`, `CustomOp2` or `CustomOp3`.
pub trait Operator: Send + Sync {
    /// What reports call it.
    fn name(&self) -> &'static str;

    /// Shape of the value, given those of the inputs; all without the batch dimension.
    ///
    /// # Errors
    /// The inputs do not fit.
    fn shape(&self, inputs: &[&[usize]]) -> Result<Vec<usize>>;

    /// Names and shapes of the parameters, given the shapes of the inputs.
    fn parameters(&self, inputs: &[&[usize]]) -> Vec<(&'static str, Vec<usize>)> {
        let _ = inputs;
        Vec::new()
    }

    /// Whether the value only moves numbers around, as a channel shuffle does: then it needs no
    /// quantizer of its own. Any other value is quantized like that of an addition.
    fn moves_only(&self) -> bool {
        false
    }

    /// The value. Inputs and value have the batch as first dimension; parameters are in the order of
    /// [`parameters`](Self::parameters).
    ///
    /// # Errors
    /// The tensor library's.
    fn forward(&self, inputs: &[&Tensor], parameters: &[&Tensor]) -> Result<Tensor>;
}

/// A shared [`Operator`]. Two are equal when they are the same one.
#[derive(Clone)]
pub struct CustomOperator(Arc<dyn Operator>);

impl CustomOperator {
    /// Wraps an operator.
    pub fn new(operator: impl Operator + 'static) -> Self {
        Self(Arc::new(operator))
    }

    /// The value, after checking that it has the shape that was promised.
    pub(super) fn forward(&self, inputs: &[&Tensor], parameters: &[&Tensor]) -> Result<Tensor> {
        let value = self.0.forward(inputs, parameters)?;
        let dims: Vec<&[usize]> = inputs.iter().map(|x| x.dims().get(1..).unwrap_or_default()).collect();
        let want = self.0.shape(&dims)?;
        if value.dims().get(1..) != Some(&want) {
            return Err(Error::message(format!("its value has the shape {:?}, not (N, {want:?})", value.dims())));
        }
        Ok(value)
    }
}

impl std::ops::Deref for CustomOperator {
    type Target = dyn Operator;

    fn deref(&self) -> &Self::Target {
        &*self.0
    }
}

impl PartialEq for CustomOperator {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl fmt::Debug for CustomOperator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.name())
    }
}
