//! Elements of a value, chosen by their numbers. Exporters write views with strides so, also those that change nothing.

use super::super::constant::{Constant, Size};
use super::shapes::resqueezed;
use super::{Call, Translator, Value};

/// Integers that grow by the same number from image to image. The images are the first axis.
#[derive(Debug, Clone)]
pub struct Numbers {
    /// Lengths of the axes without the images.
    sides: Vec<usize>,
    /// What they grow by.
    stride: i64,
    /// The integers of the first image.
    first: Vec<i64>,
}

impl Numbers {
    /// The images themselves: 0, 1, 2 and so on.
    pub fn of_images() -> Self {
        Self { sides: Vec::new(), stride: 1, first: vec![0] }
    }

    /// Adds integers that are the same for all images.
    fn plus(self, other: &Constant) -> Option<Self> {
        let others = other.integers().ok()?;
        let rank = 1 + self.sides.len();
        let missing = rank.checked_sub(other.dims().len())?;
        let dims: Vec<usize> = std::iter::repeat_n(1, missing).chain(other.dims().iter().copied()).collect();
        let (images, sides) = dims.split_first()?;
        let sides = match (self.first.len(), others.len()) {
            (1, _) => sides,
            (_, 1) => &self.sides,
            _ => Some(sides).filter(|sides| *sides == self.sides)?,
        };
        let count = self.first.len().max(others.len());
        let at = |values: &[i64], i: usize| values.get(if values.len() == 1 { 0 } else { i }).copied();
        let first = (0..count).map(|i| at(&self.first, i)?.checked_add(at(&others, i)?)).collect::<Option<_>>()?;
        (*images == 1).then(|| Self { sides: sides.to_vec(), stride: self.stride, first })
    }

    /// Multiplies by one integer.
    fn times(self, other: &Constant) -> Option<Self> {
        let [factor] = other.integers().ok()?[..] else { return None };
        let first = self.first.iter().map(|number| number.checked_mul(factor)).collect::<Option<_>>()?;
        let ranks = other.dims().len() <= 1 + self.sides.len();
        let stride = self.stride.checked_mul(factor)?;
        ranks.then_some(Self { sides: self.sides, stride, first })
    }
}

impl Translator {
    /// Computes with integers that grow from image to image.
    pub(super) fn numbers(&self, call: &Call<'_>) -> Result<Value, String> {
        let refused = || "computes with the numbers of images in a way that is not understood".to_string();
        let op = call.node.op_type.as_str();
        let (numbers, other) = match (self.value(call, 0)?, call.has(1).then(|| self.value(call, 1)).transpose()?) {
            (Value::Numbers(numbers), other) => (numbers.clone(), other),
            (other, Some(Value::Numbers(numbers))) if matches!(op, "Add" | "Mul") => (numbers.clone(), Some(other)),
            _ => return Err(refused()),
        };
        let result = match (op, other) {
            ("Identity" | "Cast", _) => Some(numbers),
            ("Add", Some(Value::Constant(other))) => numbers.plus(other),
            ("Mul", Some(Value::Constant(other))) => numbers.times(other),
            ("Unsqueeze", _) => {
                // No axis of the others is empty.
                let all = [&[0], &numbers.sides[..]].concat();
                let (images, sides) =
                    resqueezed(self, call, &all)?.split_first().map(|(n, s)| (*n, s.to_vec())).unzip();
                sides.filter(|_| images == Some(0)).map(|sides| Numbers { sides, ..numbers })
            }
            _ => None,
        };
        result.map(Value::Numbers).ok_or_else(refused)
    }

    /// Gather: all elements of a value, in their order, as a value of another shape.
    pub(super) fn gather(&mut self, call: &Call<'_>) -> Result<Value, String> {
        let Value::Elements(traced) = self.value(call, 0)? else { return Err(super::unknown()) };
        let traced = traced.clone();
        let each: usize = self.sides(&traced).iter().product();
        let in_order = |numbers: &[i64]| numbers.iter().copied().eq(0..numbers.len() as i64);
        let sides = match self.value(call, 1)? {
            Value::Numbers(numbers) => {
                let own = numbers.stride == each as i64 && in_order(&numbers.first);
                own.then(|| numbers.sides.clone())
            }
            Value::Constant(indices) => match indices.dims().split_first() {
                // The file fixes the number of images.
                Some((images, sides)) if self.batch == Some(*images) => {
                    in_order(&indices.integers()?).then(|| sides.to_vec())
                }
                _ => None,
            },
            _ => None,
        };
        let sides = sides.filter(|sides| sides.iter().product::<usize>() == each);
        match (sides, call.axis(call.int("axis", 0), 1)?) {
            (Some(sides), 0) => self.reshaped(call, traced, sides),
            _ => Err("picks elements in another order than they have; write it with slices and transpositions".into()),
        }
    }
}

/// Whether a range from `start` in steps of `step` ends with the number of images: it then numbers them.
pub(super) fn numbers_images(start: i64, end: &Constant, step: i64) -> bool {
    start == 0 && step == 1 && end.sizes().is_ok_and(|sizes| sizes == [Size::Batch])
}
