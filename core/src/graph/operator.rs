//! Operations that a plugin defines.

use crate::error::{Error, Result};
use crate::guard::Origin;
use candle_core::Tensor;
use std::fmt;
use std::sync::Arc;

/// An operation that the framework does not provide. An architecture adds it to its graph with
/// [`GraphBuilder::operator`](super::GraphBuilder::operator).
///
/// Its parameters stay in floating point. Reconstruction differentiates through it, so its value must be
/// differentiable with respect to its inputs: compose it of [`ops`](crate::ops) and of candle's
/// operations, or implement its forward and backward pass as a `candle_core::CustomOp1`, `CustomOp2` or
/// `CustomOp3`.
pub trait Operator: Send + Sync {
    /// The operator's name in reports.
    fn name(&self) -> &'static str;

    /// Shape of the value, given the shapes of the inputs; all without the batch dimension.
    ///
    /// # Errors
    /// The operator does not accept these inputs.
    fn shape(&self, inputs: &[&[usize]]) -> Result<Vec<usize>>;

    /// Names and shapes of the parameters, given the shapes of the inputs.
    fn parameters(&self, inputs: &[&[usize]]) -> Vec<(&'static str, Vec<usize>)> {
        let _ = inputs;
        Vec::new()
    }

    /// Whether the operator only rearranges elements, as a channel shuffle does. Then its value needs no
    /// quantizer of its own. Any other value is quantized like an addition's.
    fn moves_only(&self) -> bool {
        false
    }

    /// The value. Inputs and value have the batch as first dimension; parameters are in the order of
    /// [`parameters`](Self::parameters).
    ///
    /// # Errors
    /// A shape does not fit, or an operation of candle fails.
    fn forward(&self, inputs: &[&Tensor], parameters: &[&Tensor]) -> Result<Tensor>;
}

/// An [`Operator`] in a graph. Two are equal if they are the same object.
#[derive(Clone)]
pub struct CustomOperator {
    operator: Arc<dyn Operator>,
    origin: Origin,
    name: &'static str,
    parameters: Vec<(&'static str, Vec<usize>)>,
    shape: Vec<usize>,
    moves_only: bool,
}

impl CustomOperator {
    /// Calls everything of the operator that does not depend on values, and keeps the results.
    pub(super) fn new<T: Operator + 'static>(operator: T, inputs: &[&[usize]]) -> Result<Self> {
        // The path of the type begins with the crate's name.
        let crate_name = std::any::type_name::<T>().split("::").next().unwrap_or_default();
        let name = operator.name();
        Ok(Self {
            origin: Origin { plugin: crate_name, kind: "operator", name },
            name,
            parameters: operator.parameters(inputs),
            shape: operator.shape(inputs)?,
            moves_only: operator.moves_only(),
            operator: Arc::new(operator),
        })
    }

    /// The same operator for inputs of other shapes.
    ///
    /// # Errors
    /// It does not accept them.
    pub(super) fn of_shapes(&self, inputs: &[&[usize]]) -> Result<Self> {
        let parameters = self.origin.ask("parameters", || self.operator.parameters(inputs))?;
        let shape = self.origin.call("shape", || self.operator.shape(inputs))?;
        Ok(Self { parameters, shape, ..self.clone() })
    }

    /// The operator's name in reports.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Names and shapes of its parameters.
    pub fn parameters(&self) -> &[(&'static str, Vec<usize>)] {
        &self.parameters
    }

    /// Shape of its value without the batch dimension.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// See [`Operator::moves_only`].
    pub fn moves_only(&self) -> bool {
        self.moves_only
    }

    /// Computes the value and checks that it has the shape that the operator announces for such inputs.
    ///
    /// # Errors
    /// The operator fails or panics, or its value has another shape.
    pub fn forward(&self, inputs: &[&Tensor], parameters: &[&Tensor]) -> Result<Tensor> {
        let value = self.origin.call("forward", || self.operator.forward(inputs, parameters))?;
        // Images may have another size than those that the graph was built for.
        let shapes: Vec<&[usize]> = inputs.iter().map(|x| x.dims().get(1..).unwrap_or_default()).collect();
        let wanted = self.origin.call("shape", || self.operator.shape(&shapes))?;
        if value.dims().get(1..) != Some(&wanted) {
            return Err(Error::message(format!("its value has the shape {:?}, not (N, {wanted:?})", value.dims())));
        }
        Ok(value)
    }
}

impl PartialEq for CustomOperator {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.operator, &other.operator)
    }
}

impl fmt::Debug for CustomOperator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}
