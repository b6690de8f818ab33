//! The operations composed of candle's own, for devices without kernels.
//!
//! Where candle's gradient differs from the reference's, the value is computed without gradient and
//! [`with_gradient`] attaches the right one.

use super::geometry::{Conv2dGeometry, Pool2dGeometry};
use super::grid::Grid;

use candle_core::{DType, Result, Tensor};
use qdrop_kernels::activation::Activation;
use qdrop_kernels::adaround::{GAMMA, ZETA};
use qdrop_kernels::conv::Padding;

/// `value`, with the gradient `factor` for each given (input, factor). An input may be broadcast to the shape of
/// `value`.
pub fn with_gradient(value: &Tensor, terms: &[(&Tensor, &Tensor)]) -> Result<Tensor> {
    let mut out = value.detach();
    for (input, factor) in terms {
        // Adds exactly zero to the value; only the gradient changes.
        let zero = (*input - input.detach())?;
        out = (out + factor.detach().broadcast_mul(&zero)?)?;
    }
    Ok(out)
}

/// 1.0 where the condition holds, otherwise 0.0.
fn indicator(condition: Result<Tensor>) -> Result<Tensor> {
    condition?.to_dtype(DType::F32)
}

/// Rounds half to even. Adding and subtracting 1.5 * 2^23 rounds every |x| < 2^22 that way. Larger
/// values lie outside of every grid; candle's `round` is good enough for them.
pub fn round_half_even(x: &Tensor) -> Result<Tensor> {
    const MAGIC: f64 = 12_582_912.0;
    let small = x.abs()?.lt(4_194_304.0)?;
    small.where_cond(&((x + MAGIC)? - MAGIC)?, &x.round()?)
}

/// See [`super::fake_quantize`].
pub fn fake_quantize(x: &Tensor, scale: &Tensor, zero_point: &Tensor, grid: &Grid) -> Result<Tensor> {
    let (s, z) = (grid.broadcast(scale, x)?, grid.broadcast(zero_point, x)?);
    let (xd, sd, zd) = (x.detach(), s.detach(), z.detach());
    let t = xd.broadcast_div(&sd)?;
    let r = round_half_even(&t)?.broadcast_add(&zd)?;
    let clamped = r.clamp(grid.qmin, grid.qmax)?;
    let inside = indicator(clamped.eq(&r))?;
    let steps = clamped.broadcast_sub(&zd)?;
    let value = steps.broadcast_mul(&sd)?;
    let scale_factor = (steps - (&inside * t)?)?;
    let outside = (1.0 - &inside)?;
    let zero_factor = outside.broadcast_mul(&sd)?.neg()?;
    with_gradient(&value, &[(x, &inside), (&s, &scale_factor), (&z, &zero_factor)])
}

/// The logistic function.
fn sigmoid(x: &Tensor) -> Result<Tensor> {
    (x.neg()?.exp()? + 1.0)?.recip()
}

/// Value and derivative of AdaRound's rectified sigmoid.
fn rectified_sigmoid(alpha: &Tensor) -> Result<(Tensor, Tensor)> {
    let width = f64::from(ZETA - GAMMA);
    let s = sigmoid(&alpha.detach())?;
    let raw = ((&s * width)? + f64::from(GAMMA))?;
    let inside = (indicator(raw.ge(0.0))? * indicator(raw.le(1.0))?)?;
    let slope = ((&s * (1.0 - &s)?)? * width)?;
    Ok((raw.clamp(0.0, 1.0)?, (slope * inside)?))
}

/// See [`super::soft_rounding`].
pub fn soft_rounding(alpha: &Tensor) -> Result<Tensor> {
    Ok(rectified_sigmoid(alpha)?.0)
}

/// See [`super::adaround`].
pub fn adaround(alpha: &Tensor, floor: &Tensor, scale: &Tensor, zero_point: &Tensor, grid: &Grid) -> Result<Tensor> {
    let (s, z) = (grid.broadcast(scale, alpha)?.detach(), grid.broadcast(zero_point, alpha)?.detach());
    let (h, slope) = rectified_sigmoid(alpha)?;
    let q = (floor.detach() + h)?.broadcast_add(&z)?;
    let clamped = q.clamp(grid.qmin, grid.qmax)?;
    let inside = indicator(clamped.eq(&q))?;
    let value = clamped.broadcast_sub(&z)?.broadcast_mul(&s)?;
    let factor = (inside * slope)?.broadcast_mul(&s)?;
    with_gradient(&value, &[(alpha, &factor)])
}

/// See [`super::adaround_regularizer`].
pub fn adaround_regularizer(alpha: &Tensor, b: f32) -> Result<Tensor> {
    let b = f64::from(b);
    let (h, slope) = rectified_sigmoid(alpha)?;
    let centred = ((h * 2.0)? - 1.0)?;
    let size = centred.abs()?;
    let value = (1.0 - size.powf(b)?)?;
    let sign = centred.sign()?;
    let factor = ((size.powf(b - 1.0)? * (sign * (-2.0 * b))?)? * slope)?;
    with_gradient(&value, &[(alpha, &factor)])?.sum_all()
}

/// `where(keep, quantized, full)`; `keep` holds 1 or 0.
pub fn drop(quantized: &Tensor, full: &Tensor, keep: &Tensor) -> Result<Tensor> {
    keep.where_cond(quantized, full)
}

/// See [`super::activation`].
pub fn activation(x: &Tensor, activation: Activation) -> Result<Tensor> {
    let xd = x.detach();
    let open = |low: f64, high: f64| indicator(xd.gt(low))? * indicator(xd.lt(high))?;
    let relu6 = |v: &Tensor| v.clamp(0.0, 6.0);
    let (value, derivative) = match activation {
        Activation::Relu => (xd.relu()?, indicator(xd.gt(0.0))?),
        Activation::Relu6 => (relu6(&xd)?, open(0.0, 6.0)?),
        Activation::Sigmoid => {
            let s = sigmoid(&xd)?;
            let d = (&s * (1.0 - &s)?)?;
            (s, d)
        }
        Activation::Silu => {
            let s = sigmoid(&xd)?;
            let d = (&s * ((&xd * (1.0 - &s)?)? + 1.0)?)?;
            ((&xd * s)?, d)
        }
        Activation::HardSigmoid => ((relu6(&(&xd + 3.0)?)? / 6.0)?, (open(-3.0, 3.0)? / 6.0)?),
        Activation::HardSwish => {
            let value = ((&xd * relu6(&(&xd + 3.0)?)?)? / 6.0)?;
            let middle = (((&xd * 2.0)? + 3.0)? / 6.0)?;
            (value, ((middle * open(-3.0, 3.0)?)? + indicator(xd.ge(3.0))?)?)
        }
        Activation::Gelu => {
            let below = (((&xd * std::f64::consts::FRAC_1_SQRT_2)?.erf()? + 1.0)? * 0.5)?;
            // The density of the normal distribution.
            let height = 0.5 * std::f64::consts::FRAC_2_SQRT_PI * std::f64::consts::FRAC_1_SQRT_2;
            let density = ((xd.sqr()? * -0.5)?.exp()? * height)?;
            ((&xd * &below)?, (below + (&xd * density)?)?)
        }
    };
    with_gradient(&value, &[(x, &derivative)])
}

/// See [`super::clip()`].
pub fn clip(x: &Tensor, bound: &Tensor) -> Result<Tensor> {
    let mut dims = vec![1; x.rank()];
    check_number(bound, x.dim(1)?)?;
    dims[1] = bound.elem_count();
    let (xd, bound) = (x.detach(), bound.detach().reshape(dims)?);
    let value = xd.relu()?.broadcast_minimum(&bound)?;
    let inside = (indicator(xd.gt(0.0))? * indicator(xd.broadcast_lt(&bound))?)?;
    with_gradient(&value, &[(x, &inside)])
}

/// Checks that there is one bound for each channel.
pub(super) fn check_number(bound: &Tensor, channels: usize) -> Result<()> {
    if bound.elem_count() != channels {
        candle_core::bail!(
            "a clip needs a bound for each of {channels} channels, but {} were given",
            bound.elem_count()
        );
    }
    Ok(())
}

/// `count` rows or columns along `axis`, from `start`, `stride` apart.
fn strided(x: &Tensor, axis: usize, start: usize, stride: usize, count: usize) -> Result<Tensor> {
    if stride == 1 {
        return x.narrow(axis, start, count);
    }
    let picks: Vec<u32> = (0..count).map(|i| (start + i * stride) as u32).collect();
    x.index_select(&Tensor::new(picks, x.device())?, axis)
}

/// A convolution as the sum over kernel taps of matrix products.
pub fn conv2d(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>, g: &Conv2dGeometry) -> Result<Tensor> {
    let s = g.shape(x, weight)?;
    let (oh, ow) = (s.out_height(), s.out_width());
    let (icg, ocg) = (s.in_channels / s.groups, s.out_channels / s.groups);
    let padded = super::pad2d(x, g.padding)?;
    let mut sum: Option<Tensor> = None;
    for ky in 0..s.kernel[0] {
        let rows = strided(&padded, 2, ky * s.dilation[0], s.stride[0], oh)?;
        for kx in 0..s.kernel[1] {
            let pixels = strided(&rows, 3, kx * s.dilation[1], s.stride[1], ow)?;
            let pixels = pixels.contiguous()?.reshape((s.batch, s.groups, icg, oh * ow))?;
            let tap = weight.narrow(2, ky, 1)?.narrow(3, kx, 1)?.contiguous()?;
            let tap = tap.reshape((1, s.groups, ocg, icg))?;
            let term = if icg == 1 { tap.broadcast_mul(&pixels)? } else { tap.broadcast_matmul(&pixels)? };
            sum = Some(match sum {
                Some(sum) => (sum + term)?,
                None => term,
            });
        }
    }
    let Some(sum) = sum else { candle_core::bail!("a kernel needs at least one tap") };
    let out = sum.reshape((s.batch, s.out_channels, oh, ow))?;
    match bias {
        Some(bias) => out.broadcast_add(&bias.reshape((1, s.out_channels, 1, 1))?),
        None => Ok(out),
    }
}

/// One tensor for each kernel tap: the pixels that the tap reads at every window position. The input is extended
/// with `border`.
fn taps(x: &Tensor, g: &Pool2dGeometry, border: f64) -> Result<Vec<Tensor>> {
    let (n, c, h, w) = x.dims4()?;
    let s = g.shape(x)?;
    let mut x = x.clone();
    for (axis, size, out) in [(2, h, s.out_height()), (3, w, s.out_width())] {
        let [before, _] = g.padding.along(axis - 2);
        let needed = (out - 1) * g.stride[axis - 2] + g.kernel[axis - 2];
        let after = needed.saturating_sub(before + size);
        let fill = |count: usize| {
            let mut dims = [n, c, x.dims()[2], x.dims()[3]];
            dims[axis] = count;
            Tensor::full(border as f32, dims.as_slice(), x.device())
        };
        let mut parts = Vec::new();
        if before > 0 {
            parts.push(fill(before)?);
        }
        parts.push(x.clone());
        if after > 0 {
            parts.push(fill(after)?);
        }
        x = Tensor::cat(&parts, axis)?;
    }
    let mut taps = Vec::new();
    for ky in 0..g.kernel[0] {
        let rows = strided(&x, 2, ky, g.stride[0], s.out_height())?;
        for kx in 0..g.kernel[1] {
            taps.push(strided(&rows, 3, kx, g.stride[1], s.out_width())?);
        }
    }
    Ok(taps)
}

/// See [`super::max_pool2d`].
pub fn max_pool2d(x: &Tensor, g: &Pool2dGeometry) -> Result<Tensor> {
    let mut taps = taps(x, g, f64::from(f32::MIN))?.into_iter();
    let Some(mut best) = taps.next() else { candle_core::bail!("an empty pooling window") };
    for tap in taps {
        best = tap.gt(&best)?.where_cond(&tap, &best)?;
    }
    Ok(best)
}

/// See [`super::average_pool2d`].
pub fn average_pool2d(x: &Tensor, g: &Pool2dGeometry) -> Result<Tensor> {
    let sum = |taps: Vec<Tensor>| -> Result<Tensor> {
        let mut taps = taps.into_iter();
        let Some(first) = taps.next() else { candle_core::bail!("an empty pooling window") };
        taps.try_fold(first, |sum, tap| sum + tap)
    };
    // An image of ones where a pixel counts in the divisor.
    let (_, _, h, w) = x.dims4()?;
    let s = g.shape(x)?;
    let one = |pixels: [usize; 2], g: &Pool2dGeometry| -> Result<Tensor> {
        sum(taps_of_ones(pixels, g, [s.out_height(), s.out_width()], x)?)
    };
    let count = if g.count_include_pad {
        one(g.padding.padded(h, w), &Pool2dGeometry { padding: Padding::default(), ..*g })?
    } else {
        one([h, w], g)?
    };
    sum(taps(x, g, 0.0)?)?.broadcast_div(&count)
}

/// The taps of an image of ones, for `out` window positions.
fn taps_of_ones(size: [usize; 2], g: &Pool2dGeometry, out: [usize; 2], like: &Tensor) -> Result<Vec<Tensor>> {
    let mut image = Tensor::ones((1, 1, size[0], size[1]), DType::F32, like.device())?;
    for axis in [0, 1] {
        let needed = (out[axis] - 1) * g.stride[axis] + g.kernel[axis];
        let [before, _] = g.padding.along(axis);
        let after = needed.saturating_sub(before + size[axis]);
        image = image.pad_with_zeros(axis + 2, before, after)?;
    }
    let mut taps = Vec::new();
    for ky in 0..g.kernel[0] {
        let rows = strided(&image, 2, ky, g.stride[0], out[0])?;
        for kx in 0..g.kernel[1] {
            taps.push(strided(&rows, 3, kx, g.stride[1], out[1])?);
        }
    }
    Ok(taps)
}

/// See [`super::reconstruction_loss`].
pub fn reconstruction_loss(output: &Tensor, target: &Tensor) -> Result<Tensor> {
    let positions = output.elem_count() / output.dim(1)?;
    (output - target)?.sqr()?.sum_all()? / positions as f64
}
