//! What was freed, and is still ours.
//!
//! The program's allocator is jemalloc, which keeps pieces of one size beside each other: what thousands of connections gave up
//! is whole pages there, and can be given back. C libraries in it (TLS's, zstd) take from the C library's.

use std::ffi::{CStr, CString, c_int, c_uint, c_void};
use std::io;
use std::ptr::null_mut;
use std::sync::OnceLock;

use tikv_jemalloc_sys::{extent_hooks_t, mallctl};

/// How jemalloc is set, read before its first allocation (jemalloc(3), "TUNING"): what was freed goes back to the kernel within a
/// second, and by `MADV_DONTNEED`, so that whoever looks at the process sees what it has.
#[used]
#[unsafe(export_name = "_rjem_malloc_conf")]
static SET: &[u8; 37] = b"dirty_decay_ms:1000,muzzy_decay_ms:0\0";

/// Where jemalloc reads more of that, in the environment.
pub(super) const VARIABLE: &str = "_RJEM_MALLOC_CONF";

/// What it is to be told for a process that has so many processors: a few threads for each, that share what they take from.
pub(super) fn shared_by(processors: usize) -> String {
    format!("narenas:{}", processors.saturating_mul(2))
}

/// How large a piece of memory is that glibc gives back as soon as it is freed, in bytes: its own bound, which it moves
/// otherwise.
const LARGE: c_int = 128 << 10;

/// How much that is free at the end of a heap of glibc stays there for what comes next, in bytes.
const SPARE: c_int = 1 << 20;

/// Has the C library's allocator give back what is large once it is freed. By itself glibc takes it from the first large piece
/// that is freed that more of that size will come, and keeps all up to that size in its heaps (mallopt(3),
/// `M_MMAP_THRESHOLD`).
///
/// For the whole process, from then on.
pub fn keep_little() {
    #[cfg(target_env = "gnu")]
    for (parameter, bytes) in [
        (libc::M_MMAP_THRESHOLD, LARGE),
        (libc::M_TRIM_THRESHOLD, SPARE),
    ] {
        // SAFETY: two numbers, and it may be called by any thread. It only fails for parameters that it does not know.
        unsafe { libc::mallopt(parameter, bytes) };
    }
}

/// Gives the kernel what the allocators keep and nobody uses. By itself jemalloc does so only while somebody allocates or
/// frees, and glibc only at the end of a heap.
///
/// Looks through all that is free: it blocks.
pub fn give_back() {
    // SAFETY: the name ends with a zero, nothing is read and nothing written; it may be called by any thread
    // (jemalloc(3), "arena.<i>.purge", with MALLCTL_ARENAS_ALL).
    let failed = unsafe {
        mallctl(
            c"arena.4096.purge".as_ptr(),
            null_mut(),
            null_mut(),
            null_mut(),
            0,
        )
    };
    debug_assert_eq!(failed, 0, "jemalloc knows the name");
    #[cfg(target_env = "gnu")]
    // SAFETY: it takes no pointer, may be called by any thread, and touches nothing that is in use.
    unsafe {
        libc::malloc_trim(0);
    }
}

type Map = unsafe extern "C" fn(
    *mut extent_hooks_t,
    *mut c_void,
    usize,
    usize,
    *mut bool,
    *mut bool,
    c_uint,
) -> *mut c_void;

/// jemalloc's own way to map memory.
static MAP: OnceLock<Map> = OnceLock::new();

/// Has jemalloc keep the right to use what it has mapped. Where it cannot read `/proc/sys/vm/overcommit_memory`, as in a
/// worker, it takes that from itself when it gives pages back (`PROT_NONE`): a mapping of its own for each hole, of which a
/// process may have 65,530 (`vm.max_map_count`), and a system call for each new use.
///
/// For the whole process, before it has other threads; but for pieces of 8 MiB and more, which have mappings of their own.
/// Where the host does not overcommit (`vm.overcommit_memory=2`), what is free stays accounted to the worker.
///
/// # Errors
/// jemalloc does not take it.
pub fn keep_mapped() -> io::Result<()> {
    let arenas: c_uint = read(c"opt.narenas", 0)?;
    let own: *mut extent_hooks_t = read(c"arena.0.extent_hooks", null_mut())?;
    // SAFETY: they are jemalloc's own, which nobody changes.
    let own = unsafe { *own };
    let Some(map) = own.alloc else {
        return Err(io::ErrorKind::Unsupported.into());
    };
    // Once for all: told again, it would call itself.
    if MAP.set(map).is_err() {
        return Ok(());
    }
    let hooks: *mut extent_hooks_t = Box::leak(Box::new(extent_hooks_t {
        alloc: Some(map_usable),
        decommit: None,
        ..own
    }));
    for arena in 0..arenas {
        let name = CString::new(format!("arena.{arena}.extent_hooks"))?;
        let mut hooks = hooks;
        let (new, length) = ((&raw mut hooks).cast(), size_of_val(&hooks));
        // SAFETY: the name ends with a zero, and what it takes is a pointer to hooks, which are never freed (jemalloc(3),
        // "arena.<i>.extent_hooks").
        done(unsafe { mallctl(name.as_ptr(), null_mut(), null_mut(), new, length) })?;
    }
    Ok(())
}

/// Maps memory that can be used at once.
unsafe extern "C" fn map_usable(
    hooks: *mut extent_hooks_t,
    at: *mut c_void,
    size: usize,
    alignment: usize,
    zero: *mut bool,
    commit: *mut bool,
    arena: c_uint,
) -> *mut c_void {
    let Some(map) = MAP.get() else {
        return null_mut();
    };
    // SAFETY: what jemalloc hands to this it would hand to its own, and `commit` points to what it wants and is told.
    unsafe {
        *commit = true;
        map(hooks, at, size, alignment, zero, commit, arena)
    }
}

/// A setting of jemalloc that is a `T`; whoever calls has looked that it is.
fn read<T>(name: &CStr, mut value: T) -> io::Result<T> {
    let mut length = size_of::<T>();
    let old = (&raw mut value).cast();
    // SAFETY: the name ends with a zero, and there is room for as much as is said; another length is an error.
    done(unsafe { mallctl(name.as_ptr(), old, &raw mut length, null_mut(), 0) })?;
    Ok(value)
}

fn done(failed: c_int) -> io::Result<()> {
    match failed {
        0 => Ok(()),
        error => Err(io::Error::from_raw_os_error(error)),
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::{CString, c_uint};
    use std::ptr::null_mut;
    use std::sync::{Mutex, PoisonError};

    use tikv_jemalloc_sys::extent_hooks_t;

    /// As in the program.
    #[global_allocator]
    static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

    /// Only one of them takes much, or looks at what the process has, at a time.
    static LOOKS: Mutex<()> = Mutex::new(());

    /// Memory of this process that is no file's, in KiB.
    fn resident() -> usize {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find_map(|it| it.strip_prefix("RssAnon:"));
        let kib = line.unwrap().trim().strip_suffix(" kB").unwrap();
        kib.parse().unwrap()
    }

    #[test]
    fn the_allocator_is_set_as_it_is_to_be() {
        assert_eq!(super::read(c"opt.dirty_decay_ms", 0_isize).unwrap(), 1000);
        assert_eq!(super::read(c"opt.muzzy_decay_ms", -1_isize).unwrap(), 0);
    }

    #[test]
    fn what_is_mapped_stays_usable() {
        let _looks = LOOKS.lock().unwrap_or_else(PoisonError::into_inner);
        super::keep_mapped().unwrap();
        super::keep_mapped().unwrap();
        let arenas: c_uint = super::read(c"opt.narenas", 0).unwrap();
        assert!(arenas > 0);
        for arena in 0..arenas {
            let name = CString::new(format!("arena.{arena}.extent_hooks")).unwrap();
            let hooks: *mut extent_hooks_t = super::read(&name, null_mut()).unwrap();
            // SAFETY: they are those that were set, and are never freed.
            let hooks = unsafe { *hooks };
            assert!(hooks.decommit.is_none() && hooks.purge_forced.is_some());
        }
        // SAFETY: as jemalloc calls it, for 4 MiB anywhere; what is mapped is used by nobody else.
        unsafe {
            let hooks = super::read(c"arena.0.extent_hooks", null_mut()).unwrap();
            let (mut zero, mut commit) = (false, false);
            let (size, aligned) = (4 << 20, 4096);
            let mapped = super::map_usable(
                hooks,
                null_mut(),
                size,
                aligned,
                &raw mut zero,
                &raw mut commit,
                0,
            );
            assert!(!mapped.is_null() && commit);
            mapped.cast::<u8>().write_bytes(1, size);
        }
        // Of threads with arenas of their own, more than any has mapped so far, in pieces that are no mappings of their own.
        let pieces = (0..8).map(|_| {
            std::thread::spawn(|| (0..20).map(|_| vec![1_u8; 2 << 20]).collect::<Vec<_>>())
        });
        let pieces: Vec<_> = pieces.collect();
        let pieces: Vec<_> = pieces.into_iter().map(|it| it.join().unwrap()).collect();
        assert!(pieces.iter().flatten().flatten().all(|byte| *byte == 1));
    }

    #[test]
    fn what_was_freed_between_pieces_in_use_is_given_back() {
        let _looks = LOOKS.lock().unwrap_or_else(PoisonError::into_inner);
        // 320 MiB, and a piece of another size behind each of theirs, which stays.
        let pieces = (0..40_000).map(|_| (vec![1_u8; 8_192], vec![1_u8; 512]));
        let (mut large, small): (Vec<_>, Vec<_>) = pieces.unzip();
        let before = resident();
        large.clear();
        super::give_back();
        let after = resident();
        assert!(after + 250 * 1024 < before, "{before} KiB, then {after}");
        assert_eq!(small.len(), 40_000);
    }

    #[test]
    #[cfg(target_env = "gnu")]
    fn what_the_c_library_freed_is_given_back() {
        let _looks = LOOKS.lock().unwrap_or_else(PoisonError::into_inner);
        /// What stays of 30 MiB that were freed, in KiB, where something smaller lies behind them.
        fn stays() -> usize {
            let piece = |bytes: usize| {
                // SAFETY: as many bytes are written as there are.
                unsafe {
                    let piece = libc::malloc(bytes);
                    libc::memset(piece, 1, bytes);
                    piece
                }
            };
            // SAFETY: each is freed once.
            unsafe {
                // What is learnt from.
                libc::free(piece(30 << 20));
                let before = resident();
                let (large, behind) = (piece(30 << 20), piece(100 << 10));
                libc::free(large);
                let after = resident();
                libc::free(behind);
                after.saturating_sub(before)
            }
        }
        let by_itself = stays();
        assert!(by_itself > 20 * 1024, "{by_itself} KiB");
        super::keep_little();
        let told = stays();
        assert!(told < 10 * 1024, "{told} KiB");
    }
}
