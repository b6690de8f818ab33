//! The two ways to take a step of a unit: through the tensor library, or fused.

use super::qdrop::QdropParams;
use qdrop_core::fused::{FusedUnit, Rates};
use qdrop_core::optim::{finite_scalar, Adam};
use qdrop_core::prelude::*;

/// What a step depends on, beside the unit.
pub struct StepPlan {
    /// Steps done before.
    pub step: usize,
    /// Sharpness of the regularizer, once it applies.
    pub sharpness: Option<f64>,
    /// Learning rates.
    pub rates: Rates,
}

/// A way to take steps, with the state between them.
pub enum Path {
    /// Through the tensor library: any operation and any quantizer.
    Generic(Optimizers),
    /// Fused.
    Fused(Box<FusedUnit>),
}

impl Path {
    /// The fused way where the engine and the unit allow it.
    pub fn new(unit: &UnitTask<'_>, params: &QdropParams, context: &Context<'_>) -> Result<Self> {
        Ok(match unit.fused(params.batch_size, context)? {
            Some(fused) => Self::Fused(Box::new(fused)),
            None => Self::Generic(Optimizers::new(unit)?),
        })
    }

    /// Takes a step; returns the losses before its update.
    pub fn step(
        &mut self,
        unit: &UnitTask<'_>,
        params: &QdropParams,
        context: &Context<'_>,
        plan: &StepPlan,
    ) -> Result<LossPoint> {
        let random = context.random;
        let samples = random.batch(unit.index, plan.step, params.batch_size, unit.sample_count());
        let keep = |site| random.keep(unit.index, plan.step, site, params.drop_prob);
        let mut point =
            LossPoint { reconstruction: 0.0, rounding: 0.0, b: plan.sharpness.unwrap_or(params.b_range[0]) };
        match self {
            Self::Fused(fused) => {
                let regularizer = plan.sharpness.map(|b| (params.weight, b));
                let losses = fused.step(&samples, &keep, regularizer, plan.rates)?;
                (point.reconstruction, point.rounding) = (losses.reconstruction, losses.rounding);
            }
            Self::Generic(optimizers) => {
                let batch = unit.batch(&samples)?;
                let input = unit.mixed_input(&batch, &keep(0))?;
                let output = unit.forward(&input, &keep)?;
                let mut loss = ops::reconstruction_loss(&output, &batch.float_output)?;
                point.reconstruction = finite_scalar(&loss, "reconstruction loss")?;
                if let Some(b) = plan.sharpness {
                    if let Some(term) = unit.regularizer(b as f32)? {
                        let term = (term * params.weight)?;
                        point.rounding = finite_scalar(&term, "rounding loss")?;
                        loss = (loss + term)?;
                    }
                }
                let gradients = loss.backward()?;
                optimizers.rounding.step(&gradients, plan.rates.rounding)?;
                optimizers.scales.step(&gradients, plan.rates.scale)?;
            }
        }
        Ok(point)
    }

    /// Everything that the next step depends on.
    pub fn state(&mut self, losses: &[LossPoint]) -> Result<Interrupted> {
        let mut state = Interrupted { losses: losses.to_vec(), ..Default::default() };
        let mut add = |name: String, [value, mean, square]: [Tensor; 3]| {
            state.tensors.extend([(mean_of(&name), mean), (square_of(&name), square), (name, value)]);
        };
        match self {
            Self::Fused(fused) => fused.state()?.into_iter().for_each(|(name, tensors)| add(name, tensors)),
            Self::Generic(optimizers) => {
                let moments = optimizers.rounding.moments()?.into_iter().chain(optimizers.scales.moments()?);
                for ((name, parameter), (mean, square)) in optimizers.parameters.iter().zip(moments) {
                    add(name.clone(), [parameter.var.as_detached_tensor(), mean, square]);
                }
            }
        }
        Ok(state)
    }

    /// Goes on from a [`state`](Self::state).
    pub fn restore(&mut self, unit: &UnitTask<'_>, state: &Interrupted) -> Result<()> {
        let of = |name: &str| -> Result<[Tensor; 3]> {
            let tensor = |name: &str| state.tensor(name).cloned();
            Ok([tensor(name)?, tensor(&mean_of(name))?, tensor(&square_of(name))?])
        };
        let steps = state.losses.len();
        match self {
            Self::Fused(fused) => {
                let names = unit.parameters()?.into_iter().map(|(name, _)| name);
                let all = names.map(|name| Ok((name.clone(), of(&name)?))).collect::<Result<_>>()?;
                fused.restore(steps, &all)
            }
            Self::Generic(optimizers) => {
                let mut moments = Vec::new();
                for (name, parameter) in &optimizers.parameters {
                    let [value, mean, square] = of(name)?;
                    parameter.var.set(&value)?;
                    moments.push((mean, square));
                }
                let is_rounding = |(_, p): &&(String, Parameter)| p.group == ParameterGroup::Rounding;
                let rounding = optimizers.parameters.iter().filter(is_rounding).count();
                optimizers.rounding.restore(steps, &moments[..rounding])?;
                optimizers.scales.restore(steps, &moments[rounding..])
            }
        }
    }

    /// Leaves what was learned in the quantizers.
    pub fn finish(&mut self) -> Result<()> {
        match self {
            Self::Fused(fused) => fused.write_back(),
            Self::Generic(_) => Ok(()),
        }
    }
}

/// The optimizers of a unit's parameters.
pub struct Optimizers {
    rounding: Adam,
    scales: Adam,
    /// All parameters by name, in the order of their groups.
    parameters: Vec<(String, Parameter)>,
}

impl Optimizers {
    fn new(unit: &UnitTask<'_>) -> Result<Self> {
        let mut parameters = unit.parameters()?;
        parameters.sort_by_key(|(_, p)| p.group == ParameterGroup::Scale);
        let group = |group| {
            let of_group = parameters.iter().filter(|(_, p)| p.group == group);
            Adam::new(of_group.map(|(_, p)| p.var.clone()).collect())
        };
        let (rounding, scales) = (group(ParameterGroup::Rounding)?, group(ParameterGroup::Scale)?);
        Ok(Self { rounding, scales, parameters })
    }
}

fn mean_of(name: &str) -> String {
    format!("{name}.adam_mean")
}

fn square_of(name: &str) -> String {
    format!("{name}.adam_square")
}
