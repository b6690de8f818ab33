//! The rows of a head's output as objects.

use qdrop_core::prelude::*;

/// An object that a network found.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct FoundObject {
    pub label: usize,
    pub score: f32,
    /// Left, top, right and bottom in pixels of the original picture.
    pub corners: [f32; 4],
}

impl FoundObject {
    /// Left, top, width and height.
    pub fn bbox(&self) -> [f64; 4] {
        let [x1, y1, x2, y2] = self.corners.map(f64::from);
        [x1, y1, x2 - x1, y2 - y1]
    }
}

/// The objects of each image in the network's output (N, most, 6), in their order.
pub fn found(outputs: &[Tensor], targets: &[Target]) -> Result<Vec<Vec<FoundObject>>> {
    let [output] = outputs else {
        return Err(Error::message(format!("detection reads one output, {} are given", outputs.len())));
    };
    let (images, most, values) = output.dims3()?;
    if images != targets.len() || values != OBJECT_VALUES {
        let message = format!(
            "the targets of {} images for objects of the shape {:?}, not (images, objects, {OBJECT_VALUES})",
            targets.len(),
            output.dims()
        );
        return Err(Error::message(message));
    }
    let rows: Vec<f32> = output.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?;
    let of_image = |rows: &[f32]| {
        let object = |row: &[f32]| match *row {
            [x1, y1, x2, y2, score, label] if label >= 0.0 => {
                Some(FoundObject { label: label as usize, score, corners: [x1, y1, x2, y2] })
            }
            _ => None,
        };
        rows.chunks_exact(OBJECT_VALUES).filter_map(object).collect()
    };
    let each = most * OBJECT_VALUES;
    Ok((0..images).map(|i| of_image(&rows[i * each..][..each])).collect())
}
