//! `agentguard limits`

use std::time::Duration;

use agentguard_control::limits::{LimitAccount, LimitAccounts, LimitState};
use agentguard_keeper::message::{Command as Request, LimitOrder};
use clap::Subcommand;

use super::Global;
use super::agent::change;
use super::failure::Failure;
use super::output::{Output, Table, counted, say};

/// In the place of what is not there.
const NONE: &str = "-";

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// List what limits have counted and how circuits are, those that refuse something first
    ///
    /// What is as new is not listed. All of it is in the daemon's memory: a restart forgets it.
    List {
        /// Of this limit or breaker, by its id
        #[arg(long, value_name = "ID")]
        id: Option<String>,
    },
    /// Have a limit count from the beginning, or close a circuit
    ///
    /// Calls that are under way stay theirs. Root alone.
    Reset {
        /// A limit or breaker by its ID, for all of its accounts; or ID/ACCOUNT, as `list` shows them, for one
        account: String,
        /// Why, for operators
        #[arg(long)]
        reason: Option<String>,
    },
}

pub(super) fn main(command: Command, global: &Global, out: &mut Output) -> Result<(), Failure> {
    let id = match command {
        Command::List { id } => id,
        Command::Reset { account, reason } => {
            let order = LimitOrder { account, reason };
            return change(global, &Request::Limits(Box::new(order)), out);
        }
    };
    let LimitAccounts { mut accounts, more } =
        global.ask(async |mut client| Ok(client.limits().await?))?;
    if let Some(id) = id {
        accounts.retain(|it| it.id == id);
    }
    out.list(&accounts, || table(&accounts))?;
    if more > 0 {
        let more = counted(more, "account");
        say(&format!(
            "{more} beside, none of which refuses anything before these"
        ));
    }
    Ok(())
}

fn table(accounts: &[LimitAccount]) -> Table {
    let mut table = Table::new(&["ID", "KIND", "ACCOUNT", "STATE", "WAIT", "COUNT"], 0);
    for it in accounts {
        let wait = it.wait_ms.map(Duration::from_millis);
        let wait = wait.map(|it| format!("{}s", it.as_millis().div_ceil(1000)));
        table.row(&[
            it.id.clone(),
            it.kind.clone(),
            match it.scope.as_str() {
                "" => NONE.to_owned(),
                scope => scope.to_owned(),
            },
            state(it.state).to_owned(),
            wait.unwrap_or_else(|| NONE.to_owned()),
            it.count.map_or(NONE.to_owned(), |it| it.to_string()),
        ]);
    }
    table
}

const fn state(state: LimitState) -> &'static str {
    match state {
        LimitState::Refuses => "refuses",
        LimitState::Open => "open",
        LimitState::HalfOpen => "half open",
        LimitState::Free => "free",
        LimitState::Closed => "closed",
    }
}
