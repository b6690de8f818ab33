//! Who reads each value of a chain, and where gradients are kept.

use crate::engine::chain::{Chain, Operation};

/// The readers of all values of a chain, of which 0 is the input and `i + 1` that of step `i`.
pub struct Readers {
    /// Steps that read each value, in their order, with the place of the value among those that the step reads.
    pub of: Vec<Vec<(usize, usize)>>,
    /// The value whose gradient is each value's own too: that of the only reader, if that is a sum, for values that have no stage.
    pub gradient: Vec<usize>,
    /// Whether each value's gradient is needed: something before it learns.
    pub needed: Vec<bool>,
}

impl Readers {
    /// Finds them. With `input_gradient` the gradient of the input is needed.
    pub fn of(chain: &Chain, input_gradient: bool) -> Self {
        let count = chain.steps.len() + 1;
        let mut of = vec![Vec::new(); count];
        for (i, step) in chain.steps.iter().enumerate() {
            step.reads.iter().enumerate().for_each(|(place, value)| of[*value].push((i, place)));
        }
        let mut gradient: Vec<usize> = (0..count).collect();
        for value in (1..count).rev() {
            let [(reader, _)] = of[value][..] else { continue };
            if chain.steps[value - 1].stage.is_empty() && matches!(chain.steps[reader].operation, Operation::Sum) {
                gradient[value] = gradient[reader + 1];
            }
        }
        let mut needed = vec![input_gradient; count];
        for (i, step) in chain.steps.iter().enumerate() {
            needed[i + 1] = step.learns() || step.reads.iter().any(|value| needed[*value]);
        }
        Self { of, gradient, needed }
    }

    /// Whether a value's gradient has a place of its own.
    pub fn is_own(&self, value: usize) -> bool {
        self.gradient[value] == value
    }
}
