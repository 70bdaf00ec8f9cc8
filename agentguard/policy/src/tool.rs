//! What a rule says of messages to servers of tools.
//!
//! Of a message that could not be read the server is known, and nothing else: an allowance that asks for more does
//! not match it, and a denial does.

use agentguard_model::{Argument, Tool};
use agentguard_protocol::json::same_name;

use crate::pattern::{Wildcard, all_or_among, one_of};
use crate::request::{Request, Unknown, all_meet, any_or_shared};
use crate::steps::Steps;

/// The method of a call.
pub(crate) const CALL: &str = "tools/call";

/// What every session needs, and calls no tool: any allowance lets it pass at the servers that it is for. So do
/// requests of HTTP that open a stream or end a session, errors, and answers to `ping`.
pub(crate) const SESSION: [&str; 9] = [
    "initialize",
    "notifications/initialized",
    "server/discover",
    "ping",
    "tools/list",
    "subscriptions/listen",
    "notifications/cancelled",
    "notifications/progress",
    "notifications/roots/list_changed",
];

/// What a rule says of messages to servers of tools. What is none does not match.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct ToolMatch {
    /// Empty for any.
    pub(crate) servers: Vec<Wildcard>,
    /// Empty for any. Of calls alone.
    pub(crate) names: Vec<Wildcard>,
    /// Arguments by JSON Pointer, all of which a call must have. Of calls alone.
    pub(crate) arguments: Vec<(String, Vec<Wildcard>)>,
    /// Empty for calls alone where names or arguments are given, else for any.
    pub(crate) methods: Vec<Wildcard>,
}

impl ToolMatch {
    /// How many values it lists.
    pub(crate) fn values(&self) -> usize {
        let arguments = self.arguments.iter().map(|(_, values)| values.len());
        self.servers.len() + self.names.len() + self.methods.len() + arguments.sum::<usize>()
    }

    /// For how many parts of a message it has a condition; that it is one counts as well.
    pub(crate) fn conditions(&self) -> usize {
        1 + usize::from(!self.servers.is_empty())
            + usize::from(!self.names.is_empty())
            + usize::from(!self.methods.is_empty())
            + self.arguments.len()
    }

    /// Whether a request is a message that matches. `allows` as of [`crate::request::RequestMatch::matches`].
    pub(crate) fn matches(&self, request: &Request<'_>, allows: bool, steps: &Steps) -> bool {
        if let Some(holds) = request.assumed(allows, Unknown::tool) {
            return holds;
        }
        if let (Some(holds), Some(tool)) = (request.assumed(allows, Unknown::content), request.tool)
        {
            return self.server(tool)
                && (holds || self.conditions() == 1 + usize::from(!self.servers.is_empty()));
        }
        request.tool.is_some_and(|tool| {
            self.server(tool)
                && (allows && is_of_session(tool)
                    || self.method(tool, allows, steps)
                        && self.name(tool, allows, steps)
                        && self.all_arguments(request, tool, allows, steps))
        })
    }

    pub(crate) fn server(&self, tool: &Tool) -> bool {
        let name = tool.server.as_bytes();
        self.servers.is_empty() || self.servers.iter().any(|it| it.matches(name))
    }

    /// Whether it is about calls alone.
    fn calls_alone(&self) -> bool {
        self.methods.is_empty() && !(self.names.is_empty() && self.arguments.is_empty())
    }

    /// An allowance has to match what is asked for and all that is answered; a denial one of them.
    pub(crate) fn method(&self, tool: &Tool, allows: bool, steps: &Steps) -> bool {
        if self.methods.is_empty() && !self.calls_alone() {
            return true;
        }
        if tool.not_understood.is_some() {
            return !allows;
        }
        let one = |method: &String| {
            if self.calls_alone() {
                method == CALL
            } else {
                one_of(&self.methods, method, allows, steps)
            }
        };
        let mut methods = tool.method.iter().chain(&tool.answers);
        if allows {
            methods.all(|method| one(method) || SESSION.contains(&method.as_str()))
        } else {
            methods.any(one)
        }
    }

    pub(crate) fn name(&self, tool: &Tool, allows: bool, steps: &Steps) -> bool {
        if self.names.is_empty() || is_none(tool) {
            return true;
        }
        let Some(name) = &tool.name else {
            return !allows;
        };
        one_of(&self.names, name, allows, steps)
    }

    fn all_arguments(
        &self,
        request: &Request<'_>,
        tool: &Tool,
        allows: bool,
        steps: &Steps,
    ) -> bool {
        self.arguments.iter().all(|(pointer, patterns)| {
            let assumed = request.assumed(allows, |unknown| {
                tool.name.is_some() && unknown.argument(pointer)
            });
            assumed.unwrap_or_else(|| argument(tool, pointer, patterns, allows, steps))
        })
    }

    /// The arguments, where all are known.
    pub(crate) fn arguments(&self, tool: &Tool, allows: bool, steps: &Steps) -> bool {
        let mut arguments = self.arguments.iter();
        arguments.all(|(pointer, patterns)| argument(tool, pointer, patterns, allows, steps))
    }

    /// Whether this matches whatever `other` matches, in rules that say the same: see
    /// [`Self::depends_on_action`]. Patterns by spelling alone.
    pub(crate) fn covers(&self, other: &Self) -> bool {
        let arguments = self.arguments.iter().all(|(pointer, patterns)| {
            let mut others = other.arguments.iter();
            others.any(|(of, others)| of == pointer && all_or_among(patterns, others))
        });
        all_or_among(&self.servers, &other.servers)
            && all_or_among(&self.names, &other.names)
            && all_or_among(&self.methods, &other.methods)
            && arguments
            // One for calls alone covers what is for calls alone.
            && (!self.calls_alone() || other.calls_alone())
    }

    /// Whether some message certainly matches both this and `other`.
    pub(crate) fn meets(&self, other: &Self) -> bool {
        let is_call = |it: &Wildcard| it.matches(CALL.as_bytes());
        let calls = |own: &Self, other: &Self| {
            !own.calls_alone() || other.methods.is_empty() || other.methods.iter().any(is_call)
        };
        any_or_shared(&self.servers, &other.servers, Wildcard::covers)
            && any_or_shared(&self.names, &other.names, Wildcard::covers)
            && any_or_shared(&self.methods, &other.methods, Wildcard::covers)
            && all_meet(&self.arguments, &other.arguments)
            && calls(self, other)
            && calls(other, self)
    }

    /// Whether a rule that says this matches less than one of another action that says it too.
    pub(crate) fn depends_on_action(&self) -> bool {
        !self.names.is_empty() || !self.arguments.is_empty() || !self.methods.is_empty()
    }
}

/// Whether a message is known to be no call.
fn is_none(tool: &Tool) -> bool {
    tool.not_understood.is_none() && tool.name.is_none()
}

/// Whether a message is of those that every session needs.
fn is_of_session(tool: &Tool) -> bool {
    let mut methods = tool.method.iter().chain(&tool.answers);
    tool.not_understood.is_none() && methods.all(|method| SESSION.contains(&method.as_str()))
}

/// An argument that an allowance looks at has to be there in one spelling, and each entry of a list has to match; for a
/// denial one value suffices, in any spelling.
fn argument(
    tool: &Tool,
    pointer: &str,
    patterns: &[Wildcard],
    allows: bool,
    steps: &Steps,
) -> bool {
    if is_none(tool) {
        return true;
    }
    if tool.not_understood.is_some() {
        return !allows;
    }
    let mut found = spellings(tool, pointer);
    if !allows {
        return found.any(|it| {
            it.values
                .iter()
                .any(|value| one_of(patterns, value, false, steps))
        });
    }
    match (found.next(), found.next()) {
        (Some(one), None) => {
            one.pointer == pointer
                && !one.values.is_empty()
                && one
                    .values
                    .iter()
                    .all(|value| one_of(patterns, value, true, steps))
        }
        _ => false,
    }
}

/// The arguments that a pointer points to, in any case: servers differ in whether they look at it.
pub(crate) fn spellings<'a>(tool: &'a Tool, pointer: &str) -> impl Iterator<Item = &'a Argument> {
    let values = tool.values.iter();
    values.filter(move |it| same_name(&it.pointer, pointer))
}
