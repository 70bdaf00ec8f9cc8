//! How the program's allocator is set.
//!
//! jemalloc keeps pieces of one size beside each other: what thousands of connections gave up is whole pages there, and can be
//! given back.

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
    use std::sync::PoisonError;

    use tikv_jemalloc_sys::extent_hooks_t;

    use crate::worker::freed::tests::LOOKS;

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
}
