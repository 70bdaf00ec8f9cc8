//! `agentguard agent`

use std::path::{Path, PathBuf};
use std::time::Duration;

use agentguard_control::api::{AgentStatus, Quarantine, QuotaStatus, QuotaUsed};
use agentguard_keeper::groups::APPROVE;
use agentguard_keeper::message::{Answer, Command as Request};
use agentguard_keeper::packet;
use agentguard_model::{AgentName, Mode};
use clap::Subcommand;

use super::Global;
use super::failure::{Failure, chain};
use super::output::{Format, Output, Table, printable, say};
use super::resources;
use super::verdicts::moment;

/// How long the keeper may take for one change: it compiles a policy and fills maps.
const CHANGE_TIME: Duration = Duration::from_secs(30);

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// List the agents that the policy knows or that run
    List,
    /// Show one agent
    Show {
        /// Its name
        name: AgentName,
    },
    /// Govern a cgroup that exists already, as an agent
    Add {
        /// The agent's name
        name: AgentName,
        /// The cgroup's directory
        #[arg(long, value_name = "PATH")]
        cgroup: PathBuf,
    },
    /// Stop governing what `add` put under the gate
    Remove {
        /// The agent's name
        name: AgentName,
        /// This cgroup alone, as `add` was told it; it need not be there any more
        #[arg(long, value_name = "PATH")]
        cgroup: Option<PathBuf>,
    },
    /// Cut an agent off: nothing leaves it and nothing reaches it, whatever the policy says
    ///
    /// From its next packet on, for everything that runs as it and will; what is open is ended, and
    /// its programs see errors. It holds over restarts of the daemon and of the host, until `agent
    /// release`. Again it ends what is open again, and a new reason takes the place of the old one.
    Quarantine {
        /// The agent's name
        name: AgentName,
        /// Why, for operators; the agent is not told
        #[arg(long)]
        reason: Option<String>,
        /// Stop its processes, too
        #[arg(long)]
        freeze: bool,
    },
    /// End the quarantine of an agent: it goes on under the policy
    Release {
        /// The agent's name
        name: AgentName,
    },
}

pub(super) fn main(command: Command, global: &Global, out: &mut Output) -> Result<(), Failure> {
    match command {
        Command::List => {
            let agents = global.ask(async |mut client| Ok(client.agents().await?))?;
            out.list(&agents, || table(&agents))?;
            // Other forms have them in their place.
            if matches!(out.format, Format::Table) {
                for agent in &agents {
                    for warning in &agent.warnings {
                        say(&format!("warning: {}: {}", agent.name, printable(warning)));
                    }
                }
            }
            Ok(())
        }
        Command::Show { name } => {
            let agent = global.ask(async |mut client| Ok(client.agent(&name).await?))?;
            Ok(out.value(&agent, || story(&agent))?)
        }
        Command::Add { name, cgroup } => {
            let cgroup = directory(&cgroup)?;
            change(global, &Request::AddAgent { name, cgroup }, out)
        }
        Command::Remove { name, cgroup } => {
            let cgroup = cgroup.as_deref().map(added).transpose()?;
            change(global, &Request::RemoveAgent { name, cgroup }, out)
        }
        Command::Quarantine {
            name,
            reason,
            freeze,
        } => {
            let request = Request::Quarantine {
                name,
                reason,
                freeze,
            };
            change(global, &request, out)
        }
        Command::Release { name } => change(global, &Request::Release { name }, out),
    }
}

/// The path of a cgroup that was added, which may be gone.
fn added(cgroup: &Path) -> Result<String, Failure> {
    if let Ok(there) = directory(cgroup) {
        return Ok(there);
    }
    let shown = cgroup.display();
    let path = std::path::absolute(cgroup)
        .map_err(|error| Failure::refused(format!("no path: {shown}: {}", chain(&error))))?;
    text(path, cgroup)
}

/// The cgroup as an absolute path without links, which is what the keeper is told.
fn directory(cgroup: &Path) -> Result<String, Failure> {
    let shown = cgroup.display();
    let path = cgroup.canonicalize().map_err(|error| {
        Failure::refused(format!("cannot find the cgroup {shown}: {}", chain(&error)))
            .hint("name its directory, as /sys/fs/cgroup/system.slice/my.service")
    })?;
    text(path, cgroup)
}

fn text(path: PathBuf, cgroup: &Path) -> Result<String, Failure> {
    path.into_os_string().into_string().map_err(|_| {
        let shown = cgroup.display();
        Failure::refused(format!("the path of the cgroup {shown} is not UTF-8"))
    })
}

/// Asks the keeper to change something, and says what it answered.
pub(super) fn change(global: &Global, request: &Request, out: &mut Output) -> Result<(), Failure> {
    let Answer::Done { text } = ask_keeper(global, request)? else {
        return Err(out_of_turn());
    };
    done(&text, out)
}

/// Says what was done: words, unless a program asked for data.
pub(super) fn done(text: &str, out: &mut Output) -> Result<(), Failure> {
    match out.format {
        Format::Table => say(&lines(text)),
        Format::Json | Format::Jsonl => out.line(&serde_json::json!({ "done": text }))?,
    }
    Ok(())
}

/// An answer to another question.
pub(super) fn out_of_turn() -> Failure {
    Failure::refused("the daemon gave an answer out of turn")
        .hint("use the `agentguard` of the same version as the daemon")
}

/// Asks the keeper, on its own socket. What it refuses is a failure.
pub(super) fn ask_keeper(global: &Global, request: &Request) -> Result<Answer, Failure> {
    let socket = global.declared()?.paths.keeper_socket();
    let lost = |error: &dyn std::error::Error| {
        Failure::refused(format!(
            "the connection to the daemon at {} failed: {}",
            socket.display(),
            chain(error)
        ))
        .hint("look at the daemon's log: journalctl -u agentguard")
    };
    let keeper = packet::connect(&socket).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound | std::io::ErrorKind::ConnectionRefused => {
            global.unreached(agentguard_control::ClientError::NoDaemon {
                path: socket.clone(),
            })
        }
        std::io::ErrorKind::PermissionDenied => {
            let error = agentguard_control::ClientError::NotAllowed {
                path: socket.clone(),
            };
            // Who may ask questions may not change anything yet.
            Failure::from(error).hint(format!(
                "run the command as root; members of {APPROVE} quarantine, release and set switches, where the host has \
                 that group, and whoever became one has to log in anew"
            ))
        }
        _ => lost(&error),
    })?;
    keeper
        .set_timeout(Some(CHANGE_TIME))
        .map_err(|error| lost(&error))?;
    keeper.send(request, &[]).map_err(|error| lost(&error))?;
    match keeper.recv::<Answer>().map_err(|error| lost(&error))? {
        Some((Answer::Faulty { text }, _)) => Err(Failure::Said {
            text: lines(&text),
            code: 2,
        }),
        Some((Answer::Refused { message, hint }, _)) => {
            let failure = Failure::refused(lines(&message));
            Err(match hint {
                Some(hint) => failure.hint(lines(&hint)),
                None => failure,
            })
        }
        Some((answer, _)) => Ok(answer),
        None => Err(lost(&std::io::Error::from(
            std::io::ErrorKind::ConnectionReset,
        ))),
    }
}

/// Several lines for a terminal.
fn lines(text: &str) -> String {
    text.lines().map(printable).collect::<Vec<_>>().join("\n")
}

fn table(agents: &[AgentStatus]) -> Table {
    let mut table = Table::new(&["NAME", "MODE", "RUNS", "CGROUPS", "LABELS"], 3);
    for agent in agents {
        table.row(&[
            agent.name.to_string(),
            match &agent.quarantine {
                None if agent.undeclared => "no policy".to_owned(),
                None => mode(agent.mode).to_owned(),
                Some(_) => "quarantined".to_owned(),
            },
            agent.runs.to_string(),
            or_dash(agent.cgroups.join(",")),
            or_dash(labels(agent)),
        ]);
    }
    table
}

fn story(agent: &AgentStatus) -> String {
    let cgroups = if agent.cgroups.is_empty() {
        "none: the policy knows this agent and nothing runs as it".to_owned()
    } else {
        let cgroups: Vec<String> = agent.cgroups.iter().map(|path| printable(path)).collect();
        cgroups.join("\n          ")
    };
    let (mode, meaning) = if agent.undeclared {
        (
            "no policy",
            "the policy in force does not have it, so it gets nothing",
        )
    } else {
        (mode(agent.mode), meaning(agent.mode))
    };
    let mut out = format!(
        "agent     {}\nmode      {mode}: {meaning}\nlabels    {}\nruns      {}\ncgroups   {cgroups}\n",
        agent.name,
        printable(&or_dash(labels(agent))),
        agent.runs,
    );
    if let Some(quarantine) = &agent.quarantine {
        let what = quarantined(quarantine);
        out.push_str(&format!(
            "cut off   {what}\n          `agentguard agent release {}` ends it\n",
            agent.name
        ));
    }
    if let Some(resources) = &agent.resources {
        out.push_str(&resources::lines(resources));
    }
    if let Some(quota) = &agent.quota {
        let lines = quota_lines(quota).join("\n          ");
        out.push_str(&format!("quota     {lines}\n"));
    }
    for warning in &agent.warnings {
        out.push_str(&format!("warning   {}\n", printable(warning)));
    }
    if let Some(id) = agent.id {
        out.push_str(&format!("number    {}\n", id.0));
    }
    out
}

/// What an agent may use of the network, a line for each limit.
fn quota_lines(quota: &QuotaStatus) -> Vec<String> {
    let directions = [("out", &quota.bytes_out), ("in", &quota.bytes_in)];
    let mut lines: Vec<String> = directions
        .into_iter()
        .filter_map(|(direction, used)| {
            let QuotaUsed { limit, used } = (*used)?;
            let share = used.saturating_mul(100) / limit.max(1);
            let when = match quota.resets {
                Some(resets) => format!("a {}, anew at {}", quota.every, moment(resets)),
                None => format!("in all, counted since {}", moment(quota.since)),
            };
            let (used, limit) = (bytes(used), bytes(limit));
            Some(format!(
                "bytes {direction}: {used} of {limit} used ({share}%); {when}"
            ))
        })
        .collect();
    if let Some(rate) = quota.connections {
        lines.push(format!(
            "connections: {} a second, {} at once",
            rate.per_second, rate.burst
        ));
    }
    lines
}

/// A number of bytes for people: in the largest unit of which it is at least one, with one decimal, cut.
fn bytes(count: u64) -> String {
    let units = [("GiB", 30), ("MiB", 20), ("KiB", 10)];
    let unit = units.into_iter().find(|(_, shift)| count >> shift > 0);
    let Some((unit, shift)) = unit else {
        return format!("{count} B");
    };
    let rest = count & ((1 << shift) - 1);
    let tenth = (rest * 10) >> shift;
    format!("{}.{tenth} {unit}", count >> shift)
}

/// That an agent is quarantined: since when, by whom and why.
pub(super) fn quarantined(quarantine: &Quarantine) -> String {
    let mut words = format!("quarantined since {}", moment(quarantine.since));
    if let Some(uid) = quarantine.uid {
        words.push_str(&format!(" by uid {uid}"));
    }
    if quarantine.frozen {
        words.push_str(", its processes stopped");
    }
    if let Some(reason) = &quarantine.reason {
        words.push_str(&format!(": {}", printable(reason)));
    }
    words
}

fn labels(agent: &AgentStatus) -> String {
    let pairs: Vec<String> = agent
        .labels
        .iter()
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    pairs.join(",")
}

fn or_dash(text: String) -> String {
    if text.is_empty() { "-".into() } else { text }
}

pub(super) fn mode(mode: Mode) -> &'static str {
    match mode {
        Mode::Observe => "observe",
        Mode::Shadow => "shadow",
        Mode::Enforce => "enforce",
    }
}

fn meaning(mode: Mode) -> &'static str {
    match mode {
        Mode::Observe => "what it does is recorded, and refused only where nothing may pass",
        Mode::Shadow => "what the policy would refuse is recorded and passes",
        Mode::Enforce => "what the policy refuses is refused",
    }
}

#[cfg(test)]
mod tests {
    use super::{AgentStatus, Quarantine, QuotaStatus, QuotaUsed, story, table};
    use agentguard_model::{AgentId, ConnectionRate, Mode, QuotaWindow};

    fn agent() -> AgentStatus {
        AgentStatus {
            name: "coder".parse().unwrap(),
            id: Some(AgentId(3)),
            labels: [("tenant".to_owned(), "acme".to_owned())].into(),
            mode: Mode::Shadow,
            cgroups: vec!["/sys/fs/cgroup/agentguard/coder".into()],
            runs: 2,
            undeclared: false,
            quarantine: None,
            resources: None,
            quota: None,
            warnings: Vec::new(),
        }
    }

    #[test]
    fn what_people_read() {
        let idle = AgentStatus {
            name: "idle".parse().unwrap(),
            id: None,
            labels: [].into(),
            mode: Mode::Enforce,
            cgroups: Vec::new(),
            runs: 0,
            undeclared: false,
            quarantine: None,
            resources: None,
            quota: None,
            warnings: Vec::new(),
        };
        assert_eq!(
            table(&[agent(), idle.clone()]).render(None),
            "NAME   MODE     RUNS  CGROUPS                          LABELS\n\
             coder  shadow   2     /sys/fs/cgroup/agentguard/coder  tenant=acme\n\
             idle   enforce  0     -                                -\n"
        );
        assert_eq!(
            story(&agent()),
            "agent     coder\n\
             mode      shadow: what the policy would refuse is recorded and passes\n\
             labels    tenant=acme\n\
             runs      2\n\
             cgroups   /sys/fs/cgroup/agentguard/coder\n\
             number    3\n"
        );
        assert!(story(&idle).contains("nothing runs as it"));
        let warned = AgentStatus {
            warnings: vec!["not contained: why\u{1b}".to_owned()],
            ..agent()
        };
        assert!(story(&warned).contains("warning   not contained: why\\u{1b}\n"));
        let taking = AgentStatus {
            resources: Some(agentguard_model::ResourceUsage::default()),
            ..agent()
        };
        assert!(story(&taking).contains("\ncpu       0.0 s used\nnumber"));
    }

    #[test]
    fn what_is_used_of_a_quota_is_shown_with_its_limit_and_its_end() {
        let used = |limit, used| Some(QuotaUsed { limit, used });
        let day = QuotaStatus {
            every: QuotaWindow::Day,
            since: "2026-01-02T00:00:00Z".parse().unwrap(),
            resets: Some("2026-01-03T00:00:00Z".parse().unwrap()),
            bytes_out: used(1 << 30, 805_306_368),
            bytes_in: used(10 << 30, 999),
            connections: Some(ConnectionRate {
                per_second: 5,
                burst: 50,
            }),
        };
        let shown = |quota: &QuotaStatus| {
            story(&AgentStatus {
                quota: Some(quota.clone()),
                ..agent()
            })
        };
        let expected = "quota     bytes out: 768.0 MiB of 1.0 GiB used (75%); a day, anew at 2026-01-03T00:00:00Z\n\
             \x20         bytes in: 999 B of 10.0 GiB used (0%); a day, anew at 2026-01-03T00:00:00Z\n\
             \x20         connections: 5 a second, 50 at once\n";
        assert!(shown(&day).contains(expected), "{}", shown(&day));
        let for_ever = QuotaStatus {
            every: QuotaWindow::Lifetime,
            resets: None,
            bytes_out: used(65536, 70_000),
            bytes_in: None,
            connections: None,
            ..day
        };
        let expected = "quota     bytes out: 68.3 KiB of 64.0 KiB used (106%); in all, counted since \
             2026-01-02T00:00:00Z\n";
        assert!(shown(&for_ever).contains(expected), "{}", shown(&for_ever));
    }

    #[test]
    fn a_quarantine_is_seen_at_once() {
        let cut = AgentStatus {
            quarantine: Some(Quarantine {
                since: "2026-01-02T03:04:05Z".parse().unwrap(),
                uid: Some(0),
                reason: Some("ticket\u{1b} 42".to_owned()),
                frozen: true,
            }),
            ..agent()
        };
        assert!(
            table(std::slice::from_ref(&cut))
                .render(None)
                .contains("coder  quarantined  2 ")
        );
        assert!(
            story(&cut).contains(
                "cut off   quarantined since 2026-01-02T03:04:05Z by uid 0, its processes stopped: \
                 ticket\\u{1b} 42\n          `agentguard agent release coder` ends it\n"
            ),
            "{}",
            story(&cut)
        );
    }
}
