//! Operations of several nodes that are one operation of the graph.

use super::network::{Draft, DraftOp, Network};
use qdrop_core::ops::{Activation, Padding};
use qdrop_core::prelude::*;

/// Finds them all. `outputs` are the network's.
pub fn fuse(network: &mut Network, outputs: &mut [usize]) {
    // Where the value of a draft is computed now.
    let mut moved: Vec<usize> = (0..network.drafts.len()).collect();
    for i in 1..network.drafts.len() {
        for k in 0..network.drafts[i].inputs.len() {
            network.drafts[i].inputs[k] = moved[network.drafts[i].inputs[k]];
        }
        let mut readers = None;
        let mut fuser = Fuser { network, outputs, readers: &mut readers, moved: &moved };
        if let Some(value) = fuser.fold(i) {
            moved[i] = value;
            continue;
        }
        fuser.padding(i);
        fuser.function(i);
    }
    outputs.iter_mut().for_each(|output| *output = moved[*output]);
}

struct Fuser<'a> {
    network: &'a mut Network,
    outputs: &'a [usize],
    /// How often each value is read, once it was asked.
    readers: &'a mut Option<Vec<usize>>,
    moved: &'a [usize],
}

const SQRT_HALF: f32 = std::f32::consts::FRAC_1_SQRT_2;

fn near(a: f32, b: f32) -> bool {
    (a - b).abs() <= 1e-4 * b.abs()
}

impl Fuser<'_> {
    fn draft(&self, i: usize) -> &Draft {
        &self.network.drafts[i]
    }

    fn read_once(&mut self, value: usize) -> bool {
        let Self { network, outputs, moved, .. } = self;
        let readers = self.readers.get_or_insert_with(|| {
            let mut readers = vec![0; network.drafts.len()];
            let inputs = network.drafts.iter().flat_map(|draft| &draft.inputs);
            inputs.chain(outputs.iter()).for_each(|i| readers[moved[*i]] += 1);
            readers
        });
        readers[value] == 1
    }

    fn is(&self, i: usize, activation: Activation) -> bool {
        self.draft(i).op == DraftOp::Op(Op::Activation(activation))
    }

    /// Multiplies the rows of a layer by what is multiplied with its output, and adds to its bias what is added. Returns the
    /// layer.
    fn fold(&mut self, i: usize) -> Option<usize> {
        let draft = self.draft(i);
        let (factor, offset) = draft.affine()?;
        let (factor, offset) = (factor.to_vec(), offset.to_vec());
        let layer = draft.inputs[0];
        let is_layer = matches!(&self.draft(layer).op, DraftOp::Op(op) if op.has_weight());
        if !is_layer || !self.read_once(layer) {
            return None;
        }
        for (name, _, values) in &mut self.network.drafts[layer].parameters {
            let row = values.len() / factor.len().max(1);
            for (c, row) in values.chunks_mut(row.max(1)).enumerate() {
                let added = if *name == "bias" { f64::from(offset[c]) } else { 0.0 };
                row.iter_mut().for_each(|v| *v = (f64::from(*v) * f64::from(factor[c]) + added) as f32);
            }
        }
        // Nothing reads through this draft any more.
        self.network.drafts[i].inputs.clear();
        Some(layer)
    }

    /// Zeros around the input of a convolution are its own padding.
    fn padding(&mut self, i: usize) {
        let input = match &self.draft(i).op {
            DraftOp::Op(Op::Conv2d { .. }) => self.draft(i).inputs[0],
            _ => return,
        };
        let DraftOp::Op(Op::Pad(outer)) = self.draft(input).op else { return };
        let before = self.draft(input).inputs[0];
        if let DraftOp::Op(Op::Conv2d { geometry, .. }) = &mut self.network.drafts[i].op {
            let own = geometry.padding;
            geometry.padding = Padding {
                top: own.top + outer.top,
                bottom: own.bottom + outer.bottom,
                left: own.left + outer.left,
                right: own.right + outer.right,
            };
            self.network.drafts[i].inputs = vec![before];
        }
    }

    /// Makes a draft an activation function of a value.
    fn set(&mut self, i: usize, activation: Activation, of: usize) {
        let draft = &mut self.network.drafts[i];
        (draft.op, draft.inputs, draft.parameters) = (DraftOp::Op(Op::Activation(activation)), vec![of], Vec::new());
    }

    /// Activation functions that are written as several operations.
    fn function(&mut self, i: usize) {
        match (&self.draft(i).op, &self.draft(i).inputs[..]) {
            (DraftOp::Op(Op::Mul), &[a, b]) => {
                for (x, gate) in [(a, b), (b, a)] {
                    let of_x = self.draft(gate).inputs.first() == Some(&x);
                    if of_x && self.is(gate, Activation::Sigmoid) {
                        return self.set(i, Activation::Silu, x);
                    }
                    if of_x && self.is(gate, Activation::HardSigmoid) {
                        return self.set(i, Activation::HardSwish, x);
                    }
                    if let Some(function) = self.gelu(x, gate) {
                        return self.set(i, Activation::Gelu, function);
                    }
                }
            }
            (_, &[input]) => {
                let Some((factor, offset)) = self.draft(i).uniform_affine() else { return };
                if offset != 0.0 {
                    return;
                }
                let sixth = near(factor, 1.0 / 6.0);
                if let (true, Some(x)) = (sixth, self.shifted_relu6(input)) {
                    return self.set(i, Activation::HardSigmoid, x);
                }
                let DraftOp::Op(Op::Mul) = self.draft(input).op else { return };
                for (x, other) in
                    [(0, 1), (1, 0)].map(|(x, o)| (self.draft(input).inputs[x], self.draft(input).inputs[o]))
                {
                    if sixth && self.shifted_relu6(other) == Some(x) {
                        return self.set(i, Activation::HardSwish, x);
                    }
                    if near(factor, 0.5) && self.twice_normal_below(other) == Some(x) {
                        return self.set(i, Activation::Gelu, x);
                    }
                }
            }
            _ => {}
        }
    }

    /// The x of `relu6(x + 3)`.
    fn shifted_relu6(&self, i: usize) -> Option<usize> {
        let shifted = *self.draft(i).inputs.first().filter(|_| self.is(i, Activation::Relu6))?;
        let (factor, offset) = self.draft(shifted).uniform_affine()?;
        (factor == 1.0 && offset == 3.0).then(|| self.draft(shifted).inputs[0])
    }

    /// The x of `1 + erf(x / sqrt(2))`, which is twice the share of a normal distribution below x.
    fn twice_normal_below(&self, i: usize) -> Option<usize> {
        let (factor, offset) = self.draft(i).uniform_affine()?;
        let erf = *self.draft(i).inputs.first().filter(|_| factor == 1.0 && offset == 1.0)?;
        let scaled = *self.draft(erf).inputs.first().filter(|_| self.draft(erf).op == DraftOp::Erf)?;
        let (factor, offset) = self.draft(scaled).uniform_affine()?;
        (near(factor, SQRT_HALF) && offset == 0.0).then(|| self.draft(scaled).inputs[0])
    }

    /// The x of `(x / 2) * (1 + erf(x / sqrt(2)))` or `x * ((1 + erf(x / sqrt(2))) / 2)`.
    fn gelu(&self, a: usize, b: usize) -> Option<usize> {
        let half = |i: usize| {
            let (factor, offset) = self.draft(i).uniform_affine()?;
            (near(factor, 0.5) && offset == 0.0).then(|| self.draft(i).inputs[0])
        };
        let of_half = || Some((half(a)?, self.twice_normal_below(b)?));
        let half_of = || Some((a, self.twice_normal_below(half(b)?)?));
        let (x, y) = of_half().or_else(half_of)?;
        (x == y).then_some(x)
    }
}
