//! Pooling.

use super::geometry::Pool2dGeometry;
use super::storage::{f32_values, gradient, output, slice};
use super::{composite, on_kernels};
use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};
use qdrop_kernels::conv::Padding;
use qdrop_kernels::pool::{self, Pool2dShape};

struct PoolOp {
    shape: Pool2dShape,
    max: bool,
}

impl CustomOp1 for PoolOp {
    fn name(&self) -> &'static str {
        "pool2d"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let s = &self.shape;
        let (n, c, _, _) = layout.shape().dims4()?;
        let mut out = vec![0.0; s.planes * s.out_height() * s.out_width()];
        let forward = if self.max { pool::max_forward } else { pool::average_forward };
        forward(s, slice(x, layout)?, &mut out);
        Ok(output(out, (n, c, s.out_height(), s.out_width())))
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let grad = grad.contiguous()?;
        let dx = gradient(x, |dx| {
            f32_values(&grad, |g| match self.max {
                true => f32_values(x, |x| pool::max_backward(&self.shape, x, g, dx)),
                false => {
                    pool::average_backward(&self.shape, g, dx);
                    Ok(())
                }
            })?
        })?;
        Ok(Some(dx))
    }
}

fn run(x: &Tensor, geometry: &Pool2dGeometry, max: bool) -> Result<Tensor> {
    let shape = geometry.shape(x)?;
    x.contiguous()?.apply_op1(PoolOp { shape, max })
}

/// The largest pixel of each window of `x` (N, C, H, W). Of several equal ones the first gets the gradient.
///
/// # Errors
/// The window does not fit the image.
pub fn max_pool2d(x: &Tensor, geometry: &Pool2dGeometry) -> Result<Tensor> {
    if on_kernels(x) {
        run(x, geometry, true)
    } else {
        composite::max_pool2d(x, geometry)
    }
}

/// The average of each window of `x` (N, C, H, W).
///
/// # Errors
/// The window does not fit the image.
pub fn average_pool2d(x: &Tensor, geometry: &Pool2dGeometry) -> Result<Tensor> {
    if on_kernels(x) {
        run(x, geometry, false)
    } else {
        composite::average_pool2d(x, geometry)
    }
}

/// The mean over height and width of `x` (N, C, H, W); the result is (N, C, 1, 1).
///
/// # Errors
/// `x` is not an image.
pub fn global_average_pool(x: &Tensor) -> Result<Tensor> {
    if !on_kernels(x) {
        return x.mean_keepdim((2, 3));
    }
    let (_, _, height, width) = x.dims4()?;
    let kernel = [height, width];
    let whole = Pool2dGeometry {
        kernel,
        stride: kernel,
        padding: Padding::default(),
        ceil_mode: false,
        count_include_pad: true,
    };
    run(x, &whole, false)
}
