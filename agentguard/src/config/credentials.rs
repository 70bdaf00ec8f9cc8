//! What a proxy or a collector is shown, from a file that only its owner can read.

use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use agentguard_model::ProxyCredentials;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// Bytes of the file, at most.
const MAX_BYTES: usize = 1024;
/// Bytes of one with header fields, at most: tokens can be long.
const MAX_TEXT: usize = 8 * 1024;

/// What to do where a file is not as it should be.
pub(super) const HINT: &str =
    "put one line `user:password` into a file of root's with mode 0600, and name that";

/// Reads `user:password` (RFC 7617, 2).
///
/// # Errors
/// Why not, without what is in it.
pub(super) fn read(path: &Path) -> Result<ProxyCredentials, String> {
    let text = secret(path, MAX_BYTES)?;
    let line = text.strip_suffix(b"\n").unwrap_or(&text);
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    if line.iter().any(u8::is_ascii_control) {
        return Err("it has more than one line, or control characters".to_owned());
    }
    match line.iter().position(|byte| *byte == b':') {
        None | Some(0) => Err("it is not `user:password`".to_owned()),
        Some(_) => Ok(ProxyCredentials(format!("Basic {}", STANDARD.encode(line)))),
    }
}

/// Reads a secret of a few lines.
///
/// # Errors
/// Why not, without what is in it.
pub(super) fn text(path: &Path) -> Result<String, String> {
    String::from_utf8(secret(path, MAX_TEXT)?).map_err(|_| "it is not text".to_owned())
}

/// What is in a file of this user's that nobody else can read.
fn secret(path: &Path, most: usize) -> Result<Vec<u8>, String> {
    let file = File::open(path).map_err(|error| error.to_string())?;
    let metadata = file.metadata().map_err(|error| error.to_string())?;
    if !metadata.is_file() {
        return Err("it is not a file".to_owned());
    }
    // The daemon is root; what other commands say of a file of their user's is the same.
    if metadata.uid() != rustix::process::geteuid().as_raw() {
        return Err(format!("it belongs to user {}", metadata.uid()));
    }
    if metadata.mode() & 0o077 != 0 {
        let mode = metadata.mode() & 0o777;
        return Err(format!(
            "others can read or change it: its mode is {mode:04o}"
        ));
    }
    let mut text = Vec::new();
    let mut bounded = file.take(most as u64 + 1);
    let read = bounded.read_to_end(&mut text);
    read.map_err(|error| error.to_string())?;
    if text.len() > most {
        return Err(format!("it has more than {most} bytes"));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use std::fs::{Permissions, set_permissions, write};
    use std::os::unix::fs::PermissionsExt as _;

    use super::read;

    #[test]
    fn credentials_come_from_a_file_that_others_cannot_read_rfc_7617_2() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("credentials");
        let long = "a".repeat(1025);
        for (text, mode, expected) in [
            (
                "Aladdin:open sesame\n",
                0o600,
                Ok("Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ=="),
            ),
            ("test:123\u{a3}", 0o400, Ok("Basic dGVzdDoxMjPCow==")),
            ("a:\r\n", 0o600, Ok("Basic YTo=")),
            ("a:b", 0o640, Err("its mode is 0640")),
            ("a:b", 0o604, Err("its mode is 0604")),
            ("secret", 0o600, Err("it is not `user:password`")),
            (":secret", 0o600, Err("it is not `user:password`")),
            ("", 0o600, Err("it is not `user:password`")),
            ("a:secret\nb:c\n", 0o600, Err("more than one line")),
            (&long, 0o600, Err("it has more than 1024 bytes")),
        ] {
            write(&path, text).unwrap();
            set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            match (read(&path), expected) {
                (Ok(read), Ok(expected)) => {
                    assert_eq!(read.0, expected);
                    assert_eq!(format!("{read:?}"), "ProxyCredentials(..)");
                }
                (Err(told), Err(expected)) => {
                    assert!(told.contains(expected), "{told}");
                    assert!(!told.contains("secret"), "{told}");
                }
                (read, _) => panic!("{text:?}: {read:?}"),
            }
        }
        assert_eq!(read(directory.path()).unwrap_err(), "it is not a file");
    }
}
