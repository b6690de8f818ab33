//! The generic engine computes a unit with candle's operations. It supports every operation and every quantizer, and
//! its results are the reference for all other engines.

use super::checks::{check_batch, check_gradients, no_gradients, rate_of};
use super::interface::{EngineState, Regularizer, StepTimes, UnitEngine};
use super::memory;
use super::samples::{input_site, UnitSamples};
use super::variable::Variable;
use crate::error::Result;
use crate::graph::Unit;
use crate::model::QuantModel;
use crate::ops::{self, Keep};
use crate::optim::{finite_scalar, Adam};
use candle_core::backprop::GradStore;
use candle_core::Tensor;
use std::time::Instant;

/// A unit that the generic engine computes.
pub struct GenericUnit<'a> {
    model: &'a QuantModel,
    unit: &'a Unit,
    samples: UnitSamples,
    batch: usize,
    /// All learned variables, by group.
    groups: Vec<Group>,
    /// Outputs of the last forward pass, with candle's record for the backward pass.
    outputs: Vec<Tensor>,
    gradients: Option<GradStore>,
    /// Batches whose gradients are summed in `gradients`.
    passes: usize,
    times: StepTimes,
}

/// The variables that share a learning rate.
struct Group {
    name: &'static str,
    variables: Vec<Variable>,
    adam: Adam,
}

impl<'a> GenericUnit<'a> {
    /// Prepares a unit whose quantizers have begun to learn, for batches of this size.
    ///
    /// # Errors
    /// A quantizer fails, or a step needs more memory than is free.
    pub fn new(model: &'a QuantModel, unit: &'a Unit, samples: UnitSamples, batch: usize) -> Result<Self> {
        memory::check(model.graph(), unit, batch)?;
        let mut groups: Vec<(&'static str, Vec<Variable>)> = Vec::new();
        for (name, parameter) in model.unit_parameters(unit.nodes())? {
            let variable = Variable::new(name, parameter);
            match groups.iter_mut().find(|(group, _)| *group == variable.group) {
                Some((_, variables)) => variables.push(variable),
                None => groups.push((variable.group, vec![variable])),
            }
        }
        let group = |(name, variables): (&'static str, Vec<Variable>)| -> Result<Group> {
            let vars = variables.iter().map(|v| (v.var.clone(), v.size.clone()));
            Ok(Group { name, adam: Adam::new(vars.collect())?, variables })
        };
        let groups = groups.into_iter().map(group).collect::<Result<_>>()?;
        Ok(Self {
            model,
            unit,
            samples,
            batch,
            groups,
            outputs: Vec::new(),
            gradients: None,
            passes: 0,
            times: StepTimes::default(),
        })
    }
}

impl GenericUnit<'_> {
    /// Replaces the gradient of each learned variable.
    fn combine(
        &self,
        gradients: &mut GradStore,
        new: impl Fn(Option<&Tensor>, &Tensor) -> Result<Option<Tensor>>,
    ) -> Result<()> {
        for variable in self.groups.iter().flat_map(|g| &g.variables) {
            let var = variable.var.as_tensor();
            if let Some(gradient) = new(gradients.get(var), var)? {
                gradients.insert(var, gradient);
            }
        }
        Ok(())
    }
}

impl UnitEngine for GenericUnit<'_> {
    fn forward(&mut self, samples: &[usize], keep: &dyn Fn(usize) -> Keep) -> Result<Vec<Tensor>> {
        check_batch(samples, self.batch)?;
        let start = Instant::now();
        let mut inputs = Vec::new();
        for (i, (quantized, float)) in self.samples.quantized_inputs.iter().zip(&self.samples.float_inputs).enumerate()
        {
            let (quantized, float) = (quantized.gather(samples)?, float.gather(samples)?);
            inputs.push(ops::drop(&quantized, &float, &keep(input_site(i)))?);
        }
        self.outputs = self.model.unit_forward(&self.unit.subgraph, &inputs, keep)?;
        self.times.forward += start.elapsed();
        Ok(self.outputs.iter().map(Tensor::detach).collect())
    }

    fn backward(&mut self, gradients: &[Tensor]) -> Result<()> {
        let start = Instant::now();
        check_gradients(gradients.iter().map(Tensor::dims), self.outputs.iter().map(Tensor::dims))?;
        // The gradient of sum(output * g) with respect to the output is g.
        let pairs = self.outputs.drain(..).zip(gradients);
        let sum = ops::total(pairs.map(|(output, gradient)| Ok((output * gradient.detach())?.sum_all()?)))?;
        self.gradients = sum.map(|sum| sum.backward()).transpose()?;
        self.passes = 1;
        self.times.backward += start.elapsed();
        Ok(())
    }

    fn loss(&mut self, samples: &[usize], keep: &dyn Fn(usize) -> Keep) -> Result<f64> {
        (self.gradients, self.passes) = (None, 0);
        self.add_loss(samples, keep)
    }

    fn add_loss(&mut self, samples: &[usize], keep: &dyn Fn(usize) -> Keep) -> Result<f64> {
        self.forward(samples, keep)?;
        let start = Instant::now();
        let outputs = std::mem::take(&mut self.outputs);
        let loss = self.samples.loss(&outputs, samples)?;
        let value = finite_scalar(&loss, "reconstruction loss")?;
        let mut gradients = loss.backward()?;
        if let Some(earlier) = self.gradients.take() {
            self.combine(&mut gradients, |own, var| match (own, earlier.get(var)) {
                (Some(own), Some(earlier)) => Ok(Some((own + earlier)?)),
                (own, earlier) => Ok(own.or(earlier).cloned()),
            })?;
        }
        self.gradients = Some(gradients);
        self.passes += 1;
        self.times.backward += start.elapsed();
        Ok(value)
    }

    fn hard_loss(&mut self, samples: &[usize]) -> Result<f64> {
        check_batch(samples, self.batch)?;
        let start = Instant::now();
        (self.outputs, self.gradients, self.passes) = (Vec::new(), None, 0);
        let inputs = self.samples.quantized_inputs.iter().map(|values| values.gather(samples));
        let outputs = self.model.unit_hard_forward(&self.unit.subgraph, &inputs.collect::<Result<Vec<_>>>()?)?;
        let loss = self.samples.loss(&outputs, samples)?;
        self.times.forward += start.elapsed();
        finite_scalar(&loss, "reconstruction loss")
    }

    fn update(&mut self, rates: &[(&str, f64)], regularizer: Option<Regularizer>) -> Result<f64> {
        let mut gradients = self.gradients.take().ok_or_else(no_gradients)?;
        let passes = std::mem::take(&mut self.passes);
        if passes > 1 {
            let share = 1.0 / passes as f64;
            self.combine(&mut gradients, |own, _| Ok(own.map(|own| own * share).transpose()?))?;
        }
        let mut value = 0.0;
        if let Some(Regularizer { weight, b }) = regularizer {
            if let Some(term) = self.model.unit_regularizer(self.unit.nodes(), b as f32)? {
                let term = (term * weight)?;
                value = finite_scalar(&term, "rounding loss")?;
                let own = term.backward()?;
                for variable in self.groups.iter().flat_map(|g| &g.variables) {
                    let var = variable.var.as_tensor();
                    if let Some(gradient) = own.get(var) {
                        let sum = match gradients.get(var) {
                            Some(other) => (other + gradient)?,
                            None => gradient.clone(),
                        };
                        gradients.insert(var, sum);
                    }
                }
            }
        }
        for group in &mut self.groups {
            group.adam.step(&gradients, rate_of(rates, group.name)?)?;
        }
        Ok(value)
    }

    fn state(&mut self) -> Result<EngineState> {
        let mut state = EngineState::new();
        for group in &self.groups {
            for (variable, (mean, square)) in group.variables.iter().zip(group.adam.moments()?) {
                // A copy: later updates change the variable in place.
                variable.keep(&mut state, [variable.var.as_tensor().copy()?.detach(), mean, square]);
            }
        }
        Ok(state)
    }

    fn restore(&mut self, updates: usize, state: &EngineState) -> Result<()> {
        for group in &mut self.groups {
            let mut moments = Vec::new();
            for variable in &group.variables {
                let [value, mean, square] = variable.kept(state)?;
                variable.var.set(value)?;
                moments.push((mean.clone(), square.clone()));
            }
            group.adam.restore(updates, &moments)?;
        }
        Ok(())
    }

    fn finish(&mut self) -> Result<()> {
        // Nothing to copy: updates already changed the quantizers' own variables.
        Ok(())
    }

    fn times(&self) -> StepTimes {
        self.times
    }
}
