//! Java's store of trusted authorities, with ours in it.
//!
//! Distributions keep it in the format JKS, which every runtime reads: a head, entries, and a digest
//! that only who gives the store's password checks (OpenJDK,
//! `sun.security.provider.JavaKeyStore`). JDKs bring it as [`pkcs12`] since their version 18. Entries
//! are added behind those that are there, so nothing that the host trusts is lost. A store of another
//! format is left alone.

mod pkcs12;

use std::fs;
use std::io::Read as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use aws_lc_rs::digest::{Context, SHA1_FOR_LEGACY_USE_ONLY as SHA1};
use rustix::fs::OFlags;

/// Where systems keep it: Debian, RHEL, SUSE.
const SYSTEM: [&str; 3] = [
    "/etc/ssl/certs/java/cacerts",
    "/etc/pki/ca-trust/extracted/java/cacerts",
    "/var/lib/ca-certificates/java-cacerts",
];

/// Below this, runtimes that bring one of their own.
const RUNTIMES: &str = "/usr/lib/jvm";

/// A larger store is left alone.
const LARGEST: usize = 16 << 20;

const MAGIC: [u8; 4] = [0xfe, 0xed, 0xfe, 0xed];
const VERSION: [u8; 4] = [0, 0, 0, 2];
/// The tag of a certificate that is trusted.
const TRUSTED: [u8; 4] = [0, 0, 0, 2];
const HEAD: usize = 12;
const DIGEST: usize = 20;

/// The password that is no secret, and what the format puts behind it.
const PASSWORD: &str = "changeit";
const SALT: &[u8] = b"Mighty Aphrodite";

/// The stores of this host; links among them.
pub(super) fn stores() -> Vec<PathBuf> {
    let runtimes = fs::read_dir(RUNTIMES).into_iter().flatten().flatten();
    let own = runtimes.map(|runtime| runtime.path().join("lib/security/cacerts"));
    SYSTEM.iter().map(PathBuf::from).chain(own).collect()
}

/// A store with these authorities, in DER, added. `None`: it is none that is known.
pub(super) fn with_authorities(store: &Path, ours: &[Vec<u8>]) -> Option<Vec<u8>> {
    let store = public(store)?;
    added(&store, ours).or_else(|| pkcs12::added(&store, ours))
}

/// A file that everybody may read as it is, and that only root can change: its copy is for
/// everybody.
fn public(path: &Path) -> Option<Vec<u8>> {
    let mut options = fs::OpenOptions::new();
    // One that somebody has put a pipe in the place of is not waited for.
    let options = options
        .read(true)
        .custom_flags(OFlags::NONBLOCK.bits().cast_signed());
    let file = options.open(path).ok()?;
    let found = file.metadata().ok()?;
    let ours = found.uid() == rustix::process::geteuid().as_raw();
    let (read, write) = (0o004, 0o022);
    let mode = found.permissions().mode();
    if !found.is_file() || !ours || mode & read == 0 || mode & write != 0 {
        return None;
    }
    let mut contents = Vec::new();
    let most = u64::try_from(LARGEST).ok()?;
    file.take(most + 1).read_to_end(&mut contents).ok()?;
    (contents.len() <= LARGEST).then_some(contents)
}

/// What an authority of ours is called in a store.
fn alias(number: usize) -> String {
    format!("agentguard:{number}")
}

fn added(store: &[u8], ours: &[Vec<u8>]) -> Option<Vec<u8>> {
    let body = store.len().checked_sub(DIGEST)?;
    let (head, entries) = store.get(..body)?.split_at_checked(HEAD)?;
    let [magic, version, count] = [0, 4, 8].map(|at| head.get(at..at + 4));
    if magic? != MAGIC || version? != VERSION {
        return None;
    }
    let count = u32::from_be_bytes(count?.try_into().ok()?);
    let count = count.checked_add(u32::try_from(ours.len()).ok()?)?;
    let mut out = [&MAGIC[..], &VERSION, &count.to_be_bytes(), entries].concat();
    for (number, certificate) in ours.iter().enumerate() {
        let length = u32::try_from(certificate.len()).ok()?;
        out.extend_from_slice(&TRUSTED);
        text(&mut out, &alias(number))?;
        // When it was added, in ms: no time of its own, so that the same authorities give the same
        // file.
        out.extend_from_slice(&[0; 8]);
        text(&mut out, "X.509")?;
        out.extend_from_slice(&length.to_be_bytes());
        out.extend_from_slice(certificate);
    }
    let mut digest = Context::new(&SHA1);
    for unit in PASSWORD.encode_utf16() {
        digest.update(&unit.to_be_bytes());
    }
    digest.update(SALT);
    digest.update(&out);
    out.extend_from_slice(digest.finish().as_ref());
    Some(out)
}

/// As `DataOutput.writeUTF` writes ASCII.
fn text(out: &mut Vec<u8>, text: &str) -> Option<()> {
    out.extend_from_slice(&u16::try_from(text.len()).ok()?.to_be_bytes());
    out.extend_from_slice(text.as_bytes());
    Some(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::{DIGEST, added, with_authorities};

    /// An empty store, as `keytool` writes it with the usual password.
    fn empty() -> Vec<u8> {
        let head = [&super::MAGIC[..], &super::VERSION, &[0; 4]].concat();
        let digest = [
            0xe2, 0x68, 0x6e, 0x45, 0xfb, 0x43, 0xdf, 0xa4, 0xd9, 0x92, 0xdd, 0x41, 0xce, 0xb6,
            0xb2, 0x1c, 0x63, 0x30, 0xd7, 0x92,
        ];
        [&head[..], &digest].concat()
    }

    /// Its copy is for everybody.
    #[test]
    fn a_store_that_not_everybody_may_read_or_that_others_write_is_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("cacerts");
        std::fs::write(&path, empty()).unwrap();
        for (mode, copied) in [
            (0o644, true),
            (0o640, false),
            (0o664, false),
            (0o646, false),
        ] {
            let permissions = std::fs::Permissions::from_mode(mode);
            std::fs::set_permissions(&path, permissions).unwrap();
            assert_eq!(with_authorities(&path, &[]).is_some(), copied, "{mode:o}");
        }
        assert!(with_authorities(directory.path(), &[]).is_none());
    }

    #[test]
    fn nothing_added_is_the_same_store() {
        assert_eq!(added(&empty(), &[]).unwrap(), empty());
    }

    #[test]
    fn authorities_stand_behind_what_was_there() {
        let one = added(&empty(), &[b"first".to_vec()]).unwrap();
        let two = added(&one, &[b"second".to_vec(), b"third".to_vec()]).unwrap();
        let body = one.len() - DIGEST;
        assert_eq!(two[8..12], [0, 0, 0, 3]);
        assert_eq!(two[12..body], one[12..body]);
        let entry = b"\x00\x00\x00\x02\x00\x0cagentguard:1\0\0\0\0\0\0\0\0\x00\x05X.509\x00\x00\x00\x05third";
        assert!(two[..two.len() - DIGEST].ends_with(entry));
    }

    #[test]
    fn what_is_no_store_of_this_format_is_left_alone() {
        let mut other = empty();
        other[7] = 1;
        for store in [&b""[..], b"0\x82", &[0; 64], &other, &empty()[..31]] {
            assert_eq!(added(store, &[]), None, "{store:?}");
        }
    }
}
