//! Blocks whose convolutions stand in a row.

use qdrop_core::prelude::*;

/// Adds a block's operations to a graph, and returns their value.
pub type Body = Box<dyn Fn(&mut GraphBuilder, NodeId) -> Result<NodeId>>;

/// One convolution of a block.
pub struct Layer {
    pub out: usize,
    pub kernel: usize,
    pub stride: usize,
    pub groups: usize,
}

/// The shortcut of a block.
#[derive(PartialEq)]
pub enum Shortcut {
    None,
    Identity,
    Projection,
}

/// Convolutions in a row, with activation functions between them.
pub struct Row {
    pub layers: Vec<Layer>,
    pub relu6: bool,
    pub shortcut: Shortcut,
    pub final_relu: bool,
}

impl Row {
    /// As a function that adds it to a graph.
    pub fn body(self) -> Body {
        Box::new(move |b, x| self.add(b, x))
    }

    fn add(&self, b: &mut GraphBuilder, x: NodeId) -> Result<NodeId> {
        let mut y = x;
        for (i, l) in self.layers.iter().enumerate() {
            let conv = Conv2d::new(l.out, l.kernel).stride(l.stride).padding(l.kernel / 2).groups(l.groups).bias();
            y = b.conv2d(&format!("conv{i}"), y, conv)?;
            if i + 1 < self.layers.len() {
                let name = format!("act{i}");
                y = if self.relu6 { b.relu6(&name, y)? } else { b.relu(&name, y)? };
            }
        }
        let out = b.channels(y);
        let shortcut = match self.shortcut {
            Shortcut::None => None,
            Shortcut::Identity => Some(x),
            Shortcut::Projection => Some(b.conv2d("projection", x, Conv2d::new(out, 1).stride(2).bias())?),
        };
        if let Some(shortcut) = shortcut {
            y = b.add("sum", y, shortcut)?;
        }
        if self.final_relu {
            y = b.relu("out", y)?;
        }
        Ok(y)
    }
}
