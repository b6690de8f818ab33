//! Operations on single elements.

use super::super::layout::{length, Axis, FLAT};
use super::{Call, Traced, Translator, Value};
use crate::proto::tensor_proto::DataType;
use qdrop_core::ops::Activation;
use qdrop_core::prelude::*;

impl Translator {
    pub(super) fn function(&mut self, call: &Call<'_>) -> Result<Value, String> {
        let traced = self.traced(call, 0)?;
        let name = call.name();
        let op = match call.node.op_type.as_str() {
            "Relu" => Op::Activation(Activation::Relu),
            "Sigmoid" => Op::Activation(Activation::Sigmoid),
            "HardSwish" => Op::Activation(Activation::HardSwish),
            "Swish" if call.float("alpha", 1.0) == 1.0 => Op::Activation(Activation::Silu),
            "Swish" => return Err("has an alpha other than 1".into()),
            "HardSigmoid" => {
                let (alpha, beta) = (call.float("alpha", 0.2), call.float("beta", 0.5));
                if (alpha - 1.0 / 6.0).abs() > 1e-6 || beta != 0.5 {
                    return Err(format!("has the slope {alpha} and the offset {beta}; 1/6 and 1/2 are understood"));
                }
                Op::Activation(Activation::HardSigmoid)
            }
            "Gelu" => match call.text("approximate", "none") {
                "none" => Op::Activation(Activation::Gelu),
                other => {
                    return Err(format!(
                        "is approximated by '{other}'; export the exact function (`approximate='none'`)"
                    ))
                }
            },
            "Erf" => {
                let draft = self.network.push_erf(&name, traced.draft);
                return Ok(Value::Traced(Traced { draft, ..traced }));
            }
            _ => return self.clip(call, traced),
        };
        let draft = self.network.push(&name, op, &[traced.draft], Vec::new())?;
        Ok(Value::Traced(Traced { draft, ..traced }))
    }

    fn clip(&mut self, call: &Call<'_>, traced: Traced) -> Result<Value, String> {
        let bound = |i: usize, name: &str, default: f32| -> Result<f32, String> {
            match call.has(i) {
                true => self.constant(call, i)?.scalar(),
                false => Ok(call.float(name, default)),
            }
        };
        let (low, high) = (bound(1, "min", f32::NEG_INFINITY)?, bound(2, "max", f32::INFINITY)?);
        let channels = self.shape_of(&traced)[0];
        let (op, parameters) = match (low, high) {
            (0.0, high) if high >= f32::MAX => (Op::Activation(Activation::Relu), Vec::new()),
            (0.0, 6.0) => (Op::Activation(Activation::Relu6), Vec::new()),
            (0.0, high) if high > 0.0 => (Op::Clip, vec![("bound", vec![channels], vec![high; channels])]),
            _ => return Err(format!("clips to [{low}, {high}]; a lower bound of 0 is understood")),
        };
        let draft = self.network.push(&call.name(), op, &[traced.draft], parameters)?;
        Ok(Value::Traced(Traced { draft, ..traced }))
    }

    /// A type that is converted; only numbers of the network's own kind are computed with.
    pub(super) fn cast(&mut self, call: &Call<'_>) -> Result<Value, String> {
        let float = [DataType::Float, DataType::Float16, DataType::Double, DataType::Bfloat16].map(|t| t as i64);
        match float.contains(&call.int("to", 0)) {
            true => Ok(self.value(call, 0)?.clone()),
            false => Err("converts a value of the network to integers".into()),
        }
    }

    pub(super) fn arithmetic(&mut self, call: &Call<'_>) -> Result<Value, String> {
        let op = call.node.op_type.as_str();
        match (self.value(call, 0)?.clone(), self.value(call, 1)?.clone()) {
            (Value::Traced(a), Value::Traced(b)) => self.both_traced(call, a, b),
            (Value::Traced(x), _) => self.with_constant(call, x, 1),
            (_, Value::Traced(x)) if matches!(op, "Add" | "Mul" | "Sub") => self.with_constant(call, x, 0),
            _ => Err("divides a constant by a value of the network".into()),
        }
    }

    fn both_traced(&mut self, call: &Call<'_>, a: Traced, b: Traced) -> Result<Value, String> {
        let op = match call.node.op_type.as_str() {
            "Add" => Op::Add,
            "Mul" => Op::Mul,
            other => {
                return Err(format!("is a {other} of two values of the network; sums and products are understood"))
            }
        };
        let count = |t: &Traced| self.sides(t).iter().product::<usize>();
        // A gate may be the smaller one, on either side.
        let (mut large, mut small) = if count(&a) >= count(&b) { (a, b) } else { (b, a) };
        if large.axes == [Axis::Batch, Axis::Flat] || small.axes == [Axis::Batch, Axis::Flat] {
            let drafts = [self.flat(&call.flatten(), &large)?, self.flat(&call.flatten(), &small)?];
            [large, small] = drafts.map(|draft| Traced { draft, axes: FLAT.into() });
        }
        if self.shape_of(&small).len() < self.shape_of(&large).len() && small.axes.len() == 4 {
            let draft = self.image(&small)?;
            small = Traced { draft, axes: super::IMAGE.into() };
        }
        let fits = large.axes.len() == small.axes.len()
            && large
                .axes
                .iter()
                .zip(&small.axes)
                .all(|(l, s)| l == s || (*s == Axis::One && matches!(l, Axis::Height | Axis::Width)));
        if !fits {
            return Err(format!("combines values with the axes {:?} and {:?}", large.axes, small.axes));
        }
        let draft = self.network.push(&call.name(), op, &[large.draft, small.draft], Vec::new())?;
        Ok(Value::Traced(Traced { draft, ..large }))
    }

    /// Input `constant` has one number for all elements or one for each channel.
    fn with_constant(&mut self, call: &Call<'_>, mut x: Traced, constant: usize) -> Result<Value, String> {
        let (dims, values) = self.floats(call, constant)?;
        if x.axes == [Axis::Batch, Axis::Flat] && values.len() > 1 {
            let draft = self.flat(&call.flatten(), &x)?;
            x = Traced { draft, axes: FLAT.into() };
        }
        let shape = self.shape_of(&x);
        let channels = shape[0];
        let refused = || {
            format!("combines the axes {:?} with a constant of the shape {dims:?}; one number, or one for each channel, is understood", x.axes)
        };
        if dims.len() > x.axes.len() {
            return Err(refused());
        }
        let aligned = &x.axes[x.axes.len() - dims.len()..];
        let fits = dims
            .iter()
            .zip(aligned)
            .all(|(d, axis)| *d == 1 || (*axis == Axis::Channels && *d == length(*axis, shape)));
        if !fits || !(values.len() == 1 || values.len() == channels) {
            return Err(refused());
        }
        let each = |value: &dyn Fn(f32) -> f32| -> Vec<f32> {
            (0..channels).map(|c| value(values[if values.len() == 1 { 0 } else { c }])).collect()
        };
        let (ones, zeros) = (vec![1.0; channels], vec![0.0; channels]);
        let (factor, offset) = match (call.node.op_type.as_str(), constant) {
            ("Add", _) => (ones, each(&|v| v)),
            ("Sub", 1) => (ones, each(&|v| -v)),
            ("Sub", _) => (vec![-1.0; channels], each(&|v| v)),
            ("Mul", _) => (each(&|v| v), zeros),
            _ => (each(&|v| 1.0 / v), zeros),
        };
        let draft = self.network.affine(&call.name(), x.draft, factor, offset)?;
        Ok(Value::Traced(Traced { draft, ..x }))
    }
}
