//! A machine of QEMU's that runs a kernel with a root, until it ends or takes too long.
//!
//! The processor is emulated (TCG). A host that is a virtual machine itself often has a `/dev/kvm` that
//! does only half of it, and QEMU aborts on that instead of emulating.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

/// The program, of the package `qemu-system-x86`.
pub(super) const QEMU: &str = "qemu-system-x86_64";

/// What `timeout` ends with when the time is over, or had to kill.
const LATE: [i32; 2] = [124, 137];

/// A kernel that has to say that it dies ends the machine. What keeps a real processor from telling secrets
/// costs an emulated one time, and is nothing that is tested here. Pressure is told also where a distribution
/// leaves that to whoever asks for it.
const COMMAND_LINE: &str = "console=ttyS0 loglevel=2 oops=panic panic=-1 mitigations=off psi=1";

/// A disk without anything on it, for tests of what agents read and write: reads give zeros, and writes go nowhere,
/// so that nothing of this is on the host. Its serial number is what tests know it by.
const DISK: [&str; 4] = [
    "-blockdev",
    "driver=null-co,node-name=disk,size=1073741824,read-zeroes=on",
    "-device",
    "virtio-blk-pci,drive=disk,serial=agentguard-test",
];

/// Runs it, with these words for the kernel, to its end and gives the lines of its serial console, which are written to `log` too.
/// `hear` gets each as it comes. The machine does not outlive `limit`, also where nobody waits for it
/// any more. Whether it came in time is the second value.
///
/// # Errors
/// QEMU cannot be started, or ends with an error of its own.
pub(super) fn run(
    image: &Path,
    words: &str,
    root: &Path,
    log: &Path,
    limit: Duration,
    hear: impl Fn(&str),
) -> Result<(Vec<String>, bool)> {
    let mut written =
        File::create(log).with_context(|| format!("cannot write {}", log.display()))?;
    let mut machine = Command::new("timeout")
        // So that Ctrl-C reaches it.
        .args(["--foreground", "--kill-after=5"])
        .arg(limit.as_secs().to_string())
        .args([QEMU, "-accel", "tcg,thread=multi", "-cpu", PROCESSOR])
        .args(["-smp", PROCESSORS, "-m", MEMORY])
        .args(["-nodefaults", "-display", "none", "-serial", "stdio"])
        .args(DISK)
        .args(["-no-reboot", "-append"])
        .arg(format!("{COMMAND_LINE} {words}"))
        .arg("-kernel")
        .arg(image)
        .arg("-initrd")
        .arg(root)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot run {QEMU}"))?;
    let output = machine.stdout.take().context("no console")?;
    let mut lines = Vec::new();
    for line in BufReader::new(output).split(b'\n') {
        let line = line?;
        let line = String::from_utf8_lossy(&line);
        let line = line.trim_end_matches('\r');
        writeln!(written, "{line}")?;
        hear(line);
        lines.push(line.to_owned());
    }
    let status = machine.wait()?;
    match status.code() {
        Some(0) => Ok((lines, true)),
        Some(code) if LATE.contains(&code) => Ok((lines, false)),
        _ => bail!("{QEMU} failed: {status}"),
    }
}

/// What every distribution's programs run on, and no more: page tables of four levels and registers of 128 bits
/// are less to emulate.
const PROCESSOR: &str = "qemu64,+ssse3,+sse4.1,+sse4.2,+popcnt,+aes,+rdrand";

/// Processors of a machine.
const PROCESSORS: &str = "1";

/// Its memory, in which the root lies too.
const MEMORY: &str = "1536M";
