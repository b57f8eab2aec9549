//! The name by which programs find the library, and the versions of its symbols.

fn main() {
    let here = std::env::var("CARGO_MANIFEST_DIR").expect("Cargo says where the manifest is");
    println!("cargo::rustc-cdylib-link-arg=-Wl,-soname,liboarlock.so.0");
    println!("cargo::rustc-cdylib-link-arg=-Wl,--version-script={here}/oarlock.map");
    // A session has a thread, whose code must not go away when a program closes what it has opened with dlopen().
    println!("cargo::rustc-cdylib-link-arg=-Wl,-z,nodelete");
    // GNU ld refuses two version scripts, ours and the compiler's. Where the compiler does not link with its own lld by itself,
    // the machine's is asked for.
    if std::env::var("CARGO_CFG_TARGET_ARCH").is_ok_and(|arch| arch != "x86_64") {
        println!("cargo::rustc-cdylib-link-arg=-fuse-ld=lld");
    }
    println!("cargo::rerun-if-changed=oarlock.map");
}
