//! From a written file to tests that cannot be wrong.

mod llm;
mod local;
mod tool;

use std::collections::HashMap;
use std::net::IpAddr;

use agentguard_model::{
    AgentName, AmbiguousPath, CanonicalPath, Context, HostName, Llm, Tool, Transport,
};
use http::{HeaderMap, HeaderValue};
use jiff::Timestamp;

use super::document::{RawContext, RawExpect, RawRequest, RawTable, RawTest, Scheme};
use super::run::Expectation;
use super::{Attempt, Sent, Table, Test};
use super::{behind, calls};
use crate::circumstances::Switches;
use crate::diagnostic::{Diagnostic, Diagnostics, Severity, nearest, quoted};
use crate::document::RawTransport;
use crate::flow::{Around, Flow};
use crate::load::requests::{SIZES, bytes, field_name, is_method};
use crate::policy::Policy;
use crate::request::Query;
use crate::sources::Unreadable;
use crate::special;
use crate::yaml::{At, Place, parse_lenient};

/// The most tests of a file. More are refused.
pub const MAX_TESTS: usize = 10_000;

/// The most bytes of a test's name. A longer one is refused.
const MAX_NAME: usize = 1024;

/// When a test is, that does not say so: a Wednesday at noon.
const USUAL: Timestamp = Timestamp::constant(1_767_787_200, 0);

/// The port at which names are looked up.
const RESOLVER: u16 = 53;

/// The port of HTTPS, where a test does not say otherwise.
const HTTPS: u16 = 443;

/// A file of tests that was read, and not compared with its policy.
#[derive(Debug)]
pub struct WrittenTable {
    path: String,
    raw: RawTable,
    found: Vec<Diagnostic>,
}

impl WrittenTable {
    /// Reads a text. What is wrong with some of it is told by [`Self::check`], with all the rest.
    ///
    /// # Errors
    /// What is wrong, where nothing of it can be read.
    pub fn parse(path: &str, text: &str) -> Result<Self, Diagnostics> {
        match parse_lenient(path, text) {
            (Some(raw), found) => Ok(Self {
                path: path.to_owned(),
                raw,
                found,
            }),
            (None, found) => Err(Diagnostics::new(found)),
        }
    }

    /// The policy that the file names, as it names it.
    #[must_use]
    pub fn policy(&self) -> Option<&str> {
        self.raw.policy.as_ref().map(|policy| policy.value.as_str())
    }

    /// What is wrong with the file as far as that is known without the policy that it names, which cannot be read.
    #[must_use]
    pub fn without_policy(self, unreadable: &Unreadable) -> Diagnostics {
        let mut found = self.found;
        if let Some(At { value, place, .. }) = &self.raw.policy {
            let message = format!("cannot read `{}`: {}", quoted(value), unreadable.why);
            found.push(Diagnostic {
                severity: Severity::Error,
                path: self.path,
                line: place.line,
                column: place.column,
                message,
                hint: unreadable.hint.clone(),
            });
        }
        found.sort_by_key(|d| (d.line, d.column));
        Diagnostics::new(found)
    }

    /// The tests, where there is nothing wrong with them.
    ///
    /// # Errors
    /// Everything that is wrong with the file: its form, its values, agents and rules that the policy
    /// does not have.
    pub fn check(self, policy: &Policy) -> Result<Table, Diagnostics> {
        let broken: Vec<u32> = self.found.iter().map(|d| d.line).collect();
        let whole = |test: &At<RawTest>| {
            !broken
                .iter()
                .any(|line| (test.place.line..=test.last_line).contains(line))
        };
        let mut checking = Checking {
            path: self.path,
            policy,
            found: self.found,
            partial: false,
        };
        if self.raw.version.value != 1 {
            let message = format!("version {} is not known", self.raw.version.value);
            let hint = "this version of the guard reads `version: 1`";
            checking.error(self.raw.version.place, message, hint);
        }
        let RawTable { tests, .. } = self.raw;
        if tests.value.is_empty() && broken.is_empty() {
            checking.error(
                tests.place,
                "there are no tests",
                "`tests: [{name: …, agent: …, host: …, port: 443, expect: allow}]`",
            );
        }
        if tests.value.len() > MAX_TESTS {
            let message = format!("{} tests; the limit is {MAX_TESTS}", tests.value.len());
            checking.error(tests.place, message, "split the file");
        }
        let mut names: HashMap<String, u32> = HashMap::new();
        let mut checked = Vec::new();
        for raw in tests.value.into_iter().take(MAX_TESTS) {
            let (name, whole) = (&raw.value.name, whole(&raw));
            if let Some(line) = names.insert(name.value.clone(), name.place.line) {
                let message = format!("a second test `{}`", quoted(&name.value));
                let hint = format!("it stands in line {line} already");
                checking.error(name.place, message, &hint);
            }
            checking.partial = !whole;
            checked.extend(checking.test(raw));
        }
        let mut found = checking.found;
        if found.is_empty() {
            return Ok(Table { tests: checked });
        }
        found.sort_by_key(|d| (d.line, d.column));
        Err(Diagnostics::new(found))
    }
}

/// Collects what is wrong with a file.
struct Checking<'a> {
    path: String,
    policy: &'a Policy,
    found: Vec<Diagnostic>,
    /// A part of the test that is looked at was wrong and taken out: what seems to be missing may be
    /// there.
    partial: bool,
}

impl Checking<'_> {
    fn error(&mut self, place: Place, message: impl Into<String>, hint: &str) {
        self.found.push(Diagnostic {
            severity: Severity::Error,
            path: self.path.clone(),
            line: place.line,
            column: place.column,
            message: message.into(),
            hint: hint.to_owned(),
        });
    }

    /// As [`Self::error`], where something is missing.
    fn missing(&mut self, place: Place, message: &str, hint: &str) {
        if !self.partial {
            self.error(place, message, hint);
        }
    }

    /// A test, unless something is wrong with it, which is noted then. Checks all of its parts.
    fn test(&mut self, raw: At<RawTest>) -> Option<Test> {
        let place = raw.place;
        let raw = raw.value;
        if raw.name.value.trim().is_empty() || raw.name.value.len() > MAX_NAME {
            let message = format!("a test has a name of 1 to {MAX_NAME} bytes");
            self.error(
                raw.name.place,
                message,
                "a sentence that says what is tested",
            );
        }
        let agent = self.agent(&raw.agent);
        let expect = match &raw.expect {
            Some(expect) => self.expect(expect, raw.resolve.is_some()),
            None => {
                self.missing(place, "missing key `expect`", "like `expect: deny`");
                None
            }
        };
        let attempt = self.attempt(&raw, place);
        if let (Some(agent), Some(attempt)) = (&agent, &attempt)
            && let Some(agent) = self.policy.agent(agent)
            && behind::matters(self.policy, agent, attempt)
        {
            self.missing(
                raw.host.as_ref().map_or(place, |host| host.place),
                "denials by `cidr` speak of every address that may be behind this name, and it matters which one is",
                "say which one is, like `resolves_to: 203.0.113.7`",
            );
        }
        if let (Some(agent), Some(attempt), Some(request)) = (&agent, &attempt, &raw.request)
            && let Some(agent) = self.policy.agent(agent)
            && let Some((what, hint)) = calls::forgotten(self.policy, agent, attempt)
        {
            let message =
                format!("the guard reads this request as {what}, at which rules for it look");
            self.missing(request.place, &message, hint);
        }
        Some(Test {
            name: raw.name.value,
            line: place.line,
            agent: agent?,
            attempt: attempt?,
            expect: expect?,
        })
    }

    fn agent(&mut self, raw: &At<String>) -> Option<AgentName> {
        let name = raw.value.parse::<AgentName>();
        if let Ok(name) = &name
            && self.policy.agent(name).is_some()
        {
            return Some(name.clone());
        }
        let agents = self.policy.agents().iter();
        let near = nearest(&raw.value, agents.map(|agent| agent.name.as_str()));
        let hint = near.map_or_else(
            || "agents stand under `agents` of the policy".to_owned(),
            |near| format!("did you mean `{near}`?"),
        );
        let message = format!("the policy has no agent `{}`", quoted(&raw.value));
        self.error(raw.place, message, &hint);
        None
    }

    fn expect(&mut self, raw: &At<RawExpect>, name: bool) -> Option<Expectation> {
        let all = match &raw.value {
            RawExpect::Verdict(verdict) => {
                return Some(Expectation {
                    verdict: Some(*verdict),
                    ..Expectation::default()
                });
            }
            RawExpect::All(all) => all,
        };
        let expect = Expectation {
            verdict: all.verdict,
            enforced: all.enforced,
            handling: all.handling,
            rule: all.rule.as_ref().map(|rule| rule.value.clone()),
            reason: all.reason,
        };
        if expect == Expectation::default() {
            let hint = "`expect: deny`, or one of verdict, enforced, handling, rule, reason";
            self.missing(raw.place, "nothing is expected", hint);
            return None;
        }
        if name && expect.handling.is_some() {
            let hint = "test the flow to it: `host` and `port`";
            self.error(raw.place, "what is resolved has no `handling`", hint);
            return None;
        }
        if let Some(rule) = &all.rule
            && !self.policy.rules().any(|known| known.id == rule.value)
        {
            let ids = self.policy.rules().map(|rule| rule.id.as_str());
            let hint = nearest(&rule.value, ids).map_or_else(
                || "an `id` of a rule of the policy".to_owned(),
                |near| format!("did you mean `{near}`?"),
            );
            let message = format!("the policy has no rule `{}`", quoted(&rule.value));
            self.error(rule.place, message, &hint);
            return None;
        }
        Some(expect)
    }

    fn attempt(&mut self, raw: &RawTest, place: Place) -> Option<Attempt> {
        let hint = "`host` for a name, `ip` for an address that is dialled bare, `resolve` for a name that is only resolved, `local_tool` for a message to a tool on the agent's own host";
        let goes = [&raw.host, &raw.ip, &raw.resolve];
        let goes = goes.iter().filter(|it| it.is_some()).count();
        match goes + usize::from(raw.local_tool.is_some()) {
            1 => {}
            0 => {
                self.missing(place, "it goes nowhere", hint);
                return None;
            }
            _ => {
                self.error(place, "it goes to more than one destination", hint);
                return None;
            }
        }
        if let Some(message) = &raw.local_tool {
            return self.local(raw, message);
        }
        let behind = match &raw.resolves_to {
            Some(address) if raw.ip.is_some() => {
                let hint = "it is the address behind a name";
                self.error(address.place, "`resolves_to` beside `ip`", hint);
                return None;
            }
            Some(address) => Some(self.address(address)?),
            None => None,
        };
        if let Some(resolved) = &raw.resolve {
            self.only_resolved(raw)?;
            return Some(Attempt::Name(self.host(resolved)?, behind));
        }
        let host = raw.host.as_ref().map(|host| self.host(host));
        let ip = raw.ip.as_ref().map(|ip| self.address(ip));
        let port = match &raw.port {
            Some(At {
                value: 0, place, ..
            }) => {
                self.error(*place, "0 is no port", "like 443");
                None
            }
            Some(port) => {
                if port.value == RESOLVER {
                    let message = "port 53 always leads to the guard's own resolver";
                    let hint = "`resolve` is for a name that an agent looks up";
                    self.error(port.place, message, hint);
                }
                Some(port.value)
            }
            None => {
                self.missing(
                    place,
                    "missing key `port`",
                    "where the flow goes, like `port: 443`",
                );
                None
            }
        };
        let transport = match raw.transport.as_ref().map(|it| it.value) {
            None | Some(RawTransport::Tcp) => Transport::Tcp,
            Some(RawTransport::Udp) => Transport::Udp,
        };
        let opaque = raw.opaque.as_ref().is_some_and(|opaque| opaque.value);
        let sent = raw.request.as_ref().map(|request| {
            if opaque {
                let hint = "what shows no request has none";
                self.error(request.place, "`request` beside `opaque`", hint);
            }
            if transport == Transport::Udp {
                let hint = "requests are seen in TCP alone";
                self.error(request.place, "a request over UDP", hint);
            }
            let name = host.as_ref().and_then(Option::as_ref);
            let call = request.value.llm.as_ref();
            let call = call.map(|call| self.llm(call, name, host == Some(None)));
            let message = request.value.tool.as_ref();
            let path = request.value.path.value.as_str();
            let message = message.map(|it| self.tool(it, name, path, host == Some(None)));
            if let (Some(message), Some(_)) = (&request.value.tool, call.as_ref()) {
                let hint = "leave one of them out";
                self.error(message.place, "`tool` beside `llm`", hint);
            }
            self.request(&request.value, port, call, message)
        });
        let around = self.around(raw);
        let flow = Flow {
            host: host.map_or(Some(None), |host| host.map(Some))?,
            ip: ip.map_or(Some(behind), |ip| ip.map(Some))?,
            port: port?,
            transport,
            around: around?,
        };
        Some(match sent {
            Some(sent) => Attempt::Request(flow, Box::new(sent?)),
            None if opaque => Attempt::Opaque(flow),
            None => Attempt::Flow(flow),
        })
    }

    /// On whose behalf, and when.
    fn around(&mut self, raw: &RawTest) -> Option<Around> {
        let before = self.found.len();
        let mut time = Some(USUAL);
        if let Some(written) = &raw.time {
            time = written.value.parse().ok();
            if time.is_none() {
                let message = format!("`{}` is not a time", quoted(&written.value));
                self.error(written.place, message, "like 2026-01-07T12:00:00Z");
            }
        }
        let mut switches = Switches::default();
        for (name, on) in &raw.switches {
            if !self.policy.switches().contains_key(name) {
                let known = self.policy.switches().keys().map(String::as_str);
                let hint = nearest(name, known).map_or_else(
                    || "switches stand under `switches` of the policy".to_owned(),
                    |near| format!("did you mean `{near}`?"),
                );
                let message = format!("the policy has no switch `{}`", quoted(name));
                self.error(on.place, message, &hint);
            }
            switches.set(name.clone(), on.value);
        }
        let context = raw.context.as_ref().map(|context| &context.value);
        let part = |of: fn(&RawContext) -> &Option<String>| context.and_then(|it| of(it).clone());
        let around = Around {
            context: Context {
                user: part(|it| &it.user),
                session: part(|it| &it.session),
                workflow: part(|it| &it.workflow),
                purpose: part(|it| &it.purpose),
                trace_id: None,
            },
            labels: raw.labels.clone(),
            time: time.unwrap_or(USUAL),
            switches,
        };
        (self.found.len() == before).then_some(around)
    }

    /// A name that is resolved has nothing of a flow.
    fn only_resolved(&mut self, raw: &RawTest) -> Option<()> {
        let parts = [
            ("port", raw.port.as_ref().map(|it| it.place)),
            ("transport", raw.transport.as_ref().map(|it| it.place)),
            ("request", raw.request.as_ref().map(|it| it.place)),
            ("opaque", raw.opaque.as_ref().map(|it| it.place)),
            ("context", raw.context.as_ref().map(|it| it.place)),
            ("time", raw.time.as_ref().map(|it| it.place)),
            ("switches", raw.switches.values().next().map(|it| it.place)),
        ];
        let mut fine = Some(());
        for (key, place) in parts {
            if let Some(place) = place {
                let hint = "`host` is for a flow to a name, `resolve` for the name alone";
                self.error(place, format!("`{key}` beside `resolve`"), hint);
                fine = None;
            }
        }
        fine
    }

    fn host(&mut self, raw: &At<String>) -> Option<HostName> {
        let hint = match raw.value.parse::<IpAddr>() {
            Ok(_) => "an address goes under `ip`",
            Err(_) if raw.value.contains('*') => "a test is about one name",
            Err(_) => "the name as DNS has it, like `api.example.org`",
        };
        raw.value
            .parse()
            .map_err(|error| self.error(raw.place, format!("{error}"), hint))
            .ok()
    }

    fn address(&mut self, raw: &At<String>) -> Option<IpAddr> {
        let Ok(ip) = raw.value.parse::<IpAddr>() else {
            let message = format!("`{}` is not an address", quoted(&raw.value));
            let hint = "like 192.0.2.1 or 2001:db8::1; a name goes under `host`";
            self.error(raw.place, message, hint);
            return None;
        };
        Some(special::canonical(ip))
    }

    /// `call`: the call of a language model that it is, unless something is wrong with that; `message`: the message to a
    /// server of tools.
    fn request(
        &mut self,
        raw: &RawRequest,
        port: Option<u16>,
        call: Option<Option<Llm>>,
        message: Option<Option<Tool>>,
    ) -> Option<Sent> {
        let before = self.found.len();
        let method = raw.method.value.as_str();
        if !is_method(method) {
            let message = format!("`{}` is not a method", quoted(method));
            self.error(raw.method.place, message, "like `GET`");
        }
        let path = match (method, raw.path.value.as_str()) {
            ("CONNECT", path) => {
                if path.starts_with('/') || path.is_empty() {
                    let message = "what CONNECT asks for is no path";
                    let hint = "the destination: `api.example.com:443`";
                    self.error(raw.path.place, message, hint);
                }
                Ok(path.to_owned())
            }
            (_, "*") => Ok("*".to_owned()),
            _ => self.path(&raw.path),
        };
        if let Some(query) = &raw.query
            && (query.value.starts_with('?')
                || !query
                    .value
                    .bytes()
                    .all(|b| b.is_ascii_graphic() && b != b'#'))
        {
            let message = format!(
                "query `{}` has a `?` in front, a `#`, a space or what is no ASCII",
                quoted(&query.value)
            );
            let hint = "what is between the `?` and the `#`, as `a=b&c=d`";
            self.error(query.place, message, hint);
        }
        let mut fields = HeaderMap::new();
        for (text, value) in &raw.headers {
            let name = match field_name(text) {
                Ok(name) => name,
                Err((message, hint)) => {
                    self.error(value.place, message, hint);
                    continue;
                }
            };
            let trimmed = value.value.trim() == value.value;
            match HeaderValue::from_str(&value.value) {
                Ok(value) if trimmed => {
                    fields.append(name, value);
                }
                Ok(_) | Err(_) => {
                    let message = format!(
                        "`{}` is not the value of a header field",
                        quoted(&value.value)
                    );
                    self.error(
                        value.place,
                        message,
                        "visible ASCII characters, and spaces between them alone",
                    );
                }
            }
        }
        let body = raw.body.as_ref().map_or(Some(0), |body| {
            let size = bytes(&body.value);
            if size.is_none() {
                let message = format!("`{}` is not a number of bytes", quoted(&body.value));
                self.error(body.place, message, SIZES);
            }
            size
        });
        if self.found.len() > before {
            return None;
        }
        let opens_calls = raw.llm.as_ref().is_some_and(|it| it.value.opens());
        Some(Sent {
            method: method.to_owned(),
            path,
            query: raw.query.as_ref().map(|query| Query::new(&query.value)),
            fields: (method != "CONNECT").then_some(fields),
            body: body?,
            websocket: opens_calls || raw.websocket.as_ref().is_some_and(|it| it.value),
            opens_calls,
            llm: call.map_or(Some(None), |call| call.map(Some))?,
            tool: message.map_or(Some(None), |message| message.map(Some))?,
            secure: raw
                .scheme
                .map_or(port == Some(HTTPS), |scheme| scheme == Scheme::Https),
        })
    }

    /// The path as the proxy reads it, or why it refuses it.
    fn path(&mut self, raw: &At<String>) -> Result<String, AmbiguousPath> {
        let path = raw.value.as_str();
        let wrong = if !path.starts_with('/') {
            Some(("does not begin with `/`", format!("`/{}`", quoted(path))))
        } else if path.contains(['?', '#']) {
            let hint = "what is behind the `?` goes under `query`; a `#` is never sent";
            Some(("has a `?` or `#`", hint.to_owned()))
        } else {
            None
        };
        if let Some((why, hint)) = wrong {
            self.error(raw.place, format!("path `{}` {why}", quoted(path)), &hint);
        }
        CanonicalPath::parse(path).map(|path| path.as_str().to_owned())
    }
}
