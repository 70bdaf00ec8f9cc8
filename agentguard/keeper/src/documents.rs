//! Policy documents on their way to the worker, which may not be able to read the files, with the operator's prices, and
//! who may run their agents, which the keeper has looked up.
//!
//! A sealed memory file: the keeper compiled exactly these bytes, and neither half can change them.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::fd::OwnedFd;

use agentguard_model::Users;
use rustix::fs::{MemfdFlags, SealFlags};
use serde::{Deserialize, Serialize};

/// All documents together, at most. A policy that is larger is refused when it is read.
pub const MAX_BYTES: u64 = 8 * 1024 * 1024;

/// Path and text, in the order of loading.
pub type Documents = Vec<(String, String)>;

/// What is handed over.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Handed {
    /// The policy's documents.
    pub documents: Documents,
    /// Path and text of the operator's prices.
    pub prices: Option<(String, String)>,
    /// Who may run the policy's agents besides root.
    pub users: Users,
}

/// Writes documents, prices and the users of agents into a sealed memory file.
///
/// # Errors
/// The file's.
pub fn seal(handed: &Handed) -> io::Result<OwnedFd> {
    let bytes = postcard::to_stdvec(handed).map_err(io::Error::other)?;
    let file = rustix::fs::memfd_create(
        "agentguard-policy",
        MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING,
    )?;
    let mut file = File::from(file);
    file.write_all(&bytes)?;
    file.rewind()?;
    rustix::fs::fcntl_add_seals(
        &file,
        SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE,
    )?;
    Ok(file.into())
}

/// Reads from a memory file what was handed over.
///
/// # Errors
/// The file's; [`io::ErrorKind::InvalidData`] if it is too large or not documents.
pub fn open(file: OwnedFd) -> io::Result<Handed> {
    let mut bytes = Vec::new();
    let mut file = File::from(file).take(MAX_BYTES + 1);
    file.read_to_end(&mut bytes)?;
    if u64::try_from(bytes.len()).map_or(true, |length| length > MAX_BYTES) {
        return Err(io::ErrorKind::InvalidData.into());
    }
    postcard::from_bytes(&bytes).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

#[cfg(test)]
mod tests {
    use super::{Handed, open, seal};
    use agentguard_model::Users;
    use std::fs::File;
    use std::io::Write as _;

    #[test]
    fn what_is_sealed_stays() {
        let mut users = Users::default();
        users.add("coder".parse().unwrap(), 7);
        let handed = Handed {
            documents: vec![("policy.yaml".to_owned(), "version: 1\n".to_owned())],
            prices: Some(("prices.yaml".to_owned(), "version: 1\n".to_owned())),
            users,
        };
        let file = seal(&handed).unwrap();
        let mut writer = File::from(file.try_clone().unwrap());
        assert!(writer.write_all(b"x").is_err());
        assert_eq!(open(file).unwrap(), handed);
    }
}
