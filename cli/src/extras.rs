//! What is written besides a measurement: a file of what was found, and pictures of it.

use crate::error::{At, Result, Stage};
use crate::kept::check_output;
use image::codecs::png::PngEncoder;
use image::{ExtendedColorType, ImageEncoder};
use qdrop_core::model::{Precision, QuantModel};
use qdrop_core::picture::Picture;
use qdrop_core::pipeline::{Session, ShownNetwork};
use qdrop_core::progress::Progress;
use qdrop_core::run_directory::write_file;
use qdrop_core::task::Measurement;
use qdrop_core::Error as Core;
use std::path::{Path, PathBuf};

/// What is written besides a measurement; by default nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Extras {
    /// A file for what the network finds, in the format of the recipe's task: for detection the results of the COCO
    /// benchmark (JSON). An older file is replaced.
    pub detections: Option<PathBuf>,
    /// A folder for pictures of what is annotated, what the float network finds and what the quantized one finds, side by
    /// side. It is made where it is missing, and older pictures of the same names are replaced.
    pub draw: Option<PathBuf>,
    /// The number of pictures to draw: of the first evaluation images.
    pub drawn: usize,
}

impl Extras {
    /// The number of pictures that are drawn by default.
    pub const DRAWN: usize = 32;
}

impl Default for Extras {
    fn default() -> Self {
        Self { detections: None, draw: None, drawn: Self::DRAWN }
    }
}

impl Extras {
    /// Measures a network of the session and writes what is asked for. `float` is the float network of a quantized one, if it is
    /// to be drawn.
    pub(crate) fn measure(
        &self,
        session: &Session<'_>,
        (model, precision): (&QuantModel, Precision),
        float: Option<&QuantModel>,
        progress: &dyn Progress,
    ) -> Result<Measurement> {
        let stage = match precision {
            Precision::Float => Stage::FloatEvaluation,
            Precision::Quantized => Stage::Evaluation,
        };
        // What can fail comes before the long part.
        if let Some(file) = &self.detections {
            check_output(file, &[]).at(stage)?;
        }
        if let Some(folder) = &self.draw {
            std::fs::create_dir_all(folder).map_err(Core::io("create", folder)).at(Stage::Drawing)?;
            let quantized = format!("quantized ({})", session.recipe().bits());
            let title = match precision {
                Precision::Float => "float",
                Precision::Quantized => &quantized,
            };
            let float = float.map(|model| ShownNetwork { title: "float", model, precision: Precision::Float });
            let networks: Vec<_> = float.into_iter().chain([ShownNetwork { title, model, precision }]).collect();
            let mut write = |picture: &Picture| write_png(picture, folder);
            session.draw(&networks, self.drawn, &mut write, progress).at(Stage::Drawing)?;
        }
        match &self.detections {
            None => session.evaluate(model, precision, progress).at(stage),
            Some(file) => {
                let (measured, text) = session.record(model, precision, progress).at(stage)?;
                write_file(file, text.as_bytes()).at(stage)?;
                Ok(measured)
            }
        }
    }
}

/// Writes a picture as a PNG file of its name.
fn write_png(Picture { name, width, height, pixels }: &Picture, folder: &Path) -> qdrop_core::Result<()> {
    let file = folder.join(format!("{name}.png"));
    let mut content = Vec::new();
    PngEncoder::new(&mut content)
        .write_image(pixels, *width as u32, *height as u32, ExtendedColorType::Rgb8)
        .map_err(|e| Core::data(&file, format!("cannot be encoded: {e}")))?;
    write_file(&file, &content)
}
