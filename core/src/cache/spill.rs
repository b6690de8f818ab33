//! The file for values that do not fit into the memory budget.

use crate::error::{Error, Result};
use std::path::{Path, PathBuf};

#[cfg(not(unix))]
use seeking::PositionedFile;
#[cfg(unix)]
use unix::PositionedFile;

/// A file without a name, so that it disappears with its last handle, however the process ends.
///
/// It is read and written at explicit positions rather than memory-mapped. Then a full disk is an error
/// of the write (a mapped page would kill the process), and data that was read does not stay in memory.
#[derive(Debug)]
pub struct SpillFile {
    file: PositionedFile,
    folder: PathBuf,
    length: u64,
}

impl SpillFile {
    /// Makes a file in `folder`, which is created if it does not exist.
    pub fn create(folder: &Path) -> Result<Self> {
        std::fs::create_dir_all(folder).map_err(Error::io("create the cache folder", folder))?;
        let file = tempfile::tempfile_in(folder).map_err(Error::io("create a cache file in", folder))?;
        Ok(Self { file: PositionedFile::new(file), folder: folder.into(), length: 0 })
    }

    /// Appends bytes and returns their offset.
    pub fn append(&mut self, bytes: &[u8]) -> Result<u64> {
        let offset = self.length;
        self.file.write(offset, bytes).map_err(Error::io("write cached values to", &self.folder))?;
        self.length += bytes.len() as u64;
        Ok(offset)
    }

    /// Reads the bytes at `offset`. Several threads may read at once.
    pub fn read(&self, offset: u64, bytes: &mut [u8]) -> Result<()> {
        self.file.read(offset, bytes).map_err(Error::io("read cached values from", &self.folder))
    }
}

#[cfg(unix)]
mod unix {
    use std::fs::File;
    use std::io::Result;
    use std::os::unix::fs::FileExt;

    /// A file that reads and writes at a given offset with one system call.
    #[derive(Debug)]
    pub struct PositionedFile(File);

    impl PositionedFile {
        pub fn new(file: File) -> Self {
            Self(file)
        }

        pub fn write(&self, offset: u64, bytes: &[u8]) -> Result<()> {
            self.0.write_all_at(bytes, offset)
        }

        pub fn read(&self, offset: u64, bytes: &mut [u8]) -> Result<()> {
            self.0.read_exact_at(bytes, offset)
        }
    }
}

#[cfg(any(test, not(unix)))]
mod seeking {
    use std::fs::File;
    use std::io::{Read, Result, Seek, SeekFrom, Write};
    use std::sync::{Mutex, MutexGuard};

    /// A file that reads and writes at a given offset. This system has only one position per file, so a lock lets one
    /// thread at a time seek and read.
    #[derive(Debug)]
    pub struct PositionedFile(Mutex<File>);

    impl PositionedFile {
        pub fn new(file: File) -> Self {
            Self(Mutex::new(file))
        }

        fn at(&self, offset: u64) -> Result<MutexGuard<'_, File>> {
            let mut file = self.0.lock().unwrap_or_else(|e| e.into_inner());
            file.seek(SeekFrom::Start(offset))?;
            Ok(file)
        }

        pub fn write(&self, offset: u64, bytes: &[u8]) -> Result<()> {
            self.at(offset)?.write_all(bytes)
        }

        pub fn read(&self, offset: u64, bytes: &mut [u8]) -> Result<()> {
            self.at(offset)?.read_exact(bytes)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Threads read parts of a file that was written out of order.
    macro_rules! reads_what_was_written {
        ($file:ty) => {
            let file = <$file>::new(tempfile::tempfile().unwrap());
            let part = |i: u64| [i as u8; 64];
            for i in [3, 0, 2, 1] {
                file.write(i * 64, &part(i)).unwrap();
            }
            std::thread::scope(|scope| {
                for i in 0..4 {
                    let file = &file;
                    scope.spawn(move || {
                        for _ in 0..100 {
                            let mut bytes = [9; 64];
                            file.read(i * 64, &mut bytes).unwrap();
                            assert_eq!(bytes, part(i));
                        }
                    });
                }
            });
            assert!(file.read(4 * 64 - 1, &mut [0; 2]).is_err(), "past the end");
        };
    }

    #[test]
    #[cfg(unix)]
    fn unix_files_are_read_where_they_were_written() {
        reads_what_was_written!(unix::PositionedFile);
    }

    #[test]
    fn files_with_one_position_are_read_where_they_were_written() {
        reads_what_was_written!(seeking::PositionedFile);
    }
}
