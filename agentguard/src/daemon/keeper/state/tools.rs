//! What operators order about the definitions of tools. The worker keeps those: they come from what it reads.

use agentguard_keeper::message::{ToWorker, ToolsDeed, ToolsOrder};
use agentguard_model::MAX_PINNED_NAME;
use anyhow::{Context as _, bail};

use super::Keeper;
use super::orders::{self, Asked};

/// The longest name of a server that the policy takes, in bytes.
const MAX_SERVER: usize = 63;

/// The bytes of a digest as it is written.
const DIGEST: usize = "sha256:".len() + 64;

impl Keeper {
    /// Has the worker do it. `uid`: who orders it. With what the worker is to answer.
    ///
    /// # Errors
    /// It is too long to be meant, or there is no worker.
    pub(in super::super) fn order_tools(
        &self,
        order: &ToolsOrder,
        uid: u32,
    ) -> anyhow::Result<Asked> {
        orders::bounded(order.reason.as_deref())?;
        let tool = order.tool.as_ref().map_or(0, String::len);
        if order.server.len() > MAX_SERVER || tool > MAX_PINNED_NAME {
            bail!(
                "no tool has such a long name; hint: `agentguard tools list` has those that are pinned"
            );
        }
        if let ToolsDeed::Accept {
            digest: Some(digest),
        } = &order.what
            && digest.len() != DIGEST
        {
            bail!(
                "this is no digest; hint: `agentguard tools diff` shows it, `sha256:` and 64 digits"
            );
        }
        let asked = self.ask_worker(|number| ToWorker::Tools {
            number,
            order: Box::new(order.clone()),
            uid,
        });
        asked.context("the worker is being started; hint: do it again in a moment")
    }
}
