//! What the kernel's decisions cost, where no proxy has a part.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use super::sample;
use crate::{Guard, Invocation, Origin, Process, World, address, client, wait_until};

/// How often each is measured.
const ROUNDS: usize = 7;
/// How often it is where two subjects differ by little: which processors the two ends come to stand on
/// makes more of a difference than anything else. Each takes its turn at being the first.
const TURNS: usize = 40;
/// Connections of one sample.
const DIALS: &str = "2000";
/// Datagrams of one sample.
const DATAGRAMS: &str = "300000";
const GIB: u64 = 1 << 30;
/// Numbers of agents. The first is what the others are compared with.
const AGENTS: [usize; 3] = [1, 100, 10_000];
/// How long one call, or the beginning of 10,000 agents, may take.
const LIMIT: Duration = Duration::from_secs(300);

const POLICY: &str = "
version: 1
agents: [{ name: coder }]
rules:
  - id: site
    match: { cidr: [203.0.113.16/32], port: [7, 80] }
    action: allow
    handling: direct
";

/// Measures, and prints each sample. `crowd` is the program of that name (`keeper/examples`).
///
/// # Errors
/// A client failed, or the guard.
pub fn gate(crowd: &Path) -> Result<()> {
    let world = World::new("bench")
        .origin(Origin::at(&address::origin(0x10)).site("api.example.com"))
        .start()?;
    let dial = compile(world.directory(), "dial")?;
    let send = compile(world.directory(), "send")?;
    let host = |words: &[&str]| {
        let (program, arguments) = words.split_first().context("no program")?;
        Ok(world.host().command(program).args(arguments))
    };
    let mut guard = world.guard().policy(POLICY).start()?;
    // What every program of the host pays for a gate, whose LSM programs are called for it too where the
    // kernel runs them; so there has to be none in between.
    for _ in 0..ROUNDS {
        sample(
            "send-host",
            "agentguard",
            SENT,
            "per_cpu_s",
            sent(&send, host)?,
        );
        let agent = guard.agent_cgroup("coder")?;
        let inside = |words: &[&str]| Ok(guard.within(&agent, words));
        sample(
            "send",
            "agentguard",
            SENT,
            "per_cpu_s",
            sent(&send, inside)?,
        );
        guard.stop()?;
        guard
            .cli()
            .args(["daemon", "--detach-all"])
            .run()?
            .success()?;
        let rate = sent(&send, host)?;
        for case in ["send-host", "send"] {
            sample(case, "unguarded", SENT, "per_cpu_s", rate);
        }
        guard.start()?;
    }
    let agent = guard.agent_cgroup("coder")?;
    let inside = |words: &[&str]| Ok(guard.within(&agent, words));
    for turn in 0..TURNS {
        for guarded in [turn % 2 == 0, turn % 2 == 1] {
            let (subject, figures, rate) = match guarded {
                true => ("agentguard", connects(&dial, inside)?, download(inside)?),
                false => ("unguarded", connects(&dial, host)?, download(host)?),
            };
            latencies("connect", subject, figures);
            sample("direct", subject, "throughput", "mib_per_s", rate);
        }
    }
    let mut crowds = Vec::new();
    for agents in AGENTS {
        let crowd = Crowd::start(&guard, &world, crowd, agents)?;
        let case = format!("agents-{agents}");
        sample(
            &case,
            "agentguard",
            "kernel_memory_per_agent",
            "bytes",
            crowd.memory,
        );
        crowds.push(crowd);
    }
    for _ in 0..TURNS {
        crowds.rotate_left(1);
        for crowd in &crowds {
            // The last of its agents.
            let cgroup = crowd.cgroup.join(format!("agent-{}", crowd.agents - 1));
            let figures = connects(&dial, |words| Ok(guard.within(&cgroup, words)))?;
            if crowd.agents == 1 {
                for agents in AGENTS.into_iter().skip(1) {
                    latencies(&format!("agents-{agents}"), "one_agent", figures);
                }
            }
            latencies(&format!("agents-{}", crowd.agents), "agentguard", figures);
        }
    }
    Ok(())
}

fn latencies(case: &str, subject: &str, (p50, p99): (f64, f64)) {
    sample(case, subject, "connect_p50", "us", p50);
    sample(case, subject, "connect_p99", "us", p99);
}

/// A gate with many agents, each in a cgroup of its own.
struct Crowd {
    agents: usize,
    cgroup: PathBuf,
    /// What the kernel needs for the maps, in bytes for each agent.
    memory: f64,
    _process: Process,
}

impl Crowd {
    fn start(guard: &Guard<'_>, world: &World, program: &Path, agents: usize) -> Result<Self> {
        // Beside the guard's, and with the same mark: two gates on one path do not work.
        let name = guard.cgroup().file_name().context("no name")?;
        let name = format!("{}.{agents}", name.to_string_lossy());
        let cgroup = guard.cgroup().with_file_name(name);
        // Not a pipeline: that would go on where the program ends.
        let words = r#"exec "$0" "$@" < <(exec sleep 3600 2>/dev/null)"#;
        let process = world.host().command("bash");
        let process = process.args(["-c", words]).arg(program);
        let process = process.args([&cgroup, &guard.bpffs().join(agents.to_string())]);
        let mut process = process.arg(agents.to_string()).spawn()?;
        let told = wait_until("all agents are governed", LIMIT, || {
            let told = process.stdout();
            let complete = told.ends_with('\n');
            let ended = !complete && !matches!(process.ended(), Ok(None));
            (complete || ended).then_some(told)
        });
        let told = told.with_context(|| process.stderr())?;
        ensure!(told.ends_with('\n'), "it ended: {}", process.stderr());
        let (before, with) = told.trim().split_once(' ').context("no figures")?;
        #[expect(clippy::cast_precision_loss, reason = "ten thousand at most")]
        let memory = (with.parse::<f64>()? - before.parse::<f64>()?) / agents as f64;
        Ok(Self {
            agents,
            cgroup,
            memory,
            _process: process,
        })
    }
}

/// Compiles a client of that name.
fn compile(directory: &Path, name: &str) -> Result<PathBuf> {
    let compiler = client::find("cc")?.context("no C compiler")?;
    let program = directory.join(name);
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("clients/{name}.c"));
    let compiled = Command::new(compiler)
        .args(["-O2", "-o"])
        .args([&program, &source])
        .status()?;
    ensure!(compiled.success(), "the client does not compile");
    Ok(program)
}

/// The median and the 99th percentile of many connections to the site, in microseconds.
fn connects<'a>(
    dial: &Path,
    invocation: impl FnOnce(&[&str]) -> Result<Invocation<'a>>,
) -> Result<(f64, f64)> {
    let dial = dial.to_str().context("a strange path")?;
    let output = invocation(&[dial, "203.0.113.16", "7", DIALS])?.limit(LIMIT);
    let output = output.run()?.success()?;
    let mut times = Vec::new();
    for line in output.stdout.lines() {
        times.push(line.parse::<f64>()? / 1e3);
    }
    times.sort_by(f64::total_cmp);
    let at = |part: usize| times.get(times.len() * part / 100).copied();
    at(50).zip(at(99)).context("no times")
}

/// The name of what is measured.
const SENT: &str = "datagrams";

/// Datagrams in a second of processor time over loopback, to a socket of the same process.
fn sent<'a>(
    send: &Path,
    invocation: impl FnOnce(&[&str]) -> Result<Invocation<'a>>,
) -> Result<f64> {
    let send = send.to_str().context("a strange path")?;
    let output = invocation(&[send, DATAGRAMS])?.limit(LIMIT).run()?;
    Ok(output.success()?.stdout.trim().parse::<f64>()?)
}

/// Bytes of one GiB a second, without TLS, in MiB.
fn download<'a>(invocation: impl FnOnce(&[&str]) -> Result<Invocation<'a>>) -> Result<f64> {
    let url = format!("http://203.0.113.16/chunked/{GIB}");
    let told = "%{speed_download} %{size_download}";
    let words = [
        "curl",
        "-sSf",
        "-H",
        "Host: api.example.com",
        "-o",
        "/dev/null",
        "-w",
        told,
        &url,
    ];
    let output = invocation(&words)?.limit(LIMIT).run()?.success()?;
    let (speed, size) = output.stdout.split_once(' ').context("no figures")?;
    ensure!(size.trim() == GIB.to_string(), "{size} bytes came");
    Ok(speed.parse::<f64>()? / f64::from(1 << 20))
}
