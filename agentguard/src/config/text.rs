//! Reading what an operator has written.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _};
use std::path::Path;

use agentguard_policy::{Diagnostic, Severity};

use super::{ConfigError, Faults};

/// The most bytes that are read of one file. A longer one is refused.
const LARGEST: u64 = 64 << 20;

/// What an operator has written.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Written {
    Configuration,
    Policy,
    /// Tests of a policy.
    Tests,
    /// What an API says of itself.
    OpenApi,
    /// What models cost.
    Prices,
    /// What models cost, as others write it.
    PriceList,
}

impl fmt::Display for Written {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Configuration => "configuration",
            Self::Policy => "policy",
            Self::Tests => "file of tests",
            Self::OpenApi => "API's document",
            Self::Prices => "file of prices",
            Self::PriceList => "list of prices",
        })
    }
}

/// What to do about a file that cannot be read, as far as the error says it.
pub(crate) fn hint(error: &io::Error) -> Option<&'static str> {
    Some(match error.kind() {
        io::ErrorKind::IsADirectory => "it is a directory; name a file in it",
        io::ErrorKind::PermissionDenied => {
            "run the command as somebody who may read it; `namei -l` tells who may, at each directory above it"
        }
        io::ErrorKind::InvalidInput => {
            "name a regular file: it is read again and again, and a pipe has its text once"
        }
        io::ErrorKind::FileTooLarge => "name another file: none that is meant here is as large",
        _ => return None,
    })
}

/// Reads a file of text.
///
/// # Errors
/// [`ConfigError::Unreadable`], and [`ConfigError::Wrong`] with the place where it is not UTF-8.
pub(crate) fn read(what: Written, path: &Path) -> Result<String, ConfigError> {
    let unreadable = |source| ConfigError::Unreadable {
        what,
        path: path.display().to_string(),
        source,
    };
    let mut bytes = Vec::new();
    // A pipe would not be opened until somebody writes.
    let open = || {
        let file = File::options()
            .read(true)
            .custom_flags(rustix::fs::OFlags::NONBLOCK.bits().cast_signed())
            .open(path)?;
        if file.metadata()?.file_type().is_fifo() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is a pipe"));
        }
        Ok(file)
    };
    open()
        .and_then(|file| file.take(LARGEST + 1).read_to_end(&mut bytes))
        .map_err(unreadable)?;
    if bytes.len() as u64 > LARGEST {
        return Err(unreadable(io::Error::new(
            io::ErrorKind::FileTooLarge,
            format!("it has more than {LARGEST} bytes"),
        )));
    }
    String::from_utf8(bytes).map_err(|error| {
        let good = error.utf8_error().valid_up_to();
        let bytes = error.into_bytes();
        ConfigError::Wrong(Faults(vec![not_utf8(what, path, &bytes, good)]))
    })
}

/// The fault of a text whose first `good` bytes are UTF-8 and whose next one is not.
fn not_utf8(what: Written, path: &Path, bytes: &[u8], good: usize) -> Diagnostic {
    let before = String::from_utf8_lossy(bytes.get(..good).unwrap_or_default());
    let line = before.matches('\n').count() + 1;
    let column = before
        .rsplit('\n')
        .next()
        .unwrap_or_default()
        .chars()
        .count()
        + 1;
    let byte = bytes.get(good).copied().unwrap_or_default();
    Diagnostic {
        severity: Severity::Error,
        path: path.display().to_string(),
        line: u32::try_from(line).unwrap_or(u32::MAX),
        column: u32::try_from(column).unwrap_or(u32::MAX),
        message: format!(
            "the {what} {} not UTF-8: byte 0x{byte:02x}",
            if what == Written::Tests { "are" } else { "is" }
        ),
        hint: "save the file as UTF-8".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::{ConfigError, LARGEST, Written, read};

    #[test]
    fn what_is_not_utf8_is_told_with_its_place() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("policy.yaml");
        std::fs::write(&path, b"rules:\n  \xc3\xa9 \xff\n").unwrap();
        let error = read(Written::Policy, &path).unwrap_err();
        let told = format!(
            "{}:2:5: error: the policy is not UTF-8: byte 0xff\n  hint: save the file as UTF-8",
            path.display()
        );
        assert_eq!(error.to_string(), told);
    }

    #[test]
    fn a_pipe_is_refused_and_not_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pipe");
        let mode = rustix::fs::Mode::from_raw_mode(0o600);
        let kind = rustix::fs::FileType::Fifo;
        rustix::fs::mknodat(rustix::fs::CWD, &path, kind, mode, 0).unwrap();
        let error = read(Written::Policy, &path).unwrap_err();
        let ConfigError::Unreadable { source, .. } = error else {
            panic!("{error}");
        };
        assert_eq!(source.to_string(), "it is a pipe");
    }

    #[test]
    fn a_file_without_end_is_refused() {
        let error = read(Written::Policy, "/dev/zero".as_ref()).unwrap_err();
        let ConfigError::Unreadable { source, .. } = error else {
            panic!("{error}");
        };
        assert_eq!(
            source.to_string(),
            format!("it has more than {LARGEST} bytes")
        );
    }
}
