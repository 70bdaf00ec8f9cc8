//! The sentences that go with verdicts: for an operator, and for whoever meets a denial.

use std::fmt;
use std::net::IpAddr;

use agentguard_model::special::Special;
use agentguard_model::{AgentName, HostName, Reason, ReasonCode, Tool, Transport};

use crate::decide::Facts;
use crate::diagnostic::quoted;
use crate::local;
use crate::request::Request;
use crate::rule::{RuleInfo, Seen};
use crate::special::Hard;

/// Who attempts what. Displays as "coder to reach example.org:443 over TCP".
pub(crate) struct Attempt<'a> {
    pub(crate) agent: &'a AgentName,
    pub(crate) facts: &'a Facts<'a>,
}

impl fmt::Display for Attempt<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} to ", self.agent)?;
        let facts = self.facts;
        match facts.request {
            Seen::Request(Request {
                tool: Some(tool), ..
            }) if facts.host == Some(local::place()) => message(f, tool),
            Seen::Request(Request { method, path, .. }) => {
                write!(f, "{} ", quoted(method))?;
                self.destination(f)?;
                // What CONNECT asks for is no path.
                if !path.starts_with('/') {
                    f.write_str(" ")?;
                }
                f.write_str(&quoted(path))
            }
            Seen::NotYet | Seen::Never | Seen::Tls => {
                f.write_str("reach ")?;
                self.destination(f)?;
                f.write_str(match facts.transport {
                    Transport::Tcp => " over TCP",
                    Transport::Udp => " over UDP",
                })
            }
        }
    }
}

impl Attempt<'_> {
    fn destination(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let port = self.facts.port;
        match (self.facts.host, self.facts.ip) {
            (Some(name), _) => write!(f, "{name}:{port}"),
            (None, Some(ip)) => write!(f, "{}", std::net::SocketAddr::new(ip, port)),
            (None, None) => write!(f, "port {port}"),
        }
    }
}

/// What is attempted with a message to a server of tools on the agent's own host, as "call read of files".
fn message(f: &mut fmt::Formatter<'_>, tool: &Tool) -> fmt::Result {
    let server = quoted(&tool.server);
    match (&tool.name, &tool.method) {
        (Some(name), _) => write!(f, "call {} of {server}", quoted(name)),
        (None, Some(method)) => write!(f, "send {} to {server}", quoted(method)),
        (None, None) if tool.not_understood.is_some() => {
            write!(f, "send what cannot be read to {server}")
        }
        (None, None) => write!(f, "answer {server}"),
    }
}

/// Who asks for which name. Displays as "coder to resolve example.org".
pub(crate) struct Resolution<'a> {
    pub(crate) agent: &'a AgentName,
    pub(crate) name: &'a HostName,
}

impl fmt::Display for Resolution<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} to resolve {}", self.agent, self.name)
    }
}

pub(crate) fn allowed(attempt: &impl fmt::Display, rule: Option<&RuleInfo>) -> String {
    match rule {
        Some(rule) => format!("Rule {} allows {attempt}.", rule.id),
        None => format!("The policy allows {attempt}."),
    }
}

/// That what a denial on paper is about goes on, with what other rules change in it.
pub(crate) fn goes_on(changes: &str) -> String {
    format!(" It goes on, {changes}.")
}

/// Between what is changed and what would be besides, if all rules were in force.
const ALSO_ON_PAPER: &str = "; on paper also ";

/// What is changed, and what rules on paper would change besides.
pub(crate) fn also_on_paper(changes: &str, on_paper: &str) -> String {
    format!("{changes}{ALSO_ON_PAPER}{on_paper}")
}

/// What a decision says that is changed, out of its sentence ([`modified`], [`goes_on`]), without what would be besides,
/// which earlier versions did not say: no target has a space in it. None where it changes nothing.
pub(crate) fn changes(reason: &Reason) -> Option<&str> {
    let message = match reason.code {
        ReasonCode::RuleModify => reason.message.as_str(),
        _ => reason.message.split_once(" It goes on")?.1,
    };
    let message = message.trim_end_matches('.');
    let changes = message.get(message.find(", with")?..)?;
    let end = changes.find(ALSO_ON_PAPER).unwrap_or(changes.len());
    changes.get(..end)
}

/// `changes`: what is changed in it.
pub(crate) fn modified(
    attempt: &impl fmt::Display,
    rule: Option<&RuleInfo>,
    changes: &str,
) -> String {
    let id = rule.map_or("", |rule| rule.id.as_str());
    format!("Rule {id} allows {attempt}, {changes}.")
}

/// The rule's own sentence, if it has one.
pub(crate) fn denied(attempt: &impl fmt::Display, rule: Option<&RuleInfo>) -> String {
    match rule {
        Some(RuleInfo {
            reason: Some(reason),
            ..
        }) => reason.clone(),
        Some(rule) => format!("Rule {} forbids {attempt}.", rule.id),
        None => format!("The policy forbids {attempt}."),
    }
}

/// `why`: the expression of a rule cannot be evaluated.
pub(crate) fn failed(attempt: &impl fmt::Display, rule: &RuleInfo, why: &str) -> String {
    format!(
        "Rule {} cannot decide whether to allow {attempt}: {why}.",
        rule.id
    )
}

/// `paper`: an allowance that is not in force.
pub(crate) fn no_rule(attempt: &impl fmt::Display, paper: Option<&RuleInfo>) -> String {
    match paper {
        Some(rule) => format!(
            "No rule in force allows {attempt}; rule {} would, and is {}.",
            rule.id,
            mode(rule)
        ),
        None => format!("No rule allows {attempt}."),
    }
}

/// `inspected`: an allowance says `inspect` already, so that to say it helps nobody.
pub(crate) fn needs_inspection(
    attempt: &impl fmt::Display,
    rule: Option<&RuleInfo>,
    inspected: bool,
) -> String {
    let id = rule.map_or("", |rule| rule.id.as_str());
    let help = if inspected {
        ""
    } else {
        "; inside TLS it can where the rule that allows it says `handling: inspect`"
    };
    format!("To allow {attempt}, rule {id} has to see the HTTP request, and cannot here{help}.")
}

/// `rule` says `inspect`, and does not look at requests itself.
pub(crate) fn not_understood(attempt: &impl fmt::Display, rule: &RuleInfo) -> String {
    let id = &rule.id;
    format!(
        "Rule {id} allows {attempt} only where its requests can be inspected, and what is sent here cannot be understood; `handling: splice` would pass it unseen."
    )
}

pub(crate) fn closed(attempt: &impl fmt::Display, kind: Hard) -> String {
    let what = match kind {
        Hard::Metadata => "a cloud metadata service",
        Hard::Loopback => "a service of the host itself",
    };
    format!("No rule that names it allows {attempt}, which is {what}.")
}

/// `rule` allows it where the name leads to a public address.
pub(crate) fn not_there(
    attempt: &impl fmt::Display,
    ip: IpAddr,
    special: Special,
    rule: &RuleInfo,
) -> String {
    let id = &rule.id;
    format!(
        "No rule allows {attempt} at {ip}, a {special} address: rule {id} does not list it in `resolved_ranges`."
    )
}

pub(crate) fn not_answered(attempt: &impl fmt::Display) -> String {
    format!(
        "No rule can allow {attempt}: this virtual address stands for no name that was answered."
    )
}

fn mode(rule: &RuleInfo) -> &'static str {
    match rule.mode {
        agentguard_model::Mode::Observe => "in observe mode",
        agentguard_model::Mode::Shadow => "in shadow mode",
        agentguard_model::Mode::Enforce => "in force for other sessions",
    }
}
