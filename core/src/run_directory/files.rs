//! Writes files atomically: a file that exists is complete.

use crate::error::{Error, Result};
use serde::de::DeserializeOwned;
use serde::Serialize;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

/// Suffix of files that are being written.
pub const PARTIAL: &str = ".partial";

/// Writes a file under a temporary name, syncs it, renames it and syncs the folder. It does not create the
/// folder: a folder that disappears during a run is an error.
pub fn write(folder: &Path, name: &str, content: &[u8]) -> Result<()> {
    write_file(&folder.join(name), content)
}

/// Checks that [`write_file`] can write the file, before long work whose result it shall be. Nothing is changed.
///
/// # Errors
/// The file cannot be written.
pub fn check_writable(target: &Path) -> Result<()> {
    let checked = match place_of(target)? {
        // Opening a pipe would wait for its reader, and its reader would see the end.
        Place::Stream(_) => Ok(()),
        Place::File(file) => {
            let partial = partial(&file);
            File::create(&partial).and_then(|_| std::fs::remove_file(&partial))
        }
    };
    checked.map_err(Error::io("write", target))
}

/// What [`write_file`] would write for this name, after links, also those that lead to nothing yet.
///
/// # Errors
/// It is a folder, or a link cannot be followed.
pub fn destination(target: &Path) -> Result<PathBuf> {
    let (Place::File(path) | Place::Stream(path)) = place_of(target)?;
    Ok(path)
}

/// The name under which [`write_file`] writes a file before it is whole.
pub fn partial(target: &Path) -> PathBuf {
    let mut partial = target.as_os_str().to_os_string();
    partial.push(PARTIAL);
    PathBuf::from(partial)
}

/// What a name stands for, after links.
enum Place {
    /// A file, which may not exist yet.
    File(PathBuf),
    /// A device, a pipe or a socket.
    Stream(PathBuf),
}

/// Follows links, so that what they point to is written and they stay links.
fn place_of(target: &Path) -> Result<Place> {
    let io = Error::io("write", target);
    match std::fs::metadata(target) {
        Ok(found) if found.is_dir() => Err(Error::data(target, "is a folder; give the name of a file")),
        Ok(found) if found.is_file() => std::fs::canonicalize(target).map(Place::File).map_err(io),
        Ok(_) => Ok(Place::Stream(target.into())),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => match std::fs::read_link(target) {
            Ok(next) => place_of(&folder_of(target).join(next)),
            Err(_) => Ok(Place::File(target.into())),
        },
        Err(e) => Err(io(e)),
    }
}

fn folder_of(file: &Path) -> &Path {
    file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Reads a file that [`write_json`] wrote; `None` if it does not exist.
///
/// # Errors
/// The file cannot be read or is damaged.
pub fn read_json<T: DeserializeOwned>(file: &Path) -> Result<Option<T>> {
    match std::fs::read(file) {
        Ok(bytes) => {
            serde_json::from_slice(&bytes).map(Some).map_err(|e| Error::data(file, format!("is damaged: {e}")))
        }
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(Error::io("read", file)(e)),
    }
}

/// Writes a value as JSON, as [`write_file`] does.
///
/// # Errors
/// The file cannot be written.
pub fn write_json(target: &Path, value: &impl Serialize) -> Result<()> {
    let text = serde_json::to_string_pretty(value).map_err(Error::message)?;
    write_file(target, text.as_bytes())
}

/// Writes a file atomically: under a temporary name beside it, which is synced and renamed. It replaces an older file, and
/// does not create the folder. Of a link, what it points to is written. What is no file but a device or a pipe gets the content and
/// stays what it is.
///
/// # Errors
/// The file cannot be written.
pub fn write_file(target: &Path, content: &[u8]) -> Result<()> {
    let file = match place_of(target)? {
        Place::File(file) => file,
        Place::Stream(stream) => {
            let opened = File::options().write(true).open(&stream);
            return opened.and_then(|mut stream| stream.write_all(content)).map_err(Error::io("write", target));
        }
    };
    let partial = partial(&file);
    let written = File::create(&partial).and_then(|mut partial| {
        partial.write_all(content)?;
        partial.sync_all()
    });
    if let Err(cause) = written.and_then(|()| std::fs::rename(&partial, &file)) {
        // Frees space on a full disk. If this fails too, the first error is still the one to report.
        let _ = std::fs::remove_file(&partial);
        return Err(Error::io("write", target)(cause));
    }
    // Only Unix can open a folder to sync it.
    if cfg!(unix) {
        let folder = folder_of(&file);
        File::open(folder).and_then(|folder| folder.sync_all()).map_err(Error::io("sync", folder))?;
    }
    Ok(())
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;
    use std::os::unix::fs::{symlink, FileTypeExt};
    use std::process::Command;

    #[test]
    fn links_and_pipes_stay_what_they_are() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        std::fs::create_dir(at("other")).unwrap();
        // To a file, to a link, and to what does not exist yet; relative ones start from the link's folder.
        std::fs::write(at("other/file"), "old").unwrap();
        symlink("other/file", at("link")).unwrap();
        symlink(at("link"), at("other/second")).unwrap();
        symlink("other/new", at("dangling")).unwrap();
        for (name, file) in [("link", "other/file"), ("other/second", "other/file"), ("dangling", "other/new")] {
            check_writable(&at(name)).unwrap();
            write_file(&at(name), name.as_bytes()).unwrap();
            assert_eq!(std::fs::read_to_string(at(file)).unwrap(), name);
            assert!(at(name).is_symlink() && !at(file).is_symlink());
        }
        symlink("circle", at("circle")).unwrap();
        for check in [check_writable(&at("circle")), write_file(&at("circle"), b"x")] {
            assert!(check.unwrap_err().to_string().starts_with("cannot write"), "a circle of links");
        }
        assert!(write_file(&at("other"), b"x").unwrap_err().to_string().contains("is a folder"));

        assert!(Command::new("mkfifo").arg(at("pipe")).status().unwrap().success());
        check_writable(&at("pipe")).unwrap();
        let pipe = at("pipe");
        let reader = std::thread::spawn(move || std::fs::read_to_string(pipe).unwrap());
        write_file(&at("pipe"), b"through the pipe").unwrap();
        assert_eq!(reader.join().unwrap(), "through the pipe");
        assert!(std::fs::symlink_metadata(at("pipe")).unwrap().file_type().is_fifo());
        let left: Vec<_> = std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert!(left.iter().all(|name| !name.to_string_lossy().ends_with(PARTIAL)), "{left:?}");
    }
}
