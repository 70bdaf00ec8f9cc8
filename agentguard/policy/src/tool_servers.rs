//! Where servers of tools answer.

use std::collections::HashSet;
use std::sync::Arc;

use agentguard_model::{HostName, Tool, ToolApi};

use crate::agent::AgentPolicy;
use crate::decide::{Facts, RulingOutcome};
use crate::document::{Listing, Pinning};
use crate::pattern::{Glob, HostPattern};
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

    /// The servers before this one of which each answers at a part of where this one would, and all together wherever
    /// it would, so that it never does. None, if there is a place where it may.
    pub(crate) fn shadowed_by<'a>(&self, before: &'a [Self]) -> Vec<&'a Self> {
        let mut all = Vec::new();
        for host in &self.hosts {
            let at_host = |other: &&Self| other.hosts.iter().any(|it| it.covers(host));
            let others: Vec<&Self> = before.iter().filter(at_host).collect();
            let paths = &self.paths.paths;
            let answers = |other: &&&Self| {
                let theirs = &other.paths.paths;
                theirs.is_empty()
                    || paths
                        .iter()
                        .any(|path| theirs.iter().any(|it| it.covers(path)))
            };
            let everywhere = others.iter().any(|it| it.paths.paths.is_empty());
            let covered = |path: &Glob| {
                let mut parts = others.iter().flat_map(|it| &it.paths.paths);
                parts.any(|it| it.covers(path))
            };
            if !everywhere && (paths.is_empty() || !paths.iter().all(covered)) {
                return Vec::new();
            }
            for other in others.iter().filter(answers) {
                if !all.iter().any(|it: &&Self| it.name == other.name) {
                    all.push(*other);
                }
            }
        }
        all
    }

    /// Whether it answers at a place.
    fn at(&self, place: &Place) -> bool {
        let matches = |(path, steps): &(String, Steps)| {
            let request = Request::new("", path);
            self.paths.path(&request, false, steps)
        };
        place.0.iter().any(matches)
    }
}

/// A path in each way in which some server may read it, with what looking at that costs.
struct Place(Vec<(String, Steps)>);

impl Place {
    fn of(path: &str) -> Self {
        let path = path.to_ascii_lowercase().replace("%2f", "%2F");
        let slashes = path.replace("%2F", "/");
        // What stands behind a `;` is a parameter of the segment for some (RFC 3986, 3.3), and where that ends is told
        // before an escaped slash is one, or after.
        let before = without_parameters(&path);
        let both = before.replace("%2F", "/");
        let after = without_parameters(&slashes);
        let mut readings = Vec::new();
        for reading in [path, slashes, before, both, after] {
            if reading.starts_with('/') {
                let plain = plain(&reading);
                if reading.ends_with('/') && plain != "/" {
                    readings.push(format!("{plain}/"));
                }
                readings.push(plain);
            }
            readings.push(reading);
        }
        readings.sort_unstable();
        readings.dedup();
        // That there were too few would be a way past the rules.
        let counted = readings.into_iter().map(|it| (it, Steps::endless()));
        Self(counted.collect())
    }
}

/// The patterns, without their leading `/`, that a path of a server stands for: in lower case as it is written, and as
/// [`plain`].
pub(crate) fn patterns(path: &str) -> Vec<String> {
    let written = path.to_ascii_lowercase().replace("%2f", "%2F");
    let plain = plain(&written.replace("%2F", "/"));
    let mut patterns = vec![written, plain];
    patterns.dedup();
    let below = |it: &String| it.strip_prefix('/').unwrap_or_default().to_owned();
    patterns.iter().map(below).collect()
}

fn without_parameters(path: &str) -> String {
    let segments: Vec<&str> = path.split('/').map(before_parameters).collect();
    segments.join("/")
}

fn before_parameters(segment: &str) -> &str {
    let segment = segment.split(';').next().unwrap_or_default();
    segment.split("%3b").next().unwrap_or_default()
}

/// A path without empty segments, of which the last is one too where a slash is at its end, and with the dot segments
/// resolved (RFC 3986, 5.2.4) that parameters hid.
fn plain(path: &str) -> String {
    let mut segments = Vec::new();
    for segment in path.split('/') {
        match segment {
            "" | "." => {}
            ".." => drop(segments.pop()),
            _ => segments.push(segment),
        }
    }
    format!("/{}", segments.join("/"))
}

impl Policy {
    /// The server of tools that answers at a path of a host, if one does: of several the one that the documents have
    /// first.
    #[must_use]
    pub fn tool_server(&self, host: &HostName, path: &str) -> Option<&Arc<ToolServer>> {
        let at_host = |server: &&Arc<ToolServer>| server.hosts.iter().any(|it| it.matches(host));
        let mut servers = self.tool_servers().iter().filter(at_host);
        let mut place = None;
        servers.find(|server| server.at(place.get_or_insert_with(|| Place::of(path))))
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
