//! `agentguard policy show`

use agentguard_control::api::PolicyView;
use agentguard_model::Handling;

use super::lines;
use crate::cli::agent::mode;
use crate::cli::failure::Failure;
use crate::cli::output::{Output, Table, printable, say};
use crate::cli::verdicts::moment;

pub(super) fn show(policy: &PolicyView, out: &mut Output) -> Result<(), Failure> {
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

pub(super) fn handling(handling: Handling) -> &'static str {
    match handling {
        Handling::Direct => "direct",
        Handling::Splice => "splice",
        Handling::Inspect => "inspect",
    }
}
