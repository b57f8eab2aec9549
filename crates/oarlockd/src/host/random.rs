//! Chance. The only place of the daemon that throws dice; everything else is given a seed.

use rustix::rand::{GetRandomFlags, getrandom};

/// 32 bytes nobody can guess.
///
/// # Panics
/// If the kernel has no random source: no key may ever be made without one.
pub fn bytes() -> [u8; 32] {
    let mut out = [0; 32];
    let mut filled = 0;
    while filled < out.len() {
        match getrandom(&mut out[filled..], GetRandomFlags::empty()) {
            Ok(n) => filled += n,
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => panic!("the kernel gives no random bytes: {error}"),
        }
    }
    out
}

/// A seed for everything that needs chance but no secret.
pub fn seed() -> u64 {
    u64::from_le_bytes(bytes()[..8].try_into().expect("8 of 32 bytes"))
}

#[cfg(test)]
mod tests {
    #[test]
    fn two_draws_differ() {
        assert_ne!(super::bytes(), super::bytes());
    }
}
