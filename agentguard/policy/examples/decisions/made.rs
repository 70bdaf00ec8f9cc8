//! Policies of any size and calls that meet them, made by counting: each run measures the same.

use std::borrow::Cow;
use std::error::Error;
use std::net::IpAddr;

use agentguard_model::{HostName, Transport};
use agentguard_policy::{Circumstances, Facts, Request, Seen};
use http::{HeaderMap, HeaderName, HeaderValue};
use serde_json::{Value, json};

/// The agent that calls.
pub(crate) const AGENT: &str = "coder";

/// What is measured.
pub(crate) const CASES: &[Case] = &[
    case("policy-10", 10, &MIX),
    case("policy-100", 100, &MIX),
    case("policy-1000", 1_000, &MIX),
    case("policy-10000", 10_000, &MIX),
    case("policy-100-miss", 100, &MISSES),
    case("policy-10000-miss", 10_000, &MISSES),
    case("policy-site-10", 10, &AT_SITE),
    case("policy-site-1000", 1_000, &AT_SITE),
    case("policy-site-10000", 10_000, &AT_SITE),
];

/// Calls of one case.
const CALLS: usize = 512;
/// The site of the cases in which there is but one.
const SITE: &str = "site.example.com";
/// A rule of each kind for one service.
const KINDS: usize = 6;

/// A policy, and calls to it.
#[derive(Debug)]
pub(crate) struct Case {
    pub(crate) name: &'static str,
    rules: usize,
    mix: &'static [Kind],
}

const fn case(name: &'static str, rules: usize, mix: &'static [Kind]) -> Case {
    Case { name, rules, mix }
}

/// What a call is, in words of the rules for one service.
#[derive(Clone, Copy, Debug)]
enum Kind {
    /// A flow to a name that a rule names.
    Api,
    /// A flow to a name below one that a rule names.
    Team,
    /// A GET that a rule allows by method and path.
    Read,
    /// A POST that a rule allows by method, path and content type.
    Write,
    /// The same with another content type: no rule.
    WrongType,
    /// A GET that one rule allows and another denies.
    Admin,
    /// A flow to an address in a range that a rule denies.
    Network,
    /// A flow to a name that no rule knows.
    UnknownName,
    /// A flow to a name that a rule names, on another port: no rule.
    OtherPort,
    /// A DELETE of what a rule lets read: no rule.
    OtherMethod,
    /// A flow to an address that no rule knows.
    UnknownAddress,
    /// A GET to the one site, all of whose other rules are about other paths.
    Public,
    /// A GET to the same of a path that one of them denies.
    Private,
}

/// Nine of sixteen are allowed, two are denied by a rule, and five by none.
const MIX: [Kind; 16] = [
    Kind::Api,
    Kind::Read,
    Kind::Write,
    Kind::UnknownName,
    Kind::Team,
    Kind::Read,
    Kind::Admin,
    Kind::OtherPort,
    Kind::Api,
    Kind::Write,
    Kind::WrongType,
    Kind::Read,
    Kind::Network,
    Kind::Team,
    Kind::OtherMethod,
    Kind::UnknownAddress,
];
const MISSES: [Kind; 4] = [
    Kind::UnknownName,
    Kind::OtherPort,
    Kind::OtherMethod,
    Kind::UnknownAddress,
];
/// All rules are for one site, and differ in the path.
const AT_SITE: [Kind; 4] = [Kind::Public, Kind::Public, Kind::Private, Kind::Public];

/// A call, with what the rules say of it.
#[derive(Debug)]
pub(crate) struct Call {
    host: Option<HostName>,
    ip: Option<IpAddr>,
    port: u16,
    request: Option<Sent>,
    pub(crate) allowed: bool,
}

#[derive(Debug)]
struct Sent {
    method: &'static str,
    path: String,
    content_type: &'static str,
    fields: HeaderMap,
}

impl Call {
    /// As the policy is asked. No request is seen of what is a flow.
    pub(crate) fn facts(&self) -> Facts<'_> {
        let request = self.request.as_ref();
        Facts {
            host: self.host.as_ref(),
            ip: self.ip,
            port: self.port,
            transport: Transport::Tcp,
            request: request.map_or(Seen::NotYet, |sent| {
                Seen::Request(Request {
                    fields: Some(&sent.fields),
                    ..Request::new(sent.method, &sent.path)
                })
            }),
            circumstances: Circumstances::NOBODY,
        }
    }

    fn description(&self) -> Value {
        json!({
            "host": self.host.as_ref().map(HostName::as_str),
            "ip": self.ip,
            "port": self.port,
            "method": self.request.as_ref().map(|sent| sent.method),
            "path": self.request.as_ref().map(|sent| &sent.path),
            "content_type": self.request.as_ref().map(|sent| sent.content_type),
            "allowed": self.allowed,
        })
    }
}

impl Case {
    /// For whoever is measured beside us.
    pub(crate) fn description(&self) -> Value {
        let rules: Vec<Value> = self.all_rules().map(|rule| rule.description()).collect();
        let calls = self.calls().unwrap_or_default();
        let calls: Vec<Value> = calls.iter().map(Call::description).collect();
        json!({"case": self.name, "rules": rules, "calls": calls})
    }

    /// The policy's document.
    pub(crate) fn policy(&self) -> String {
        let mut text = format!("version: 1\nagents: [{{name: {AGENT}}}]\nrules:\n");
        self.all_rules()
            .for_each(|rule| text.push_str(&rule.text()));
        text
    }

    fn all_rules(&self) -> impl Iterator<Item = Rule> {
        (0..self.rules).map(|number| match self.is_of_one_site() {
            true => Rule::at_site(number),
            false => Rule::new(number),
        })
    }

    fn is_of_one_site(&self) -> bool {
        let mut kinds = self.mix.iter();
        kinds.any(|kind| matches!(kind, Kind::Public | Kind::Private))
    }

    /// The calls, spread over the services of the policy.
    pub(crate) fn calls(&self) -> Result<Vec<Call>, Box<dyn Error>> {
        let services = match self.is_of_one_site() {
            true => self.rules,
            false => (self.rules / KINDS).max(1),
        };
        // Not one service after the other: what is in the processor's cache is not what comes next. And
        // each kind of call comes to many of them.
        let service = |n: usize| (n * 7_919 + n / self.mix.len()) % services;
        let kinds = self.mix.iter().cycle().take(CALLS).enumerate();
        kinds.map(|(n, kind)| call(*kind, service(n))).collect()
    }
}

fn call(kind: Kind, service: usize) -> Result<Call, Box<dyn Error>> {
    let name = |text: String| -> Result<_, Box<dyn Error>> { Ok(Some(text.parse()?)) };
    let sent = |method, path: String, content_type| -> Result<_, Box<dyn Error>> {
        let mut fields = HeaderMap::new();
        for (name, value) in [
            ("accept", "*/*"),
            ("accept-encoding", "gzip, deflate, br"),
            ("authorization", "Bearer 0123456789abcdef0123456789abcdef"),
            ("content-type", content_type),
            ("user-agent", "python-httpx/0.28.1"),
        ] {
            fields.insert(
                HeaderName::from_static(name),
                HeaderValue::from_static(value),
            );
        }
        Ok(Some(Sent {
            method,
            path,
            content_type,
            fields,
        }))
    };
    const JSON: &str = "application/json";
    let flow = Call {
        host: None,
        ip: None,
        port: 443,
        request: None,
        allowed: false,
    };
    let at_service = || name(format!("svc-{service}.example"));
    // By the time that a request is seen, the address behind its name is known.
    let resolved = || -> Result<_, Box<dyn Error>> { Ok(Some("203.0.113.80".parse()?)) };
    Ok(match kind {
        Kind::Api => Call {
            host: name(format!("api-{service}.example.com"))?,
            allowed: true,
            ..flow
        },
        Kind::Team => Call {
            host: name(format!("build.team-{service}.example.org"))?,
            allowed: true,
            ..flow
        },
        Kind::Read => Call {
            host: at_service()?,
            ip: resolved()?,
            request: sent("GET", format!("/v1/things/{service}"), JSON)?,
            allowed: true,
            ..flow
        },
        Kind::Write => Call {
            host: at_service()?,
            ip: resolved()?,
            request: sent("POST", "/v1/items/7/notes".to_owned(), JSON)?,
            allowed: true,
            ..flow
        },
        Kind::WrongType => Call {
            host: at_service()?,
            ip: resolved()?,
            request: sent("POST", "/v1/items/7/notes".to_owned(), "text/plain")?,
            ..flow
        },
        Kind::Admin => Call {
            host: at_service()?,
            ip: resolved()?,
            request: sent("GET", "/v1/admin/users".to_owned(), JSON)?,
            ..flow
        },
        Kind::Network => Call {
            ip: Some(format!("{}7", network(service)).parse()?),
            port: 5432,
            ..flow
        },
        Kind::UnknownName => Call {
            host: name(format!("www.site-{service}.test"))?,
            ..flow
        },
        Kind::OtherPort => Call {
            host: name(format!("api-{service}.example.com"))?,
            port: 22,
            ..flow
        },
        Kind::OtherMethod => Call {
            host: at_service()?,
            ip: resolved()?,
            request: sent("DELETE", format!("/v1/things/{service}"), JSON)?,
            ..flow
        },
        Kind::UnknownAddress => Call {
            ip: Some("203.0.113.9".parse()?),
            port: 8080,
            ..flow
        },
        Kind::Public => Call {
            host: name(SITE.to_owned())?,
            ip: resolved()?,
            request: sent("GET", format!("/v1/things/{service}"), JSON)?,
            allowed: true,
            ..flow
        },
        // The first rule of the site is another.
        Kind::Private => Call {
            host: name(SITE.to_owned())?,
            ip: resolved()?,
            request: sent("GET", format!("/private{}/notes", service.max(1)), JSON)?,
            ..flow
        },
    })
}

/// The first three numbers of a service's range of addresses.
fn network(service: usize) -> String {
    format!("10.{}.{}.", service / 256, service % 256)
}

/// One rule. All of its conditions have to hold.
#[derive(Debug, Default)]
struct Rule {
    number: usize,
    allow: bool,
    /// A name, or `*.` and the name below which it matches.
    host: Option<String>,
    cidr: Option<String>,
    port: Option<u16>,
    method: Option<&'static str>,
    /// The beginning of the path: it and everything below.
    path: Option<Cow<'static, str>>,
    content_type: Option<&'static str>,
}

impl Rule {
    /// One of those that are all for one site: the first allows what is read there, and each of the others denies a path
    /// of its own.
    fn at_site(number: usize) -> Self {
        let allow = number == 0;
        Self {
            number,
            allow,
            host: Some(SITE.to_owned()),
            port: Some(443),
            method: allow.then_some("GET"),
            path: Some(match allow {
                true => "/v1".into(),
                false => format!("/private{number}").into(),
            }),
            ..Self::default()
        }
    }

    fn new(number: usize) -> Self {
        let service = number / KINDS;
        let rule = Self {
            number,
            allow: true,
            port: Some(443),
            ..Self::default()
        };
        let at_service = Some(format!("svc-{service}.example"));
        match number % KINDS {
            0 => Self {
                host: Some(format!("api-{service}.example.com")),
                ..rule
            },
            1 => Self {
                host: Some(format!("*.team-{service}.example.org")),
                ..rule
            },
            2 => Self {
                host: at_service,
                method: Some("GET"),
                path: Some("/v1".into()),
                ..rule
            },
            3 => Self {
                host: at_service,
                method: Some("POST"),
                path: Some("/v1/items".into()),
                content_type: Some("application/json"),
                ..rule
            },
            4 => Self {
                host: at_service,
                allow: false,
                path: Some("/v1/admin".into()),
                ..rule
            },
            _ => Self {
                cidr: Some(format!("{}0/24", network(service))),
                allow: false,
                port: None,
                ..rule
            },
        }
    }

    fn description(&self) -> Value {
        json!({
            "id": self.id(), "allow": self.allow, "host": self.host, "cidr": self.cidr,
            "port": self.port, "method": self.method, "path": self.path,
            "content_type": self.content_type,
        })
    }

    fn id(&self) -> String {
        format!("r{}", self.number)
    }

    /// On one line: 10,000 have to fit into the text that a policy may have.
    fn text(&self) -> String {
        let conditions = [
            self.host.as_ref().map(|host| match host.starts_with('*') {
                true => format!("host: [\"{host}\"]"),
                false => format!("host: [{host}]"),
            }),
            self.cidr.as_ref().map(|cidr| format!("cidr: [{cidr}]")),
            self.port.map(|port| format!("port: [{port}]")),
            self.method.map(|method| format!("method: [{method}]")),
            self.path.as_ref().map(|path| format!("path: [{path}/**]")),
            self.content_type
                .map(|kind| format!("header: {{content-type: [{kind}]}}")),
        ];
        let conditions: Vec<String> = conditions.into_iter().flatten().collect();
        let action = match (self.allow, self.method) {
            (false, _) => "deny",
            (true, None) => "allow",
            (true, Some(_)) => "allow, handling: inspect",
        };
        let (id, conditions) = (self.id(), conditions.join(", "));
        format!("- {{id: {id}, action: {action}, match: {{{conditions}}}}}\n")
    }
}
