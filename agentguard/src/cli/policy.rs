//! `agentguard policy`

pub(super) mod switch;

use std::path::{Path, PathBuf};

use agentguard_control::api::PolicyView;
use agentguard_keeper::message::Command as Request;
use agentguard_model::Handling;
use agentguard_policy::{Diagnostic, Document, Severity, compile};
use clap::Subcommand;
use serde::Serialize;

use super::Global;
use super::agent::{change, mode};
use super::failure::{Failure, chain};
use super::output::{Output, Table, counted, printable, say};
use super::verdicts::moment;
use crate::accounts;
use crate::config::ConfigError;
use crate::config::exposed;
use crate::config::text::{self, Written};

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Compile a policy and say everything that is wrong with it; works without a daemon
    Check {
        /// The policy
        file: PathBuf,
    },
    /// Show the policy in force
    Show,
    /// Load the policy anew; one that is wrong leaves the old one in force
    Reload,
    /// List the switches that the policy declares, or set one
    ///
    /// Rules look at them. What is under way is decided again at once, and what is denied now ends. It
    /// holds over reloads and over restarts of the daemon and of the host, until it is set to default.
    Switch(switch::Switch),
}

pub(super) fn main(command: Command, global: &Global, out: &mut Output) -> Result<(), Failure> {
    match command {
        Command::Check { file } => check(&file, out),
        Command::Show => {
            let policy = global.ask(async |mut client| Ok(client.policy().await?))?;
            show(&policy, out)
        }
        Command::Reload => change(global, &Request::Reload, out),
        Command::Switch(switch) => switch::main(switch, global, out),
    }
}

/// What a good policy amounts to.
#[derive(Serialize)]
struct Checked {
    version: String,
    agents: usize,
    rules: usize,
    warnings: Vec<String>,
}

/// Errors are usage errors: the file is an argument, and it is wrong.
fn check(file: &Path, out: &mut Output) -> Result<(), Failure> {
    let path = file.display().to_string();
    let text = text::read(Written::Policy, file).map_err(|error| match error {
        // The file is named on the command line, not in the configuration.
        ConfigError::Unreadable { .. } => {
            Failure::usage(chain(&error)).hint("docs/policy.md has an example")
        }
        ConfigError::Wrong(_) => error.into(),
    })?;
    let policy = match compile(&[Document {
        path: path.clone(),
        text,
    }]) {
        Ok(policy) => policy,
        Err(diagnostics) => {
            let errors = diagnostics.iter().count() + diagnostics.more();
            say(&lines(&diagnostics.to_string()));
            return Err(Failure::usage(format!(
                "{path} cannot be used: {}",
                counted(errors, "fault")
            )));
        }
    };
    // It may be meant for another host: what is wrong with it on this one is no fault of its own.
    let mut warnings: Vec<String> = policy.warnings().iter().map(ToString::to_string).collect();
    if let Err(unknown) = accounts::users(&policy) {
        warnings.extend(unknown.iter().map(|it| {
            let severity = Severity::Warning;
            Diagnostic {
                severity,
                ..it.clone()
            }
            .to_string()
        }));
    }
    // A person may check a file of their own.
    let owner = rustix::process::geteuid().as_raw();
    if let Err(exposed) = exposed::file("policy", file, owner) {
        warnings.push(format!(
            "{path}: warning: {}\n  hint: {}",
            exposed.sentence(),
            exposed.hint()
        ));
    }
    for warning in &warnings {
        say(&lines(warning));
    }
    let checked = Checked {
        version: policy.version().to_owned(),
        agents: policy.agents().len(),
        rules: policy.rules().len(),
        warnings,
    };
    Ok(out.value(&checked, || {
        format!(
            "{path} is good: version {}, {}, {}",
            checked.version,
            counted(checked.agents, "agent"),
            counted(checked.rules, "rule")
        )
    })?)
}

fn show(policy: &PolicyView, out: &mut Output) -> Result<(), Failure> {
    if !out.is_table() {
        return Ok(out.value(policy, String::new)?);
    }
    out.text(&format!(
        "version   {}\nfrom      {}\nloaded    {}\n",
        policy.status.version,
        printable(&policy.status.files.join(", ")),
        moment(policy.status.loaded)
    ))?;
    if let Some(refused) = &policy.status.refused {
        out.text(&format!(
            "\na newer policy was not taken, and this one stayed in force:\n{}\n",
            lines(refused)
        ))?;
    }
    let mut agents = Table::new(&["AGENT", "MODE", "USERS", "LABELS"], 3);
    for agent in &policy.agents {
        let labels: Vec<String> = agent
            .labels
            .iter()
            .map(|(key, value)| format!("{key}={value}"))
            .collect();
        agents.row(&[
            agent.name.to_string(),
            mode(agent.mode).to_owned(),
            match agent.users.as_slice() {
                [] => "-".to_owned(),
                users => users
                    .iter()
                    .map(u32::to_string)
                    .collect::<Vec<_>>()
                    .join(","),
            },
            labels.join(","),
        ]);
    }
    out.text("")?;
    out.table(&agents)?;
    let mut rules = Table::new(&["RULE", "ACTION", "HANDLING", "MODE", "SOURCE"], 4);
    for rule in &policy.rules {
        rules.row(&[
            rule.id.clone(),
            rule.action.to_string(),
            rule.handling.map_or("-", handling).to_owned(),
            mode(rule.mode).to_owned(),
            format!("{}:{}", rule.source.file, rule.source.line),
        ]);
    }
    out.text("")?;
    out.table(&rules)?;
    for warning in &policy.warnings {
        say(&lines(warning));
    }
    Ok(())
}

fn handling(handling: Handling) -> &'static str {
    match handling {
        Handling::Direct => "direct",
        Handling::Splice => "splice",
        Handling::Inspect => "inspect",
    }
}

/// Several lines for a terminal.
fn lines(text: &str) -> String {
    text.lines().map(printable).collect::<Vec<_>>().join("\n")
}
