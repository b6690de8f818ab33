//! Run-time choice of the instruction set.

/// Runs `body` compiled for the widest vector instructions of this processor.
///
/// `body` and everything it calls must be inlined for the wider instructions to be used: mark
/// helpers `#[inline(always)]`, and write loops rather than iterator adapters around expensive
/// closures, which the compiler may leave out of line (a fused multiply-add is then a slow call).
#[inline(always)]
pub fn vectorize<R>(body: impl FnOnce() -> R) -> R {
    struct Body<F>(F);
    impl<R, F: FnOnce() -> R> pulp::NullaryFnOnce for Body<F> {
        type Output = R;
        #[inline(always)]
        fn call(self) -> R {
            (self.0)()
        }
    }
    pulp::Arch::new().dispatch(Body(body))
}

/// Asks the processor to bring the cache line of `place` into the L1 cache for writing. This is a hint that accesses
/// nothing, so any address may be given. It keeps stores from waiting for lines that are still in memory.
#[inline(always)]
pub fn prefetch_to_write(place: *const f32) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_mm_prefetch, _MM_HINT_ET0};
        // SAFETY: prefetching is a hint that never faults, whatever the address.
        unsafe { _mm_prefetch::<_MM_HINT_ET0>(place.cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = place;
}
