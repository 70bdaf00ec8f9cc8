//! `agentguard budget`

mod accounts;
mod forecast;
mod prices;

use agentguard_control::budgets::BudgetQuery;
use agentguard_keeper::message::{BudgetOrder, Command as Request};
use agentguard_model::AgentName;
use clap::{Args, Subcommand};

use super::Global;
use super::agent::change;
use super::failure::Failure;
use super::output::{Output, counted, say};

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// List the accounts of budgets: what is used, held and left in the window that is under way
    List(Which),
    /// Show one account: how full it is, where its budget stands, its last windows, how it goes on
    Show {
        /// The account, as `list` shows it: ID or ID/SCOPE
        account: String,
    },
    /// Say how long budgets last: how fast they are used, when nothing is left, what is used in the end
    Forecast {
        /// The account, as `list` shows it; all, if none is given
        #[arg(conflicts_with_all = ["budget", "agent"])]
        account: Option<String>,
        #[command(flatten)]
        which: Which,
    },
    /// Say what an account has used: it counts from now on, whatever was counted before
    ///
    /// What calls under way hold stays held. Root alone.
    Set {
        /// The account, as `list` shows it: ID or ID/SCOPE
        account: String,
        /// How much, as the policy writes limits: a number, '$5' of money, 30m of time
        amount: String,
        /// Why, for operators
        #[arg(long)]
        reason: Option<String>,
    },
    /// Have an account count as if nothing had been used
    ///
    /// What calls under way hold stays held. Root alone.
    Reset {
        /// The account, as `list` shows it: ID or ID/SCOPE
        account: String,
        /// Why, for operators
        #[arg(long)]
        reason: Option<String>,
    },
    /// Show what language models cost, or import it from files that others keep; works without a daemon
    #[command(subcommand)]
    Prices(prices::Command),
}

/// Which accounts.
#[derive(Args, Debug)]
pub(super) struct Which {
    /// Those of this budget
    #[arg(long, value_name = "ID")]
    budget: Option<String>,
    /// Those that something of this agent's may be charged to
    #[arg(long, value_name = "NAME")]
    agent: Option<AgentName>,
}

pub(super) fn main(command: Command, global: &Global, out: &mut Output) -> Result<(), Failure> {
    match command {
        Command::List(which) => {
            let query = which.query(false);
            let told = global.ask(async |mut client| Ok(client.budgets(&query).await?))?;
            out.list(&told.accounts, || accounts::table(&told.accounts))?;
            beyond(told.more, told.unread);
            Ok(())
        }
        Command::Show { account } => {
            let shown = global.ask(async |mut client| Ok(client.budget(&account).await?))?;
            Ok(out.value(&shown, || accounts::story(&shown))?)
        }
        Command::Forecast { account, which } => {
            let (accounts, more, unread) = global.ask(async |mut client| match &account {
                Some(account) => Ok((vec![client.budget(account).await?], 0, 0)),
                None => {
                    let told = client.budgets(&which.query(true)).await?;
                    Ok((told.accounts, told.more, told.unread))
                }
            })?;
            out.list(&accounts, || forecast::table(&accounts))?;
            beyond(more, unread);
            Ok(())
        }
        Command::Set {
            account,
            amount,
            reason,
        } => order(account, Some(amount), reason, global, out),
        Command::Reset { account, reason } => order(account, None, reason, global, out),
        Command::Prices(command) => prices::main(&command, global, out),
    }
}

impl Which {
    fn query(&self, forecast: bool) -> BudgetQuery {
        BudgetQuery {
            budget: self.budget.clone(),
            agent: self.agent.clone(),
            forecast,
        }
    }
}

/// Says that not all were told.
fn beyond(more: usize, unread: usize) {
    if more > 0 {
        let more = counted(more, "account");
        say(&format!(
            "{more} beside, less full than these; hint: --budget and --agent list fewer"
        ));
    }
    if unread > 0 {
        let unread = counted(unread, "account");
        say(&format!(
            "{unread} beside, at which nobody has looked: of those in Redis 16384 are read; some may be fuller than these"
        ));
    }
}

fn order(
    account: String,
    used: Option<String>,
    reason: Option<String>,
    global: &Global,
    out: &mut Output,
) -> Result<(), Failure> {
    let order = BudgetOrder {
        account,
        used,
        reason,
    };
    change(global, &Request::Budget(Box::new(order)), out)
}
