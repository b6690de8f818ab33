//! A buffer of channels-last images.

use qdrop_kernels::nhwc::{from_planes, to_planes, Buffer, Layout};

/// A buffer and the layout of the images in it.
#[derive(Debug, Clone)]
pub struct Images {
    pub values: Buffer,
    pub layout: Layout,
}

/// How the values of an image outside of a buffer lie in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// (C, H, W), as in tensors.
    Planes,
    /// (H, W, C), as in buffers.
    ChannelsLast,
}

impl Images {
    pub fn new(layout: Layout) -> Self {
        Self { values: Buffer::zeros(layout.len()), layout }
    }

    /// Goes over to another layout, and keeps the memory if it is large enough. What was in it is lost; the border is zero.
    pub fn reshape(&mut self, layout: Layout) {
        if layout == self.layout {
            return;
        }
        if layout.len() > self.values.len() {
            self.values = Buffer::zeros(layout.len());
        } else if layout.border > 0 {
            self.values.fill(0.0);
        }
        self.layout = layout;
    }

    pub fn read(&self) -> (&[f32], Layout) {
        (&self.values[..self.layout.len()], self.layout)
    }

    pub fn write(&mut self) -> (&mut [f32], Layout) {
        (&mut self.values[..self.layout.len()], self.layout)
    }

    /// Elements of one image, without its border.
    pub fn each(&self) -> usize {
        self.layout.height * self.layout.values()
    }

    /// Takes the values of images, as many as there are or as there is room for.
    pub fn take(&mut self, values: &[f32], order: Order) {
        let (each, one) = (self.each(), Layout { batch: 1, ..self.layout });
        let images = self.write().0.chunks_exact_mut(one.image());
        values.chunks_exact(each).zip(images).for_each(|(values, image)| match order {
            Order::Planes => from_planes(values, one, image),
            Order::ChannelsLast => {
                let rows = values.chunks_exact(one.values()).enumerate();
                rows.for_each(|(y, row)| image[one.offset(0, y)..][..row.len()].copy_from_slice(row));
            }
        });
    }

    /// Gives the values of images, as many as there are or as there is room for.
    pub fn give(&self, values: &mut [f32], order: Order) {
        let (each, one) = (self.each(), Layout { batch: 1, ..self.layout });
        let images = self.read().0.chunks_exact(one.image());
        images.zip(values.chunks_exact_mut(each)).for_each(|(image, values)| match order {
            Order::Planes => to_planes(image, one, values),
            Order::ChannelsLast => {
                let rows = values.chunks_exact_mut(one.values()).enumerate();
                rows.for_each(|(y, row)| row.copy_from_slice(&image[one.offset(0, y)..][..row.len()]));
            }
        });
    }
}
