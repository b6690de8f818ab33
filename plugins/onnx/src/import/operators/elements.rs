//! Elements of a value, chosen by their numbers. Exporters write views with strides so, also those that change nothing.

use super::super::constant::{Constant, Size};
use super::{Call, Translator, Value};

impl Translator {
    /// Gather: all elements of a value, in their order, as a value of another shape.
    pub(super) fn gather(&mut self, call: &Call<'_>) -> Result<Value, String> {
        let Value::Elements(traced) = self.value(call, 0)? else { return Err(super::unknown()) };
        let (traced, indices) = (traced.clone(), self.constant(call, 1)?);
        let each: usize = self.sides(&traced).iter().product();
        let refused =
            || "picks elements in another order than they have; write it with slices and transpositions".into();
        let Some((images, sides)) = indices.dims().split_first() else { return Err(refused()) };
        let sides = sides.to_vec();
        let is_own = |(i, index): (usize, &Size)| match index {
            Size::OfImage { stride, offset } => *images == 1 && [*stride, *offset] == [each as i64, i as i64],
            Size::Known(index) => self.batch == Some(*images) && *index == i as i64,
            Size::Batch => false,
        };
        let own = indices.sizes()?.iter().enumerate().all(is_own);
        if !own || call.axis(call.int("axis", 0), 1)? != 0 || sides.iter().product::<usize>() != each {
            return Err(refused());
        }
        self.reshaped(call, traced, sides)
    }
}

/// The numbers of the images: `start..batch` with a step.
pub(super) fn numbers_of_images(start: i64, step: i64) -> Option<Constant> {
    (start == 0 && step == 1).then(|| Constant::vector(vec![Size::OfImage { stride: 1, offset: 0 }]))
}

/// Computes with a number that depends on the image, where the result is one.
pub(super) fn of_image(op: &str, x: Size, y: Size) -> Option<Size> {
    let (stride, offset, other) = match (x, y) {
        (Size::OfImage { stride, offset }, Size::Known(other)) => (stride, offset, other),
        (Size::Known(other), Size::OfImage { stride, offset }) => (stride, offset, other),
        _ => return None,
    };
    match op {
        "Add" => Some(Size::OfImage { stride, offset: offset.checked_add(other)? }),
        "Mul" => Some(Size::OfImage { stride: stride.checked_mul(other)?, offset: offset.checked_mul(other)? }),
        _ => None,
    }
}
