//! The Adam optimizer with PyTorch's arithmetic.

use crate::error::{Error, Result};
use crate::ops::{f32_values, host_values};
use candle_core::{CpuStorage, InplaceOp2, Layout, Tensor, Var};
use qdrop_kernels::adam::{self, AdamStep};
use std::sync::Mutex;

/// Adam (arXiv 1412.6980) for a group of variables with a common learning rate.
pub struct Adam {
    states: Vec<State>,
    steps: usize,
}

struct State {
    var: Var,
    /// What the learning rate is relative to in each element.
    size: Option<Tensor>,
    moments: Moments,
}

enum Moments {
    /// Running means of gradients and of their squares.
    Host(Mutex<(Vec<f32>, Vec<f32>)>),
    Device(Tensor, Tensor),
}

const BETA1: f64 = 0.9;
const BETA2: f64 = 0.999;
const EPSILON: f64 = 1e-8;

/// Coefficients of update number `steps` (from 1), with decays 0.9 and 0.999 and epsilon 1e-8.
pub(crate) fn adam_step(learning_rate: f64, steps: usize) -> AdamStep {
    AdamStep { learning_rate, beta1: BETA1, beta2: BETA2, epsilon: EPSILON, step: steps }
}

impl Adam {
    /// An optimizer for `vars` with decays 0.9 and 0.999 and epsilon 1e-8. With each comes what its learning rate is
    /// relative to, see [`Parameter::size`](crate::quantizer::Parameter::size).
    ///
    /// # Errors
    /// A tensor cannot be allocated.
    pub fn new(vars: Vec<(Var, Option<Tensor>)>) -> Result<Self> {
        let state = |(var, size): (Var, Option<Tensor>)| -> Result<State> {
            let moments = if var.device().is_cpu() {
                let zeros = vec![0.0; var.elem_count()];
                Moments::Host(Mutex::new((zeros.clone(), zeros)))
            } else {
                Moments::Device(var.zeros_like()?, var.zeros_like()?)
            };
            Ok(State { var, size, moments })
        };
        Ok(Self { states: vars.into_iter().map(state).collect::<Result<_>>()?, steps: 0 })
    }

    /// The running means of gradients and of their squares for each variable, in order.
    ///
    /// # Errors
    /// A tensor cannot be copied.
    pub fn moments(&self) -> Result<Vec<(Tensor, Tensor)>> {
        let of = |state: &State| match &state.moments {
            Moments::Host(moments) => {
                let moments = moments.lock().unwrap_or_else(|e| e.into_inner());
                let tensor = |values: &[f32]| Tensor::from_slice(values, state.var.dims(), state.var.device());
                Ok((tensor(&moments.0)?, tensor(&moments.1)?))
            }
            Moments::Device(mean, square) => Ok((mean.clone(), square.clone())),
        };
        self.states.iter().map(of).collect()
    }

    /// Resumes after `steps` updates, with the [`moments`](Self::moments) after them.
    ///
    /// # Errors
    /// The moments do not match the variables.
    pub fn restore(&mut self, steps: usize, moments: &[(Tensor, Tensor)]) -> Result<()> {
        let fit = |(state, (mean, square)): (&State, &(Tensor, Tensor))| {
            state.var.dims() == mean.dims() && state.var.dims() == square.dims()
        };
        if moments.len() != self.states.len() || !self.states.iter().zip(moments).all(fit) {
            return Err(Error::message("the optimizer's state does not fit its variables"));
        }
        self.steps = steps;
        for (state, (mean, square)) in self.states.iter_mut().zip(moments) {
            match &mut state.moments {
                Moments::Host(moments) => {
                    let moments = moments.get_mut().unwrap_or_else(|e| e.into_inner());
                    *moments = (host_values(mean, <[f32]>::to_vec)?, host_values(square, <[f32]>::to_vec)?);
                }
                Moments::Device(old_mean, old_square) => (*old_mean, *old_square) = (mean.clone(), square.clone()),
            }
        }
        Ok(())
    }

    /// One update. A variable without a gradient does not change.
    ///
    /// # Errors
    /// A variable is not contiguous f32, or an operation of candle fails.
    pub fn step(&mut self, gradients: &candle_core::backprop::GradStore, learning_rate: f64) -> Result<()> {
        self.steps += 1;
        let step = adam_step(learning_rate, self.steps);
        for state in &mut self.states {
            let Some(gradient) = gradients.get(&state.var) else { continue };
            match &mut state.moments {
                Moments::Host(moments) => {
                    let (gradient, update) = (gradient.contiguous()?, UpdateOp { moments, step });
                    match &state.size {
                        None => state.var.inplace_op2(&gradient, &update)?,
                        Some(size) => {
                            let change = state.var.zeros_like()?;
                            change.inplace_op2(&gradient, &update)?;
                            state.var.set(&(state.var.as_tensor() + (change * size)?)?)?;
                        }
                    }
                }
                Moments::Device(mean, square) => {
                    *mean = ((&*mean * BETA1)? + (gradient * (1.0 - BETA1))?)?;
                    *square = ((&*square * BETA2)? + (gradient.sqr()? * (1.0 - BETA2))?)?;
                    let correction1 = 1.0 - BETA1.powi(self.steps as i32);
                    let correction2 = (1.0 - BETA2.powi(self.steps as i32)).sqrt();
                    let denominator = ((square.sqrt()? / correction2)? + EPSILON)?;
                    let change = ((&*mean * (learning_rate / correction1))? / denominator)?;
                    let change = match &state.size {
                        None => change,
                        Some(size) => (change * size)?,
                    };
                    state.var.set(&(state.var.as_tensor() - change)?)?;
                }
            }
        }
        Ok(())
    }
}

struct UpdateOp<'a> {
    moments: &'a Mutex<(Vec<f32>, Vec<f32>)>,
    step: AdamStep,
}

impl InplaceOp2 for UpdateOp<'_> {
    fn name(&self) -> &'static str {
        "adam"
    }

    fn cpu_fwd(
        &self,
        parameter: &mut CpuStorage,
        lp: &Layout,
        gradient: &CpuStorage,
        lg: &Layout,
    ) -> candle_core::Result<()> {
        let (CpuStorage::F32(parameter), CpuStorage::F32(gradient)) = (parameter, gradient) else {
            candle_core::bail!("adam needs f32 variables")
        };
        let (Some((p0, p1)), Some((g0, g1))) = (lp.contiguous_offsets(), lg.contiguous_offsets()) else {
            candle_core::bail!("adam needs contiguous variables")
        };
        let mut moments = self.moments.lock().map_err(|_| candle_core::Error::Msg("adam state poisoned".into()))?;
        let (mean, square) = &mut *moments;
        adam::update(&mut parameter[p0..p1], &gradient[g0..g1], mean, square, self.step);
        Ok(())
    }
}

/// The value of a scalar tensor.
///
/// # Errors
/// The tensor is not a finite scalar: the optimization diverged.
pub fn finite_scalar(x: &Tensor, what: &str) -> Result<f64> {
    let value = match x.device().is_cpu() {
        true => f32_values(x, |v| v.first().copied())?.unwrap_or(f32::NAN),
        false => x.to_scalar()?,
    };
    finite(f64::from(value), what)
}

/// A loss as it is.
///
/// # Errors
/// It is not finite: the optimization diverged.
pub(crate) fn finite(value: f64, what: &str) -> Result<f64> {
    if value.is_finite() {
        Ok(value)
    } else {
        Err(Error::message(format!("the {what} became {value}; lower the learning rates or check the weights")))
    }
}
