//! Operations that move elements, and computations with shapes.

use super::super::constant::{Constant, Size};
use super::super::layout::{length, reshaped, Axis, Change};
use super::layers::transposed;
use super::{elements, Call, Traced, Translator, Value};
use qdrop_core::prelude::*;
use std::rc::Rc;

/// Most elements of a constant that a file may compute; shapes are small.
const LARGEST: usize = 1 << 20;
/// Stands for the number of images among the lengths of axes.
const IMAGES: usize = 0;

impl Translator {
    pub(super) fn concat(&mut self, call: &Call<'_>) -> Result<Value, String> {
        let parts = (0..call.node.input.len()).map(|i| self.traced(call, i)).collect::<Result<Vec<_>, _>>()?;
        let axes = parts.first().map(|part| part.axes.clone()).unwrap_or_default();
        let axis = call.axis(call.int("axis", 1), axes.len())?;
        if axes == [Axis::Batch, Axis::Flat] && axis == 1 {
            let flat = parts.iter().map(|part| self.flat(&call.flatten(), part)).collect::<Result<Vec<_>, _>>()?;
            return Ok(Self::flat_value(self.network.push(&call.name(), Op::Concat, &flat, Vec::new())?));
        }
        if axes[axis] != Axis::Channels || parts.iter().any(|part| part.axes != axes) {
            return Err(format!("joins values along axis {axis} of {axes:?}; the channels are understood"));
        }
        let drafts: Vec<usize> = parts.iter().map(|part| part.draft).collect();
        let draft = match drafts[..] {
            [only] => only,
            _ => self.network.push(&call.name(), Op::Concat, &drafts, Vec::new())?,
        };
        Ok(Value::Traced(Traced { draft, axes }))
    }

    pub(super) fn split(&mut self, call: &Call<'_>) -> Result<Vec<Value>, String> {
        let traced = self.traced(call, 0)?;
        let axis = call.axis(call.int("axis", 0), traced.axes.len())?;
        let side = self.sides(&traced).get(axis.wrapping_sub(1)).copied().unwrap_or(0);
        let outputs = call.node.output.len().max(1);
        let counts: Vec<usize> = match self.integers(call, 1, "split")? {
            Some(counts) => counts.iter().map(|c| usize::try_from(*c).unwrap_or(0)).collect(),
            // Equal parts, of which the last may be smaller.
            None => {
                let each = side.div_ceil(outputs).max(1);
                (0..outputs).map(|i| each.min(side.saturating_sub(i * each))).collect()
            }
        };
        let mut start = 0;
        let mut parts = Vec::new();
        for count in counts {
            parts.push(self.part(call, &traced, axis, start, count)?);
            start += count;
        }
        if start != side {
            return Err(format!("splits {side} channels in parts of {start} together"));
        }
        Ok(parts)
    }

    /// Some channels of a value.
    fn part(
        &mut self,
        call: &Call<'_>,
        traced: &Traced,
        axis: usize,
        start: usize,
        count: usize,
    ) -> Result<Value, String> {
        let side = self.sides(traced).get(axis.wrapping_sub(1)).copied().unwrap_or(0);
        if start == 0 && count == side {
            return Ok(Value::Traced(traced.clone()));
        }
        if traced.axes[axis] != Axis::Channels {
            return Err(format!(
                "takes a part of the axis {:?}; parts of the channels are understood",
                traced.axes[axis]
            ));
        }
        let draft = self.network.push(&call.name(), Op::Slice { start, count }, &[traced.draft], Vec::new())?;
        Ok(Value::Traced(Traced { draft, axes: traced.axes.clone() }))
    }

    pub(super) fn slice(&mut self, call: &Call<'_>) -> Result<Value, String> {
        let mut traced = self.traced(call, 0)?;
        let rank = traced.axes.len();
        for (axis, start, end) in ranges(self, call, rank)? {
            if traced.axes[axis] == Axis::Batch {
                if start != 0 || end < i64::from(i32::MAX) {
                    return Err("takes a part of the images".into());
                }
                continue;
            }
            let side = length(traced.axes[axis], self.shape_of(&traced));
            let (start, end) = (bound(start, side), bound(end, side));
            match self.part(call, &traced, axis, start, end.saturating_sub(start))? {
                Value::Traced(part) => traced = part,
                _ => return Err("takes a part of a constant".into()),
            }
        }
        Ok(Value::Traced(traced))
    }

    pub(super) fn transpose(&mut self, call: &Call<'_>) -> Result<Value, String> {
        let traced = self.traced(call, 0)?;
        let rank = traced.axes.len();
        let order: Vec<usize> = match call.ints("perm") {
            Some(perm) => perm.iter().map(|a| call.axis(*a, rank)).collect::<Result<_, _>>()?,
            None => (0..rank).rev().collect(),
        };
        let mut sorted = order.clone();
        sorted.sort_unstable();
        if sorted != (0..rank).collect::<Vec<_>>() || order.first() != Some(&0) {
            return Err(format!("orders {rank} axes as {order:?}; the images stay first"));
        }
        let axes = order.iter().map(|a| traced.axes[*a]).collect();
        Ok(Value::Traced(Traced { axes, ..traced }))
    }

    /// Flatten, Reshape, Squeeze and Unsqueeze.
    pub(super) fn reshape(&mut self, call: &Call<'_>) -> Result<Value, String> {
        let traced = self.traced(call, 0)?;
        let sides = self.sides(&traced);
        let rank = traced.axes.len();
        let new: Vec<usize> = match call.node.op_type.as_str() {
            "Flatten" => match call.axis(call.int("axis", 1), rank + 1)? {
                1 => vec![sides.iter().product()],
                axis => return Err(format!("flattens from axis {axis} on; all but the images is understood")),
            },
            "Squeeze" | "Unsqueeze" => {
                let all = [&[IMAGES], &sides[..]].concat();
                match resqueezed(self, call, &all)?.split_first() {
                    Some((&IMAGES, sides)) => sides.to_vec(),
                    _ => return Err("adds an axis before the images".into()),
                }
            }
            _ => {
                let wanted = match call.has(1) {
                    true => self.constant(call, 1)?.sizes()?.to_vec(),
                    false => call.ints("shape").ok_or("says no shape")?.iter().map(|v| Size::Known(*v)).collect(),
                };
                if wanted == [Size::Known(-1)] && sides.iter().product::<usize>() != 1 {
                    return Ok(Value::Elements(traced));
                }
                self.target(&sides, &wanted, call.int("allowzero", 0) != 0)?
            }
        };
        self.reshaped(call, traced, new)
    }

    /// A value with other sides (without the batch), of as many elements.
    pub(super) fn reshaped(&mut self, call: &Call<'_>, traced: Traced, new: Vec<usize>) -> Result<Value, String> {
        if new == self.sides(&traced) {
            return Ok(Value::Traced(traced));
        }
        let (axes, change) = reshaped(&traced.axes[1..], self.shape_of(&traced), &new)?;
        let axes = std::iter::once(Axis::Batch).chain(axes).collect();
        let draft = match change {
            Change::None => traced.draft,
            Change::Shuffle(groups) => {
                self.network.push(&call.name(), Op::ShuffleChannels { groups }, &[traced.draft], Vec::new())?
            }
        };
        Ok(Value::Traced(Traced { draft, axes }))
    }

    /// The sides (without the batch) that Reshape asks for: 0 keeps a side, -1 stands for what is left.
    fn target(&self, sides: &[usize], wanted: &[Size], allow_zero: bool) -> Result<Vec<usize>, String> {
        let refused = || format!("gives a value of the sides {sides:?} for each image the shape {wanted:?}");
        let elements: usize = sides.iter().product();
        let (first, rest) = wanted.split_first().ok_or_else(refused)?;
        let mut new = Vec::new();
        let mut open = None;
        for (i, size) in rest.iter().enumerate() {
            new.push(match size {
                Size::Known(-1) if open.is_none() => {
                    open = Some(i);
                    1
                }
                Size::Known(0) if !allow_zero => *sides.get(i).ok_or_else(refused)?,
                Size::Known(size) if *size > 0 => *size as usize,
                _ => return Err(refused()),
            });
        }
        let product = new.iter().try_fold(1_usize, |p, side| p.checked_mul(*side)).ok_or_else(refused)?;
        if let Some(open) = open {
            new[open] = elements / product.max(1);
        }
        let whole = new.iter().product::<usize>() == elements;
        let images = match first {
            Size::Batch => true,
            Size::Known(0) => !allow_zero,
            Size::Known(-1) => open.is_none(),
            Size::Known(count) => self.batch.is_some_and(|batch| batch as i64 == *count),
        };
        (whole && images).then_some(new).ok_or_else(refused)
    }
}

/// The place from 0 to `count` that an index of a range means; negative ones count from the end.
pub(super) fn bound(index: i64, count: usize) -> usize {
    let count = i64::try_from(count).unwrap_or(i64::MAX);
    if index < 0 { index.saturating_add(count) } else { index }.clamp(0, count) as usize
}

/// The lengths of all axes after Squeeze or Unsqueeze.
pub(super) fn resqueezed(t: &Translator, call: &Call<'_>, old: &[usize]) -> Result<Vec<usize>, String> {
    let given = t.integers(call, 1, "axes")?;
    let places = |axes: &[i64], rank: usize| axes.iter().map(|a| call.axis(*a, rank)).collect::<Result<Vec<_>, _>>();
    if call.node.op_type == "Unsqueeze" {
        let axes = given.ok_or("says no axes")?;
        let all = old.len() + axes.len();
        let added = places(&axes, all)?;
        let mut old = old.iter().copied();
        let lengths = (0..all).map(|a| if added.contains(&a) { Some(1) } else { old.next() });
        return lengths
            .collect::<Option<_>>()
            .ok_or_else(|| format!("adds the axes {axes:?}, of which some are the same"));
    }
    let gone = match given {
        Some(axes) => places(&axes, old.len())?,
        None => (0..old.len()).filter(|a| old[*a] == 1).collect(),
    };
    if gone.iter().any(|a| old[*a] != 1) {
        return Err(format!("removes the axes {gone:?} of a value of the shape {old:?}; only axes of length 1 can go"));
    }
    Ok(old.iter().enumerate().filter(|(a, _)| !gone.contains(a)).map(|(_, d)| *d).collect())
}

/// The ranges of Slice: axis, start and end.
fn ranges(t: &Translator, call: &Call<'_>, rank: usize) -> Result<Vec<(usize, i64, i64)>, String> {
    let starts = t.integers(call, 1, "starts")?.ok_or("says no start")?;
    let ends = t.integers(call, 2, "ends")?.ok_or("says no end")?;
    let axes = t.integers(call, 3, "axes")?.unwrap_or_else(|| (0..starts.len() as i64).collect());
    let steps = if call.has(4) { t.constant(call, 4)?.integers()? } else { vec![1; starts.len()] };
    if steps.iter().any(|s| *s != 1) {
        return Err(format!("takes every {steps:?}th element; whole ranges are understood"));
    }
    if ends.len() != starts.len() || axes.len() != starts.len() {
        return Err("has different numbers of starts, ends and axes".into());
    }
    (0..starts.len()).map(|i| Ok((call.axis(axes[i], rank)?, starts[i], ends[i]))).collect()
}

/// Computes with constants: shapes, and weights that are transposed or converted.
pub fn constant(t: &Translator, call: &Call<'_>) -> Result<Vec<Value>, String> {
    let op = call.node.op_type.as_str();
    let input = |i: usize| t.constant(call, i);
    let result = match op {
        "Constant" => return constant_node(call),
        "Identity" | "Dropout" => input(0)?.clone(),
        "Cast" => cast(input(0)?, call.int("to", 0))?,
        "Gather" => gather(input(0)?, input(1)?, call.int("axis", 0))?,
        "Unsqueeze" | "Squeeze" | "Reshape" | "Flatten" => restack(t, call)?,
        "Concat" => {
            let parts = (0..call.node.input.len()).map(input).collect::<Result<Vec<_>, _>>()?;
            if parts.iter().any(|part| part.dims().len() != 1) {
                return Err(refused());
            }
            let all = parts.iter().map(|part| part.sizes()).collect::<Result<Vec<_>, _>>()?;
            Constant::vector(all.concat())
        }
        "Slice" => {
            let values = input(0)?.sizes()?;
            let Ok([(0, start, end)]) = <[_; 1]>::try_from(ranges(t, call, input(0)?.dims().len())?) else {
                return Err(refused());
            };
            let (start, end) = (bound(start, values.len()), bound(end, values.len()));
            Constant::vector(values.get(start..end).unwrap_or_default().to_vec())
        }
        "Range" => {
            let [start, step] = [integer(input(0)?)?, integer(input(2)?)?];
            if elements::numbers_images(start, input(1)?, step) {
                return Ok(vec![Value::Numbers(elements::Numbers::of_images())]);
            }
            let end = integer(input(1)?)?;
            let count =
                if step == 0 { 0 } else { (i128::from(end) - i128::from(start)).div_euclid(step.into()).max(0) };
            if step <= 0 || count > LARGEST as i128 {
                return Err(refused());
            }
            Constant::vector((start..end).step_by(step as usize).map(Size::Known).collect())
        }
        "ConstantOfShape" => {
            let dims = dims_of(&input(0)?.integers()?)?;
            let value = call.attribute("value").and_then(|a| a.t.clone());
            let fill = value.and_then(|t| {
                t.int64_data.first().copied().or_else(|| Some(i64::from_le_bytes(t.raw_data?.try_into().ok()?)))
            });
            Constant::Sizes { values: vec![Size::Known(fill.unwrap_or(0)); dims.iter().product()], dims }
        }
        "Transpose" => transpose(input(0)?, call.ints("perm"))?,
        "Add" | "Sub" | "Mul" | "Div" => arithmetic(input(0)?, input(1)?, op)?,
        "Sqrt" | "Neg" | "Floor" | "Ceil" | "Reciprocal" | "Exp" => {
            let function: fn(f32) -> f32 = match op {
                "Sqrt" => f32::sqrt,
                "Neg" => |v| -v,
                "Floor" => f32::floor,
                "Ceil" => f32::ceil,
                "Exp" => f32::exp,
                _ => |v| 1.0 / v,
            };
            let values = input(0)?.floats()?.iter().map(|v| function(*v)).collect();
            Constant::Floats { dims: input(0)?.dims().to_vec(), values: Rc::new(values) }
        }
        _ => return Err(format!("computes with constants, but {}", super::unknown())),
    };
    Ok(vec![Value::Constant(result)])
}

fn refused() -> String {
    "computes with constants in a way that is not understood; simplify the model first (`onnxsim`)".into()
}

fn constant_node(call: &Call<'_>) -> Result<Vec<Value>, String> {
    let known = |values: &[i64]| values.iter().map(|v| Size::Known(*v)).collect::<Vec<_>>();
    let constant = if let Some(attribute) = call.attribute("value_int") {
        Constant::Sizes { dims: Vec::new(), values: known(&[attribute.i.unwrap_or_default()]) }
    } else if let Some(attribute) = call.attribute("value_ints") {
        Constant::vector(known(&attribute.ints))
    } else if let Some(attribute) = call.attribute("value_float") {
        Constant::Floats { dims: Vec::new(), values: Rc::new(vec![attribute.f.unwrap_or_default()]) }
    } else if let Some(attribute) = call.attribute("value_floats") {
        Constant::Floats { dims: vec![attribute.floats.len()], values: Rc::new(attribute.floats.clone()) }
    } else {
        // Tensors were read before.
        return Err("holds a constant of a kind that is not understood".into());
    };
    Ok(vec![Value::Constant(constant)])
}

fn integer(constant: &Constant) -> Result<i64, String> {
    match constant.integers()?[..] {
        [value] => Ok(value),
        _ => Err(refused()),
    }
}

fn dims_of(sizes: &[i64]) -> Result<Vec<usize>, String> {
    let dims: Option<Vec<usize>> = sizes.iter().map(|s| usize::try_from(*s).ok()).collect();
    let count = |dims: &Vec<usize>| dims.iter().try_fold(1_usize, |p, d| p.checked_mul(*d));
    dims.filter(|dims| count(dims).is_some_and(|n| n <= LARGEST)).ok_or_else(refused)
}

fn cast(constant: &Constant, to: i64) -> Result<Constant, String> {
    let float = matches!(to, 1 | 10 | 11 | 16);
    Ok(match constant {
        Constant::Floats { dims, values } if !float => {
            let values = values.iter().map(|v| Size::Known(*v as i64)).collect();
            Constant::Sizes { dims: dims.clone(), values }
        }
        // A shape that is computed with as floating-point numbers stays what it is until it is needed as such.
        other => other.clone(),
    })
}

fn gather(from: &Constant, indices: &Constant, axis: i64) -> Result<Constant, String> {
    let values = from.sizes()?;
    if from.dims().len() != 1 || axis != 0 {
        return Err(refused());
    }
    let count = values.len() as i64;
    let element = |i: i64| {
        let place = usize::try_from(if i < 0 { i.saturating_add(count) } else { i }).ok();
        place.and_then(|place| values.get(place)).copied().ok_or_else(refused)
    };
    let values = indices.integers()?.into_iter().map(element).collect::<Result<_, _>>()?;
    Ok(Constant::Sizes { dims: indices.dims().to_vec(), values })
}

/// Gives a constant another shape.
fn restack(t: &Translator, call: &Call<'_>) -> Result<Constant, String> {
    let constant = t.constant(call, 0)?;
    let old = constant.dims();
    let dims = match call.node.op_type.as_str() {
        "Reshape" => {
            let mut wanted = t.constant(call, 1)?.integers()?;
            for (i, size) in wanted.iter_mut().enumerate().filter(|(_, size)| **size == 0) {
                *size = old.get(i).copied().unwrap_or(0) as i64;
            }
            let known: i64 =
                wanted.iter().filter(|s| **s != -1).try_fold(1_i64, |p, s| p.checked_mul(*s)).ok_or_else(refused)?;
            let count = old.iter().product::<usize>() as i64;
            wanted.iter_mut().filter(|size| **size == -1).for_each(|size| *size = count / known.max(1));
            wanted.iter().map(|s| usize::try_from(*s).ok()).collect::<Option<Vec<_>>>().ok_or_else(refused)?
        }
        "Squeeze" | "Unsqueeze" => resqueezed(t, call, old)?,
        _ => return Err(refused()),
    };
    if dims.iter().try_fold(1_usize, |p, d| p.checked_mul(*d)) != Some(old.iter().product()) {
        return Err(refused());
    }
    Ok(match constant {
        Constant::Floats { values, .. } => Constant::Floats { dims, values: values.clone() },
        Constant::Sizes { values, .. } => Constant::Sizes { dims, values: values.clone() },
    })
}

/// A matrix with its axes swapped, or anything in its own order.
fn transpose(constant: &Constant, perm: Option<&[i64]>) -> Result<Constant, String> {
    let (dims, values) = (constant.dims(), constant.floats()?);
    let order = perm.map_or_else(|| (0..dims.len() as i64).rev().collect(), <[i64]>::to_vec);
    match (&order[..], dims) {
        (order, _) if order.iter().copied().eq(0..dims.len() as i64) => Ok(constant.clone()),
        ([1, 0], &[rows, columns]) => {
            let swapped = transposed(&values, [rows, columns]);
            Ok(Constant::Floats { dims: vec![columns, rows], values: Rc::new(swapped) })
        }
        _ => Err(refused()),
    }
}

/// Element by element; one operand may have a single element.
fn arithmetic(a: &Constant, b: &Constant, op: &str) -> Result<Constant, String> {
    let single = |c: &Constant| c.dims().iter().product::<usize>() == 1;
    let of_b = single(a) && (!single(b) || b.dims().len() > a.dims().len());
    let dims = if of_b { b.dims() } else { a.dims() };
    if !(single(a) || single(b) || a.dims() == b.dims()) {
        return Err(refused());
    }
    let count = dims.iter().product::<usize>();
    if let (Constant::Sizes { values: x, .. }, Constant::Sizes { values: y, .. }) = (a, b) {
        let at = |values: &[Size], i: usize| values[if values.len() == 1 { 0 } else { i }];
        let element = |i: usize| match (at(x, i), at(y, i)) {
            (Size::Known(x), Size::Known(y)) => {
                let value = match op {
                    "Add" => x.checked_add(y),
                    "Sub" => x.checked_sub(y),
                    "Mul" => x.checked_mul(y),
                    _ => x.checked_div(y),
                };
                value.map(Size::Known).ok_or_else(refused)
            }
            (Size::Batch, Size::Known(1)) if matches!(op, "Mul" | "Div") => Ok(Size::Batch),
            (Size::Known(1), Size::Batch) if op == "Mul" => Ok(Size::Batch),
            _ => Err("computes with the number of images".to_string()),
        };
        let values = (0..count).map(element).collect::<Result<_, _>>()?;
        return Ok(Constant::Sizes { dims: dims.to_vec(), values });
    }
    let (x, y) = (a.floats()?, b.floats()?);
    let at = |values: &[f32], i: usize| values[if values.len() == 1 { 0 } else { i }];
    let element = |i: usize| match op {
        "Add" => at(&x, i) + at(&y, i),
        "Sub" => at(&x, i) - at(&y, i),
        "Mul" => at(&x, i) * at(&y, i),
        _ => at(&x, i) / at(&y, i),
    };
    Ok(Constant::Floats { dims: dims.to_vec(), values: Rc::new((0..count).map(element).collect()) })
}
