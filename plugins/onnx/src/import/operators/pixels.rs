//! Operations on the pixels of images: pooling, padding, enlarging.

use super::super::layout::{Axis, IMAGE};
use super::layers::padding;
use super::{Call, Traced, Translator, Value};
use qdrop_core::ops::{Padding, Pool2dGeometry};
use qdrop_core::prelude::*;

impl Translator {
    pub(super) fn pool(&mut self, call: &Call<'_>) -> Result<Value, String> {
        let traced = self.traced(call, 0)?;
        let x = self.image(&traced)?;
        if call.node.output.iter().skip(1).any(|name| !name.is_empty()) {
            return Err("also gives the places of the largest pixels".into());
        }
        if call.pair("dilations", 1)? != [1, 1] {
            return Err("has dilated windows".into());
        }
        let (kernel, stride) = (call.pair("kernel_shape", 1)?, call.pair("strides", 1)?);
        let shape = &self.network.drafts[x].shape;
        let padding = padding(call, [shape[1], shape[2]], [kernel, stride, [1, 1]])?;
        let geometry = Pool2dGeometry {
            kernel,
            stride,
            padding,
            ceil_mode: call.int("ceil_mode", 0) != 0,
            count_include_pad: call.int("count_include_pad", 0) != 0,
        };
        if kernel == [1, 1] && stride == [1, 1] && padding == Padding::default() {
            return Ok(Self::image_value(x));
        }
        let whole = [shape[1], shape[2]] == kernel && padding == Padding::default();
        let op = match call.node.op_type.as_str() {
            "MaxPool" => Op::MaxPool(geometry),
            _ if whole => Op::GlobalAveragePool,
            _ => Op::AveragePool(geometry),
        };
        Ok(Self::image_value(self.network.push(&call.name(), op, &[x], Vec::new())?))
    }

    /// The mean over all pixels.
    pub(super) fn mean(&mut self, call: &Call<'_>) -> Result<Value, String> {
        let traced = self.traced(call, 0)?;
        let rank = traced.axes.len();
        let global = call.node.op_type == "GlobalAveragePool";
        let reduced: Vec<usize> = match self.integers(call, 1, "axes")? {
            _ if global => vec![2, 3],
            Some(axes) => axes.iter().map(|a| call.axis(*a, rank)).collect::<Result<_, _>>()?,
            None => (0..rank).collect(),
        };
        let kinds: Vec<Axis> = reduced.iter().filter_map(|a| traced.axes.get(*a)).copied().collect();
        let both = kinds.len() == 2 && kinds.contains(&Axis::Height) && kinds.contains(&Axis::Width);
        if !both {
            let message = "takes the mean over axes that are not the rows and columns of an image; layer normalization is understood \
                           as an operator of its own (`opset_version=17` or later)";
            return Err(message.into());
        }
        let draft = self.network.push(&call.name(), Op::GlobalAveragePool, &[traced.draft], Vec::new())?;
        let keep = global || call.int("keepdims", 1) != 0;
        let kept = traced.axes.iter().copied().enumerate().filter(|(i, _)| keep || !reduced.contains(i));
        Ok(Value::Traced(Traced { draft, axes: kept.map(|(_, axis)| axis).collect() }))
    }

    pub(super) fn pad(&mut self, call: &Call<'_>) -> Result<Value, String> {
        let traced = self.traced(call, 0)?;
        let mode = call.text("mode", "constant");
        if mode != "constant" {
            return Err(format!("fills by '{mode}'; zeros are understood"));
        }
        let fill = if call.has(2) { self.constant(call, 2)?.scalar()? } else { call.float("value", 0.0) };
        if fill != 0.0 {
            return Err(format!("fills with {fill}; zeros are understood"));
        }
        let pads = self.integers(call, 1, "pads")?.ok_or("says no sides")?;
        let rank = traced.axes.len();
        let axes: Vec<usize> = match call.has(3) {
            true => {
                self.constant(call, 3)?.integers()?.iter().map(|a| call.axis(*a, rank)).collect::<Result<_, _>>()?
            }
            false => (0..rank).collect(),
        };
        if pads.len() != 2 * axes.len() {
            return Err(format!("has {} sides for {} axes", pads.len(), axes.len()));
        }
        let mut sides = Padding::default();
        for (i, axis) in axes.iter().enumerate() {
            let side = |value: i64| {
                usize::try_from(value).ok().filter(|v| *v < 1 << 20).ok_or(format!("has the side {value}"))
            };
            let (before, after) = (side(pads[i])?, side(pads[i + axes.len()])?);
            match traced.axes[*axis] {
                Axis::Height => (sides.top, sides.bottom) = (before, after),
                Axis::Width => (sides.left, sides.right) = (before, after),
                _ if before == 0 && after == 0 => {}
                other => return Err(format!("adds to the axis {other:?}; only rows and columns are understood")),
            }
        }
        if sides == Padding::default() {
            return Ok(Value::Traced(traced));
        }
        let draft = self.network.push(&call.name(), Op::Pad(sides), &[traced.draft], Vec::new())?;
        Ok(Value::Traced(Traced { draft, ..traced }))
    }

    pub(super) fn resize(&mut self, call: &Call<'_>) -> Result<Value, String> {
        let traced = self.traced(call, 0)?;
        let mode = call.text("mode", "nearest");
        let place = call.text("coordinate_transformation_mode", "half_pixel");
        let rounding = call.text("nearest_mode", "round_prefer_floor");
        // All of them repeat each pixel, if the factor is integral.
        let repeats = matches!(
            (place, rounding),
            ("asymmetric", "floor") | ("half_pixel" | "pytorch_half_pixel", "round_prefer_floor" | "round_prefer_ceil")
        );
        if mode != "nearest" || !(repeats || call.node.op_type == "Upsample") || traced.axes != IMAGE {
            return Err(format!("enlarges by '{mode}' ({place}, {rounding}); repeating pixels is understood"));
        }
        let (scales_at, sizes_at) = if call.node.op_type == "Upsample" { (1, usize::MAX) } else { (2, 3) };
        let sides = self.sides(&traced);
        let factors: Vec<f64> = if call.has(scales_at) && !self.constant(call, scales_at)?.floats()?.is_empty() {
            self.constant(call, scales_at)?.floats()?.iter().map(|v| f64::from(*v)).collect()
        } else if sizes_at != usize::MAX && call.has(sizes_at) {
            let sizes = self.constant(call, sizes_at)?.sizes()?.to_vec();
            let known = |(size, side): (&super::Size, &usize)| match size {
                super::Size::Known(size) => *size as f64 / *side as f64,
                super::Size::Batch => 0.0,
            };
            std::iter::once(1.0).chain(sizes.iter().skip(1).zip(&sides).map(known)).collect()
        } else {
            call.attribute("scales").map(|a| a.floats.iter().map(|v| f64::from(*v)).collect()).unwrap_or_default()
        };
        let whole = |v: f64| ((1.0..1024.0).contains(&v) && v.fract() == 0.0).then_some(v as usize);
        match factors[..] {
            [n, c, y, x] if n == 1.0 && c == 1.0 => {
                let factor =
                    whole(y).zip(whole(x)).ok_or(format!("enlarges by {y} and {x}; whole numbers are understood"))?;
                let op = Op::UpsampleNearest { factor: factor.into() };
                Ok(Self::image_value(self.network.push(&call.name(), op, &[traced.draft], Vec::new())?))
            }
            _ => Err(format!("enlarges by {factors:?}; an image's rows and columns are understood")),
        }
    }
}
