//! What rules see of an HTTP request, and what they say of it.

use std::collections::{HashMap, HashSet};
use std::sync::OnceLock;

use agentguard_model::{Claim, Llm, Tool};
use http::HeaderMap;
use http::header::{self, HeaderName};

use crate::llm::LlmMatch;
use crate::pattern::{Glob, Wildcard};
use crate::protocols::{Protocol, Protocols};
use crate::rule::{Fit, Seen};
use crate::steps::Steps;
use crate::tool::ToolMatch;

/// A longer part of a query that has no `=` is put out as if it were a value.
const MAX_NAME: usize = 16;

/// How many pairs of octets of two patterns are compared in the time of two values.
const WORK: usize = 256;

/// An HTTP request as rules see it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Request<'a> {
    /// The method (RFC 9110 §9.1), as it was sent: methods are case-sensitive.
    pub method: &'a str,
    /// The path in its canonical form, without the query.
    pub path: &'a str,
    /// The query.
    pub query: Option<&'a Query>,
    /// The header fields that the destination gets. Absent where there are none that it gets: a
    /// tunnel's request ends here.
    pub fields: Option<&'a HeaderMap>,
    /// How many bytes of content it is known to have: what was announced (RFC 9110 §8.6), or came so
    /// far; where content is coded, what comes of it, if that is more.
    pub body: u64,
    /// Whether it came inside TLS, which was opened.
    pub tls: bool,
    /// Whether it opens a WebSocket (RFC 6455).
    pub websocket: bool,
    /// The call of a language model that it is. Absent where it is none.
    pub llm: Option<&'a Llm>,
    /// Whether it opens a connection for calls, each of which is decided by itself: of [`Self::llm`] provider and
    /// operation are known, and conditions on the rest turn out for it.
    pub opens_calls: bool,
    /// What it says itself of whom it is for.
    pub claims: &'a [Claim],
    /// The message to a server of tools that it is. Absent where it is none.
    pub tool: Option<&'a Tool>,
    /// That parts of it are not known, and what is assumed of conditions on those. Absent on the data
    /// path, where all of it is known.
    pub assumed: Option<Assumed<'a>>,
}

/// What is assumed of the conditions that look at what nobody knows of a request: that all of them
/// turn out for it, or all against it. What the policy says in both cases, it says whatever the request.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Assumed<'a> {
    pub(crate) unknown: &'a Unknown,
    /// Allowances match and denials do not, as far as that depends on what is unknown; else the reverse.
    pub(crate) in_favour: bool,
}

/// What nobody knows of a request.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Unknown {
    /// All of it.
    pub(crate) everything: bool,
    /// The whole query: there may be parameters that are not seen.
    pub(crate) query: bool,
    /// The values of these parameters.
    pub(crate) parameters: HashSet<String>,
    /// All header fields but these.
    pub(crate) fields_but: Option<HashSet<HeaderName>>,
    /// How much content it has.
    pub(crate) body: bool,
    /// Whether it is a call of a language model, and which.
    pub(crate) llm: bool,
    /// Whether it is a message to a server of tools, and which.
    pub(crate) tool: bool,
    /// What a call, or a message to a server of tools, says: where it goes is known.
    pub(crate) content: bool,
    /// All arguments of a call but these.
    pub(crate) arguments_but: Option<HashSet<String>>,
}

impl Unknown {
    pub(crate) fn parameter(&self, name: &str) -> bool {
        self.everything || self.query || self.parameters.contains(name)
    }

    pub(crate) fn field(&self, name: &HeaderName) -> bool {
        let but = self.fields_but.as_ref();
        self.everything || but.is_some_and(|known| !known.contains(name))
    }

    pub(crate) fn body(&self) -> bool {
        self.everything || self.body
    }

    pub(crate) fn llm(&self) -> bool {
        self.everything || self.llm
    }

    pub(crate) fn tool(&self) -> bool {
        self.everything || self.tool
    }

    pub(crate) const fn content(&self) -> bool {
        self.content
    }

    pub(crate) fn argument(&self, pointer: &str) -> bool {
        let but = self.arguments_but.as_ref();
        self.tool() || but.is_some_and(|known| !known.contains(pointer))
    }
}

impl Assumed<'_> {
    /// The same, in favour of what is attempted.
    pub(crate) const fn turned_out(self) -> Self {
        Self {
            in_favour: true,
            ..self
        }
    }

    /// The same for who reads it as a denial does and is an allowance.
    pub(crate) const fn reversed(self) -> Self {
        Self {
            in_favour: !self.in_favour,
            ..self
        }
    }

    /// Whether a condition of a rule holds, if it looks at what is unknown.
    const fn holds(self, allows: bool, looks: bool) -> Option<bool> {
        if looks {
            Some(allows == self.in_favour)
        } else {
            None
        }
    }
}

impl<'a> Request<'a> {
    /// A request of which there is nothing else to see.
    #[must_use]
    pub const fn new(method: &'a str, path: &'a str) -> Self {
        Self {
            method,
            path,
            query: None,
            fields: None,
            body: 0,
            tls: false,
            websocket: false,
            llm: None,
            opens_calls: false,
            claims: &[],
            tool: None,
            assumed: None,
        }
    }

    /// What is assumed of a rule's condition that looks at a part of it, if that part is unknown.
    pub(crate) fn assumed(
        &self,
        allows: bool,
        looks: impl FnOnce(&Unknown) -> bool,
    ) -> Option<bool> {
        let assumed = self.assumed?;
        assumed.holds(allows, looks(assumed.unknown))
    }
}

/// A query, read once a rule wants to know what is in it.
#[derive(Debug)]
pub struct Query {
    text: String,
    readings: OnceLock<[Parameters; 4]>,
}

/// Names and their values, decoded.
type Parameters = HashMap<String, Vec<String>>;

impl Query {
    /// A query, without its `?`.
    #[must_use]
    pub fn new(text: impl Into<String>) -> Self {
        Self {
            text: text.into(),
            readings: OnceLock::new(),
        }
    }

    /// As it was sent.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// How servers read it: as forms are encoded today (WHATWG URL §5.1), or with `;` as a separator
    /// too (HTML 4.01 B.2.2), or with `+` as itself (RFC 3986), or with both.
    fn readings(&self) -> &[Parameters; 4] {
        self.readings.get_or_init(|| {
            let (text, parted) = (&self.text, self.text.replace(';', "&"));
            let plus = |text: &str| parameters(&text.replace('+', "%2B"));
            [
                parameters(text),
                parameters(&parted),
                plus(text),
                plus(&parted),
            ]
        })
    }

    /// Whether a parameter has one value, or none, however it is read.
    pub(crate) fn is_clear(&self, name: &str) -> bool {
        let [first, others @ ..] = self.readings();
        let of_first = first.get(name);
        // One that is there many times is not looked at further.
        of_first.is_none_or(|values| values.len() <= 1)
            && others.iter().all(|reading| reading.get(name) == of_first)
    }

    /// The first value of a parameter.
    pub(crate) fn value(&self, name: &str) -> Option<&str> {
        let [reading, ..] = self.readings();
        reading.get(name)?.first().map(String::as_str)
    }

    /// The names of parameters with such a value, in one reading at least.
    pub(crate) fn names_of(&self, which: impl Fn(&str) -> bool) -> impl Iterator<Item = &str> {
        self.readings()
            .iter()
            .flatten()
            .filter_map(move |(name, values)| {
                let found = values.iter().any(|value| which(value));
                found.then_some(name.as_str())
            })
    }

    /// With the values of all parameters but `shown` put out, for the record.
    #[must_use]
    pub fn redacted(&self, shown: impl Fn(&str) -> bool) -> String {
        let mut text = String::with_capacity(self.text.len());
        let mut first = true;
        for part in self.text.split('&') {
            if !std::mem::take(&mut first) {
                text.push('&');
            }
            let (name, value) = part.split_once('=').unwrap_or((part, ""));
            let decoded = form_urlencoded::parse(name.as_bytes()).next();
            let shown = decoded.is_some_and(|(name, _)| shown(&name));
            let told: &[&str] = match value {
                // Without a value, a name may be one.
                "" if shown || name.len() <= MAX_NAME => &[name],
                "" => &["…"],
                // A server that takes `;` for a separator sees more names in there.
                value if shown && !value.contains(';') => &[name, "=", value],
                _ if name.contains(';') => &["…"],
                value if value.contains(';') => &[name, "=…;…"],
                _ => &[name, "=…"],
            };
            text.extend(told.iter().copied());
        }
        text
    }
}

impl PartialEq for Query {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for Query {}

fn parameters(text: &str) -> Parameters {
    let mut parameters = Parameters::new();
    for (name, value) in form_urlencoded::parse(text.as_bytes()) {
        let values = parameters.entry(name.into_owned()).or_default();
        values.push(value.into_owned());
    }
    parameters
}

/// What a rule says of requests, and of what else may be spoken.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct RequestMatch {
    /// Empty for any.
    pub(crate) protocols: Protocols,
    /// Empty for any.
    pub(crate) methods: Vec<String>,
    /// Empty for any.
    pub(crate) paths: Vec<Glob>,
    /// Parameters of the query, all of which it must have.
    pub(crate) query: Vec<(String, Vec<Wildcard>)>,
    /// Header fields, all of which it must have.
    pub(crate) fields: Vec<(HeaderName, Vec<Wildcard>)>,
    /// It must have more bytes of content. For denials alone, so that what was denied stays so
    /// however much comes.
    pub(crate) body_over: Option<u64>,
    /// It must be a call of a language model, and such a one.
    pub(crate) llm: Option<LlmMatch>,
    /// It must be a message to a server of tools, and such a one.
    pub(crate) tool: Option<ToolMatch>,
}

impl RequestMatch {
    /// What it costs to see whether this covers `other`: comparisons of two values. One of long patterns counts
    /// for as many as take their time.
    pub(crate) fn cost_of_covering(&self, other: &Self) -> usize {
        let values = self.values().saturating_mul(other.values());
        values.saturating_add(self.work().saturating_mul(other.length()) / WORK)
    }

    /// How many values it lists.
    fn values(&self) -> usize {
        let llm = self.llm.as_ref().map_or(0, LlmMatch::values);
        let tool = self.tool.as_ref().map_or(0, ToolMatch::values);
        self.methods.len() + self.paths.len() + self.patterns().count() + llm + tool
    }

    fn patterns(&self) -> impl Iterator<Item = &Wildcard> {
        let query = self.query.iter().flat_map(|(_, values)| values);
        query.chain(self.fields.iter().flat_map(|(_, values)| values))
    }

    /// How much text of patterns may be gone through again and again.
    fn work(&self) -> usize {
        let paths: usize = self.paths.iter().map(Glob::work).sum();
        paths + self.patterns().map(Wildcard::work).sum::<usize>()
    }

    /// How much text its patterns have.
    fn length(&self) -> usize {
        let paths: usize = self.paths.iter().map(Glob::len).sum();
        paths + self.patterns().map(Wildcard::len).sum::<usize>()
    }

    /// Whether it says nothing, so that also what is no request matches.
    pub(crate) fn is_empty(&self) -> bool {
        self.protocols.is_empty() && self.has_no_parts()
    }

    /// Whether it says nothing of the parts of a request.
    fn has_no_parts(&self) -> bool {
        self.methods.is_empty()
            && self.paths.is_empty()
            && self.query.is_empty()
            && self.fields.is_empty()
            && self.body_over.is_none()
            && self.llm.is_none()
            && self.tool.is_none()
    }

    /// For how many parts of a request it has a condition; an exact path counts twice.
    pub(crate) fn conditions(&self) -> u32 {
        let paths = usize::from(!self.paths.is_empty())
            + usize::from(!self.paths.is_empty() && self.paths.iter().all(Glob::is_exact));
        let all = usize::from(!self.protocols.is_empty())
            + usize::from(!self.methods.is_empty())
            + paths
            + self.query.len()
            + self.fields.len()
            + usize::from(self.body_over.is_some())
            + self.llm.as_ref().map_or(0, LlmMatch::conditions)
            + self.tool.as_ref().map_or(0, ToolMatch::conditions);
        u32::try_from(all).unwrap_or(u32::MAX)
    }

    /// Whether what shows no request matches, or could where one is.
    pub(crate) fn unread(&self, seen: &Seen<'_>) -> Fit {
        if self.protocols.is_empty() || !self.has_no_parts() {
            return Fit::NeedsRequest;
        }
        self.protocols.unread(seen)
    }

    /// Whether a request matches. `allows`: what can be read in two ways has to match in both; else
    /// one suffices. Nothing where the steps do not suffice to tell.
    pub(crate) fn matches(
        &self,
        request: &Request<'_>,
        allows: bool,
        steps: &Steps,
    ) -> Option<bool> {
        Some(self.but_for_size(request, allows, steps)? && self.size(request))
    }

    /// Whether a request would match if it were large enough. Nothing where the steps do not suffice to tell.
    pub(crate) fn but_for_size(
        &self,
        request: &Request<'_>,
        allows: bool,
        steps: &Steps,
    ) -> Option<bool> {
        let refused = steps.refused();
        let matches = self.parts(request, allows, steps);
        (steps.refused() == refused).then_some(matches)
    }

    fn parts(&self, request: &Request<'_>, allows: bool, steps: &Steps) -> bool {
        if let Some(holds) = request.assumed(allows, |unknown| unknown.everything) {
            return holds;
        }
        self.protocols.request(request)
            && self.method(request)
            && self.path(request, allows, steps)
            && self.query(request, allows, steps)
            && self.fields(request, allows, steps)
            && self.llm(request, allows, steps)
            && self.tool(request, allows, steps)
    }

    pub(crate) fn method(&self, request: &Request<'_>) -> bool {
        self.methods.is_empty() || self.methods.iter().any(|m| m == request.method)
    }

    /// What is allowed is so however an encoded slash is read, and a denial is not passed by writing a character in
    /// another way.
    pub(crate) fn path(&self, request: &Request<'_>, allows: bool, steps: &Steps) -> bool {
        if self.paths.is_empty() {
            return true;
        }
        if steps.are_spent() {
            return false;
        }
        let one = |path: &str| {
            let path = path.strip_prefix('/');
            path.is_some_and(|path| {
                let mut globs = self.paths.iter();
                globs.any(|glob| glob.matches_within(path, steps))
            })
        };
        let readings = || steps.readings(request.path);
        if allows {
            one(request.path) && readings().slashes().all(one)
        } else {
            one(request.path) || readings().all().any(one)
        }
    }

    /// A parameter that is there more than once: servers differ in which one they take.
    pub(crate) fn query(&self, request: &Request<'_>, allows: bool, steps: &Steps) -> bool {
        if self.query.is_empty() {
            return true;
        }
        let Some(query) = request.query.filter(|_| !steps.are_spent()) else {
            return false;
        };
        let reading = |parameters: &Parameters| {
            self.query.iter().all(|(name, patterns)| {
                if let Some(holds) = request.assumed(allows, |unknown| unknown.parameter(name)) {
                    return holds;
                }
                let values = parameters.get(name).map_or(&[][..], Vec::as_slice);
                // What cannot be told ends it, as if a denial matched and an allowance did not.
                let one = |value: &String| {
                    let mut patterns = patterns.iter();
                    patterns.any(|p| p.matches_within(value.as_bytes(), true, steps))
                        || !allows && steps.are_spent()
                };
                if allows {
                    !values.is_empty() && values.iter().all(one)
                } else {
                    values.iter().any(one)
                }
            })
        };
        if allows {
            query.readings().iter().all(reading)
        } else {
            query.readings().iter().any(reading)
        }
    }

    /// Servers take the first field of a name, or the last, or all of them joined; and many look at
    /// values without regard to case. Only a cookie that came in pieces is always one (RFC 9113
    /// §8.2.3).
    pub(crate) fn fields(&self, request: &Request<'_>, allows: bool, steps: &Steps) -> bool {
        self.fields.iter().all(|(name, patterns)| {
            if let Some(holds) = request.assumed(allows, |unknown| unknown.field(name)) {
                return holds;
            }
            let Some(fields) = request.fields.filter(|_| !steps.are_spent()) else {
                return false;
            };
            let values: Vec<&[u8]> = fields
                .get_all(name)
                .iter()
                .map(http::HeaderValue::as_bytes)
                .collect();
            let one = |value: &[u8]| {
                let mut patterns = patterns.iter();
                patterns.any(|p| p.matches_within(value, allows, steps))
            };
            let is_cookie = name == header::COOKIE;
            let one_of_joined = || {
                let joined = values.join(if is_cookie { &b"; "[..] } else { b", " });
                steps.text(joined.len());
                one(&joined)
            };
            match values.as_slice() {
                [] => false,
                [value] => one(value),
                _ if allows && is_cookie => one_of_joined(),
                several if allows => several.iter().all(|value| one(value)),
                several => several.iter().any(|value| one(value)) || one_of_joined(),
            }
        })
    }

    fn llm(&self, request: &Request<'_>, allows: bool, steps: &Steps) -> bool {
        let llm = self.llm.as_ref();
        llm.is_none_or(|llm| !steps.are_spent() && llm.matches(request, allows, steps))
    }

    fn tool(&self, request: &Request<'_>, allows: bool, steps: &Steps) -> bool {
        let tool = self.tool.as_ref();
        tool.is_none_or(|tool| !steps.are_spent() && tool.matches(request, allows, steps))
    }

    pub(crate) fn size(&self, request: &Request<'_>) -> bool {
        // For denials alone.
        self.body_over.is_none_or(|over| {
            let assumed = request.assumed(false, Unknown::body);
            assumed.unwrap_or(request.body > over)
        })
    }

    /// Whether an allowance and a denial with this may match different requests.
    pub(crate) fn depends_on_action(&self) -> bool {
        let llm = self.llm.as_ref();
        let tool = self.tool.as_ref();
        !(self.paths.is_empty() && self.query.is_empty() && self.fields.is_empty())
            || llm.is_some_and(|llm| llm.depends_on_action(true))
            || tool.is_some_and(ToolMatch::depends_on_action)
    }

    /// Whether this certainly matches whatever `other` matches, of paths as they are written in it.
    pub(crate) fn covers(&self, other: &Self) -> bool {
        self.protocols.covers(other.protocols)
            && all_or_covered(&self.methods, &other.methods, PartialEq::eq)
            && all_or_covered(&self.paths, &other.paths, Glob::covers)
            && self.query.iter().all(|entry| has(&other.query, entry))
            && self.fields.iter().all(|entry| has(&other.fields, entry))
            && match (self.body_over, other.body_over) {
                (None, _) => true,
                (Some(over), Some(others)) => over <= others,
                (Some(_), None) => false,
            }
            && match (&self.llm, &other.llm) {
                (None, _) => true,
                (Some(llm), Some(others)) => llm.covers(others),
                (Some(_), None) => false,
            }
            && match (&self.tool, &other.tool) {
                (None, _) => true,
                (Some(tool), Some(others)) => tool.covers(others),
                (Some(_), None) => false,
            }
    }

    /// Whether some request certainly matches both this and `other`.
    pub(crate) fn meets(&self, other: &Self) -> bool {
        let both = |protocol| self.protocols.has(protocol) && other.protocols.has(protocol);
        (both(Protocol::Http) || self.protocols == other.protocols)
            && any_or_shared(&self.methods, &other.methods, PartialEq::eq)
            && any_or_shared(&self.paths, &other.paths, Glob::covers)
            && all_meet(&self.query, &other.query)
            && all_meet(&self.fields, &other.fields)
            && match (&self.llm, &other.llm) {
                (Some(llm), Some(others)) => llm.meets(others),
                (None, None) => true,
                // What is a call of one is none of the other.
                _ => self.tool.is_none() && other.tool.is_none(),
            }
            && match (&self.tool, &other.tool) {
                (Some(tool), Some(others)) => tool.meets(others),
                _ => true,
            }
    }
}

/// Whether one of the two has none, which is all, or one of the ones covers one of the others.
pub(crate) fn any_or_shared<T>(own: &[T], others: &[T], covers: fn(&T, &T) -> bool) -> bool {
    let shared = |it: &T| {
        others
            .iter()
            .any(|other| covers(it, other) || covers(other, it))
    };
    own.is_empty() || others.is_empty() || own.iter().any(shared)
}

/// Whether what is asked of one name may be the same.
pub(crate) fn all_meet<N: PartialEq>(
    conditions: &[(N, Vec<Wildcard>)],
    others: &[(N, Vec<Wildcard>)],
) -> bool {
    conditions.iter().all(|(name, patterns)| {
        let mut same = others.iter().filter(|(other, _)| other == name);
        same.all(|(_, others)| any_or_shared(patterns, others, Wildcard::covers))
    })
}

/// Whether there are none, which is all, or one of them covers each of the others.
fn all_or_covered<T>(own: &[T], others: &[T], covers: fn(&T, &T) -> bool) -> bool {
    let is_covered = |other: &T| own.iter().any(|wider| covers(wider, other));
    own.is_empty() || !others.is_empty() && others.iter().all(is_covered)
}

/// Whether conditions ask at least as much as `(name, patterns)`.
fn has<N: PartialEq>(
    conditions: &[(N, Vec<Wildcard>)],
    (name, patterns): &(N, Vec<Wildcard>),
) -> bool {
    conditions.iter().any(|(other, others)| {
        let is_covered = |it: &Wildcard| patterns.iter().any(|wider| wider.covers(it));
        other == name && others.iter().all(is_covered)
    })
}

#[cfg(test)]
mod tests;
