//! `agentguard tools`

use agentguard_control::tools::ToolQuery;
use agentguard_keeper::message::{Command as Request, ToolsDeed, ToolsOrder};
use agentguard_model::{ToolPin, ToolPinned};
use clap::Subcommand;

use super::Global;
use super::agent::change;
use super::explain::changed;
use super::failure::Failure;
use super::output::{Output, Table, printable};
use super::verdicts::moment;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// List the tools that were seen, and which of them are not what they were
    List {
        /// Of this server, as the policy calls it
        #[arg(long, value_name = "NAME")]
        server: Option<String>,
    },
    /// Show what changed in the definition of a tool
    Diff {
        /// The server, as the policy calls it
        server: String,
        /// The tool
        tool: String,
    },
    /// Accept what a server lists now: its tools are compared with that from then on
    ///
    /// Calls of a tool that was held go on, and messages to an agent whose card was. Without a tool, what was listed last
    /// of all that are held is accepted.
    Accept {
        /// The server, as the policy calls it
        server: String,
        /// The tool; without one, all of the server that are held
        tool: Option<String>,
        /// Only if the definition is this one, as `diff` shows it
        #[arg(long, value_name = "sha256:…", requires = "tool")]
        digest: Option<String>,
        /// Why, for operators
        #[arg(long)]
        reason: Option<String>,
    },
    /// Forget what tools were seen as: each is pinned anew to what is listed next, whatever that is
    Forget {
        /// The server, as the policy calls it
        server: String,
        /// The tool; without one, all of the server
        tool: Option<String>,
        /// Why, for operators
        #[arg(long)]
        reason: Option<String>,
    },
}

pub(super) fn main(command: Command, global: &Global, out: &mut Output) -> Result<(), Failure> {
    match command {
        Command::List { server } => {
            let query = ToolQuery { server, tool: None };
            let pins = global.ask(async |mut client| Ok(client.tools(&query).await?))?;
            Ok(out.list(&pins, || table(&pins))?)
        }
        Command::Diff { server, tool } => {
            let query = ToolQuery {
                server: Some(server),
                tool: Some(tool),
            };
            let pinned = global.ask(async |mut client| Ok(client.tool(&query).await?))?;
            Ok(out.value(&pinned, || story(&pinned))?)
        }
        Command::Accept {
            server,
            tool,
            digest,
            reason,
        } => {
            let what = ToolsDeed::Accept { digest };
            order(global, server, tool, what, reason, out)
        }
        Command::Forget {
            server,
            tool,
            reason,
        } => order(global, server, tool, ToolsDeed::Forget, reason, out),
    }
}

fn order(
    global: &Global,
    server: String,
    tool: Option<String>,
    what: ToolsDeed,
    reason: Option<String>,
    out: &mut Output,
) -> Result<(), Failure> {
    let order = ToolsOrder {
        server,
        tool,
        what,
        reason,
    };
    change(global, &Request::Tools(Box::new(order)), out)
}

fn table(pins: &[ToolPin]) -> Table {
    let mut table = Table::new(&["SERVER", "TOOL", "STATE", "SINCE", "ACCEPTED BY"], 1);
    for pin in pins {
        let since = pin.other.as_ref().map_or(pin.since, |other| other.since);
        let accepted = pin.accepted.as_ref();
        table.row(&[
            pin.server.clone(),
            pin.tool.clone(),
            state(pin).to_owned(),
            moment(since),
            accepted.map_or_else(|| "-".to_owned(), |by| format!("uid {}", by.uid)),
        ]);
    }
    table
}

/// How the definition of a tool is, in a word or two.
const fn state(pin: &ToolPin) -> &'static str {
    match &pin.other {
        None => "pinned",
        Some(other) if other.back => "changed and back",
        Some(_) => "changed",
    }
}

fn story(pinned: &ToolPinned) -> String {
    let pin = &pinned.pin;
    let mut out = format!(
        "tool      {} of {}\nstate     {}\npinned    {} since {}\n",
        printable(&pin.tool),
        printable(&pin.server),
        state(pin),
        pin.digest,
        moment(pin.since)
    );
    if let Some(by) = &pin.accepted {
        let why = by
            .reason
            .as_ref()
            .map(|why| format!(": {}", printable(why)));
        out.push_str(&format!(
            "accepted  {} by uid {}{}\n",
            moment(by.time),
            by.uid,
            why.unwrap_or_default()
        ));
    }
    let Some(other) = &pin.other else {
        return out;
    };
    out.push_str(&format!(
        "listed    {} since {}\n",
        other.digest,
        moment(other.since)
    ));
    if !other.kept {
        out.push_str("          its text was not kept: it did not fit, or could not be written\n");
    }
    for line in pinned.change.iter().flat_map(changed::lines) {
        out.push_str(&format!("{}\n", printable(&line)));
    }
    out
}

#[cfg(test)]
mod tests {
    use agentguard_model::{ChangedPart, PinAccepted, PinOther, ToolChange, ToolPin, ToolPinned};
    use jiff::Timestamp;

    use super::{story, table};

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + seconds).unwrap()
    }

    fn pin(tool: &str, other: Option<bool>) -> ToolPin {
        ToolPin {
            server: "files".to_owned(),
            tool: tool.to_owned(),
            digest: "sha256:1".to_owned(),
            since: at(0),
            accepted: other.is_none().then(|| PinAccepted {
                uid: 7,
                time: at(0),
                reason: Some("ticket\u{1b} 42".to_owned()),
            }),
            other: other.map(|back| PinOther {
                digest: "sha256:2".to_owned(),
                since: at(60),
                kept: true,
                back,
            }),
        }
    }

    #[test]
    fn pins_are_listed_with_how_they_are() {
        let pins = [
            pin("read", None),
            pin("send", Some(true)),
            pin("write", Some(false)),
        ];
        assert_eq!(
            table(&pins).render(None),
            "\
SERVER  TOOL   STATE             SINCE                 ACCEPTED BY
files   read   pinned            2027-01-15T08:00:00Z  uid 7
files   send   changed and back  2027-01-15T08:01:00Z  -
files   write  changed           2027-01-15T08:01:00Z  -
"
        );
    }

    #[test]
    fn what_changed_is_told_part_by_part_and_harmless_to_a_terminal() {
        let part = |before: Option<&str>, after: Option<&str>| ChangedPart {
            pointer: "/description".to_owned(),
            before: before.map(str::to_owned),
            after: after.map(str::to_owned),
        };
        let told = story(&ToolPinned {
            pin: pin("write", Some(false)),
            definition: String::new(),
            other_definition: None,
            change: Some(ToolChange {
                parts: vec![
                    part(Some("\"Writes.\""), Some("\"Writes\u{1b}[2J.\"")),
                    part(None, Some("1")),
                ],
                more: 3,
                ..ToolChange::default()
            }),
        });
        assert_eq!(
            told,
            "\
tool      write of files
state     changed
pinned    sha256:1 since 2027-01-15T08:00:00Z
listed    sha256:2 since 2027-01-15T08:01:00Z
changed   /description
        - \"Writes.\"
        + \"Writes\\u{1b}[2J.\"
changed   /description
        + 1
changed   3 more parts
"
        );
    }
}
