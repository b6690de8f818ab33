//! The network while it is imported: operations of the graph, which can still be changed, with their parameters.

use qdrop_core::prelude::*;
use qdrop_core::weights::usable;
use std::collections::{HashMap, HashSet};

/// An operation of a draft.
#[derive(Debug, Clone, PartialEq)]
pub enum DraftOp {
    /// One that the graph has.
    Op(Op),
    /// The error function, which is only understood as a part of GELU.
    Erf,
}

/// A parameter: its name within the node, its shape and its values.
pub type Parameter = (&'static str, Vec<usize>, Vec<f32>);

/// One operation with its parameters.
#[derive(Debug, Clone)]
pub struct Draft {
    pub name: String,
    pub op: DraftOp,
    pub inputs: Vec<usize>,
    /// Shape of its value, without the batch.
    pub shape: Vec<usize>,
    pub parameters: Vec<Parameter>,
}

impl Draft {
    /// The values of a parameter.
    pub fn parameter(&self, name: &str) -> Option<&[f32]> {
        self.parameters.iter().find(|(n, ..)| *n == name).map(|(.., values)| values.as_slice())
    }

    /// Factor and offset, if the operation is a multiplication and an addition that are the same for all channels.
    pub fn uniform_affine(&self) -> Option<(f32, f32)> {
        let (factor, offset) = self.affine()?;
        let same = |values: &[f32]| values.iter().all(|v| *v == values[0]).then(|| values[0]);
        Some((same(factor)?, same(offset)?))
    }

    /// Factors and offsets of the channels, if the operation is [`Network::affine`].
    pub fn affine(&self) -> Option<(&[f32], &[f32])> {
        match self.op {
            DraftOp::Op(Op::BatchNorm { eps: 0.0 }) => Some((self.parameter("weight")?, self.parameter("bias")?)),
            _ => None,
        }
    }
}

/// All drafts in the order of execution. The first one is the network's input.
pub struct Network {
    pub drafts: Vec<Draft>,
    names: HashSet<String>,
}

impl Network {
    /// A network that has only an input of this shape (C, H, W).
    pub fn new(input: [usize; 3]) -> Self {
        let op = DraftOp::Op(Op::Input);
        let shape = input.to_vec();
        let input = Draft { name: "input".into(), op, inputs: Vec::new(), shape, parameters: Vec::new() };
        Self { drafts: vec![input], names: HashSet::from(["input".into()]) }
    }

    /// Adds an operation. The name is made unique.
    ///
    /// # Errors
    /// The operation does not accept the inputs.
    pub fn push(&mut self, name: &str, op: Op, inputs: &[usize], parameters: Vec<Parameter>) -> Result<usize, String> {
        let shapes: Vec<&[usize]> = inputs.iter().map(|i| self.drafts[*i].shape.as_slice()).collect();
        let shape = op.shape(&shapes).map_err(|e| e.to_string())?;
        Ok(self.push_draft(name, DraftOp::Op(op), inputs, shape, parameters))
    }

    /// Adds the error function.
    pub fn push_erf(&mut self, name: &str, input: usize) -> usize {
        let shape = self.drafts[input].shape.clone();
        self.push_draft(name, DraftOp::Erf, &[input], shape, Vec::new())
    }

    fn push_draft(
        &mut self,
        name: &str,
        op: DraftOp,
        inputs: &[usize],
        shape: Vec<usize>,
        parameters: Vec<Parameter>,
    ) -> usize {
        let name = self.unique(name);
        self.drafts.push(Draft { name, op, inputs: inputs.into(), shape, parameters });
        self.drafts.len() - 1
    }

    fn unique(&mut self, name: &str) -> String {
        let name = if name.is_empty() { "node" } else { name };
        let numbered = (2..).map(|n| format!("{name}_{n}"));
        let free = std::iter::once(name.to_string()).chain(numbered).find(|name| !self.names.contains(name));
        let free = free.unwrap_or_default();
        self.names.insert(free.clone());
        free
    }

    /// Multiplies the channels of a value by factors and adds offsets. It is a batch normalization with mean 0 and variance 1,
    /// so that it is folded into a layer before it.
    ///
    /// # Errors
    /// The numbers of factors or offsets are not that of the channels.
    pub fn affine(&mut self, name: &str, x: usize, factor: Vec<f32>, offset: Vec<f32>) -> Result<usize, String> {
        let channels = self.drafts[x].shape[0];
        if factor.len() != channels || offset.len() != channels {
            return Err(format!("{} and {} numbers for {channels} channels", factor.len(), offset.len()));
        }
        let vector = |name, values| (name, vec![channels], values);
        let parameters = vec![
            vector("weight", factor),
            vector("bias", offset),
            vector("running_mean", vec![0.0; channels]),
            vector("running_var", vec![1.0; channels]),
        ];
        self.push(name, Op::BatchNorm { eps: 0.0 }, &[x], parameters)
    }

    /// Makes a flat value that was computed from single pixels an image of one pixel, by making its fully connected layers
    /// convolutions. Returns the value.
    ///
    /// # Errors
    /// Something between the image and the value cannot be computed on images.
    pub fn make_image(&mut self, value: usize) -> Result<usize, String> {
        let Draft { op, inputs, shape, name, .. } = &self.drafts[value];
        let refused = format!("the flat value of '{name}' cannot become an image of one pixel");
        let (&[features], &[input]) = (&shape[..], &inputs[..]) else { return Err(refused) };
        let op = match op {
            DraftOp::Op(Op::Flatten) if self.drafts[input].shape[1..] == [1, 1] => return Ok(input),
            DraftOp::Op(Op::Linear { bias, .. }) => {
                Some(Op::Conv2d { out_channels: features, kernel: [1, 1], geometry: Default::default(), bias: *bias })
            }
            DraftOp::Op(Op::Activation(_) | Op::BatchNorm { .. } | Op::LayerNorm { .. } | Op::Clip) | DraftOp::Erf => {
                None
            }
            DraftOp::Op(_) => return Err(refused),
        };
        let input = self.make_image(input)?;
        let draft = &mut self.drafts[value];
        draft.inputs = vec![input];
        draft.shape = vec![features, 1, 1];
        if let Some(op) = op {
            draft.op = DraftOp::Op(op);
            draft
                .parameters
                .iter_mut()
                .filter(|(name, ..)| *name == "weight")
                .for_each(|(_, dims, _)| dims.extend([1, 1]));
        }
        Ok(value)
    }

    /// The graph of what the outputs depend on, and its parameters by name.
    ///
    /// # Errors
    /// A part is not understood, a value does not fit its reader, or a parameter is not finite.
    pub fn finish(self, outputs: &[usize]) -> Result<(Graph, HashMap<String, Tensor>)> {
        let mut needed = vec![false; self.drafts.len()];
        outputs.iter().for_each(|output| needed[*output] = true);
        for (i, draft) in self.drafts.iter().enumerate().rev() {
            if needed[i] {
                draft.inputs.iter().for_each(|input| needed[*input] = true);
            }
        }
        let input: [usize; 3] = match self.drafts[0].shape[..] {
            [c, h, w] => [c, h, w],
            _ => return Err(Error::message("the network's input is no image")),
        };
        let mut b = GraphBuilder::new(input);
        let mut ids = vec![b.input(); self.drafts.len()];
        let mut parameters = HashMap::new();
        for (i, draft) in self.drafts.into_iter().enumerate().skip(1).filter(|(i, _)| needed[*i]) {
            let DraftOp::Op(op) = draft.op else {
                let message = "the error function is only understood as a part of GELU";
                return Err(Error::graph(draft.name, message));
            };
            let inputs: Vec<NodeId> = draft.inputs.iter().map(|input| ids[*input]).collect();
            ids[i] = b.node(&draft.name, op, &inputs)?;
            for (own, dims, values) in draft.parameters {
                let name = format!("{}.{own}", draft.name);
                let values = usable(&name, values).map_err(|message| Error::graph(&name, message))?;
                parameters.insert(name, Tensor::from_vec(values, dims, &Device::Cpu)?);
            }
        }
        let outputs: Vec<NodeId> = outputs.iter().map(|output| ids[*output]).collect();
        Ok((b.finish_with_outputs(&outputs)?, parameters))
    }
}
