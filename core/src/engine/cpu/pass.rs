//! The forward and the backward pass of a chunk of images through the layers of a chain.

use super::addition::{Addition, Projection};
use super::choice::Choice;
use super::images::{Images, Order};
use super::stage::Layer;
use qdrop_kernels::nhwc::stage::{self, Read, Targets};
use qdrop_kernels::nhwc::{accumulate, pool};

/// A chunk of a batch on its way through the layers, one at least.
pub struct Pass<'a> {
    /// The chain's input.
    pub x: &'a Images,
    pub layers: &'a mut [Layer],
    /// What each site keeps: first the input, then every layer.
    pub choices: &'a [Choice],
    /// Number of images before the chunk in its batch.
    pub first: usize,
}

/// The value of an earlier layer, or the chain's input.
fn value<'a>(before: &'a [Layer], from: Option<usize>, x: &'a Images) -> Read<'a> {
    from.map_or(x.read(), |from| before[from].a.read())
}

/// What is added before a stage.
fn sum<'a>(added: &'a Option<Addition>, before: &'a [Layer], x: &'a Images) -> Option<Read<'a>> {
    added.as_ref().map(|added| added.value(value(before, added.from, x)))
}

impl Pass<'_> {
    /// Computes what the stage of the last layer reads.
    pub fn forward(&mut self) {
        let Self { x, layers, choices, first } = self;
        let last = layers.len() - 1;
        for i in 0..=last {
            let (before, rest) = layers.split_at_mut(i);
            let Layer { mean, weight, added, site, z, a, kept, .. } = &mut rest[0];
            let read = value(before, i.checked_sub(1), x);
            match mean {
                None => weight.forward(read, z.write()),
                Some([pixel, _]) => {
                    pool::mean(read, pixel.write());
                    weight.forward(pixel.read(), z.write());
                }
            }
            if let Some(Addition { from, projection: Some(projection) }) = added {
                projection.weight.forward(value(before, *from, x), projection.z.write());
            }
            if i < last {
                let rows = (choices[i + 1].mixing(), *first * z.layout.height);
                stage::forward(site.stage(), z.read(), sum(added, before, x), rows, a.write(), kept);
            }
        }
    }

    /// The value of the last layer.
    pub fn output(&mut self, out: &mut Images) {
        let last = self.layers.len() - 1;
        let (before, end) = self.layers.split_at_mut(last);
        let Layer { added, site, z, kept, .. } = &mut end[0];
        let rows = (self.choices[last + 1].mixing(), self.first * z.layout.height);
        stage::forward(site.stage(), z.read(), sum(added, before, self.x), rows, out.write(), kept);
    }

    /// Computes the loss, with its factor and range, and its gradient.
    pub fn loss(&mut self, target: Targets<'_>, loss: (f32, [f32; 2])) {
        let last = self.layers.len() - 1;
        let (before, end) = self.layers.split_at_mut(last);
        let Layer { added, site, z, gz, rows, .. } = &mut end[0];
        let mixing = (self.choices[last + 1].mixing(), self.first * z.layout.height);
        stage::end(site.stage(), z.read(), sum(added, before, self.x), target, loss, mixing, gz.write(), rows);
        end[0].add_up();
    }

    /// Takes the gradient of the [output](Self::output).
    pub fn output_gradient(&mut self, values: &[f32], order: Order) {
        let last = self.layers.len() - 1;
        let (before, end) = self.layers.split_at_mut(last);
        let Layer { added, site, z, gz, kept, rows, .. } = &mut end[0];
        gz.take(values, order);
        let mixing = (self.choices[last + 1].mixing(), self.first * z.layout.height);
        stage::backward(site.stage(), z.read(), sum(added, before, self.x), mixing, kept, gz.write(), rows);
        end[0].add_up();
    }

    /// The backward pass from the gradient of the last layer's output, down to that of the chain's input, if there is room
    /// for it: the first chunk replaces the gradients of all weights, others add to them.
    pub fn backward(&mut self, mut gx: Option<&mut Images>) {
        let Self { x, layers, choices, first } = self;
        let replace = *first == 0;
        for i in (0..layers.len()).rev() {
            let (before, after) = layers.split_at_mut(i);
            let Layer { mean, weight, added, gz, .. } = &mut after[0];
            let from = i.checked_sub(1);
            let read = mean.as_ref().map_or(value(before, from, x), |[pixel, _]| pixel.read());
            weight.backward_weight(read, gz.read(), replace);
            if let Some(Addition { from, projection: Some(projection) }) = added {
                projection.weight.backward_weight(value(before, *from, x), gz.read(), replace);
            }
            let Some(gradient) = before.last_mut().map(|previous| &mut previous.gz).or(gx.as_deref_mut()) else {
                return;
            };
            match mean {
                None => weight.backward_input(gz.read(), gradient.write()),
                Some([_, pixel]) => {
                    weight.backward_input(gz.read(), pixel.write());
                    pool::mean_backward(pixel.read(), gradient.write());
                }
            }
            // Later layers, of which all gradients are known, may have added the value too.
            for Layer { added, gz, .. } in after {
                let Some(added) = added.as_mut().filter(|added| added.from == from) else { continue };
                match &mut added.projection {
                    None => accumulate(gz.read(), gradient.write()),
                    Some(Projection { weight, gx: Some(gx), .. }) => {
                        weight.backward_input(gz.read(), gx.write());
                        accumulate(gx.read(), gradient.write());
                    }
                    // Reads the chain's input, which needs no gradient.
                    Some(Projection { gx: None, .. }) => {}
                }
            }
            let Some((previous, earlier)) = before.split_last_mut() else { return };
            let Layer { added, site, z, gz, kept, rows, .. } = previous;
            let mixing = (choices[i].mixing(), *first * z.layout.height);
            stage::backward(site.stage(), z.read(), sum(added, earlier, x), mixing, kept, gz.write(), rows);
            previous.add_up();
        }
    }
}
