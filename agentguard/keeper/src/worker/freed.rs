//! What was freed, and is still ours.
//!
//! The program's allocator is jemalloc ([`super::jemalloc`]); C libraries in it (TLS's, zstd) take from the C library's.

use std::ffi::c_int;
use std::ptr::null_mut;

use tikv_jemalloc_sys::mallctl;

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

#[cfg(test)]
pub(super) mod tests {
    use std::sync::{Mutex, PoisonError};

    /// As in the program.
    #[global_allocator]
    static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

    /// Only one of them takes much, or looks at what the process has, at a time.
    pub(in crate::worker) static LOOKS: Mutex<()> = Mutex::new(());

    /// Memory of this process that is no file's, in KiB.
    fn resident() -> usize {
        mapped("RssAnon:")
    }

    /// What it has mapped of such memory, in KiB (`/proc/self/status`).
    pub(in crate::worker) fn mapped(of: &str) -> usize {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find_map(|it| it.strip_prefix(of));
        let kib = line.unwrap().trim().strip_suffix(" kB").unwrap();
        kib.parse().unwrap()
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
