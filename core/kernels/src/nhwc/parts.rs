//! A slice whose disjoint parts several tasks write.

use std::marker::PhantomData;
#[cfg(debug_assertions)]
use std::{collections::BTreeMap, sync::Mutex};

/// A mutable slice from which tasks take parts of their own, such as the rows of images.
///
/// No element lies in two parts: every part is taken once at most. Debug builds check this.
pub(crate) struct Parts<'a> {
    start: *mut f32,
    len: usize,
    slice: PhantomData<&'a mut [f32]>,
    /// Begin and end of the parts that were taken.
    #[cfg(debug_assertions)]
    taken: Mutex<BTreeMap<usize, usize>>,
}

// SAFETY: a part is a mutable slice that nobody else has, and may be used by any thread.
unsafe impl Send for Parts<'_> {}
// SAFETY: as above; taking a part changes nothing but the map of debug builds, which is locked.
unsafe impl Sync for Parts<'_> {}

impl<'a> Parts<'a> {
    pub fn new(slice: &'a mut [f32]) -> Self {
        Self {
            start: slice.as_mut_ptr(),
            len: slice.len(),
            slice: PhantomData,
            #[cfg(debug_assertions)]
            taken: Mutex::default(),
        }
    }

    /// Takes the `len` elements from `at` on.
    ///
    /// # Safety
    /// No element of this part is in any other part that was taken or will be.
    #[inline(always)]
    #[allow(clippy::mut_from_ref)]
    pub unsafe fn take(&self, at: usize, len: usize) -> &'a mut [f32] {
        assert!(at <= self.len && len <= self.len - at, "{len} elements from {at} on of {}", self.len);
        #[cfg(debug_assertions)]
        self.note(at, len);
        // SAFETY: inside the slice (checked above), which is borrowed mutably for 'a, and in no other part
        // (promised by the caller).
        unsafe { std::slice::from_raw_parts_mut(self.start.add(at), len) }
    }

    /// Notes a part, which must not overlap another.
    #[cfg(debug_assertions)]
    fn note(&self, at: usize, len: usize) {
        if len == 0 {
            return;
        }
        let mut taken = self.taken.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let before = taken.range(..at + len).next_back();
        assert!(before.is_none_or(|(_, end)| *end <= at), "{len} elements from {at} on were taken before");
        taken.insert(at, at + len);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_what_they_say() {
        let mut values = [0.0, 1.0, 2.0, 3.0, 4.0];
        let parts = Parts::new(&mut values);
        // SAFETY: two halves.
        let (a, b) = unsafe { (parts.take(0, 2), parts.take(2, 3)) };
        a[1] = 7.0;
        b[0] = 8.0;
        assert_eq!(values, [0.0, 7.0, 8.0, 3.0, 4.0]);
    }

    #[test]
    #[should_panic(expected = "2 elements from 4 on of 5")]
    fn a_part_lies_inside_of_its_slice() {
        // SAFETY: the only part.
        unsafe { Parts::new(&mut [0.0; 5]).take(4, 2) };
    }

    #[test]
    #[cfg(debug_assertions)]
    fn parts_that_overlap_are_found() {
        for (at, len) in [(1, 1), (0, 2), (2, 2), (3, 1), (0, 5)] {
            let mut values = [0.0; 5];
            let parts = Parts::new(&mut values);
            // SAFETY: what overlaps panics before it is handed out.
            let overlap = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| unsafe {
                parts.take(1, 3);
                parts.take(at, len);
            }));
            assert!(overlap.is_err(), "{at} {len}");
            // SAFETY: as above.
            unsafe { (parts.take(4, 1), parts.take(0, 1), parts.take(2, 0)) };
        }
    }
}
