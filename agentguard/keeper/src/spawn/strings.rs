//! Arguments and environment on their way to the keeper: NUL-terminated strings one after the other
//! in a sealed memory file.
//!
//! A file, because they may be far larger than a packet. Sealed, because the keeper must not read
//! what the sender still changes, and because only memory files can be sealed: reading one never
//! blocks, whatever the sender does. Terminated, because a string with a NUL inside cannot even be
//! written down.

use std::ffi::{CStr, CString, OsString};
use std::io::{self, Read, Seek, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt;

use rustix::fs::{MemfdFlags, SealFlags};

/// The bytes of all strings, at most; the kernel's own limit for `execve` with an 8 MiB stack. More
/// is refused, as the kernel would.
pub const MAX_BYTES: u64 = 2 * 1024 * 1024;

/// The bytes of one string with its NUL, at most (`MAX_ARG_STRLEN`). More is refused.
pub const MAX_STRING: usize = 128 * 1024;

const SEALS: SealFlags = SealFlags::SHRINK
    .union(SealFlags::GROW)
    .union(SealFlags::WRITE);

/// The strings cannot be taken.
#[derive(Debug, thiserror::Error)]
pub enum StringsError {
    /// All together they are too long.
    #[error("the arguments and the environment have more than {MAX_BYTES} bytes")]
    TooLong,
    /// One is too long.
    #[error("an argument or environment variable has more than {MAX_STRING} bytes")]
    StringTooLong,
    /// The file is not sealed, or not a memory file.
    #[error("the strings are not in a sealed memory file")]
    NotSealed,
    /// The file does not hold the number of strings that was said.
    #[error("the number of strings is not the one that was said")]
    Count,
    /// A string has a NUL inside.
    #[error("an argument or environment variable has a NUL byte inside")]
    Nul,
    /// The system refused.
    #[error("cannot pass the arguments")]
    System(#[from] io::Error),
}

/// Writes strings into a new sealed memory file.
///
/// # Errors
/// [`StringsError`], but `Count` and `NotSealed`.
pub fn seal(strings: impl IntoIterator<Item = OsString>) -> Result<OwnedFd, StringsError> {
    let mut bytes = Vec::new();
    for string in strings {
        let string = CString::new(string.into_vec()).map_err(|_| StringsError::Nul)?;
        if string.as_bytes_with_nul().len() > MAX_STRING {
            return Err(StringsError::StringTooLong);
        }
        bytes.extend_from_slice(string.as_bytes_with_nul());
    }
    if !u64::try_from(bytes.len()).is_ok_and(|length| length <= MAX_BYTES) {
        return Err(StringsError::TooLong);
    }
    let fd = rustix::fs::memfd_create(
        "agentguard-run",
        MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING,
    )
    .map_err(io::Error::from)?;
    let mut file = std::fs::File::from(fd);
    file.write_all(&bytes)?;
    file.rewind()?;
    rustix::fs::fcntl_add_seals(&file, SEALS).map_err(io::Error::from)?;
    Ok(file.into())
}

/// Reads exactly `count` strings from a file that a stranger sent.
pub(super) fn unseal(fd: OwnedFd, count: usize) -> Result<Vec<CString>, StringsError> {
    // Fails with EINVAL for anything but a file in memory.
    let sealed = rustix::fs::fcntl_get_seals(&fd).is_ok_and(|seals| seals.contains(SEALS));
    if !sealed {
        return Err(StringsError::NotSealed);
    }
    let mut file = std::fs::File::from(fd);
    let length = file.metadata()?.len();
    if length > MAX_BYTES {
        return Err(StringsError::TooLong);
    }
    file.rewind()?;
    let mut bytes = Vec::new();
    file.take(length).read_to_end(&mut bytes)?;
    // Counted before anything is allocated for it.
    if bytes.iter().filter(|byte| **byte == 0).count() != count
        || bytes.last().is_some_and(|last| *last != 0)
    {
        return Err(StringsError::Count);
    }
    bytes
        .split_inclusive(|byte| *byte == 0)
        .map(|string| {
            if string.len() > MAX_STRING {
                return Err(StringsError::StringTooLong);
            }
            let string = CStr::from_bytes_with_nul(string).map_err(|_| StringsError::Nul)?;
            Ok(string.to_owned())
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(bytes: &[u8], seals: SealFlags) -> OwnedFd {
        let fd = rustix::fs::memfd_create("test", MemfdFlags::ALLOW_SEALING).unwrap();
        let mut file = std::fs::File::from(fd);
        file.write_all(bytes).unwrap();
        rustix::fs::fcntl_add_seals(&file, seals).unwrap();
        file.into()
    }

    #[test]
    fn strings_arrive_as_they_were() {
        let sent: Vec<OsString> = [&b"ls"[..], b"", b"\xff\xfe", b"A=b c"]
            .into_iter()
            .map(|bytes| OsString::from_vec(bytes.to_vec()))
            .collect();
        let received = unseal(seal(sent.clone()).unwrap(), 4).unwrap();
        let received: Vec<OsString> = received
            .into_iter()
            .map(|string| OsString::from_vec(string.into_bytes()))
            .collect();
        assert_eq!(received, sent);
        assert!(unseal(seal([]).unwrap(), 0).unwrap().is_empty());
    }

    #[test]
    fn a_sender_cannot_trick_the_reader() {
        let long = vec![b'x'; MAX_STRING];
        let most = SealFlags::SHRINK | SealFlags::GROW;
        let pipe: OwnedFd = io::pipe().unwrap().0.into();
        let disk: OwnedFd = tempfile::tempfile().unwrap().into();
        let huge = {
            let fd = rustix::fs::memfd_create("test", MemfdFlags::ALLOW_SEALING).unwrap();
            rustix::fs::ftruncate(&fd, 1 << 40).unwrap();
            rustix::fs::fcntl_add_seals(&fd, SEALS).unwrap();
            fd
        };
        type Expected = fn(&StringsError) -> bool;
        let not_sealed: Expected = |error| matches!(error, StringsError::NotSealed);
        let count: Expected = |error| matches!(error, StringsError::Count);
        let cases: [(&str, OwnedFd, usize, Expected); 9] = [
            ("pipe", pipe, 0, not_sealed),
            ("file on disk", disk, 0, not_sealed),
            ("still writable", file(b"a\0", most), 1, not_sealed),
            ("fewer", file(b"a\0", SEALS), 2, count),
            ("more", file(b"a\0b\0", SEALS), 1, count),
            ("unterminated", file(b"a\0b", SEALS), 1, count),
            ("absurd count", file(b"a\0", SEALS), usize::MAX, count),
            ("huge", huge, 1, |error| {
                matches!(error, StringsError::TooLong)
            }),
            ("long", file(&[&long[..], b"\0"].concat(), SEALS), 1, |e| {
                matches!(e, StringsError::StringTooLong)
            }),
        ];
        for (name, fd, count, expected) in cases {
            let error = unseal(fd, count).expect_err(name);
            assert!(expected(&error), "{name}: {error}");
        }
    }

    #[test]
    fn what_cannot_be_passed_is_told_to_the_sender() {
        let string = |length: usize| OsString::from("x".repeat(length));
        assert!(matches!(
            seal([string(MAX_STRING)]),
            Err(StringsError::StringTooLong)
        ));
        let many = std::iter::repeat_n(string(MAX_STRING - 1), 17);
        assert!(matches!(seal(many), Err(StringsError::TooLong)));
        let nul = OsString::from_vec(b"a\0b".to_vec());
        assert!(matches!(seal([nul]), Err(StringsError::Nul)));
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_strings_or_refused(bytes: Vec<u8>, count in 0usize..4) {
            let Ok(strings) = unseal(file(&bytes, SEALS), count) else {
                return Ok(());
            };
            let again: Vec<u8> = strings
                .iter()
                .flat_map(|string| string.as_bytes_with_nul().to_vec())
                .collect();
            proptest::prop_assert_eq!((strings.len(), again), (count, bytes));
        }
    }
}
