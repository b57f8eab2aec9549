//! The name by which programs find the library.

fn main() {
    println!("cargo::rustc-cdylib-link-arg=-Wl,-soname,libdlm_lt.so.3");
    // A session has a thread, whose code must not go away when a program closes what it has opened with dlopen().
    println!("cargo::rustc-cdylib-link-arg=-Wl,-z,nodelete");
    println!("cargo::rerun-if-changed=build.rs");
}
