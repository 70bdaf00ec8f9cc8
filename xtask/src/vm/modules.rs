//! Which of a kernel's modules a root gets, and in which order they are loaded.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

/// What the suites need, the driver of the machine's disk among it, or what an agent could use where it is loaded: every
/// family of sockets that has a way out. One that a kernel has built in, or does not have, is left out. Not `rds_tcp`: it has the kernel
/// bind a socket in each new network namespace, which the gate refuses to agents, and so hides `forward`.
const WANTED: [&str; 37] = [
    "virtio_pci",
    "virtio_blk",
    "veth",
    "dummy",
    "bridge",
    "tun",
    "macvtap",
    "overlay",
    "sctp",
    "dccp_ipv4",
    "dccp_ipv6",
    "vsock",
    "vsock_loopback",
    "af_packet",
    "algif_hash",
    "algif_skcipher",
    "algif_aead",
    "algif_rng",
    "l2tp_ip",
    "l2tp_ip6",
    "tipc",
    "rds",
    "smc",
    "kcm",
    "tls",
    "udp_tunnel",
    "vxlan",
    "ip_gre",
    "ip6_gre",
    "nft_chain_nat",
    "nft_nat",
    "inet_diag",
    "tcp_diag",
    "udp_diag",
    "raw_diag",
    "unix_diag",
    "netlink_diag",
];

/// A module, unpacked.
#[derive(Debug)]
pub(super) struct Module {
    pub(super) name: String,
    pub(super) content: Vec<u8>,
}

/// Those of [`WANTED`] that are in this directory, with what they depend on, in the order in which they
/// can be loaded.
///
/// The package has no `modules.dep`, which a package's installation makes. A module says itself what it
/// depends on.
///
/// # Errors
/// A module cannot be read or unpacked.
pub(super) fn wanted(directory: &Path) -> Result<Vec<Module>> {
    let mut files = BTreeMap::new();
    find(directory, &mut files)?;
    let mut order = Vec::new();
    for name in WANTED {
        add(name, &files, &mut order, 0)?;
    }
    Ok(order)
}

/// Puts a module behind what it depends on.
fn add(
    name: &str,
    files: &BTreeMap<String, PathBuf>,
    order: &mut Vec<Module>,
    depth: usize,
) -> Result<()> {
    let Some(file) = files.get(name) else {
        return Ok(());
    };
    if order.iter().any(|module| module.name == name) {
        return Ok(());
    }
    if depth > files.len() {
        bail!("the module {name} depends on itself");
    }
    let content = content(file)?;
    for needed in depends(&content) {
        add(&needed, files, order, depth + 1)?;
    }
    order.push(Module {
        name: name.to_owned(),
        content,
    });
    Ok(())
}

fn find(directory: &Path, files: &mut BTreeMap<String, PathBuf>) -> Result<()> {
    let entries =
        fs::read_dir(directory).with_context(|| format!("cannot list {}", directory.display()))?;
    for entry in entries {
        let path = entry?.path();
        if path.is_dir() {
            find(&path, files)?;
        } else if let Some(name) = path
            .file_name()
            .and_then(|name| name.to_str())
            .and_then(name)
        {
            files.insert(name, path);
        }
    }
    Ok(())
}

/// The module in a file of this name. The kernel takes `-` for `_`.
fn name(file: &str) -> Option<String> {
    let (name, packed) = file.split_once(".ko")?;
    matches!(packed, "" | ".xz" | ".gz" | ".zst").then(|| name.replace('-', "_"))
}

fn content(file: &Path) -> Result<Vec<u8>> {
    let reader = match file.extension().and_then(|extension| extension.to_str()) {
        Some("ko") => {
            return fs::read(file).with_context(|| format!("cannot read {}", file.display()));
        }
        Some("xz") => "xzcat",
        Some("gz") => "zcat",
        _ => bail!("no way to unpack {}", file.display()),
    };
    let output = Command::new("busybox")
        .arg(reader)
        .arg(file)
        .output()
        .context("cannot run busybox")?;
    if !output.status.success() {
        bail!("busybox {reader} cannot unpack {}", file.display());
    }
    Ok(output.stdout)
}

/// The modules that one depends on: `depends=` among the strings of its section `.modinfo`.
fn depends(module: &[u8]) -> Vec<String> {
    module
        .split(|byte| *byte == 0)
        .filter_map(|text| std::str::from_utf8(text).ok()?.strip_prefix("depends="))
        .flat_map(|names| names.split(','))
        .filter(|name| !name.is_empty())
        .map(|name| name.replace('-', "_"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_module_is_known_by_its_file() {
        assert_eq!(name("veth.ko").as_deref(), Some("veth"));
        assert_eq!(name("virtio-rng.ko.xz").as_deref(), Some("virtio_rng"));
        assert_eq!(name("modules.builtin"), None);
        assert_eq!(name("veth.ko.txt"), None);
    }

    #[test]
    fn what_a_module_depends_on_comes_before_it_and_once() {
        let directory = std::env::temp_dir().join(format!("xtask-modules-{}", std::process::id()));
        let deep = directory.join("kernel/net");
        fs::create_dir_all(&deep).unwrap();
        for (file, depends) in [
            ("sctp.ko", "libcrc32c,udp_tunnel"),
            ("udp_tunnel.ko", ""),
            ("libcrc32c.ko", ""),
            ("dccp-ipv4.ko", "dccp,udp-tunnel"),
            ("dccp.ko", ""),
            ("other.ko", ""),
        ] {
            let content = format!("\x7fELF\0license=GPL\0depends={depends}\0name=x\0");
            fs::write(deep.join(file), content).unwrap();
        }
        fs::write(deep.join("modules.order"), "").unwrap();
        let modules = wanted(&directory).unwrap();
        let names: Vec<&str> = modules.iter().map(|module| module.name.as_str()).collect();
        assert_eq!(
            names,
            ["libcrc32c", "udp_tunnel", "sctp", "dccp", "dccp_ipv4"]
        );
        fs::remove_dir_all(&directory).unwrap();
    }
}
