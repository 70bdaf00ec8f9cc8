//! Which accounts of its budgets a call is charged to.

use agentguard_budget::Scope;
use agentguard_model::budget::Dimension;
use agentguard_model::{Agent, Context};
use agentguard_policy::Charged;

use crate::port::Target;

/// Who is behind what is charged, and where it goes.
pub(crate) struct Behind<'a> {
    pub(crate) agent: Option<&'a Agent>,
    /// What is known of whom it is for, from sources that the policy trusts.
    pub(crate) context: &'a Context,
    pub(crate) target: &'a Target,
    pub(crate) charged: Charged<'a>,
    /// The model that is called, by the name of its price, where it has one: by whichever of its names it is called, it is
    /// one account.
    pub(crate) model: Option<&'a str>,
}

impl Behind<'_> {
    /// Its account, where these tell accounts apart.
    pub(crate) fn scope(&self, per: &[Dimension]) -> Scope {
        let values: Vec<String> = per.iter().map(|it| self.value(it)).collect();
        Scope::of(per.iter().zip(values.iter().map(String::as_str)))
    }

    /// What of it a dimension is about; empty where that is not known.
    pub(crate) fn value(&self, dimension: &Dimension) -> String {
        let said = |it: &Option<String>| it.clone().unwrap_or_default();
        match (dimension, self.charged) {
            (Dimension::Agent, _) => {
                let name = self.agent.map(|agent| agent.name.to_string());
                name.unwrap_or_default()
            }
            (Dimension::User, _) => said(&self.context.user),
            (Dimension::Session, _) => said(&self.context.session),
            (Dimension::Workflow, _) => said(&self.context.workflow),
            (Dimension::Label(name), _) => {
                let label = self.agent.and_then(|agent| agent.labels.get(name));
                label.cloned().unwrap_or_default()
            }
            (Dimension::Provider, Charged::Llm(llm)) => llm.provider.clone(),
            (Dimension::Model, Charged::Llm(_)) if self.model.is_some() => {
                self.model.unwrap_or_default().to_owned()
            }
            // Servers differ in whether they look at its case.
            (Dimension::Model, Charged::Llm(llm)) => said(&llm.model).to_ascii_lowercase(),
            (Dimension::Tool, Charged::Tool(tool)) => {
                format!("{}/{}", tool.server, said(&tool.name))
            }
            (Dimension::Host, _) => match (&self.target.host, self.target.ip) {
                (Some(host), _) => host.to_string(),
                (None, Some(ip)) => ip.to_string(),
                (None, None) => String::new(),
            },
            (Dimension::Provider | Dimension::Model | Dimension::Tool, _) => String::new(),
        }
    }

    /// A number that is the same for the same place: FNV-1a of its name and port, 64 bits. Two places of which it is the
    /// same count as one; who looks for such gets to one more place.
    pub(super) fn place(&self) -> u64 {
        let text = format!("{}:{}", self.value(&Dimension::Host), self.target.port);
        text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        })
    }
}
