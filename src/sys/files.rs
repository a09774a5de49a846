//! Opening files and FIFOs that a program may have replaced by something else.

use super::{check, set_nonblocking, set_pipe_size};
use std::ffi::CString;
use std::fs::{File, FileType, OpenOptions};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;

/// mkfifo(3), mode 0600. Fails on file systems without FIFOs (vfat, some network mounts).
pub fn mkfifo(path: &Path) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    check(unsafe { libc::mkfifo(path.as_ptr(), 0o600) }).map(drop)
}

/// Opens a regular file and nothing else: a program may put whatever it likes into the place of a file of ours, and opening
/// a FIFO waits for its other end, a link leads elsewhere, and a device does what devices do. Never waits; the error says
/// what is there.
pub fn open_regular(path: &Path, options: &OpenOptions) -> io::Result<File> {
    let opened = options.clone().custom_flags(libc::O_NONBLOCK | libc::O_NOFOLLOW).open(path);
    let kind = match &opened {
        Ok(file) => file.metadata()?.file_type(),
        // A file that cannot be opened for another reason, or none at all, says so itself.
        Err(_) => match path.symlink_metadata() {
            Ok(found) if !found.is_file() => found.file_type(),
            _ => return opened,
        },
    };
    if kind.is_file() { opened } else { Err(not_a("file", kind)) }
}

/// The same for reading.
pub fn read_regular(path: &Path) -> io::Result<File> {
    open_regular(path, OpenOptions::new().read(true))
}

/// Opens a regular file through whatever link leads to it (as those below /proc/PID/fd), and nothing else. Never waits.
pub fn read_linked(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    let kind = file.metadata()?.file_type();
    if kind.is_file() { Ok(file) } else { Err(not_a("file", kind)) }
}

/// `InvalidInput` with what was found instead of a `wanted`.
fn not_a(wanted: &str, found: FileType) -> io::Error {
    let what = match found {
        found if found.is_fifo() => "a FIFO",
        found if found.is_dir() => "a directory",
        found if found.is_symlink() => "a symbolic link",
        found if found.is_socket() => "a socket",
        found if found.is_file() => "a file",
        _ => "a device",
    };
    io::Error::new(io::ErrorKind::InvalidInput, format!("it is {what}, not a {wanted}"))
}

/// Opens a FIFO and nothing else; as [`open_regular`], for the same reason.
fn open_fifo(path: &Path, options: &mut OpenOptions) -> io::Result<File> {
    let file = options.custom_flags(libc::O_NONBLOCK | libc::O_NOFOLLOW).open(path);
    let kind = match &file {
        Ok(file) => file.metadata()?.file_type(),
        Err(_) => match path.symlink_metadata() {
            Ok(found) if !found.file_type().is_fifo() => found.file_type(),
            _ => return file,
        },
    };
    if kind.is_fifo() { file } else { Err(not_a("FIFO", kind)) }
}

/// Both ends of a FIFO in one descriptor, non-blocking: opening never waits, the writer gets no SIGPIPE, the reader no
/// end of file. Linux documents this (fifo(7)); POSIX leaves it undefined and macOS allows it.
pub fn open_fifo_both(path: &Path) -> io::Result<File> {
    let fifo = open_fifo(path, OpenOptions::new().read(true).write(true))?;
    shrink_pipe(&fifo);
    Ok(fifo)
}

/// The reading end. Opens at once even without a writer; reads then block, and end of file means "no writer is left".
pub fn open_fifo_reader(path: &Path) -> io::Result<File> {
    let fifo = open_fifo(path, OpenOptions::new().read(true))?;
    set_nonblocking(&fifo, false)?;
    Ok(fifo)
}

/// The writing end, non-blocking. `ENXIO`: no process has it open for reading.
pub fn open_fifo_writer(path: &Path) -> io::Result<File> {
    open_fifo(path, OpenOptions::new().write(true))
}

/// An ordinary user may hold 1024 pipes of default size (pipe(7), pipe-user-pages-soft); a FIFO that carries single
/// bytes needs one page. A refusal costs nothing.
fn shrink_pipe(fifo: &File) {
    let _ = set_pipe_size(fifo, 4096);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::ENXIO;

    #[test]
    fn only_a_regular_file_is_opened_and_nothing_is_waited_for() {
        let directory = tempfile::tempdir().unwrap();
        let dir = directory.path().to_path_buf();
        let [file, fifo, link] = ["file", "fifo", "link"].map(|name| dir.join(name));
        std::fs::write(&file, "text").unwrap();
        mkfifo(&fifo).unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        assert_eq!(io::read_to_string(read_regular(&file).unwrap()).unwrap(), "text");
        let writing = OpenOptions::new().write(true).create(true).truncate(true).clone();
        for (path, expected) in [
            (&fifo, "it is a FIFO, not a file"),
            (&link, "it is a symbolic link, not a file"),
            (&dir, "it is a directory, not a file"),
            (&"/dev/zero".into(), "it is a device, not a file"),
        ] {
            for opened in [read_regular(path), open_regular(path, &writing)] {
                assert_eq!(opened.unwrap_err().to_string(), expected);
            }
        }
        assert_eq!(read_regular(&dir.join("none")).unwrap_err().kind(), io::ErrorKind::NotFound);
        assert_eq!(std::fs::read(&file).unwrap(), b"text", "nothing was truncated by way of a link");
        assert_eq!(open_fifo_writer(&file).unwrap_err().to_string(), "it is a file, not a FIFO");
        assert_eq!(open_fifo_writer(&fifo).unwrap_err().raw_os_error(), Some(ENXIO));
        open_fifo_both(&fifo).unwrap();
    }
}
