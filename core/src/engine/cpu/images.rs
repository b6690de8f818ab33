//! A buffer of channels-last images.

use qdrop_kernels::nhwc::{Buffer, Layout};

/// A buffer and the layout of the images in it.
#[derive(Debug, Clone)]
pub struct Images {
    pub values: Buffer,
    pub layout: Layout,
}

impl Images {
    pub fn new(layout: Layout) -> Self {
        Self { values: Buffer::zeros(layout.len()), layout }
    }

    pub fn read(&self) -> (&[f32], Layout) {
        (&self.values, self.layout)
    }

    pub fn write(&mut self) -> (&mut [f32], Layout) {
        (&mut self.values, self.layout)
    }
}
