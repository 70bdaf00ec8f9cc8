//! The main job, shown: a world, a daemon, an agent that tries eight things, and what the record
//! says of each.

use std::ffi::OsString;
use std::fmt;
use std::path::Path;

use agentguard_model::{ActionKind, Decision, Layer, ReasonCode, Verdict};
use anyhow::{Context as _, Result, bail};
use serde_json::json;

use crate::{Guard, Origin, Output, World, address, client, leftover};

/// What is shown.
const POLICY: &str = include_str!("demo/policy.yaml");

/// The agent.
const AGENT: &str = "coder";

const STEPS: [Step; 8] = [
    Step {
        title: "an allowed call",
        words: &["curl", "-sS", "--fail", "https://api.example.com/"],
        succeeds: true,
        layer: Layer::Proxy,
        kind: ActionKind::Connect,
        verdict: Verdict::Allow,
        reason: ReasonCode::RuleAllow,
        inspected: false,
    },
    Step {
        title: "a denied host",
        words: &["curl", "-sS", "--fail", "https://www.paste.example/"],
        succeeds: false,
        layer: Layer::Dns,
        kind: ActionKind::DnsQuery,
        verdict: Verdict::Deny,
        reason: ReasonCode::RuleDeny,
        inspected: false,
    },
    Step {
        title: "a name outside the policy",
        words: &["curl", "-sS", "--fail", "http://c2VjcmV0.tunnel.example/"],
        succeeds: false,
        layer: Layer::Dns,
        kind: ActionKind::DnsQuery,
        verdict: Verdict::Deny,
        reason: ReasonCode::NoRule,
        inspected: false,
    },
    Step {
        title: "a bare address",
        words: &["curl", "-sS", "--fail", "http://192.0.2.66/"],
        succeeds: false,
        layer: Layer::Kernel,
        kind: ActionKind::Connect,
        verdict: Verdict::Deny,
        reason: ReasonCode::NoRule,
        inspected: false,
    },
    Step {
        title: "a denied method over plain HTTP",
        words: &[
            "curl",
            "-sS",
            "--fail",
            "-X",
            "DELETE",
            "http://api.example.com/things/1",
        ],
        succeeds: false,
        layer: Layer::Proxy,
        kind: ActionKind::HttpRequest,
        verdict: Verdict::Deny,
        reason: ReasonCode::NoRule,
        inspected: false,
    },
    Step {
        title: "an allowed request inside TLS",
        words: &[
            "curl",
            "-sS",
            "--fail",
            "https://tracker.example.com/issues/1",
        ],
        succeeds: true,
        layer: Layer::Proxy,
        kind: ActionKind::HttpRequest,
        verdict: Verdict::Allow,
        reason: ReasonCode::RuleAllow,
        inspected: true,
    },
    Step {
        title: "a denied method inside TLS, on the same host",
        words: &[
            "curl",
            "-sS",
            "--fail",
            "-X",
            "DELETE",
            "https://tracker.example.com/issues/1",
        ],
        succeeds: false,
        layer: Layer::Proxy,
        kind: ActionKind::HttpRequest,
        verdict: Verdict::Deny,
        reason: ReasonCode::NoRule,
        inspected: true,
    },
    Step {
        title: "an LLM's answer, streamed inside TLS",
        words: &["python3", "openai_sdk.py", "stream"],
        succeeds: true,
        layer: Layer::Proxy,
        kind: ActionKind::HttpRequest,
        verdict: Verdict::Allow,
        reason: ReasonCode::RuleAllow,
        inspected: true,
    },
];

/// One thing that the agent tries, and what has to come of it.
#[derive(Clone, Debug)]
pub struct Step {
    /// What it is, for people.
    pub title: &'static str,
    /// The program and its arguments.
    pub words: &'static [&'static str],
    /// Whether the program ends with 0.
    pub succeeds: bool,
    /// Where it is decided.
    pub layer: Layer,
    /// What is decided.
    pub kind: ActionKind,
    /// How.
    pub verdict: Verdict,
    /// Why.
    pub reason: ReasonCode,
    /// Whether the guard shows the certificate and not the origin: `run` makes the agent trust it.
    pub inspected: bool,
}

impl Step {
    /// The decision that was asked for, where the record has it.
    fn decision<'d>(&self, decisions: &'d [Decision]) -> Option<&'d Decision> {
        decisions.iter().find(|decision| {
            decision.layer == self.layer
                && decision.action.kind == self.kind
                && decision.verdict == self.verdict
                && decision.reason.code == self.reason
                && decision.enforced
        })
    }

    /// The words, with Python's from the tests' environment and the scripts of the tests' clients.
    fn program(&self) -> Result<Vec<OsString>> {
        let place = |word: &&str| -> Result<OsString> {
            if *word == "python3" {
                let python = client::python()?.context("no Python for the tests' clients")?;
                return Ok(python.into());
            }
            if word.ends_with(".py") {
                let clients = Path::new(env!("CARGO_MANIFEST_DIR")).join("clients");
                return Ok(clients.join(word).into());
            }
            Ok(word.into())
        };
        self.words.iter().map(place).collect()
    }

    fn check(&self, output: &Output) -> Result<()> {
        if output.status.success() != self.succeeds {
            bail!("{}: not as expected: {output}", self.title);
        }
        Ok(())
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            verdict, reason, ..
        } = self;
        write!(f, "{:<46} {verdict:<6} {reason}", self.title)
    }
}

/// Shows it, and removes every trace.
///
/// # Errors
/// An outcome was not the expected one, or something is left behind.
pub fn run() -> Result<()> {
    let here = Origin::at(&address::origin(0x10)).site("api.example.com");
    let world = World::new("demo")
        .origin(here.site("tracker.example.com"))
        .origin(Origin::at(&address::origin(0x20)).site("www.paste.example"))
        .origin(Origin::at(&address::origin(0x30)).site("api.openai.com"))
        .start()?;
    let tag = world.tag();
    let shown = show(&world);
    drop(world);
    let left = leftover::of(tag)?;
    shown?;
    if let Some(left) = left.first() {
        bail!("left behind: {left}");
    }
    println!("\nevery outcome was the expected one, and nothing is left behind");
    Ok(())
}

fn show(world: &World) -> Result<()> {
    println!("policy:\n{POLICY}");
    let upstreams =
        json!([{ "host": ["tracker.example.com", "api.openai.com"], "ca": world.ca_file() }]);
    let guard = world.guard().policy(POLICY);
    let mut guard = guard.setting("upstreams", upstreams).start()?;
    let mut explained = None;
    for step in &STEPS {
        println!(
            "$ agentguard run --agent {AGENT} -- {}",
            step.words.join(" ")
        );
        let decision = perform(&guard, step)?;
        println!("  {step}\n");
        if step.verdict == Verdict::Deny {
            explained = Some(decision.id);
        }
    }
    let arrived = world.canary()?;
    if arrived > 0 {
        bail!("{arrived} packets arrived at an address that the policy does not allow");
    }
    let id = explained.context("no denial to explain")?;
    tell(&guard, &["verdicts"])?;
    tell(&guard, &["explain", &id.to_string()])?;
    let ended = guard.stop()?;
    if !ended.status.success() {
        bail!("the daemon ended badly: {ended}");
    }
    Ok(())
}

fn perform(guard: &Guard<'_>, step: &Step) -> Result<Decision> {
    let before = guard.verdicts()?.len();
    let output = if step.inspected {
        let run = ["run", "--agent", AGENT, "--"];
        guard.cli().args(run).args(step.program()?).run()?
    } else {
        guard.run(AGENT, step.words)?
    };
    step.check(&output)?;
    guard.wait_verdicts(step.title, |decisions| {
        step.decision(decisions.get(before..)?).cloned()
    })
}

fn tell(guard: &Guard<'_>, words: &[&str]) -> Result<()> {
    println!("$ agentguard {}", words.join(" "));
    print!("{}", guard.cli().args(words).run()?.success()?.stdout);
    Ok(())
}

#[cfg(test)]
mod tests {
    use agentguard_model::{AgentName, HostName};
    use agentguard_policy::{Document, compile};

    use super::*;

    /// The demonstration is not to fail for its own policy.
    #[test]
    fn the_policy_says_what_the_steps_expect() {
        let document = Document {
            path: "policy.yaml".to_owned(),
            text: POLICY.to_owned(),
        };
        let policy = compile(&[document]).unwrap_or_else(|errors| panic!("{errors}"));
        assert!(policy.warnings().is_empty(), "{:?}", policy.warnings());
        let agent: AgentName = AGENT.parse().unwrap();
        let agent = policy.agent(&agent).unwrap();
        for (name, verdict, reason) in [
            ("api.example.com", Verdict::Allow, ReasonCode::RuleAllow),
            ("tracker.example.com", Verdict::Allow, ReasonCode::RuleAllow),
            ("api.openai.com", Verdict::Allow, ReasonCode::RuleAllow),
            ("www.paste.example", Verdict::Deny, ReasonCode::RuleDeny),
            ("c2vjcmv0.tunnel.example", Verdict::Deny, ReasonCode::NoRule),
        ] {
            let name: HostName = name.parse().unwrap();
            let ruling = policy.decide_name(agent, &name);
            assert_eq!(
                (ruling.verdict, ruling.reason.code),
                (verdict, reason),
                "{name}"
            );
        }
    }

    #[test]
    fn a_step_takes_only_the_decision_that_it_asked_for() {
        let decision = |layer: &str, verdict: &str, enforced: bool| -> Decision {
            serde_json::from_value(serde_json::json!({
                "id": "01ARZ3NDEKTSV4RRFFQ69G5FAV", "time": "2026-01-01T00:00:00Z",
                "context": {}, "layer": layer, "action": {"kind": "connect"},
                "verdict": verdict, "enforced": enforced, "mode": "enforce",
                "reason": {"code": "no_rule", "message": ""},
                "count": 1, "latency_us": 3, "policy_version": "0123456789ab",
            }))
            .unwrap()
        };
        let [_, _, _, bare, ..] = &STEPS;
        let others = [
            decision("proxy", "deny", true),
            decision("kernel", "allow", true),
            decision("kernel", "deny", false),
        ];
        assert!(bare.decision(&others).is_none());
        assert!(bare.decision(&[decision("kernel", "deny", true)]).is_some());
    }
}
