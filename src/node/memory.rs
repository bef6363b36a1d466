//! Memory that was freed goes back to the system. The allocator keeps it otherwise, in pieces between what still lives,
//! and a node that once held a million jobs would look that large for ever.

/// Asks the allocator to return what it can. Takes milliseconds on a large heap; for a background thread.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[allow(unsafe_code)] // The one call that the standard library does not offer.
pub(super) fn give_back() {
    extern "C" {
        fn malloc_trim(pad: usize) -> i32;
    }
    // SAFETY: glibc documents malloc_trim as safe to call from any thread at any time; it takes a plain number, touches
    // only free memory, and locks the arenas itself.
    let _ = unsafe { malloc_trim(0) };
}

/// Other allocators return memory by themselves.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub(super) fn give_back() {}
