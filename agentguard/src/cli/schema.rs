//! `agentguard schema`: for editors and for programs that read our JSON.

use agentguard_control::budgets::BudgetAccount;
use agentguard_control::limits::LimitAccount;
use agentguard_model::Decision;
use clap::{Args, ValueEnum};

use super::failure::Failure;
use super::output::Output;

/// Print the JSON Schema of a document
#[derive(Args, Debug)]
pub(super) struct Schema {
    /// Of which document
    #[arg(value_enum)]
    of: Kind,
}

/// The documents that have a schema.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Kind {
    /// The configuration
    Config,
    /// The policy
    Policy,
    /// A file of tests of a policy
    Tests,
    /// A file of prices
    Prices,
    /// A decision, as `verdicts -o jsonl` prints them
    Decision,
    /// An account of a budget, as `budget list -o jsonl` prints them, and `budget show` with more of it
    Budget,
    /// What a limit has counted or how a circuit is, as `limits list -o jsonl` prints them
    Limit,
}

pub(super) fn main(schema: &Schema, out: &mut Output) -> Result<(), Failure> {
    let schema = match schema.of {
        Kind::Config => crate::config::schema().into(),
        Kind::Policy => agentguard_policy::schema(),
        Kind::Tests => agentguard_policy::table::schema(),
        Kind::Prices => agentguard_budget::prices::schema().into(),
        Kind::Decision => schemars::schema_for!(Decision).into(),
        Kind::Budget => schemars::schema_for!(BudgetAccount).into(),
        Kind::Limit => schemars::schema_for!(LimitAccount).into(),
    };
    Ok(out.pretty(&schema)?)
}
