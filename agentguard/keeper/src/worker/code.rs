//! The program's own code, as far as it is mapped.

use std::ffi::{c_int, c_void};
use std::ops::Range;

use libc::{PF_W, PF_X, PT_LOAD, dl_phdr_info};
use rustix::mm::{Advice, madvise};
use rustix::param::page_size;

/// Has the kernel map the program's code anew, as it is used. A start runs much that nothing runs again, and with each page of
/// it the kernel maps its neighbours: that stays, in keeper and worker, for as long as they live. What is in the page cache
/// stays there; a page that is used again is mapped again, which takes less than a microsecond.
///
/// Breakpoints that were set until then are gone with the pages that have them.
pub fn unmap_code() {
    for pages in code() {
        // SAFETY: whole pages of a file's mapping that nobody writes to: they are read from the file again.
        let told = unsafe {
            madvise(
                pages.start as *mut c_void,
                pages.len(),
                Advice::LinuxDontNeed,
            )
        };
        debug_assert_eq!(told, Ok(()), "the program's own code");
    }
}

/// Where it is, in whole pages.
fn code() -> Vec<Range<usize>> {
    let mut found: Vec<Range<usize>> = Vec::new();
    // SAFETY: `look` is called before this returns, with a description of each object and with the pointer that is given here.
    unsafe { libc::dl_iterate_phdr(Some(look), (&raw mut found).cast()) };
    found
}

/// Looks at the first object, which is the program (dl_iterate_phdr(3)).
unsafe extern "C" fn look(object: *mut dl_phdr_info, _: usize, found: *mut c_void) -> c_int {
    // SAFETY: the C library's own description, and as many headers as it says; `found` is what `code` gave.
    let (base, headers, found) = unsafe {
        let object = &*object;
        let headers = std::slice::from_raw_parts(object.dlpi_phdr, object.dlpi_phnum.into());
        (
            object.dlpi_addr,
            headers,
            &mut *found.cast::<Vec<Range<usize>>>(),
        )
    };
    let page = page_size();
    for header in headers {
        // What can be written to as well would not be what is in the file.
        if header.p_type == PT_LOAD && header.p_flags & (PF_X | PF_W) == PF_X {
            let start = base.wrapping_add(header.p_vaddr);
            let ends = [start, start.wrapping_add(header.p_memsz)].map(usize::try_from);
            // Addresses of this process are of its width.
            let [Ok(start), Ok(end)] = ends else {
                continue;
            };
            let pages = start.next_multiple_of(page)..end / page * page;
            found.push(pages);
        }
    }
    1
}

#[cfg(test)]
mod tests {
    use std::sync::PoisonError;

    use crate::worker::freed::{self, tests::LOOKS};

    /// Pages of files that this process has mapped, in KiB.
    fn mapped() -> usize {
        freed::tests::mapped("RssFile:")
    }

    #[test]
    fn code_that_was_used_is_unmapped_and_runs_again() {
        let _looks = LOOKS.lock().unwrap_or_else(PoisonError::into_inner);
        let code = super::code();
        let [pages] = code.as_slice() else {
            panic!("{code:?}");
        };
        assert!(pages.contains(&(mapped as *const () as usize)));
        for page in pages.clone().step_by(4096) {
            // SAFETY: the program's own code.
            std::hint::black_box(unsafe { (page as *const u8).read_volatile() });
        }
        let (all, before) = (pages.len() / 1024, mapped());
        super::unmap_code();
        let after = mapped();
        // What runs is mapped again, with its neighbours.
        assert!(
            after + all / 2 < before,
            "{before} KiB, then {after}, of {all}"
        );
    }
}
