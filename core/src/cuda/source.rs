//! The source of the kernels, and how it is compiled.

/// The source of all kernels: CUDA C++ that includes nothing.
pub const SOURCE: &str = concat!(
    include_str!("../../cuda/arithmetic.cuh"),
    include_str!("../../cuda/stage.cu"),
    include_str!("../../cuda/learn.cu"),
    include_str!("../../cuda/convolution.cu"),
    include_str!("../../cuda/depthwise.cu"),
    include_str!("../../cuda/forward.cu"),
    include_str!("../../cuda/range.cu"),
);

/// Options of its compiler: IEEE arithmetic, and no fused operation that the source does not ask for, as on the CPU.
pub const OPTIONS: [&str; 2] = ["--fmad=false", "--std=c++17"];
