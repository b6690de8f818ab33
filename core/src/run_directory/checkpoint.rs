//! Checkpoints of one quantization: ranges, finished units, and the state of an interrupted unit.

use super::{files, tensor_file, CHECKPOINTS};
use crate::error::{Error, Result};
use crate::preparation::Prepared;
use crate::reconstructor::Interrupted;
use crate::report::{LossPoint, UnitReport};
use candle_core::{Device, Tensor};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

const PREPARED: &str = "prepared.safetensors";
const CALIBRATION: &str = "calibration.safetensors";
const INTERRUPTED: &str = "interrupted.safetensors";

/// A folder of checkpoints.
#[derive(Debug)]
pub struct CheckpointFolder {
    path: PathBuf,
}

/// The text of a checkpoint, besides its tensors.
#[derive(Serialize, Deserialize)]
struct CalibrationText {
    seconds: f64,
}

#[derive(Serialize, Deserialize)]
struct UnitText {
    report: UnitReport,
}

#[derive(Serialize, Deserialize)]
struct InterruptedText {
    unit: String,
    losses: Vec<LossPoint>,
    /// Time that the unit has taken so far; earlier versions did not keep it.
    #[serde(default)]
    seconds: f64,
}

/// Named tensors of a checkpoint.
type Tensors = BTreeMap<String, Tensor>;

impl CheckpointFolder {
    /// The checkpoints of the run in `dir`, to read what was reported; the run may go on meanwhile.
    pub fn of_run(dir: &Path) -> Self {
        Self::new(dir.join(CHECKPOINTS))
    }

    pub(super) fn new(path: PathBuf) -> Self {
        Self { path }
    }

    /// The parameters that preparations changed, what each of them did, and the seconds that they took.
    ///
    /// # Errors
    /// The file is damaged.
    pub fn prepared(&self, device: &Device) -> Result<Option<(Tensors, Prepared)>> {
        self.read(PREPARED, device)
    }

    /// Saves the parameters that preparations changed.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn keep_prepared(&self, tensors: &Tensors, prepared: &Prepared) -> Result<()> {
        self.create()?;
        self.write(PREPARED, tensors, prepared)
    }

    /// Scales and zero points of all sites, and the seconds that calibration took.
    ///
    /// # Errors
    /// The file is damaged.
    pub fn calibration(&self, device: &Device) -> Result<Option<(Tensors, f64)>> {
        Ok(self.read::<CalibrationText>(CALIBRATION, device)?.map(|(tensors, text)| (tensors, text.seconds)))
    }

    /// Saves the ranges of all sites.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn keep_calibration(&self, tensors: &Tensors, seconds: f64) -> Result<()> {
        self.create()?;
        self.write(CALIBRATION, tensors, &CalibrationText { seconds })
    }

    /// Hard weights and grids of unit `index`, and its report.
    ///
    /// # Errors
    /// The file is damaged or belongs to another unit.
    pub fn unit(&self, index: usize, name: &str, device: &Device) -> Result<Option<(Tensors, UnitReport)>> {
        let file = unit_file(index);
        let Some((tensors, text)) = self.read::<UnitText>(&file, device)? else { return Ok(None) };
        if text.report.name != name {
            let message = format!("belongs to unit '{}', not to '{name}'; remove the file", text.report.name);
            return Err(Error::data(self.path.join(file), message));
        }
        Ok(Some((tensors, text.report)))
    }

    /// Saves a finished unit.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn keep_unit(&self, index: usize, tensors: &Tensors, report: &UnitReport) -> Result<()> {
        self.write(&unit_file(index), tensors, &UnitText { report: report.clone() })?;
        match std::fs::remove_file(self.path.join(INTERRUPTED)) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                Err(Error::io("remove", self.path.join(INTERRUPTED))(e))
            }
            _ => Ok(()),
        }
    }

    /// The reports of all finished units, in their order, while a run may go on; an error for each file that cannot be read or is
    /// damaged.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub fn reports(&self) -> Result<Vec<Result<UnitReport>>> {
        let entries = match std::fs::read_dir(&self.path) {
            Ok(entries) => entries,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) => return Err(Error::io("list", &self.path)(e)),
        };
        let mut names = Vec::new();
        for entry in entries {
            names.push(entry.map_err(Error::io("list", &self.path))?.file_name().to_string_lossy().into_owned());
        }
        names.retain(|name| name.starts_with("unit-") && name.ends_with(".safetensors"));
        names.sort_unstable();
        let texts = names.iter().filter_map(|name| self.read_text::<UnitText>(name).transpose());
        Ok(texts.map(|text| Ok(text?.report)).collect())
    }

    /// The name of the interrupted unit, and the losses of its steps so far, if there is one.
    ///
    /// # Errors
    /// The file cannot be read or is damaged.
    pub fn interrupted_losses(&self) -> Result<Option<(String, Vec<LossPoint>)>> {
        let text = self.read_text::<InterruptedText>(INTERRUPTED)?;
        Ok(text.map(|text| (text.unit, text.losses)))
    }

    /// Seconds that the unit took before it was interrupted; 0 if it was not.
    ///
    /// # Errors
    /// The file cannot be read or is damaged.
    pub fn interrupted_seconds(&self, unit: &str) -> Result<f64> {
        let text = self.read_text::<InterruptedText>(INTERRUPTED)?.filter(|text| text.unit == unit);
        Ok(text.map_or(0.0, |text| text.seconds))
    }

    /// The saved state of an interrupted unit, if there is one.
    ///
    /// # Errors
    /// The file is damaged.
    pub fn interrupted(&self, unit: &str, device: &Device) -> Result<Option<Interrupted>> {
        let found = self.read::<InterruptedText>(INTERRUPTED, device)?.filter(|(_, text)| text.unit == unit);
        Ok(found.map(|(tensors, text)| Interrupted { losses: text.losses, tensors }))
    }

    /// Saves the state of a unit that is interrupted after so many seconds.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn keep_interrupted(&self, unit: &str, state: &Interrupted, seconds: f64) -> Result<()> {
        let text = InterruptedText { unit: unit.into(), losses: state.losses.clone(), seconds };
        self.write(INTERRUPTED, &state.tensors, &text)
    }

    /// Creates the folder, for the first checkpoints; if it disappears later, writing to it is an error.
    fn create(&self) -> Result<()> {
        std::fs::create_dir_all(&self.path).map_err(Error::io("create", &self.path))
    }

    fn read<T: DeserializeOwned>(&self, name: &str, device: &Device) -> Result<Option<(Tensors, T)>> {
        let file = self.path.join(name);
        let Some((tensors, text)) = tensor_file::read(&file, device)? else { return Ok(None) };
        let text = serde_json::from_str(&text).map_err(|e| Error::data(&file, format!("is damaged: {e}")))?;
        Ok(Some((tensors, text)))
    }

    /// The text of a checkpoint without its tensors.
    fn read_text<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>> {
        let file = self.path.join(name);
        let text = tensor_file::read_text(&file)?;
        let parsed = text.map(|text| serde_json::from_str(&text)).transpose();
        parsed.map_err(|e| Error::data(&file, format!("is damaged: {e}")))
    }

    fn write(&self, name: &str, tensors: &Tensors, text: &impl Serialize) -> Result<()> {
        let text = serde_json::to_string(text).map_err(Error::message)?;
        files::write(&self.path, name, &tensor_file::to_bytes(tensors, text)?)
    }
}

fn unit_file(index: usize) -> String {
    format!("unit-{:03}.safetensors", index + 1)
}
