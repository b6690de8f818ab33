//! Compiles the CUDA kernels as C++.

fn main() {
    println!("cargo:rerun-if-changed=../../core/cuda");
    println!("cargo:rerun-if-changed=cpp");
    let mut build = cc::Build::new();
    build.cpp(true).std("c++17").file("cpp/emulated.cpp").include("../../core/cuda").opt_level(2);
    // As NVRTC is told with --fmad=false: no product and sum become one operation unless the source says so.
    build.flag("-ffp-contract=off").flag("-mfma").warnings(false).compile("emulated_kernels");
}
