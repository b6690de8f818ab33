//! Reads checkpoints and matches their tensors with a network's parameters.

mod calls;
mod checkpoint;
mod choice;
mod entries;
mod foreign;
mod key_map;
mod legacy;
mod pickle;
mod raw;
mod safetensors_file;
mod torch_zip;
mod value;

pub use key_map::KeyMap;
pub use raw::{RawDtype, RawTensor};

use crate::error::{Error, Result};
use candle_core::{Device, Tensor};
use checkpoint::Checkpoint;
use choice::Choice;
use std::collections::{BTreeMap, HashMap};
use std::path::Path;

/// The tensors of a checkpoint by name.
pub type RawTensors = BTreeMap<String, RawTensor>;

/// Reads all tensors of a checkpoint: safetensors (one file, or the index of several), or PyTorch's `.pth` as zip archive
/// or legacy pickle. The content decides the format, not the file's name. A tensor in nested dictionaries has their keys
/// before its name.
///
/// # Errors
/// The file cannot be read, is truncated, or has another format, which the message names if it is known.
pub fn read(file: &Path) -> Result<RawTensors> {
    open(file)?.into_tensors().map_err(|message| Error::weights(file, message))
}

fn open(file: &Path) -> Result<Checkpoint> {
    let bytes = std::fs::read(file).map_err(Error::io("read", file))?;
    let checkpoint = if bytes.starts_with(b"PK\x03\x04") {
        torch_zip::read(file, &bytes)
    } else if legacy::recognizes(&bytes) {
        legacy::read(bytes)
    } else if safetensors_file::recognizes(&bytes) {
        safetensors_file::read(&bytes).map(Checkpoint::of_tensors)
    } else if let Some(text) = safetensors_file::recognizes_index(&bytes) {
        return safetensors_file::read_index(file, text).map(Checkpoint::of_tensors);
    } else if foreign::is_onnx(&bytes) {
        Err(foreign::onnx(file))
    } else {
        Err("neither safetensors nor a PyTorch checkpoint; was the download complete?".into())
    };
    checkpoint.map_err(|message| Error::weights(file, message))
}

/// Parameters of a network that were found in a checkpoint.
#[derive(Debug)]
pub struct Loaded {
    /// The parameters by their canonical names.
    pub parameters: HashMap<String, Tensor>,
    /// The keys and wrappers that lead to them in the checkpoint, joined by dots; empty if there are none.
    pub taken: String,
    /// Other places with different tensors of the same names and shapes, such as the average of a training (EMA) or the
    /// weights that it averages.
    pub others: Vec<String>,
}

/// Loads parameters of these names and shapes, such as [those of a graph](crate::graph::Graph::parameter_shapes), from a
/// checkpoint, as f32 on `device`. They may lie under any keys and wrappers, and
/// have the canonical names or those of a key map: the place that fits the network best is used. Of equal ones, an
/// average (EMA) goes first. `key` restricts the search to one place; the empty key is the checkpoint itself.
///
/// # Errors
/// Tensors are missing, unexpected, of the wrong shape, not floating point or not finite, a variance is negative, or
/// nothing lies under `key`; the message lists them.
pub fn load(
    file: &Path,
    wanted: &[(String, Vec<usize>)],
    key_maps: &[KeyMap],
    key: Option<&str>,
    device: &Device,
) -> Result<Loaded> {
    let checkpoint = open(file)?;
    let maps: Vec<KeyMap> = std::iter::once(KeyMap::identity()).chain(key_maps.iter().cloned()).collect();
    let choose =
        |allowed: &dyn Fn(&str) -> bool| choice::choose(&checkpoint.entries, |t| t.shape(), wanted, &maps, allowed);
    let key = key.map(|key| entries::plain(key.trim_end_matches('.')));
    let chosen = match key.as_deref() {
        None => choose(&|_| true),
        Some("") => choose(&str::is_empty),
        Some(key) => {
            let before = format!("{key}.");
            if !checkpoint.entries.iter().any(|e| e.path.starts_with(&before)) {
                let Choice { prefix, others, .. } = choose(&|_| true);
                let known: Vec<String> = std::iter::once(prefix).chain(others).map(shown).collect();
                let message =
                    format!("no tensors lie under '{key}'; this network's tensors lie under: {}", shortened(&known));
                return Err(Error::weights(file, message));
            }
            choose(&|prefix| prefix.starts_with(&before))
        }
    };
    let others: Vec<String> =
        chosen.others.iter().filter(|other| !checkpoint.same(&chosen.prefix, other)).cloned().collect();
    let mut problems = Problems::default();
    let mut parameters = HashMap::new();
    for ((name, shape), (own, entry)) in wanted.iter().zip(&chosen.found) {
        let Some(entry) = *entry else {
            problems.missing.push(own.clone());
            continue;
        };
        let found = checkpoint.entries[entry].tensor.shape();
        if found != *shape {
            problems.misshapen.push(format!("{own} has {found:?}, the network needs {shape:?}"));
            continue;
        }
        match checkpoint.tensor(entry).and_then(|raw| raw.to_f32()).and_then(|values| usable(own, values)) {
            Ok(values) => drop(parameters.insert(name.clone(), Tensor::from_vec(values, shape.as_slice(), device)?)),
            Err(e) => problems.unusable.push(format!("{own} {e}")),
        }
    }
    let unexpected = chosen.unexpected.iter().filter(|e| !checkpoint.is_counter(**e));
    problems.unexpected = unexpected.map(|e| checkpoint.entries[*e].path.clone()).collect();
    let fitting = chosen.found.len() - problems.missing.len() - problems.misshapen.len();
    let form = checkpoint.form.hint(file).filter(|_| 2 * fitting < chosen.found.len());
    problems.check(file, &chosen.prefix, &others, form)?;
    Ok(Loaded { parameters, taken: chosen.prefix, others })
}

/// The values of the parameter `name`, if a network can compute with them.
///
/// # Errors
/// A value is not finite, or the parameter is a variance and a value is negative; the message says which one.
pub fn usable(name: &str, values: Vec<f32>) -> Result<Vec<f32>, String> {
    if let Some(i) = values.iter().position(|v| !v.is_finite()) {
        return Err(format!("holds {} at element {i}", values[i]));
    }
    let variance = name.ends_with("running_var");
    match values.iter().position(|v| variance && *v < 0.0) {
        Some(i) => Err(format!("is a variance, but holds {} at element {i}", values[i])),
        None => Ok(values),
    }
}

#[derive(Default)]
struct Problems {
    missing: Vec<String>,
    unexpected: Vec<String>,
    misshapen: Vec<String>,
    unusable: Vec<String>,
}

impl Problems {
    /// An error if there are any. The weights were looked for under `place`, and `others` fit too; `form` says what to do
    /// with a file of this form.
    fn check(&self, file: &Path, place: &str, others: &[String], form: Option<String>) -> Result<()> {
        let lists = [
            ("missing", &self.missing),
            ("unexpected", &self.unexpected),
            ("of another shape", &self.misshapen),
            ("unusable", &self.unusable),
        ];
        let text: Vec<String> = lists
            .iter()
            .filter(|(_, names)| !names.is_empty())
            .map(|(what, names)| format!("{} tensors {what}: {}", names.len(), shortened(names)))
            .collect();
        if text.is_empty() {
            return Ok(());
        }
        let place = if place.is_empty() { String::new() } else { format!("under '{place}', ") };
        let hint = if !others.is_empty() {
            let others: Vec<String> = others.iter().cloned().map(shown).collect();
            format!("`model.weights_key` can name another place that fits: {}", shortened(&others))
        } else if let Some(index) = index_of_part(file).filter(|_| !self.missing.is_empty()) {
            format!("the file is one of several parts; give their index, which is usually named {index}")
        } else {
            let hint = "check that the checkpoint belongs to this architecture and its parameters";
            form.map_or(hint.into(), |form| format!("{hint}; {form}"))
        };
        Err(Error::weights(file, format!("{place}{}; {hint}", text.join("; "))))
    }
}

/// A place in a checkpoint, for messages.
fn shown(place: String) -> String {
    if place.is_empty() {
        "no key ('')".into()
    } else {
        place
    }
}

/// The usual name of the index beside a part that is named as `model-00001-of-00002.safetensors`.
fn index_of_part(file: &Path) -> Option<String> {
    let (before, count) = file.file_stem()?.to_str()?.rsplit_once("-of-")?;
    let (name, number) = before.rsplit_once('-')?;
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    (digits(count) && digits(number)).then(|| format!("{name}.safetensors.index.json"))
}

fn shortened(names: &[String]) -> String {
    const SHOWN: usize = 12;
    let more = names.len().saturating_sub(SHOWN);
    let list = names.iter().take(SHOWN).cloned().collect::<Vec<_>>().join(", ");
    if more > 0 {
        format!("{list} and {more} more")
    } else {
        list
    }
}

#[cfg(test)]
mod tests;
