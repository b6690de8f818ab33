//! Batch normalization in training.

use anyhow::Result;
use candle_core::{CpuStorage, CustomOp3, Layout, Shape, Tensor};
use rayon::prelude::*;

fn values(x: &Tensor) -> candle_core::Result<Vec<f32>> {
    x.flatten_all()?.to_vec1()
}

/// The planes of channel `c`.
fn planes(x: &[f32], channels: usize, plane: usize, c: usize) -> impl Iterator<Item = &[f32]> {
    x.chunks_exact(plane).skip(c).step_by(channels)
}

/// Mean and variance of each channel.
pub fn statistics(x: &Tensor) -> Result<(Vec<f32>, Vec<f32>)> {
    let (n, c, h, w) = x.dims4()?;
    let v = values(x)?;
    let count = (n * h * w) as f64;
    Ok((0..c)
        .into_par_iter()
        .map(|c_| {
            let sum: f64 = planes(&v, c, h * w, c_).map(|p| f64::from(p.iter().sum::<f32>())).sum();
            let mean = (sum / count) as f32;
            let squares = |p: &[f32]| f64::from(p.iter().map(|v| (v - mean) * (v - mean)).sum::<f32>());
            (mean, (planes(&v, c, h * w, c_).map(squares).sum::<f64>() / count) as f32)
        })
        .unzip())
}

/// Batch normalization in training (arXiv 1502.03167, algorithm 1) with its gradient.
pub struct BatchNormOp {
    /// Of each channel.
    pub mean: Vec<f32>,
    /// 1 / the standard deviation of each channel.
    pub inverse: Vec<f32>,
}

impl CustomOp3 for BatchNormOp {
    fn name(&self) -> &'static str {
        "batch_norm"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        lx: &Layout,
        g: &CpuStorage,
        _: &Layout,
        b: &CpuStorage,
        _: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        let (x, g, b) = (x.as_slice::<f32>()?, g.as_slice::<f32>()?, b.as_slice::<f32>()?);
        let (_, c, h, w) = lx.shape().dims4()?;
        let mut out = vec![0.0; x.len()];
        out.par_chunks_mut(h * w).zip(x.par_chunks(h * w)).enumerate().for_each(|(i, (out, x))| {
            let c = i % c;
            for (o, v) in out.iter_mut().zip(x) {
                *o = (v - self.mean[c]) * self.inverse[c] * g[c] + b[c];
            }
        });
        Ok((CpuStorage::F32(out), lx.shape().clone()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        g: &Tensor,
        b: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let (n, c, h, w) = x.dims4()?;
        let (xs, gs, dy) = (values(x)?, values(g)?, values(grad)?);
        let count = (n * h * w) as f32;
        let sums: Vec<(f32, f32)> = (0..c)
            .into_par_iter()
            .map(|k| {
                let (mut s0, mut s1) = (0.0_f64, 0.0_f64);
                for (x, d) in planes(&xs, c, h * w, k).zip(planes(&dy, c, h * w, k)) {
                    let (mut a, mut b) = (0.0_f32, 0.0_f32);
                    for (x, d) in x.iter().zip(d) {
                        a += d;
                        b += d * (x - self.mean[k]) * self.inverse[k];
                    }
                    s0 += f64::from(a);
                    s1 += f64::from(b);
                }
                (s0 as f32, s1 as f32)
            })
            .collect();
        let mut dx = vec![0.0; xs.len()];
        dx.par_chunks_mut(h * w).enumerate().for_each(|(i, out)| {
            let k = i % c;
            let (s0, s1) = sums[k];
            for (j, o) in out.iter_mut().enumerate() {
                let at = i * h * w + j;
                let normalized = (xs[at] - self.mean[k]) * self.inverse[k];
                *o = gs[k] * self.inverse[k] * (dy[at] - s0 / count - normalized * s1 / count);
            }
        });
        let (db, dg): (Vec<f32>, Vec<f32>) = sums.into_iter().unzip();
        Ok((
            Some(Tensor::from_vec(dx, x.shape(), x.device())?),
            Some(Tensor::from_vec(dg, g.shape(), g.device())?),
            Some(Tensor::from_vec(db, b.shape(), b.device())?),
        ))
    }
}
