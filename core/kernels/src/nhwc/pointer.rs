//! Pointers for the inner loops. They are plain pointers in release builds; debug builds check every access.
//!
//! Release builds check a row or a tile before its inner loops, which then read and write unchecked. Slices cannot
//! say what is written: the pixels of a row lie between elements that other tasks write.

use crate::simd::prefetch_to_write;
use pulp::Simd;
use std::marker::PhantomData;

/// The addresses that may be accessed, in debug builds.
#[derive(Debug, Clone, Copy)]
struct Bounds {
    #[cfg(debug_assertions)]
    addresses: [usize; 2],
}

impl Bounds {
    #[inline(always)]
    #[cfg_attr(not(debug_assertions), allow(unused_variables))]
    fn new(start: *const f32, len: usize) -> Self {
        Self {
            #[cfg(debug_assertions)]
            addresses: [start as usize, start as usize + len * size_of::<f32>()],
        }
    }

    /// Panics in a debug build unless `count` elements from `at` on may be accessed.
    #[inline(always)]
    #[cfg_attr(not(debug_assertions), allow(unused_variables))]
    fn check(self, at: *const f32, count: usize) {
        #[cfg(debug_assertions)]
        {
            let [start, end] = self.addresses.map(|address| address as isize);
            let inside = at as isize >= start && at as isize + (count * size_of::<f32>()) as isize <= end;
            let place = (at as isize - start) / size_of::<f32>() as isize;
            let len = (end - start) / size_of::<f32>() as isize;
            assert!(inside, "{count} elements from {place} on of {len} that may be accessed");
        }
    }
}

/// A place in a slice that is read. It may be moved anywhere; what is read must lie in the slice.
#[derive(Debug, Clone, Copy)]
pub(super) struct ReadPointer<'a> {
    at: *const f32,
    bounds: Bounds,
    slice: PhantomData<&'a [f32]>,
}

impl<'a> ReadPointer<'a> {
    /// Element `at` of a slice.
    #[inline(always)]
    pub fn new(values: &'a [f32], at: usize) -> Self {
        let start = values.as_ptr();
        Self { at: start.wrapping_add(at), bounds: Bounds::new(start, values.len()), slice: PhantomData }
    }

    /// So many elements farther on.
    #[inline(always)]
    pub fn add(self, elements: usize) -> Self {
        Self { at: self.at.wrapping_add(elements), ..self }
    }

    /// So many elements farther on or back.
    #[inline(always)]
    pub fn offset(self, elements: isize) -> Self {
        Self { at: self.at.wrapping_offset(elements), ..self }
    }

    /// The element here.
    ///
    /// # Safety
    /// It lies in the slice.
    #[inline(always)]
    pub unsafe fn value(self) -> f32 {
        self.bounds.check(self.at, 1);
        // SAFETY: promised by the caller.
        unsafe { *self.at }
    }

    /// The whole vector from here on.
    ///
    /// # Safety
    /// It lies in the slice.
    #[inline(always)]
    pub unsafe fn vector<S: Simd>(self, _: S) -> S::f32s {
        self.bounds.check(self.at, S::F32_LANES);
        // SAFETY: promised by the caller.
        unsafe { self.at.cast::<S::f32s>().read_unaligned() }
    }

    /// The first `lanes` elements of the vector from here on; the others are zero.
    ///
    /// # Safety
    /// So many elements lie in the slice, or a whole vector.
    #[inline(always)]
    pub unsafe fn lanes<S: Simd>(self, simd: S, lanes: usize) -> S::f32s {
        if lanes >= S::F32_LANES {
            // SAFETY: promised by the caller.
            unsafe { self.vector(simd) }
        } else {
            self.bounds.check(self.at, lanes);
            // SAFETY: promised by the caller.
            simd.partial_load_f32s(unsafe { std::slice::from_raw_parts(self.at, lanes) })
        }
    }
}

/// A mutable slice that several tasks write, each at places of its own that may lie between those of others.
///
/// No element is written by one task and accessed by another while this exists.
#[derive(Debug, Clone, Copy)]
pub(super) struct Interleaved<'a> {
    start: *mut f32,
    len: usize,
    slice: PhantomData<&'a mut [f32]>,
}

// SAFETY: a pointer that is used as `WritePointer` requires, by any thread.
unsafe impl Send for Interleaved<'_> {}
// SAFETY: as above.
unsafe impl Sync for Interleaved<'_> {}

impl<'a> Interleaved<'a> {
    pub fn new(slice: &'a mut [f32]) -> Self {
        Self { start: slice.as_mut_ptr(), len: slice.len(), slice: PhantomData }
    }

    /// Element `at`; the `reach` elements from it on may be accessed.
    ///
    /// # Panics
    /// They do not lie in the slice.
    #[inline(always)]
    pub fn at(&self, at: usize, reach: usize) -> WritePointer<'a> {
        assert!(at <= self.len && reach <= self.len - at, "{reach} elements from {at} on of {}", self.len);
        let at = self.start.wrapping_add(at);
        WritePointer { at, bounds: Bounds::new(at, reach), slice: PhantomData }
    }
}

/// A place in an [`Interleaved`] slice. It may be moved anywhere.
///
/// What is read or written must lie in the reach that was asked for, and no other task may access it at the same
/// time.
#[derive(Debug, Clone, Copy)]
pub(super) struct WritePointer<'a> {
    at: *mut f32,
    bounds: Bounds,
    slice: PhantomData<&'a mut [f32]>,
}

impl WritePointer<'_> {
    /// So many elements farther on.
    #[inline(always)]
    pub fn add(self, elements: usize) -> Self {
        Self { at: self.at.wrapping_add(elements), ..self }
    }

    /// Brings the cache line of this place near; it may lie anywhere.
    #[inline(always)]
    pub fn prefetch(self) {
        prefetch_to_write(self.at);
    }

    #[inline(always)]
    fn read(self) -> ReadPointer<'static> {
        ReadPointer { at: self.at, bounds: self.bounds, slice: PhantomData }
    }

    /// The whole vector from here on.
    ///
    /// # Safety
    /// See the type.
    #[inline(always)]
    pub unsafe fn vector<S: Simd>(self, simd: S) -> S::f32s {
        // SAFETY: promised by the caller.
        unsafe { self.read().vector(simd) }
    }

    /// The first `lanes` elements of the vector from here on; the others are zero.
    ///
    /// # Safety
    /// See the type: so many elements are read, or a whole vector.
    #[inline(always)]
    pub unsafe fn lanes<S: Simd>(self, simd: S, lanes: usize) -> S::f32s {
        // SAFETY: promised by the caller.
        unsafe { self.read().lanes(simd, lanes) }
    }

    /// Writes a whole vector.
    ///
    /// # Safety
    /// See the type.
    #[inline(always)]
    pub unsafe fn store<S: Simd>(self, _: S, value: S::f32s) {
        self.bounds.check(self.at, S::F32_LANES);
        // SAFETY: promised by the caller.
        unsafe { self.at.cast::<S::f32s>().write_unaligned(value) }
    }

    /// Writes the first `lanes` elements of a vector.
    ///
    /// # Safety
    /// See the type: so many elements are written, or a whole vector.
    #[inline(always)]
    pub unsafe fn store_lanes<S: Simd>(self, simd: S, lanes: usize, value: S::f32s) {
        if lanes >= S::F32_LANES {
            // SAFETY: promised by the caller.
            unsafe { self.store(simd, value) }
        } else {
            self.bounds.check(self.at, lanes);
            // SAFETY: promised by the caller.
            simd.partial_store_f32s(unsafe { std::slice::from_raw_parts_mut(self.at, lanes) }, value);
        }
    }

    /// Writes an array.
    ///
    /// # Safety
    /// See the type.
    #[inline(always)]
    pub unsafe fn store_array<const N: usize>(self, values: &[f32; N]) {
        self.bounds.check(self.at, N);
        // SAFETY: promised by the caller; both are arrays of f32, which need no more than the alignment of one.
        unsafe { self.at.cast::<[f32; N]>().write(*values) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pulp::{Arch, WithSimd};

    #[test]
    fn values_are_read_and_written_where_the_pointer_is() {
        struct Body<'a>(&'a [f32], Interleaved<'a>);
        impl WithSimd for Body<'_> {
            type Output = [f32; 2];
            fn with_simd<S: Simd>(self, simd: S) -> [f32; 2] {
                let from = ReadPointer::new(self.0, 100).add(1).offset(-98);
                let to = self.1.at(1, 64);
                // SAFETY: elements 3 and up of 64 are read; elements 1 and up of 65 are written by this test alone.
                unsafe {
                    to.add(32).store(simd, from.vector(simd));
                    to.store_lanes(simd, 1, from.lanes(simd, S::F32_LANES));
                    to.add(1).store_lanes(simd, 64, from.lanes(simd, 1));
                    to.add(62).store_array(&[8.0, 9.0]);
                    [from.value(), simd.reduce_sum_f32s(to.add(62).lanes(simd, 1))]
                }
            }
        }
        let from: Vec<f32> = (0..64).map(|i| i as f32).collect();
        let mut to = [-1.0; 66];
        assert_eq!(Arch::new().dispatch(Body(&from, Interleaved::new(&mut to))), [3.0, 8.0]);
        assert_eq!(to[..3], [-1.0, 3.0, 3.0]);
        assert_eq!(to[33], 3.0);
        assert_eq!(to[63..], [8.0, 9.0, -1.0]);
    }

    #[test]
    #[should_panic(expected = "3 elements from 3 on of 5")]
    fn a_reach_lies_inside_of_its_slice() {
        Interleaved::new(&mut [0.0; 5]).at(3, 3);
    }

    #[test]
    #[cfg(debug_assertions)]
    fn debug_builds_find_every_access_outside_of_the_bounds() {
        fn panics(body: impl FnOnce()) -> bool {
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(body)).is_err()
        }
        let mut values = [1.0; 8];
        let read = ReadPointer::new(&values, 0);
        for (at, inside) in [(-1, false), (0, true), (7, true), (8, false)] {
            // SAFETY: what lies outside panics before it is read.
            assert_eq!(!panics(|| unsafe { assert_eq!(read.offset(at).value(), 1.0) }), inside, "{at}");
        }
        // Two elements may be accessed, though the slice has more.
        let write = Interleaved::new(&mut values).at(2, 2);
        for (at, inside) in [(0, true), (1, false), (usize::MAX, false)] {
            // SAFETY: what lies outside panics before it is written.
            assert_eq!(!panics(|| unsafe { write.add(at).store_array(&[2.0, 2.0]) }), inside, "{at}");
        }
        assert_eq!(values, [1.0, 1.0, 2.0, 2.0, 1.0, 1.0, 1.0, 1.0]);
    }
}
