//! Names of tools that agents do not have: those of A2A are known.

use agentguard_model::ToolApi;
use agentguard_protocol::api::a2a::Operation;

use super::{Known, Report};
use crate::diagnostic::{nearest, quoted};
use crate::document::RawTool;
use crate::pattern::Wildcard;

/// Warns of names that no call has where a rule is for agents alone, such as the methods of 0.x.
pub(super) fn that_are_none(raw: &RawTool, known: &Known<'_>, report: &mut Report) {
    let Some(names) = raw.name.as_ref().filter(|_| !known.partial) else {
        return;
    };
    let meant = raw.server.as_ref().map(|it| &it.value);
    let mut servers = known.tool_servers.iter().filter(|server| {
        meant.is_none_or(|meant| {
            let mut meant = meant.iter();
            meant.any(|it| Wildcard::new(&it.value).matches(server.name.as_bytes()))
        })
    });
    let is_agent = |api| api == ToolApi::A2a;
    let agents = servers.next().is_some_and(|first| is_agent(first.api))
        && servers.all(|server| is_agent(server.api));
    if !agents {
        return;
    }
    for entry in &names.value {
        // A denial has no regard to case.
        let pattern = Wildcard::new(&entry.value.to_ascii_lowercase());
        let is_one = |name: &str| pattern.matches(name.to_ascii_lowercase().as_bytes());
        if Operation::names().any(is_one) {
            continue;
        }
        let told = quoted(&entry.value);
        let message = format!("`{told}` is no operation of A2A, so that no call has this name");
        let hint = match Operation::of_method(&entry.value) {
            Some(operation) => format!(
                "write `{}`: operations have the names of 1.0, in whatever version they are asked for",
                operation.name()
            ),
            None => nearest(&entry.value, Operation::names()).map_or_else(
                || "operations have the names of A2A 1.0, such as `SendMessage`".to_owned(),
                |near| format!("did you mean `{near}`?"),
            ),
        };
        report.warn(entry.place, message, &hint);
    }
}
