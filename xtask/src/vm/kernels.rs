//! The kernels: found in the distribution's package archive, downloaded, unpacked.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::exec;

/// Debian 12's own, and the newest that its archive has for it.
pub(super) const SERIES: [&str; 2] = ["6.1", "6.12"];

/// A kernel of the archive, unpacked.
#[derive(Clone, Debug)]
pub(super) struct Kernel {
    /// The first two numbers of its version.
    pub(super) series: String,
    /// What `uname -r` says there.
    pub(super) release: String,
    /// The image.
    pub(super) image: PathBuf,
    /// Its modules.
    pub(super) modules: PathBuf,
}

/// Finds the newest kernel of a series in the package archive. It is downloaded unless `cache` has it;
/// what the cache has of the same series is removed then.
///
/// # Errors
/// There is none, or no such archive.
pub(super) fn fetch(cache: &Path, series: &str) -> Result<Kernel> {
    fs::create_dir_all(cache).with_context(|| format!("cannot make {}", cache.display()))?;
    if let Ok(kernel) = attempt(cache, series) {
        return Ok(kernel);
    }
    // The machine's lists may be empty, or older than the archive.
    exec::run(Command::new("apt-get").args(["update", "-q"]))?;
    attempt(cache, series)
}

fn attempt(cache: &Path, series: &str) -> Result<Kernel> {
    let pattern = format!(
        "^linux-image-{}\\..*cloud-amd64(-unsigned)?$",
        series.replace('.', "\\.")
    );
    let found = exec::ask("apt-cache", &["search", "--names-only", &pattern])
        .context("`apt-cache search` fails: kernels come from Debian's package archive")?;
    let Some(package) = newest(series, &found) else {
        bail!(
            "the package archive has no linux-image-{series}.*-cloud-amd64\n\
             hint: kernels come from Debian 12 with its security archive"
        );
    };
    let shown = exec::ask("apt-cache", &["show", "--no-all-versions", &package]);
    let version = shown
        .as_deref()
        .and_then(|text| text.lines().find_map(|line| line.strip_prefix("Version: ")))
        .with_context(|| format!("`apt-cache show {package}` tells no version"))?;
    let name = format!("{package}_{}", version.replace(['/', ':'], "%"));
    let directory = cache.join(&name);
    if !directory.is_dir() {
        unpack(cache, &package, version, &directory)?;
        forget_others(cache, series, &name)?;
    }
    kernel(&directory, series)
}

/// The package that has the newest kernel of a series, signed rather than not.
fn newest(series: &str, found: &str) -> Option<String> {
    let prefix = format!("linux-image-{series}.");
    found
        .lines()
        .filter_map(|line| line.split_whitespace().next())
        .filter(|name| name.starts_with(&prefix))
        .max_by_key(|name| (numbers(name), !name.ends_with("-unsigned")))
        .map(str::to_owned)
}

/// The version in the name of a package: 6, 12, 117 in `linux-image-6.12.117+deb12-cloud-amd64`, and
/// 6, 1, 0, 56 in `linux-image-6.1.0-56-cloud-amd64`.
fn numbers(package: &str) -> Vec<u32> {
    package
        .trim_start_matches("linux-image-")
        .split(['.', '-', '+'])
        .map_while(|part| part.parse().ok())
        .collect()
}

fn unpack(cache: &Path, package: &str, version: &str, directory: &Path) -> Result<()> {
    let draft = cache.join(format!("draft-{}", std::process::id()));
    fs::create_dir_all(&draft).with_context(|| format!("cannot make {}", draft.display()))?;
    let done = download(&draft, package, version).and_then(|archive| {
        let root = draft.join("root");
        exec::run(
            Command::new("dpkg-deb")
                .arg("--extract")
                .arg(archive)
                .arg(&root),
        )?;
        fs::rename(&root, directory).with_context(|| format!("cannot make {}", directory.display()))
    });
    let _ = fs::remove_dir_all(&draft);
    done
}

fn download(directory: &Path, package: &str, version: &str) -> Result<PathBuf> {
    exec::run(
        Command::new("apt-get")
            .current_dir(directory)
            // As root it wants to download as another user, who cannot write here.
            .args(["download", "-q", "-o", "APT::Sandbox::User=root"])
            .arg(format!("{package}={version}")),
    )?;
    only(directory, |name| name.ends_with(".deb"))
}

/// Removes what the cache has of older kernels of a series.
fn forget_others(cache: &Path, series: &str, kept: &str) -> Result<()> {
    let prefix = format!("linux-image-{series}.");
    for entry in fs::read_dir(cache)? {
        let entry = entry?;
        let name = entry.file_name();
        if name.to_string_lossy().starts_with(&prefix) && name != kept {
            fs::remove_dir_all(entry.path())?;
        }
    }
    Ok(())
}

fn kernel(directory: &Path, series: &str) -> Result<Kernel> {
    let modules = [
        directory.join("lib/modules"),
        directory.join("usr/lib/modules"),
    ]
    .into_iter()
    .find(|modules| modules.is_dir())
    .with_context(|| format!("no modules in {}", directory.display()))?;
    let modules = only(&modules, |_| true)?;
    let release = modules
        .file_name()
        .and_then(OsStr::to_str)
        .context("a kernel without a release")?
        .to_owned();
    let image = directory.join("boot").join(format!("vmlinuz-{release}"));
    if !image.is_file() {
        bail!("no image at {}", image.display());
    }
    Ok(Kernel {
        series: series.to_owned(),
        release,
        image,
        modules,
    })
}

/// The one entry of a directory whose name is such.
fn only(directory: &Path, matches: impl Fn(&str) -> bool) -> Result<PathBuf> {
    let mut found = Vec::new();
    let entries =
        fs::read_dir(directory).with_context(|| format!("cannot list {}", directory.display()))?;
    for entry in entries {
        let entry = entry?;
        if entry.file_name().to_str().is_some_and(&matches) {
            found.push(entry.path());
        }
    }
    match <[PathBuf; 1]>::try_from(found) {
        Ok([path]) => Ok(path),
        Err(found) => bail!(
            "{} things instead of one in {}",
            found.len(),
            directory.display()
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_of_a_series_is_chosen_by_its_numbers_and_signed_if_it_can_be() {
        let found = "\
            linux-image-6.12.99+deb12-cloud-amd64 - Linux 6.12 for x86-64 cloud (signed)\n\
            linux-image-6.12.117+deb12-cloud-amd64-unsigned - Linux 6.12 for x86-64 cloud\n\
            linux-image-6.12.117+deb12-cloud-amd64 - Linux 6.12 for x86-64 cloud (signed)\n\
            linux-image-6.12.101+deb12-cloud-amd64 - Linux 6.12 for x86-64 cloud (signed)\n\
            linux-image-6.1.0-9-cloud-amd64 - Linux 6.1 for x86-64 cloud (signed)\n\
            linux-image-6.1.0-56-cloud-amd64-unsigned - Linux 6.1 for x86-64 cloud\n";
        assert_eq!(
            newest("6.12", found).as_deref(),
            Some("linux-image-6.12.117+deb12-cloud-amd64")
        );
        assert_eq!(
            newest("6.1", found).as_deref(),
            Some("linux-image-6.1.0-56-cloud-amd64-unsigned")
        );
        assert_eq!(newest("6.13", found), None);
    }

    #[test]
    fn an_unpacked_package_has_one_kernel() {
        let top = std::env::temp_dir().join(format!("xtask-kernels-{}", std::process::id()));
        let directory = top.join("linux-image-6.1.0-56-cloud-amd64_6.1.192-2");
        fs::create_dir_all(directory.join("lib/modules/6.1.0-56-cloud-amd64")).unwrap();
        fs::create_dir_all(directory.join("boot")).unwrap();
        let error = kernel(&directory, "6.1").unwrap_err().to_string();
        assert!(error.contains("vmlinuz-6.1.0-56-cloud-amd64"), "{error}");
        fs::write(directory.join("boot/vmlinuz-6.1.0-56-cloud-amd64"), "").unwrap();
        let found = kernel(&directory, "6.1").unwrap();
        assert_eq!(found.release, "6.1.0-56-cloud-amd64");

        for name in ["linux-image-6.1.0-9_1", "linux-image-6.12.1_1"] {
            fs::create_dir_all(top.join(name)).unwrap();
        }
        let kept = directory.file_name().unwrap().to_str().unwrap();
        forget_others(&top, "6.1", kept).unwrap();
        assert!(directory.is_dir() && top.join("linux-image-6.12.1_1").is_dir());
        assert!(!top.join("linux-image-6.1.0-9_1").exists());
        fs::remove_dir_all(&top).unwrap();
    }
}
