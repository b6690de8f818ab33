//! The forward and the backward pass of a chunk of images through the steps of a chain.

use super::choice::Choice;
use super::images::{Images, Order};
use super::plan::{Plan, Step};
use qdrop_kernels::nhwc::stage::{self, Read, Targets};
use qdrop_kernels::nhwc::Write;

/// A chunk of a batch on its way through the steps, one at least.
pub struct Pass<'a> {
    pub plan: &'a mut Plan,
    /// What each site keeps: first the input, then every step.
    pub choices: &'a [Choice],
    /// Number of images before the chunk in its batch.
    pub first: usize,
}

/// What the stage of a step reads: one value, to which another may be added.
fn stage_input<'a>(reads: &[usize], z: &'a Option<Images>, values: &'a [Images]) -> (Read<'a>, Option<Read<'a>>) {
    match z {
        Some(z) => (z.read(), None),
        None => (values[reads[0]].read(), reads.get(1).map(|added| values[*added].read())),
    }
}

impl Pass<'_> {
    /// Computes what the stage of the last step reads.
    pub fn forward(&mut self) {
        let Plan { steps, values, .. } = &mut *self.plan;
        let last = steps.len() - 1;
        for (i, Step { reads, operation, z, stage }) in steps.iter_mut().enumerate() {
            let (before, own) = values.split_at_mut(i + 1);
            operation.forward(reads, before, z.as_mut().unwrap_or(&mut own[0]));
            if let Some(stage) = stage.as_mut().filter(|_| i < last) {
                let (z, added) = stage_input(reads, z, before);
                let rows = (self.choices[i + 1].mixing(), self.first * z.1.height);
                stage::forward(stage.site.stage(), z, added, rows, own[0].write(), &mut stage.kept);
            }
        }
    }

    /// The value of the last step.
    pub fn output(&mut self, out: &mut Images) {
        let Plan { steps, values, .. } = &mut *self.plan;
        let last = steps.len() - 1;
        let Step { reads, z, stage: Some(stage), .. } = &mut steps[last] else { return };
        let (z, added) = stage_input(reads, z, values);
        let rows = (self.choices[last + 1].mixing(), self.first * z.1.height);
        stage::forward(stage.site.stage(), z, added, rows, out.write(), &mut stage.kept);
    }

    /// Computes the loss, with its factor and range, and its gradient.
    pub fn loss(&mut self, target: Targets<'_>, loss: (f32, [f32; 2])) {
        let Plan { steps, values, gradients, .. } = &mut *self.plan;
        let last = steps.len() - 1;
        let (Step { reads, z, stage: Some(stage), .. }, Some(gradient)) = (&mut steps[last], &mut gradients[last + 1])
        else {
            return;
        };
        let (z, added) = stage_input(reads, z, values);
        let mixing = (self.choices[last + 1].mixing(), self.first * z.1.height);
        stage::end(stage.site.stage(), z, added, target, loss, mixing, gradient.write(), &mut stage.rows);
        stage.add_up();
    }

    /// Takes the gradient of the [output](Self::output).
    pub fn output_gradient(&mut self, gradient: &[f32], order: Order) {
        let last = self.plan.steps.len();
        if let Some(own) = &mut self.plan.gradients[last] {
            own.take(gradient, order);
        }
        self.stage_backward(last);
    }

    /// The gradient of what the stage of a value reads, from that of the value, in its place.
    fn stage_backward(&mut self, value: usize) {
        let Plan { steps, values, gradients, .. } = &mut *self.plan;
        let (Some(step), Some(gradient)) = (value.checked_sub(1), &mut gradients[value]) else { return };
        let Step { reads, z, stage: Some(stage), .. } = &mut steps[step] else { return };
        let (z, added) = stage_input(reads, z, values);
        let mixing = (self.choices[value].mixing(), self.first * z.1.height);
        stage::backward(stage.site.stage(), z, added, mixing, &stage.kept, gradient.write(), &mut stage.rows);
        stage.add_up();
    }

    /// The backward pass from the gradient of what the last stage reads, down to that of the chain's input, if there is room
    /// for it: the first chunk replaces the gradients of all weights, others add to them.
    pub fn backward(&mut self) {
        let replace = self.first == 0;
        for value in (0..=self.plan.steps.len()).rev() {
            if value < self.plan.steps.len() {
                self.gradient(value);
                self.stage_backward(value);
            }
            let Plan { steps, values, gradients, readers } = &mut *self.plan;
            let Some(Step { reads, operation, .. }) = value.checked_sub(1).map(|step| &mut steps[step]) else {
                continue;
            };
            let own = &gradients[readers.gradient[value]];
            if let (Some(weight), Some(gradient)) = (operation.weight_mut(), own) {
                weight.backward_weight(values[reads[0]].read(), gradient.read(), replace);
            }
        }
    }

    /// Adds up the gradients that all readers of a value give, if it has a place of its own.
    fn gradient(&mut self, value: usize) {
        let Plan { steps, values, gradients, readers } = &mut *self.plan;
        let Some(mut sum) = gradients[value].take() else { return };
        let mut write = Write::Replace;
        for (reader, place) in &readers.of[value] {
            let Step { reads, operation, .. } = &mut steps[*reader];
            if let Some(gradient) = &gradients[readers.gradient[reader + 1]] {
                operation.backward(*place, (reads, values), gradient.read(), write, &mut sum);
                write = Write::Add;
            }
        }
        gradients[value] = Some(sum);
    }
}
