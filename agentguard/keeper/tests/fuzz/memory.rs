//! How much memory something takes: an allocator that counts, for the thread that asks.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

thread_local! {
    /// What this thread holds, and the most that it held, in bytes since [`most`] began.
    static HELD: Cell<(usize, usize)> = const { Cell::new((0, 0)) };
}

/// The most memory that this held at once, in bytes, and what it gave.
pub(crate) fn most<T>(act: impl FnOnce() -> T) -> (usize, T) {
    HELD.set((0, 0));
    let value = act();
    (HELD.get().1, value)
}

fn took(bytes: usize) {
    // A thread that ends has no counter any more.
    let _ = HELD.try_with(|held| {
        let (now, most) = held.get();
        let now = now.saturating_add(bytes);
        held.set((now, most.max(now)));
    });
}

fn gave(bytes: usize) {
    // What was taken before counts as nothing.
    let _ = HELD.try_with(|held| {
        let (now, most) = held.get();
        held.set((now.saturating_sub(bytes), most));
    });
}

// SAFETY: every call is the system allocator's; the counters are plain numbers of the thread and allocate
// nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        took(layout.size());
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        took(layout.size());
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        gave(layout.size());
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // Old and new may be there at once.
        took(size);
        // SAFETY: as above.
        let moved = unsafe { System.realloc(pointer, layout, size) };
        gave(layout.size());
        moved
    }
}
