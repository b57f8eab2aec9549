//! Key files: 32 bytes as text, readable by their owner only.

use std::fmt::Write as _;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use aws_lc_rs::agreement::{PrivateKey, X25519};
use oarlock_layout::code::Code;

use crate::host::{file, random};
use crate::problem::{Problem, Result};

/// Bytes of a key.
pub const KEY_BYTES: usize = 32;
const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// Bytes that must not be printed: a node's private key or the cluster secret.
#[derive(Clone)]
pub struct Secret([u8; KEY_BYTES]);

impl Secret {
    /// A new one.
    pub fn generate() -> Secret {
        Secret(random::bytes())
    }

    /// One that came from another member.
    pub fn from_bytes(bytes: [u8; KEY_BYTES]) -> Secret {
        Secret(bytes)
    }

    /// The bytes, for whoever seals with them.
    pub fn bytes(&self) -> [u8; KEY_BYTES] {
        self.0
    }

    /// The public half, as a Curve25519 key pair has it.
    pub fn public(&self) -> [u8; KEY_BYTES] {
        let key = PrivateKey::from_private_key(&X25519, &self.0).expect("any 32 bytes are an X25519 key");
        let public = key.compute_public_key().expect("every X25519 key has a public half");
        public.as_ref().try_into().expect("a public key of 32 bytes")
    }

    /// Reads a key file; refuses one that others could read.
    pub fn read(path: &Path) -> Result<Secret> {
        let shown = path.display();
        let me = rustix::process::geteuid().as_raw();
        let meta = fs::metadata(path).map_err(|e| {
            let what = format!("cannot read the key file {shown}");
            match e.kind() {
                io::ErrorKind::PermissionDenied => Problem::io(Code::KeyPermissions, what, &e)
                    .try_next(format!("let this user (uid {me}) enter the file's directory")),
                _ => {
                    Problem::io(Code::BadConfig, what, &e).try_next(format!("oarlock key new --out {shown}"))
                }
            }
        })?;
        if meta.mode() & 0o077 != 0 {
            return Err(Problem::new(
                Code::KeyPermissions,
                format!("the key file {shown} is open to others (mode {:04o})", meta.mode() & 0o7777),
            )
            .try_next(format!("chmod 600 {shown}")));
        }
        if meta.uid() != me && meta.uid() != 0 && me != 0 {
            return Err(Problem::new(
                Code::KeyPermissions,
                format!("the key file {shown} belongs to another user (uid {})", meta.uid()),
            )
            .try_next(format!("chown {me} {shown}")));
        }
        let text = fs::read_to_string(path).map_err(|e| {
            let what = format!("cannot read the key file {shown}");
            match e.kind() {
                // What happens to a file that root has copied here.
                io::ErrorKind::PermissionDenied => Problem::io(Code::KeyPermissions, what, &e)
                    .because(format!("it belongs to uid {}, and this is uid {me}", meta.uid()))
                    .try_next(format!("chown {me} {shown}")),
                _ => Problem::io(Code::KeyMalformed, what, &e),
            }
        })?;
        parse(text.trim())
            .map(Secret)
            .ok_or_else(|| Problem::new(Code::KeyMalformed, format!("{shown} does not hold a key")))
    }

    /// Writes a new key file; never overwrites one, because a lost key cannot be made again.
    pub fn write_new(&self, path: &Path) -> Result<()> {
        let text = format!("{}\n", print(&self.0));
        file::create_new(path, text.as_bytes(), 0o600).map_err(|e| {
            let shown = path.display();
            let problem = Problem::io(Code::Failed, format!("cannot write the key file {shown}"), &e);
            match e.kind() {
                io::ErrorKind::AlreadyExists => {
                    problem.because("it exists, and a key that is overwritten is lost for good")
                }
                _ => problem,
            }
            .try_next("another name with --out")
        })
    }
}

/// Base64 of a key, 44 characters.
pub fn print(key: &[u8; KEY_BYTES]) -> String {
    print_base64(key)
}

/// Base64 of any bytes.
pub(crate) fn print_base64(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let mut word = [0u8; 4];
        word[1..=chunk.len()].copy_from_slice(chunk);
        let word = u32::from_be_bytes(word);
        for i in 0..4 {
            let digit = ALPHABET[(word >> (18 - 6 * i)) as usize & 63];
            out.push(if i <= chunk.len() { digit as char } else { '=' });
        }
    }
    out
}

/// The first characters of a key, enough for people to tell keys apart.
pub fn fingerprint(key: &[u8; KEY_BYTES]) -> String {
    print(key)[..8].to_owned()
}

/// A key from 44 characters of base64 or 64 hexadecimal digits.
pub fn parse(text: &str) -> Option<[u8; KEY_BYTES]> {
    let key = match text.len() {
        64 => hex(text)?,
        44 => base64(text)?,
        _ => return None,
    };
    Some(key)
}

/// Hexadecimal digits of a key.
pub fn print_hex(key: &[u8; KEY_BYTES]) -> String {
    key.iter().fold(String::new(), |mut out, b| {
        write!(out, "{b:02x}").expect("writing to a string");
        out
    })
}

fn hex(text: &str) -> Option<[u8; KEY_BYTES]> {
    let mut key = [0; KEY_BYTES];
    for (i, byte) in key.iter_mut().enumerate() {
        let pair = text.get(2 * i..2 * i + 2)?;
        // from_str_radix would accept a sign.
        if !pair.bytes().all(|b| b.is_ascii_hexdigit()) {
            return None;
        }
        *byte = u8::from_str_radix(pair, 16).ok()?;
    }
    Some(key)
}

fn base64(text: &str) -> Option<[u8; KEY_BYTES]> {
    parse_base64(text.strip_suffix('=')?)?.try_into().ok()
}

/// Bytes of base64 without the padding at its end.
pub(crate) fn parse_base64(digits: &str) -> Option<Vec<u8>> {
    let mut bits = 0u32;
    let mut held = 0;
    let mut bytes = Vec::with_capacity(digits.len() / 4 * 3 + 3);
    for c in digits.bytes() {
        let digit = ALPHABET.iter().position(|a| *a == c)? as u32;
        bits = (bits << 6 | digit) & 0xffff;
        held += 6;
        if held >= 8 {
            held -= 8;
            bytes.push((bits >> held) as u8);
        }
    }
    // Some bits are left over; a text that sets them is not what `print` writes, nor one with a whole digit too many.
    if bits & ((1 << held) - 1) != 0 || held == 6 {
        return None;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn keys_survive_being_written_down_both_ways() {
        for _ in 0..64 {
            let key = random::bytes();
            assert_eq!(parse(&print(&key)), Some(key));
            assert_eq!(parse(&print_hex(&key)), Some(key));
        }
        assert_eq!(print(&[0; 32]), "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=");
        assert_eq!(print(&[0xff; 32]), "//////////////////////////////////////////8=");
    }

    #[test]
    fn what_is_no_key_is_refused() {
        let good = print(&[7; 32]);
        for bad in ["", "AAAA", &good[1..], &format!("{}+", &good[..43]), &good.replace('=', "A")] {
            assert_eq!(parse(bad), None, "{bad}");
        }
        assert_eq!(parse(&"+1".repeat(32)), None, "a sign is no digit");
        assert_eq!(parse(&"zz".repeat(32)), None);
        // The same 32 bytes with a stray bit in the padding.
        assert_eq!(parse("AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAB="), None);
    }

    #[test]
    fn the_public_half_is_that_of_rfc_7748() {
        // Section 5.2: the scalar 9 on the base point 9, after one iteration.
        let mut nine = [0; KEY_BYTES];
        nine[0] = 9;
        let expected = "422c8e7a6227d7bca1350b3e2bb7279f7897b87bb6854b783c60e80311ae3079";
        assert_eq!(print_hex(&Secret(nine).public()), expected);
    }

    #[test]
    fn a_key_file_that_others_can_read_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("node.key");
        let key = Secret::generate();
        key.write_new(&path).unwrap();
        assert_eq!(Secret::read(&path).unwrap().bytes(), key.bytes());
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        assert_eq!(Secret::read(&path).err().unwrap().code, Code::KeyPermissions);
        assert_eq!(key.write_new(&path).unwrap_err().code, Code::Failed, "never overwritten");
    }

    #[test]
    fn a_file_without_a_key_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("node.key");
        file::create_new(&path, b"hello\n", 0o600).unwrap();
        assert_eq!(Secret::read(&path).err().unwrap().code, Code::KeyMalformed);
        assert_eq!(Secret::read(&dir.path().join("none")).err().unwrap().code, Code::BadConfig);
    }
}
