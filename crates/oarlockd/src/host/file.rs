//! Files that are either the old one or the new one, whatever happens in between.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

/// Replaces a file as a whole and makes it durable: write beside it, sync, rename, sync the directory. After
/// a crash the file has either all of the old bytes or all of the new ones.
pub fn replace(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let directory = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?.to_owned();
    name.push(".new");
    let beside = directory.join(name);
    let write = || {
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(&beside)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        drop(file);
        std::fs::rename(&beside, path)
    };
    if let Err(e) = write() {
        // On a disk that is full it would take the room of what comes next. It may not be there at all.
        let _ = std::fs::remove_file(&beside);
        return Err(e);
    }
    // Without this the new name itself could be lost, and the old contents come back.
    File::open(directory)?.sync_all()
}

/// Creates a file that must not exist yet.
pub fn create_new(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// By what a file that was written, replaced or made readable for others since is told from what it was.
pub type Look = [u64; 5];

/// Looks at what is at a path, if anything is.
pub fn look(path: &Path) -> Option<Look> {
    let seen = std::fs::metadata(path).ok()?;
    Some([seen.dev(), seen.ino(), seen.size(), seen.ctime() as u64, seen.ctime_nsec() as u64])
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn replacing_leaves_one_file_with_the_new_bytes_and_mode() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state");
        replace(&path, b"one", 0o600).unwrap();
        replace(&path, b"two", 0o600).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"two");
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "nothing left beside it");
    }

    #[test]
    fn a_file_that_was_touched_looks_another_way() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        assert_eq!(look(&path), None);
        std::fs::write(&path, b"one").unwrap();
        let before = look(&path);
        assert!(before.is_some() && look(&path) == before);
        std::thread::sleep(std::time::Duration::from_millis(20));
        std::fs::write(&path, b"two").unwrap();
        assert_ne!(look(&path), before);
    }

    #[test]
    fn creating_never_overwrites() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        create_new(&path, b"one", 0o600).unwrap();
        assert_eq!(create_new(&path, b"two", 0o600).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(std::fs::read(&path).unwrap(), b"one");
    }
}
