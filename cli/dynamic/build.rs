//! Tells the program where its shared libraries are: next to it (in a build folder), or in `lib`
//! (in a distribution).

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    for folder in ["$ORIGIN", "$ORIGIN/lib", "$ORIGIN/deps"] {
        println!("cargo:rustc-link-arg-bins=-Wl,-rpath,{folder}");
    }
}
