//! PyTorch's zip checkpoints (since 1.6).

use super::checkpoint::{Checkpoint, Place};
use super::entries::entries;
use super::foreign::{self, Form};
use super::pickle;
use super::raw::Order;
use std::collections::{BTreeMap, HashMap};
use std::io::{Cursor, Read};
use std::path::Path;

/// A pickle that unpacks to more than this multiple of the file is not read on.
const MOST: u64 = 64;

pub(super) fn read(file: &Path, bytes: &[u8]) -> Result<Checkpoint, String> {
    let damaged = |e: &dyn std::fmt::Display| format!("not a complete zip archive: {e}");
    let mut archive = zip::ZipArchive::new(Cursor::new(bytes)).map_err(|e| damaged(&e))?;
    let names = archive.file_names().map(|name| name.map(String::from));
    let names: Vec<String> = names.collect::<Result<_, _>>().map_err(|e| damaged(&e))?;
    let pickle = names.iter().find(|n| n.ends_with("/data.pkl") || *n == "data.pkl");
    let Some(pickle) = pickle else {
        let program = foreign::exported_program(names.iter().map(String::as_str), file);
        return Err(program.unwrap_or("a zip archive without data.pkl; not a PyTorch checkpoint".into()));
    };
    let folder = pickle[..pickle.len() - "data.pkl".len()].to_string();
    // Reads an entry up to a limit. The rest is unpacked without being kept, because the checksum is compared at the end.
    let mut entry = |name: &str, limit: u64| -> Result<Vec<u8>, String> {
        let failed = |e: &dyn std::fmt::Display| format!("entry '{name}': {e}");
        let mut content = Vec::new();
        let mut packed = archive.by_name(name).map_err(|e| failed(&e))?;
        packed.by_ref().take(limit).read_to_end(&mut content).map_err(|e| failed(&e))?;
        std::io::copy(&mut packed, &mut std::io::sink()).map_err(|e| failed(&e))?;
        Ok(content)
    };
    let pickle = pickle::read(&entry(pickle, MOST * bytes.len() as u64)?)?;
    let order_file = format!("{folder}byteorder");
    let order = match names.contains(&order_file) {
        true => Order::parse(&entry(&order_file, 16)?)?,
        false => Order::Little,
    };
    let tensors = entries(&pickle.values, pickle.root);
    // Only what tensors view is kept.
    let mut needed: BTreeMap<&str, u64> = BTreeMap::new();
    for found in &tensors {
        let most = needed.entry(&found.tensor.storage).or_default();
        *most = (*most).max(found.tensor.end());
    }
    let mut storages = HashMap::new();
    for (key, end) in needed {
        storages.insert(key.to_string(), entry(&format!("{folder}data/{key}"), end)?);
    }
    let mut checkpoint = Checkpoint::of_pickle(tensors, Place::Copies(storages), order);
    if names.contains(&format!("{folder}constants.pkl")) {
        checkpoint.form = Form::TorchScript;
    }
    Ok(checkpoint)
}
