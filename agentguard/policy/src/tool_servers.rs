//! Where servers of tools answer.

use std::collections::HashSet;
use std::sync::Arc;

use agentguard_model::{HostName, Tool, ToolApi};

use crate::agent::AgentPolicy;
use crate::decide::{Facts, RulingOutcome};
use crate::document::{Listing, Pinning};
use crate::pattern::HostPattern;
use crate::policy::Policy;
use crate::request::{Assumed, Request, RequestMatch, Unknown};
use crate::routes::{Routed, Routes, Unrouted};
use crate::rule::Seen;
use crate::steps::Steps;
use crate::tool::CALL;

/// A server of tools.
#[derive(Debug)]
pub struct ToolServer {
    /// Its name.
    pub name: String,
    /// The form in which it is spoken to.
    pub api: ToolApi,
    /// Which of its tools agents are shown.
    pub list: Listing,
    /// What happens where it lists a tool with another definition than it first did.
    pub pin: Pinning,
    pub(crate) hosts: Vec<HostPattern>,
    /// In lower case. Empty for all.
    pub(crate) paths: RequestMatch,
    /// Of an HTTP API alone.
    pub(crate) routes: Routes,
}

impl ToolServer {
    /// The tool that a request to it is, by its method and its canonical path. Of an HTTP API alone: others have none.
    ///
    /// # Errors
    /// Why that is not known.
    pub fn route(&self, method: &str, path: &str) -> Result<Routed, Unrouted> {
        self.routes.route(method, path)
    }

    /// Whether it answers at a path, as some server may read that.
    fn at(&self, path: &str) -> bool {
        let path = path.to_ascii_lowercase().replace("%2f", "%2F");
        // That there were too few would be a way past the rules.
        let matches = |path: &str| {
            let request = Request::new("", path);
            self.paths.path(&request, false, &Steps::endless())
        };
        // What stands behind a `;` is a parameter of the segment for some (RFC 3986, 3.3), and a slash at the end
        // nothing.
        let plain = |path: &str| path.strip_suffix('/').is_some_and(matches);
        let bare: Vec<&str> = path.split('/').map(before_parameters).collect();
        let bare = bare.join("/");
        matches(&path) || plain(&path) || bare != path && (matches(&bare) || plain(&bare))
    }
}

fn before_parameters(segment: &str) -> &str {
    let segment = segment.split(';').next().unwrap_or_default();
    segment.split("%3b").next().unwrap_or_default()
}

impl Policy {
    /// The server of tools that answers at a path of a host, if one does: of several the one that the documents have
    /// first.
    #[must_use]
    pub fn tool_server(&self, host: &HostName, path: &str) -> Option<&Arc<ToolServer>> {
        let at_host = |server: &&Arc<ToolServer>| server.hosts.iter().any(|it| it.matches(host));
        let mut servers = self.tool_servers().iter().filter(at_host);
        servers.find(|server| server.at(path))
    }

    /// The server of tools of this name.
    #[must_use]
    pub fn tool_server_named(&self, name: &str) -> Option<&Arc<ToolServer>> {
        self.tool_servers().iter().find(|it| it.name == name)
    }

    /// Whether some call of a tool goes on, sent as the request of these facts: with the arguments that the rules
    /// want. Pure.
    #[must_use]
    pub fn may_call(
        &self,
        agent: &AgentPolicy,
        facts: &Facts<'_>,
        server: &str,
        name: &str,
    ) -> bool {
        let Seen::Request(request) = facts.request else {
            return false;
        };
        let tool = Tool {
            server: server.to_owned(),
            method: Some(CALL.to_owned()),
            name: Some(name.to_owned()),
            ..Tool::default()
        };
        let unknown = Unknown {
            arguments_but: Some(HashSet::new()),
            body: true,
            ..Unknown::default()
        };
        let request = Request {
            tool: Some(&tool),
            assumed: Some(Assumed {
                unknown: &unknown,
                in_favour: true,
            }),
            ..request
        };
        let facts = Facts {
            request: Seen::Request(request),
            ..*facts
        };
        matches!(self.decide(agent, &facts).outcome, RulingOutcome::Allow(_))
    }
}
