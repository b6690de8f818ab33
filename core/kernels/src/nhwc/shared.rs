//! A slice that several tasks write at different places.

use std::marker::PhantomData;

/// A mutable slice, shared by tasks that write disjoint parts of it.
#[derive(Clone, Copy)]
pub(crate) struct Shared<'a> {
    start: *mut f32,
    len: usize,
    slice: PhantomData<&'a mut [f32]>,
}

// SAFETY: the parts that are handed out are disjoint, as `part` requires.
unsafe impl Send for Shared<'_> {}
// SAFETY: as above.
unsafe impl Sync for Shared<'_> {}

impl<'a> Shared<'a> {
    pub fn new(slice: &'a mut [f32]) -> Self {
        Self { start: slice.as_mut_ptr(), len: slice.len(), slice: PhantomData }
    }

    /// The elements from `at` on.
    ///
    /// # Safety
    /// No two parts that overlap are in use at the same time.
    #[inline(always)]
    #[allow(clippy::mut_from_ref)]
    pub unsafe fn part(&self, at: usize, len: usize) -> &'a mut [f32] {
        assert!(at + len <= self.len, "part {at}..{} of {} elements", at + len, self.len);
        // SAFETY: inside the slice (checked above), and in use only here (promised by the caller).
        unsafe { std::slice::from_raw_parts_mut(self.start.add(at), len) }
    }
}
