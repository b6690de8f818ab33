//! A chain as the engine of a GPU computes it: layers in a row, with one addition at most.

use super::description::{Chain, ChainConvolution, ChainStage, ChainStep};
use super::operation::Operation;
use super::refusal::Refusal;

/// Layers in a row, each of which reads the value of the one before it.
pub struct Block {
    /// The chain's input, see [`Chain`].
    pub input: [usize; 3],
    /// The chain's output.
    pub output: [usize; 3],
    /// Whether the output is an image.
    pub output_is_image: bool,
    /// Convolutions with their stages, one at least. That of the last one comes after the addition of the shortcut.
    pub layers: Vec<(ChainConvolution, ChainStage)>,
    /// What is added to the last convolution's output.
    pub shortcut: Shortcut,
}

/// What is added at the end of a block.
pub enum Shortcut {
    /// Nothing.
    None,
    /// The block's input.
    Identity,
    /// A convolution of the block's input.
    Projection(Box<ChainConvolution>),
}

impl Block {
    /// The chain as a block, or why it is not one.
    pub fn of(chain: Chain) -> Result<Self, Refusal> {
        let Chain { input, output, output_is_image, mut steps } = chain;
        let end = match steps.last() {
            Some(ChainStep { operation: Operation::Sum, reads, .. }) if reads.len() == 2 => steps.pop(),
            _ => None,
        };
        let mut layers = Vec::new();
        for step in steps {
            match step.operation {
                Operation::Convolution(convolution) => layers.push((step.name, step.reads, convolution, step.stage)),
                Operation::Sum if step.reads.len() == 2 => return Err(Refusal::Blocks),
                _ => return Err(Refusal::DeviceOperation { node: step.name }),
            }
        }
        let mut shortcut = Shortcut::None;
        if let Some(end) = end {
            let operands = |value: usize| end.reads.contains(&value);
            let count = layers.len();
            if let Some((name, ..)) = layers
                .iter()
                .enumerate()
                .find_map(|(i, layer)| (operands(i + 1) && !layer.3.is_empty()).then_some(layer))
            {
                return Err(Refusal::BeforeAddition { node: name.clone() });
            }
            // Right before the addition stands the layer that it adds, or two of them.
            if operands(count) && operands(0) {
                shortcut = Shortcut::Identity;
            } else if count > 1 && operands(count) && operands(count - 1) && layers[count - 1].1 == [0] {
                let (_, _, projection, _) = layers.swap_remove(count - 1);
                shortcut = Shortcut::Projection(Box::new(projection));
            } else {
                return Err(Refusal::Blocks);
            }
            if let Some(last) = layers.last_mut() {
                last.3 = end.stage;
            }
        }
        if layers.is_empty() || layers.iter().enumerate().any(|(i, layer)| layer.1 != [i]) {
            return Err(Refusal::Blocks);
        }
        let layers = layers.into_iter().map(|(_, _, convolution, stage)| (convolution, stage)).collect();
        Ok(Self { input, output, output_is_image, layers, shortcut })
    }
}
