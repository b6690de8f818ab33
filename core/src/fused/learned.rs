//! What a fused unit learns: packed roundings, scales and zero points, with their optimizer's state.

use crate::error::Result;
use crate::ops::host_values;
use candle_core::{Tensor, Var};
use qdrop_kernels::adam::{self, AdamStep};
use qdrop_kernels::nhwc::rounding::{self, LaneGrid, Learned, Regularizer};
use qdrop_kernels::nhwc::{Buffer, Packing};

/// The rounding of one weight.
pub struct Rounding {
    /// Name of the variable in the unit.
    pub name: String,
    var: Var,
    packing: Packing,
    alpha: Buffer,
    floor: Buffer,
    mean: Buffer,
    square: Buffer,
    scale: Buffer,
    zero_point: Buffer,
    bounds: [f32; 2],
    sums: Vec<f64>,
}

impl Rounding {
    /// `scale` and `zero_point` have one value for each output channel.
    pub fn new(
        name: String,
        packing: Packing,
        var: Var,
        floor: &Tensor,
        (scale, zero_point): (&[f32], &[f32]),
        bounds: [f32; 2],
    ) -> Result<Self> {
        let packed = |x: &Tensor| host_values(x, |v| packing.pack(v));
        Ok(Self {
            name,
            packing,
            alpha: packed(var.as_tensor())?,
            floor: packed(floor)?,
            mean: Buffer::zeros(packing.len()),
            square: Buffer::zeros(packing.len()),
            scale: packing.pack_lanes(scale),
            zero_point: packing.pack_lanes(zero_point),
            bounds,
            sums: vec![0.0; rounding::sums(packing.lane_shape(), packing.len())],
            var,
        })
    }

    fn grid(&self) -> LaneGrid<'_> {
        LaneGrid { scale: &self.scale, zero_point: &self.zero_point, qmin: self.bounds[0], qmax: self.bounds[1] }
    }

    /// The soft weight.
    pub fn soft_weight(&self, out: &mut [f32]) {
        rounding::soft_weight(self.packing.lane_shape(), &self.alpha, &self.floor, self.grid(), out);
    }

    /// One update from the gradient of the soft weight, which `weight` takes; returns the regularizer before it.
    pub fn learn(&mut self, grad: &[f32], weight: &mut [f32], regularizer: Option<Regularizer>, adam: AdamStep) -> f64 {
        // Field by field: a method would borrow what is learned too.
        let grid =
            LaneGrid { scale: &self.scale, zero_point: &self.zero_point, qmin: self.bounds[0], qmax: self.bounds[1] };
        let learned = Learned { alpha: &mut self.alpha, mean: &mut self.mean, square: &mut self.square, weight };
        rounding::learn(
            self.packing.lane_shape(),
            learned,
            &self.floor,
            grad,
            grid,
            grid,
            regularizer,
            adam,
            &mut self.sums,
        )
    }

    fn tensor(&self, packed: &[f32]) -> Result<Tensor> {
        let values = self.packing.unpack(packed);
        Ok(Tensor::from_vec(values, self.var.shape(), self.var.device())?)
    }

    /// Value, mean and square as tensors of the variable's shape.
    pub fn state(&self) -> Result<[Tensor; 3]> {
        Ok([self.tensor(&self.alpha)?, self.tensor(&self.mean)?, self.tensor(&self.square)?])
    }

    /// The reverse of [`state`](Self::state).
    pub fn restore(&mut self, state: [&Tensor; 3]) -> Result<()> {
        let [alpha, mean, square] = state;
        self.alpha = host_values(alpha, |v| self.packing.pack(v))?;
        self.mean = host_values(mean, |v| self.packing.pack(v))?;
        self.square = host_values(square, |v| self.packing.pack(v))?;
        Ok(())
    }

    /// Writes the value into the quantizer's variable.
    pub fn write_back(&self) -> Result<()> {
        Ok(self.var.set(&self.tensor(&self.alpha)?)?)
    }
}

/// One learned number: a scale or a zero point.
pub struct Number {
    /// Name of the variable in the unit.
    pub name: String,
    var: Var,
    /// Value, mean and square of gradients.
    state: [f32; 3],
    /// What the gradient is multiplied by.
    pub factor: f64,
}

impl Number {
    pub fn new(name: String, var: Var, factor: f64) -> Result<Self> {
        let value = host_values(var.as_tensor(), |v| v.first().copied().unwrap_or_default())?;
        Ok(Self { name, var, state: [value, 0.0, 0.0], factor })
    }

    pub fn value(&self) -> f32 {
        self.state[0]
    }

    pub fn set(&mut self, value: f32) {
        self.state[0] = value;
    }

    pub fn learn(&mut self, gradient: f64, adam: AdamStep) {
        let [mut value, mut mean, mut square] = self.state.map(|v| [v]);
        adam::update(&mut value, &[(gradient * self.factor) as f32], &mut mean, &mut square, adam);
        self.state = [value[0], mean[0], square[0]];
    }

    pub fn state(&self) -> Result<[Tensor; 3]> {
        let tensor = |v: f32| Tensor::full(v, self.var.shape(), self.var.device());
        let [value, mean, square] = self.state;
        Ok([tensor(value)?, tensor(mean)?, tensor(square)?])
    }

    pub fn restore(&mut self, state: [&Tensor; 3]) -> Result<()> {
        for (own, tensor) in self.state.iter_mut().zip(state) {
            *own = host_values(tensor, |v| v.first().copied().unwrap_or_default())?;
        }
        Ok(())
    }

    pub fn write_back(&self) -> Result<()> {
        Ok(self.var.set(&Tensor::full(self.state[0], self.var.shape(), self.var.device())?)?)
    }
}
