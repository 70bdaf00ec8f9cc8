//! Rules for tools on the agent's own host alone.

use crate::local;
use crate::pattern::HostPattern;
use crate::rule::Rule;
use crate::tool_servers::ToolServer;

/// Makes a rule that names local servers of tools, and no destination, one for the place where they are: it opens no
/// name and no address, and no flow in the network waits for it. Gives whether it did.
pub(super) fn narrow(rule: &mut Rule, servers: &[ToolServer]) -> bool {
    let Some(tool) = rule.request.tool.as_ref() else {
        return false;
    };
    if !rule.anywhere() || tool.servers.is_empty() {
        return false;
    }
    let mut meant = servers.iter();
    let mut meant = meant
        .by_ref()
        .filter(|it| {
            tool.servers
                .iter()
                .any(|pattern| pattern.matches(it.name.as_bytes()))
        })
        .peekable();
    let is_local = meant.peek().is_some() && meant.all(|it| it.api.is_local());
    if is_local {
        rule.hosts.push(HostPattern::Exact(local::place().clone()));
    }
    is_local
}
