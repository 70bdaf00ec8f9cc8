//! What was freed, and is still ours.

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
    /// Memory of this process that is no file's, in KiB.
    fn resident() -> usize {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find_map(|it| it.strip_prefix("RssAnon:"));
        let kib = line.unwrap().trim().strip_suffix(" kB").unwrap();
        kib.parse().unwrap()
    }

    #[test]
    fn what_was_freed_between_pieces_in_use_is_given_back() {
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
