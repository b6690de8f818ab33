//! Loads plugins at run time.

use super::inspect::rebuild;
use super::loaded::{cannot_load, Loaded, LOADED};
use super::{PluginFile, Verdict, LIBRARY};
use crate::error::{Error, Result};
use crate::pipeline::declared;
use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW};
use std::ffi::{CStr, OsStr};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Copies of this crate in one process differ in the address of this variable.
#[no_mangle]
#[doc(hidden)]
pub static QDROP_CORE_IDENTITY: u8 = 0;

/// The shared library of the framework, if this process uses it. Without it plugins cannot be loaded.
pub fn shared_library() -> Option<PathBuf> {
    let mut info = std::mem::MaybeUninit::<libc::Dl_info>::zeroed();
    let address = std::ptr::from_ref(&QDROP_CORE_IDENTITY).cast();
    // SAFETY: `dladdr` accepts any address, and fills `info` where it returns nonzero.
    let file = unsafe {
        if libc::dladdr(address, info.as_mut_ptr()) == 0 {
            return None;
        }
        let name = info.assume_init().dli_fname;
        if name.is_null() {
            return None;
        }
        CStr::from_ptr(name)
    };
    let file = PathBuf::from(OsStr::from_bytes(file.to_bytes()));
    let is_library = file.file_name()?.to_str()?.contains(LIBRARY);
    is_library.then(|| std::fs::canonicalize(&file).unwrap_or(file))
}

/// Loads the plugin in a file, or all plugins in a folder. Plugins that are already loaded are not loaded again.
/// If a plugin in a folder cannot be loaded, `refused` gets the error and the others are still loaded.
///
/// # Errors
/// This program cannot load plugins, the file or folder cannot be read, or the plugin in the file
/// does not fit this program.
pub fn load(path: &Path, refused: &mut dyn FnMut(Error)) -> Result<Vec<Loaded>> {
    if shared_library().is_none() {
        return Err(cannot_load(path));
    }
    let path = &std::fs::canonicalize(path).map_err(Error::io("find plugin", path))?;
    if !path.is_dir() {
        return Ok(vec![load_file(path)?]);
    }
    let entries = std::fs::read_dir(path).map_err(Error::io("list plugins in", path))?;
    let mut files = Vec::new();
    for entry in entries {
        let file = entry.map_err(Error::io("list plugins in", path))?.path();
        if file.extension().is_some_and(|e| e == std::env::consts::DLL_EXTENSION) {
            files.push(file);
        }
    }
    if files.is_empty() {
        let message = format!("the folder holds no plugin (no .{} file)", std::env::consts::DLL_EXTENSION);
        return Err(Error::plugin(path, message));
    }
    files.sort();
    let mut plugins = Vec::new();
    for file in files {
        match load_file(&file) {
            Ok(plugin) => plugins.push(plugin),
            Err(error) => refused(error),
        }
    }
    Ok(plugins)
}

fn load_file(path: &Path) -> Result<Loaded> {
    let mut all = LOADED.lock().unwrap_or_else(|e| e.into_inner());
    if let Some(plugin) = all.iter().find(|p| p.path == path) {
        return Ok(plugin.clone());
    }
    let file = PluginFile::inspect(path)?;
    if let Verdict::Refused(reason) = file.verdict() {
        return Err(Error::plugin(path, reason));
    }
    let before = declared();
    // With two strategies of the same name, every later command would fail.
    if let Some(taken) =
        file.declarations.iter().find_map(|d| before.iter().find(|b| (&b.kind, &b.name) == (&d.kind, &d.name)))
    {
        let message = format!(
            "{} '{}' is registered twice, by {} and by this plugin; rename one of them",
            taken.kind, taken.name, taken.defined_in
        );
        return Err(Error::plugin(path, message));
    }
    // SAFETY: loading runs the plugin's initializers, which `register_*!` wrote. The stamp proved that the same
    // compiler built the file from the same framework.
    let library = unsafe { Library::open(Some(path), RTLD_NOW | RTLD_LOCAL) };
    let library = library.map_err(|e| Error::plugin(path, format!("cannot be loaded: {e}; {}", rebuild(path))))?;
    check_identity(&library, path)?;
    // Never unloaded, because registrations and values point into it.
    std::mem::forget(library);
    let after = declared();
    if let Some(missing) = file.declarations.iter().find(|d| !after.contains(d)) {
        let message = format!(
            "was loaded, but its {} '{}' did not appear in the registry; {}",
            missing.kind,
            missing.name,
            rebuild(path)
        );
        return Err(Error::plugin(path, message));
    }
    let plugin = Loaded { path: path.into(), declarations: file.declarations };
    all.push(plugin.clone());
    Ok(plugin)
}

/// Checks that the plugin uses this program's copy of the framework.
fn check_identity(library: &Library, path: &Path) -> Result<()> {
    // SAFETY: only the symbol's address is used.
    let theirs = unsafe { library.get::<*const u8>(b"QDROP_CORE_IDENTITY\0") };
    let theirs = theirs.map(|symbol| symbol.into_raw().cast_const().cast::<u8>()).ok();
    if theirs == Some(std::ptr::from_ref(&QDROP_CORE_IDENTITY)) {
        return Ok(());
    }
    let message = format!(
        "found another copy of qdrop-core than this program's: its tensors would not be the program's; {}",
        rebuild(path)
    );
    Err(Error::plugin(path, message))
}
