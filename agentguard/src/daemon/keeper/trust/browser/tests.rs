use super::{POLICY, covers};
use serde_json::Value;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

struct Host {
    directory: tempfile::TempDir,
}

fn host(directories: &[&str]) -> Host {
    let host = Host {
        directory: tempfile::tempdir().unwrap(),
    };
    for directory in directories {
        fs::create_dir_all(host.path(directory)).unwrap();
    }
    host
}

impl Host {
    fn path(&self, name: &str) -> PathBuf {
        fs::canonicalize(self.directory.path()).unwrap().join(name)
    }

    /// Writes what browsers with these directories of policies are given. What is covered, and
    /// our directories.
    fn give(&self, directories: &[&str], authorities: &[&[u8]]) -> Vec<(PathBuf, PathBuf)> {
        let directories: Vec<_> = directories.iter().map(|it| self.path(it)).collect();
        let authorities: Vec<_> = authorities.iter().map(|it| it.to_vec()).collect();
        let covers = covers(&directories, &self.path("trust"));
        for cover in &covers {
            cover.write(&authorities).unwrap();
        }
        covers
            .into_iter()
            .map(|cover| (cover.target, cover.ours))
            .collect()
    }

    /// The targets of the mounts.
    fn mounts(&self, directory: &str) -> Vec<PathBuf> {
        covers(&[self.path(directory)], &self.path("trust"))
            .iter()
            .flat_map(|cover| cover.overlays().unwrap())
            .map(|overlay| overlay.target)
            .collect()
    }
}

const MANAGED: &str = "etc/chromium/policies/managed";

fn authorities(directory: &Path) -> Vec<String> {
    let policy = fs::read(directory.join(POLICY)).unwrap();
    let policy: Value = serde_json::from_slice(&policy).unwrap();
    assert_eq!(policy.as_object().unwrap().len(), 1, "{policy}");
    let listed = policy["CACertificates"].as_array().unwrap();
    let texts = listed.iter().map(|it| it.as_str().unwrap().to_owned());
    texts.collect()
}

fn names(directory: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn the_deepest_directory_that_is_there_is_covered() {
    for (there, covered, policies) in [
        (MANAGED, MANAGED, ""),
        ("etc/chromium/policies", "etc/chromium/policies", "managed"),
        ("etc/chromium", "etc/chromium", "policies/managed"),
        ("etc", "etc", "chromium/policies/managed"),
    ] {
        let host = host(&[there]);
        let given = host.give(&[MANAGED], &[b"der"]);
        assert_eq!(given[0].0, host.path(covered));
        assert_eq!(authorities(&given[0].1.join(policies)), ["ZGVy"]);
        assert!(names(&host.path(there)).is_empty(), "{there}");
    }
}

#[test]
fn a_directory_of_others_is_covered_only_where_it_is_empty() {
    let other = host(&["etc/other"]);
    assert!(other.give(&[MANAGED], &[b"der"]).is_empty());
    let none = host(&[]);
    assert!(none.give(&["a/b/c/d"], &[b"der"]).is_empty());
    // Several browsers share it.
    let host = host(&["etc/opt"]);
    let directories = ["etc/opt/a/policies/managed", "etc/opt/b/policies/managed"];
    let given = host.give(&directories, &[b"der"]);
    let [(target, ours)] = &given[..] else {
        panic!("{given:?}");
    };
    assert_eq!(*target, host.path("etc/opt"));
    assert_eq!(names(ours), ["a", "b"]);
    assert_eq!(authorities(&ours.join("b/policies/managed")), ["ZGVy"]);
}

#[test]
fn what_the_host_has_there_is_mounted_through() {
    let host = host(&["etc/chromium/native"]);
    let file = host.path("etc/chromium/preferences");
    fs::write(&file, "theirs").unwrap();
    symlink("preferences", host.path("etc/chromium/link")).unwrap();
    let given = host.give(&[MANAGED], &[b"der"]);
    let (target, ours) = &given[0];
    assert_eq!(names(ours), ["link", "native", "policies", "preferences"]);
    // A place, without anything of theirs.
    assert_eq!(fs::read(ours.join("preferences")).unwrap(), b"{}\n");
    assert_eq!(
        fs::read_link(ours.join("link")).unwrap(),
        Path::new("preferences")
    );
    let expected = ["", "native", "preferences"].map(|name| target.join(name));
    assert_eq!(host.mounts(MANAGED), expected);
    for directory in ["", "policies", "policies/managed"] {
        let mode = fs::metadata(ours.join(directory)).unwrap().permissions();
        assert_eq!(mode.mode() & 0o7777, 0o755, "{directory}");
    }

    fs::remove_file(&file).unwrap();
    fs::create_dir(&file).unwrap();
    fs::remove_dir(host.path("etc/chromium/native")).unwrap();
    host.give(&[MANAGED], &[b"der"]);
    assert_eq!(names(ours), ["link", "policies", "preferences"]);
    assert!(ours.join("preferences").is_dir());
}

#[test]
fn the_operator_s_policies_stay_and_their_authorities_stand_in_ours() {
    let host = host(&[MANAGED]);
    let write = |name: &str, text: &str| {
        fs::write(host.path(MANAGED).join(name), text).unwrap();
    };
    write("a.json", r#"{"CACertificates": ["first"]}"#);
    write("b.json", r#"{"CACertificates": ["theirs"], "Other": 1}"#);
    write("c.json", r#"{"Other": 2}"#);
    write("d.json", "no JSON");
    let given = host.give(&[MANAGED], &[b"der", b"next"]);
    let (target, ours) = &given[0];
    // The browser takes the value of the last file.
    assert_eq!(authorities(ours), ["theirs", "ZGVy", "bmV4dA=="]);
    let files = ["a.json", "b.json", "c.json", "d.json"];
    assert_eq!(names(ours), [&files[..], &[POLICY]].concat());
    let mounts = [&[""], &files[..]].concat();
    let mounts: Vec<_> = mounts.iter().map(|name| target.join(name)).collect();
    assert_eq!(host.mounts(MANAGED), mounts);
    assert_eq!(names(target), files);
}

#[test]
fn a_policy_changes_with_the_authorities_and_stays_otherwise() {
    let host = host(&[MANAGED]);
    let given = host.give(&[MANAGED], &[b"der"]);
    let ours = &given[0].1;
    let inode = || fs::metadata(ours.join(POLICY)).unwrap().ino();
    let before = inode();
    host.give(&[MANAGED], &[b"der"]);
    assert_eq!(inode(), before);
    host.give(&[MANAGED], &[b"der", b"next"]);
    assert_eq!(authorities(ours), ["ZGVy", "bmV4dA=="]);
}

#[test]
fn a_directory_with_too_much_in_it_is_left_alone() {
    let host = host(&[MANAGED]);
    for number in 0..=super::MOST_ENTRIES {
        fs::write(host.path(MANAGED).join(number.to_string()), "").unwrap();
    }
    assert!(host.give(&[MANAGED], &[b"der"]).is_empty());
}
