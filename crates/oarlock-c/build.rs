//! The name by which programs find the library, and the versions of its symbols.

fn main() {
    let here = std::env::var("CARGO_MANIFEST_DIR").expect("Cargo says where the manifest is");
    println!("cargo::rustc-cdylib-link-arg=-Wl,-soname,liboarlock.so.0");
    println!("cargo::rustc-cdylib-link-arg=-Wl,--version-script={here}/oarlock.map");
    println!("cargo::rerun-if-changed=oarlock.map");
}
