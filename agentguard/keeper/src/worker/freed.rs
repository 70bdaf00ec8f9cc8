//! What was freed, and is still ours.

/// How large a piece of memory is that is given back as soon as it is freed, in bytes: glibc's own bound, which it moves
/// otherwise.
const LARGE: libc::c_int = 128 << 10;

/// How much that is free at the end of a heap stays there for what comes next, in bytes.
const SPARE: libc::c_int = 1 << 20;

/// Has the allocator give back what is large once it is freed. By itself glibc takes it from the first large piece that is
/// freed that more of that size will come, and keeps all up to that size in its heaps (mallopt(3), `M_MMAP_THRESHOLD`): 12
/// MB of what two processes took to start, and once needed.
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

/// Gives the kernel what the allocator keeps and nobody uses. glibc gives back by itself only what is free at the end of a
/// heap, and one piece in use behind thousands of connections that are gone holds all that they had: malloc_trim(3).
///
/// Looks through all that is free, which takes some 100 ms where that is a gigabyte: it blocks.
pub fn give_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it takes no pointer, may be called by any thread, and touches nothing that is in use.
    unsafe {
        libc::malloc_trim(0);
    }
}

#[cfg(test)]
#[cfg(target_env = "gnu")]
mod tests {
    /// Only one of them looks at the process at a time.
    static LOOKS: std::sync::Mutex<()> = std::sync::Mutex::new(());

    /// Memory of this process that is no file's, in KiB.
    fn resident() -> usize {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find_map(|it| it.strip_prefix("RssAnon:"));
        let kib = line.unwrap().trim().strip_suffix(" kB").unwrap();
        kib.parse().unwrap()
    }

    /// What stays of 30 MiB that were freed, in KiB, where something smaller lies behind them.
    fn stays() -> usize {
        // What is learnt from.
        drop(vec![1_u8; 30 << 20]);
        let before = resident();
        let large = vec![1_u8; 30 << 20];
        let behind = vec![1_u8; 100 << 10];
        drop(large);
        let after = resident();
        drop(behind);
        after.saturating_sub(before)
    }

    #[test]
    fn what_is_large_is_given_back_as_soon_as_it_is_freed() {
        let _looks = LOOKS.lock();
        let by_itself = stays();
        assert!(by_itself > 20 * 1024, "{by_itself} KiB");
        super::keep_little();
        let told = stays();
        assert!(told < 10 * 1024, "{told} KiB");
    }

    #[test]
    fn what_was_freed_between_pieces_in_use_is_given_back() {
        let _looks = LOOKS.lock();
        // 160 MiB, of which each 64th piece stays.
        let mut pieces: Vec<_> = (0..40_000).map(|_| Some(vec![1_u8; 4_096])).collect();
        for (place, piece) in pieces.iter_mut().enumerate() {
            if place % 64 != 0 {
                *piece = None;
            }
        }
        let before = resident();
        super::give_back();
        let after = resident();
        assert!(after + 100 * 1024 < before, "{before} KiB, then {after}");
        assert_eq!(pieces.iter().flatten().count(), 625);
    }
}
