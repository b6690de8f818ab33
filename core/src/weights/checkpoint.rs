//! A checkpoint whose tensors can be looked at before any of them is copied.

use super::entries::{plain, Entry};
use super::foreign::Form;
use super::raw::{Order, RawDtype, RawTensor};
use super::value::TensorRef;
use super::RawTensors;
use std::collections::{HashMap, HashSet};
use std::ops::Range;

/// Where storages are.
pub(super) enum Place {
    /// In memory of their own, by key.
    Copies(HashMap<String, Vec<u8>>),
    /// Parts of a file, by key.
    Parts(Vec<u8>, HashMap<String, Range<usize>>),
}

/// A tensor that a checkpoint holds.
pub(super) enum Tensor {
    View(TensorRef),
    Whole(RawTensor),
}

impl Tensor {
    pub fn shape(&self) -> &[usize] {
        match self {
            Self::View(view) => &view.shape,
            Self::Whole(whole) => &whole.shape,
        }
    }
}

/// The tensors of a checkpoint.
pub(super) struct Checkpoint {
    pub entries: Vec<Entry<Tensor>>,
    /// How it was made.
    pub form: Form,
    place: Place,
    order: Order,
}

impl Checkpoint {
    pub fn of_pickle(entries: Vec<Entry<TensorRef>>, place: Place, order: Order) -> Self {
        let view = |e: Entry<TensorRef>| Entry {
            path: e.path,
            container: e.container,
            in_module: e.in_module,
            tensor: Tensor::View(e.tensor),
        };
        let modules = !entries.is_empty() && entries.iter().all(|e| e.in_module);
        let form = if modules { Form::Module } else { Form::Dictionary };
        Self { entries: entries.into_iter().map(view).collect(), form, place, order }
    }

    /// Tensors that are one dictionary.
    pub fn of_tensors(tensors: RawTensors) -> Self {
        let whole = |(path, tensor): (String, RawTensor)| Entry {
            path: plain(&path),
            container: 0,
            in_module: false,
            tensor: Tensor::Whole(tensor),
        };
        let entries = tensors.into_iter().map(whole).collect();
        Self { entries, form: Form::Dictionary, place: Place::Copies(HashMap::new()), order: Order::Little }
    }

    /// Copies a tensor.
    pub fn tensor(&self, entry: usize) -> Result<RawTensor, String> {
        match &self.entries[entry].tensor {
            Tensor::Whole(whole) => Ok(whole.clone()),
            Tensor::View(view) => {
                let storage = match &self.place {
                    Place::Copies(all) => all.get(&view.storage).map(Vec::as_slice),
                    Place::Parts(file, parts) => parts.get(&view.storage).and_then(|part| file.get(part.clone())),
                };
                let storage = storage.ok_or("has no storage; the file is truncated")?;
                RawTensor::from_strided(view.dtype, storage, self.order, view.offset, view.shape.clone(), &view.stride)
            }
        }
    }

    /// Copies all tensors, by their paths.
    pub fn into_tensors(self) -> Result<RawTensors, String> {
        if self.entries.is_empty() {
            return Err("the checkpoint holds no named tensors".into());
        }
        let named = |message: String, path: &str| format!("tensor '{path}' {message}");
        let mut tensors = RawTensors::new();
        for (i, entry) in self.entries.iter().enumerate() {
            let tensor = self.tensor(i).map_err(|e| named(e, &entry.path))?;
            tensors.insert(entry.path.clone(), tensor);
        }
        Ok(tensors)
    }

    /// Whether a tensor is a count and not a parameter: of batches or of averaged models, or of the operations that the
    /// package thop counts.
    pub fn is_counter(&self, entry: usize) -> bool {
        let Entry { path, tensor, .. } = &self.entries[entry];
        let dtype = match tensor {
            Tensor::View(view) => view.dtype,
            Tensor::Whole(whole) => whole.dtype,
        };
        let one = tensor.shape().iter().product::<usize>() == 1;
        let own = path.rsplit('.').next().unwrap_or_default();
        one && (matches!(dtype, RawDtype::Integer(_)) || own == "total_ops" || own == "total_params")
    }

    /// Whether two prefixes stand before the same tensors: a dictionary that is saved twice.
    pub fn same(&self, one: &str, other: &str) -> bool {
        let views = |prefix: &str| -> HashSet<(String, String, usize)> {
            let before = if prefix.is_empty() { String::new() } else { format!("{prefix}.") };
            let of = |e: &Entry<Tensor>| match &e.tensor {
                Tensor::View(v) => Some((e.path.strip_prefix(&before)?.to_string(), v.storage.clone(), v.offset)),
                Tensor::Whole(_) => None,
            };
            self.entries.iter().filter_map(of).collect()
        };
        let (one, other) = (views(one), views(other));
        !one.is_empty() && one == other
    }
}
