//! What operators say that accounts of budgets have used, and what they want of limits. The worker keeps those.

use agentguard_keeper::message::{BudgetOrder, LimitOrder, ToWorker};
use anyhow::{Context as _, bail};

use super::Keeper;
use super::orders::{self, Asked};

/// The longest name of an account that is looked for, in bytes.
const MAX_ACCOUNT: usize = 4096;

/// The longest amount, in bytes.
const MAX_AMOUNT: usize = 64;

impl Keeper {
    /// Has the worker do it. `uid`: who orders it. With what the worker is to answer.
    ///
    /// # Errors
    /// It is too long to be meant, or there is no worker.
    pub(in super::super) fn order_budget(
        &self,
        order: &BudgetOrder,
        uid: u32,
    ) -> anyhow::Result<Asked> {
        orders::bounded(order.reason.as_deref())?;
        if order.account.len() > MAX_ACCOUNT {
            bail!(
                "no account has such a long name; hint: `agentguard budget list` has those that are there"
            );
        }
        if order.used.as_ref().is_some_and(|it| it.len() > MAX_AMOUNT) {
            bail!("this is no amount; hint: write it as the policy has limits, like `$5` or 2000");
        }
        let asked = self.ask_worker(|number| ToWorker::Budget {
            number,
            order: Box::new(order.clone()),
            uid,
        });
        asked.context("the worker is being started; hint: do it again in a moment")
    }

    /// The same of limits and breakers.
    ///
    /// # Errors
    /// As [`Self::order_budget`].
    pub(in super::super) fn order_limits(
        &self,
        order: &LimitOrder,
        uid: u32,
    ) -> anyhow::Result<Asked> {
        orders::bounded(order.reason.as_deref())?;
        if order.account.len() > MAX_ACCOUNT {
            bail!(
                "no account has such a long name; hint: `agentguard limits list` has those that are there"
            );
        }
        let asked = self.ask_worker(|number| ToWorker::Limits {
            number,
            order: Box::new(order.clone()),
            uid,
        });
        asked.context("the worker is being started; hint: do it again in a moment")
    }
}
