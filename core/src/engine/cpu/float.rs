//! A chain of the float network, which learns nothing: outputs, and the gradient of the input.

use super::choice::Choice;
use super::images::{Images, Order};
use super::pass::Pass;
use super::plan::{chunk, Plan};
use crate::engine::chain::Chain;
use crate::error::Result;
use qdrop_kernels::in_pool;

/// The most images of a chunk. A chunk is computed whole, however few images are left for the last one.
const LARGEST: usize = 8;

/// A chain without quantizers.
pub struct FloatUnit {
    chunk: usize,
    plan: Plan,
    choices: Vec<Choice>,
    output: Images,
}

impl FloatUnit {
    /// Prepares a chain of the float network.
    ///
    /// # Errors
    /// A parameter cannot be read.
    pub fn new(chain: Chain) -> Result<Self> {
        let chunk = chunk(&chain, LARGEST);
        let plan = Plan::new(chain, [chunk; 2], true)?;
        let choices = std::iter::repeat_with(|| Choice::All).take(plan.values.len()).collect();
        let output = Images::new(plan.end());
        Ok(Self { chunk, plan, choices, output })
    }

    /// Elements of the input and of the output of one image.
    pub fn each(&self) -> [usize; 2] {
        [self.plan.values[0].each(), self.output.each()]
    }

    fn pass(&mut self) -> (Pass<'_>, &mut Images) {
        (Pass { plan: &mut self.plan, choices: &self.choices, first: 0 }, &mut self.output)
    }

    fn chunk_forward(&mut self, input: &[f32], order: Order) {
        self.plan.values[0].take(input, order);
        let (mut pass, output) = self.pass();
        pass.forward();
        pass.output(output);
    }

    /// Computes the output from the input, both for any number of images.
    pub fn forward(&mut self, input: &[f32], output: &mut [f32], orders: [Order; 2]) {
        let [read, written] = self.each().map(|each| each * self.chunk);
        in_pool(|| {
            for (x, out) in input.chunks(read).zip(output.chunks_mut(written)) {
                self.chunk_forward(x, orders[0]);
                self.output.give(out, orders[1]);
            }
        });
    }

    /// Computes the gradient of the input from the input and the gradient of the output. The values in between are computed
    /// once more: those of a chunk stay in the cache, which is faster than to read those of a whole batch from memory.
    pub fn backward(&mut self, input: &[f32], output: &[f32], gradient: &mut [f32], orders: [Order; 2]) {
        let [read, written] = self.each().map(|each| each * self.chunk);
        in_pool(|| {
            for ((x, gz), gx) in input.chunks(read).zip(output.chunks(written)).zip(gradient.chunks_mut(read)) {
                self.chunk_forward(x, orders[0]);
                let (mut pass, _) = self.pass();
                pass.output_gradient(gz, orders[1]);
                pass.backward();
                if let Some(gradient) = &self.plan.gradients[0] {
                    gradient.give(gx, orders[0]);
                }
            }
        });
    }
}
