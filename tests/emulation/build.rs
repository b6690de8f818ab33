//! Compiles the CUDA kernels as C++.

fn main() {
    println!("cargo:rerun-if-changed=../../core/cuda");
    println!("cargo:rerun-if-changed=cpp");
    let mut build = cc::Build::new();
    build.cpp(true).std("c++17").file("cpp/emulated.cpp").include("../../core/cuda").opt_level(2);
    // As NVRTC is told with --fmad=false: no product and sum become one operation unless the source says so.
    build.flag("-ffp-contract=off").warnings(false);
    // A fiber is left with longjmp, which checks of the C library take for an error.
    build.flag("-U_FORTIFY_SOURCE");
    // Without it fmaf() is a call that gives the same.
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("fma") {
        build.flag("-mfma");
    }
    build.compile("emulated_kernels");
}
