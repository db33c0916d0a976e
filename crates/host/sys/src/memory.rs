//! What a process holds of memory and does not use.

/// Gives memory that was freed back to the kernel. The allocator keeps it
/// otherwise, which for one process is nothing, and for a thousand small ones a
/// quarter of what they hold.
pub fn give_back() {
    // SAFETY: the call has no preconditions; it takes the allocator's own locks.
    unsafe {
        libc::malloc_trim(0);
    }
}
