//! `agentguard policy switch`

use agentguard_control::api::SwitchStatus;
use agentguard_keeper::message::Command as Request;
use clap::{Args, ValueEnum};

use crate::cli::Global;
use crate::cli::agent::change;
use crate::cli::failure::Failure;
use crate::cli::output::{Output, Table, printable};
use crate::cli::verdicts::moment;

/// Without a name it lists.
#[derive(Args, Debug)]
pub(in crate::cli) struct Switch {
    /// The switch, as the policy names it; without one, list all of them
    #[arg(requires = "to")]
    name: Option<String>,
    /// How it is from now on; default: as the policy declares it
    #[arg(value_enum)]
    to: Option<To>,
    /// Why, for operators; no agent is told
    #[arg(long, requires = "to")]
    reason: Option<String>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum To {
    On,
    Off,
    Default,
}

pub(super) fn main(switch: Switch, global: &Global, out: &mut Output) -> Result<(), Failure> {
    let (Some(name), Some(to)) = (switch.name, switch.to) else {
        let switches = global.ask(async |mut client| Ok(client.policy().await?.switches))?;
        return Ok(out.list(&switches, || table(&switches))?);
    };
    let request = Request::Switch {
        name,
        on: match to {
            To::On => Some(true),
            To::Off => Some(false),
            To::Default => None,
        },
        reason: switch.reason,
    };
    change(global, &request, out)
}

fn table(switches: &[SwitchStatus]) -> Table {
    let mut table = Table::new(&["NAME", "STATE", "DECLARED", "SET BY", "SINCE"], 0);
    for switch in switches {
        let set = switch.set.as_ref();
        table.row(&[
            switch.name.clone(),
            switch.on.map_or("-", word).to_owned(),
            switch.declared.map_or("not declared", word).to_owned(),
            set.map_or_else(|| "-".to_owned(), |set| format!("uid {}", set.uid)),
            set.map_or_else(|| "-".to_owned(), |set| moment(set.since)),
        ]);
    }
    table
}

/// How a switch is that is not as the policy declares it: since when, by whom and why.
pub(in crate::cli) fn story(switch: &SwitchStatus) -> String {
    let mut words = match (switch.on, switch.declared) {
        (Some(on), Some(declared)) => format!(
            "{} is {}, declared {}",
            switch.name,
            word(on),
            word(declared)
        ),
        _ => format!(
            "{} is not declared by the policy any more, and counts for nothing",
            switch.name
        ),
    };
    if let Some(set) = &switch.set {
        words.push_str(&format!(
            "; set {} since {} by uid {}",
            word(set.on),
            moment(set.since),
            set.uid
        ));
        if let Some(reason) = &set.reason {
            words.push_str(&format!(": {}", printable(reason)));
        }
    }
    words
}

const fn word(on: bool) -> &'static str {
    if on { "on" } else { "off" }
}

#[cfg(test)]
mod tests {
    use super::{SwitchStatus, story, table};
    use agentguard_control::api::SwitchSet;

    #[test]
    fn what_people_read() {
        let set = |on, reason: Option<&str>| {
            Some(SwitchSet {
                on,
                since: "2026-01-02T03:04:05Z".parse().unwrap(),
                uid: 1000,
                reason: reason.map(str::to_owned),
            })
        };
        let switches = [
            SwitchStatus::new("calm", Some(true), None),
            SwitchStatus::new("freeze", Some(false), set(true, Some("ticket\u{1b} 42"))),
            SwitchStatus::new("old", None, set(false, None)),
        ];
        assert_eq!(
            table(&switches).render(None),
            "NAME    STATE  DECLARED      SET BY    SINCE\n\
             calm    on     on            -         -\n\
             freeze  on     off           uid 1000  2026-01-02T03:04:05Z\n\
             old     -      not declared  uid 1000  2026-01-02T03:04:05Z\n"
        );
        assert_eq!(
            story(&switches[1]),
            "freeze is on, declared off; set on since 2026-01-02T03:04:05Z by uid 1000: ticket\\u{1b} 42"
        );
        assert_eq!(
            story(&switches[2]),
            "old is not declared by the policy any more, and counts for nothing; set off since \
             2026-01-02T03:04:05Z by uid 1000"
        );
    }
}
