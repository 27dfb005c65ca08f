//! Pages of mapped files that are gone: an error that names the file, instead of a death without a word.
//!
//! If a mapped file is shortened, or its disk fails, the system sends `SIGBUS` to the thread that reads a lost page. There
//! is no value to return to it, so the process must end. The handler writes which file it was and ends the process with
//! the given exit code.
//!
//! A handler may run at any point of any thread. It may not allocate, lock or free. So the mapped ranges are in a list
//! that only grows: entries of dropped maps are used again, and none is ever freed. The handler reads atomic values and
//! makes the system calls `write`, `_exit` and `sigaction`.

use std::ffi::{c_int, c_void};
use std::io;
use std::mem::MaybeUninit;
use std::ops::Range;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU8, AtomicUsize, Ordering};

/// Bytes of a path that an entry keeps: the last ones, which include the file's name.
const PATH_BYTES: usize = 512;

/// One mapped range, and the next entry of the list.
struct Entry {
    taken: AtomicBool,
    /// Address of the first byte; 0 if no map uses this entry.
    start: AtomicUsize,
    /// Address behind the last byte.
    end: AtomicUsize,
    path: [AtomicU8; PATH_BYTES],
    path_bytes: AtomicUsize,
    next: OnceLock<&'static Entry>,
}

/// The first entry, which no map uses.
static LIST: Entry = Entry::new(true);

/// Exit code of a process that lost pages.
static EXIT_CODE: AtomicI32 = AtomicI32::new(1);

/// The action for `SIGBUS` before this module's.
static EARLIER: OnceLock<libc::sigaction> = OnceLock::new();

impl Entry {
    const fn new(taken: bool) -> Self {
        Self {
            taken: AtomicBool::new(taken),
            start: AtomicUsize::new(0),
            end: AtomicUsize::new(0),
            path: [const { AtomicU8::new(0) }; PATH_BYTES],
            path_bytes: AtomicUsize::new(0),
            next: OnceLock::new(),
        }
    }

    /// An entry that no map uses.
    fn take() -> &'static Self {
        let mut entry = &LIST;
        loop {
            if !entry.taken.swap(true, Ordering::AcqRel) {
                return entry;
            }
            entry = match entry.next.get() {
                Some(next) => next,
                // Another thread may add its entry first; the loop then looks at that one.
                None => entry.next.get_or_init(|| Box::leak(Box::new(Self::new(false)))),
            };
        }
    }
}

/// A mapped range in the list; it leaves the list when it is dropped, which must be before the memory is unmapped.
#[derive(Debug)]
pub(crate) struct MappedRange(&'static Entry);

impl std::fmt::Debug for Entry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:#x}..{:#x}", self.start.load(Ordering::Relaxed), self.end.load(Ordering::Relaxed))
    }
}

impl MappedRange {
    /// Adds the memory of the map of the file at `path`.
    pub(crate) fn new(memory: &[u8], path: &Path) -> Self {
        let entry = Entry::take();
        let bytes = path.as_os_str().as_bytes();
        let kept = &bytes[bytes.len().saturating_sub(PATH_BYTES)..];
        entry.path.iter().zip(kept).for_each(|(to, &byte)| to.store(byte, Ordering::Relaxed));
        entry.path_bytes.store(kept.len(), Ordering::Relaxed);
        let Range { start, end } = memory.as_ptr_range();
        entry.end.store(end.addr(), Ordering::Relaxed);
        entry.start.store(start.addr(), Ordering::Release);
        Self(entry)
    }
}

impl Drop for MappedRange {
    fn drop(&mut self) {
        self.0.start.store(0, Ordering::Release);
        self.0.taken.store(false, Ordering::Release);
    }
}

/// The entry of the map that holds `address`.
fn find(address: usize) -> Option<&'static Entry> {
    let mut entry = Some(&LIST);
    while let Some(current) = entry {
        let start = current.start.load(Ordering::Acquire);
        if start != 0 && (start..current.end.load(Ordering::Relaxed)).contains(&address) {
            return Some(current);
        }
        entry = current.next.get().copied();
    }
    None
}

/// From now on, a process that reads a lost page of a mapped file names the file on standard error and ends with the exit
/// code `code`.
///
/// # Errors
/// The system's error, if the handler cannot be installed.
#[expect(unsafe_code, reason = "installing a signal handler is a call of the C library")]
pub fn exit_on_lost_pages(code: i32) -> io::Result<()> {
    EXIT_CODE.store(code, Ordering::Relaxed);
    let mut earlier = MaybeUninit::<libc::sigaction>::zeroed();
    let handler: extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void) = on_bus_error;
    // SAFETY: `sigaction` consists of integers and function pointers that may be zero, so the zeroed values are valid. The
    // handler has the signature that SA_SIGINFO asks for, and calls only what a handler may call.
    let earlier = unsafe {
        let mut action = MaybeUninit::<libc::sigaction>::zeroed().assume_init();
        action.sa_sigaction = handler as libc::sighandler_t;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
        if libc::sigaction(libc::SIGBUS, &raw const action, earlier.as_mut_ptr()) != 0 {
            return Err(io::Error::last_os_error());
        }
        earlier.assume_init()
    };
    // If it was called before, the first value is the one that is not this module's.
    let _ = EARLIER.set(earlier);
    Ok(())
}

/// Ends the process if a map lost the page; otherwise leaves the signal to the earlier action.
#[expect(unsafe_code, reason = "the address, the exit and the earlier action are the C library's")]
extern "C" fn on_bus_error(_signal: c_int, info: *mut libc::siginfo_t, _context: *mut c_void) {
    // SAFETY: the system passes a valid structure to a handler installed with SA_SIGINFO, and SIGBUS has an address.
    let address = unsafe { (*info).si_addr() }.addr();
    if let Some(entry) = find(address) {
        let mut path = [0_u8; PATH_BYTES];
        let length = entry.path_bytes.load(Ordering::Relaxed).min(PATH_BYTES);
        path.iter_mut().zip(&entry.path[..length]).for_each(|(to, byte)| *to = byte.load(Ordering::Relaxed));
        print(b"\nerror: ");
        print(&path[..length]);
        print(b" was shortened while it was in use, or its disk failed\nhint: keep artifacts as they are while a command reads them; restore the file, then resume or start again\n");
        // SAFETY: `_exit` may be called in a handler, and does not return.
        unsafe {
            libc::_exit(EXIT_CODE.load(Ordering::Relaxed));
        }
    }
    if let Some(earlier) = EARLIER.get() {
        // SAFETY: the action is the one that the system returned. When the handler returns, the instruction runs again and
        // the earlier action takes the signal.
        unsafe {
            libc::sigaction(libc::SIGBUS, ptr::from_ref(earlier), ptr::null_mut());
        }
    }
}

/// Writes to standard error. Nothing can be done about an error.
#[expect(unsafe_code, reason = "only the C library's call may be made in a handler")]
fn print(bytes: &[u8]) {
    // SAFETY: the pointer and the length are those of a slice.
    let _ = unsafe { libc::write(libc::STDERR_FILENO, bytes.as_ptr().cast(), bytes.len()) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_found_while_its_range_is_mapped_and_entries_are_used_again() {
        let memory = vec![0_u8; 3 * 65_536];
        let (a, b) = memory.split_at(65_536);
        let address = |bytes: &[u8]| bytes.as_ptr().addr() + 5;
        let first = MappedRange::new(a, Path::new("first"));
        let second = MappedRange::new(&b[65_536..], Path::new("second"));
        let name = |at: usize| {
            let entry = find(at)?;
            let length = entry.path_bytes.load(Ordering::Relaxed);
            let bytes = entry.path[..length].iter().map(|byte| byte.load(Ordering::Relaxed)).collect();
            String::from_utf8(bytes).ok()
        };
        assert_eq!(name(address(a)).as_deref(), Some("first"));
        assert_eq!(name(address(&b[65_536..])).as_deref(), Some("second"));
        let entry = ptr::from_ref(first.0);
        drop(first);
        assert_eq!(name(address(a)), None);
        let long = "x".repeat(600) + "/views-00000.parquet";
        let again = MappedRange::new(a, Path::new(&long));
        assert!(name(address(a)).unwrap().ends_with("/views-00000.parquet"));
        // Other tests map files at the same time and may have taken the free entry.
        assert!(ptr::eq(entry, again.0) || name(address(a)).is_some());
        drop((second, again));
        assert_eq!(name(address(a)), None);
    }
}
