//! What the variables of an expression stand for.
//!
//! They are looked up as the evaluation comes to them, by their whole name (`request.method`), and
//! borrow from the facts. Maps have only what the expression names.

use std::collections::HashMap;

use agentguard_model::{ArgumentType, Labels, Llm, Tool, Transport};
use cel::common::types::{CelBool, CelDouble, CelInt, CelList, CelMap, CelMapKey, CelString};
use cel::common::value::{CowVal, Val};
use cel::context::VariableResolver;
use http::header;
use jiff::tz::TimeZone;

use super::{LooksAt, known};
use crate::conditions::{Part, label};
use crate::decide::Facts;
use crate::llm::operation;
use crate::request::Request;
use crate::steps::Meter;

pub(super) struct Values<'a> {
    pub(super) agent: &'a str,
    pub(super) labels: &'a Labels,
    pub(super) facts: &'a Facts<'a>,
    /// What the expression may look at of it.
    pub(super) request: Option<&'a Request<'a>>,
    pub(super) path: &'a str,
    pub(super) looks_at: &'a LooksAt,
    /// How often a text is looked at where its variable stands.
    pub(super) looks: u64,
    pub(super) meter: &'a Meter,
}

impl VariableResolver for Values<'_> {
    fn resolve<'b>(&'b self, variable: &str) -> Option<CowVal<'b, 'b>> {
        let circumstances = &self.facts.circumstances;
        let part = |part: Part| self.text(part.of(circumstances.context));
        match variable {
            "agent.name" => self.text(self.agent),
            "agent.labels" => self.labels(),
            "context.user" => part(Part::User),
            "context.session" => part(Part::Session),
            "context.workflow" => part(Part::Workflow),
            "context.purpose" => part(Part::Purpose),
            "destination.host" => self.text(self.facts.host.map_or("", |name| name.as_str())),
            "destination.ip" => {
                // What a name leads to is the server's to say, and not looked at here: the same expression would
                // be one thing before it is resolved and another behind it.
                let ip = self.facts.ip.filter(|_| self.facts.host.is_none());
                let ip = ip.map(|ip| ip.to_canonical().to_string());
                Some(CowVal::owned(CelString::from(ip.unwrap_or_default())))
            }
            "destination.port" => Some(number(i64::from(self.facts.port))),
            "destination.transport" => self.text(match self.facts.transport {
                Transport::Tcp => "tcp",
                Transport::Udp => "udp",
            }),
            "request.method" => self.text(self.request?.method),
            "request.path" => self.request.and_then(|_| self.text(self.path)),
            "request.headers" => self.fields(self.request?),
            "request.query" => self.parameters(self.request?),
            "llm.provider"
            | "llm.operation"
            | "llm.model"
            | "llm.stream"
            | "llm.max_output_tokens"
            | "llm.tools" => self.call(self.request?.llm, variable),
            "tool.server" | "tool.name" | "tool.method" => {
                let tool = self.request?.tool;
                let method = |tool: &'b Tool| tool.method.as_deref();
                self.text(match variable {
                    "tool.server" => tool.map_or("", |tool| &tool.server),
                    "tool.name" => tool.and_then(|it| it.name.as_deref()).unwrap_or_default(),
                    _ => tool.and_then(method).unwrap_or_default(),
                })
            }
            "tool.arguments" => self.arguments(self.request?.tool),
            "time.hour" | "time.minute" | "time.weekday" => Some(self.clock(variable)),
            _ => self.switch(variable),
        }
    }
}

impl Values<'_> {
    /// A text, if the steps that are left suffice for whatever is done with it.
    fn text<'b>(&self, text: &'b str) -> Option<CowVal<'b, 'b>> {
        self.looks_at_texts(1, text.len())
            .then(|| CowVal::owned(CelString::from(text)))
    }

    fn looks_at_texts(&self, count: usize, bytes: usize) -> bool {
        self.meter.texts(count, bytes, self.looks)
    }

    fn labels(&self) -> Option<CowVal<'_, '_>> {
        let run = self.facts.circumstances.labels;
        let entries = || {
            let names = self.looks_at.labels.iter();
            names.filter_map(|name| Some((name.as_str(), label(self.labels, run, name)?)))
        };
        let bytes = entries().map(|(_, value)| value.len()).sum();
        let few = self.looks_at_texts(self.looks_at.labels.len(), bytes);
        few.then(|| map(entries().map(|(name, value)| (name, value.into()))))
    }

    /// Each with its one value; the pieces of a cookie as one (RFC 9113 §8.2.3).
    fn fields<'b>(&'b self, request: &'b Request<'_>) -> Option<CowVal<'b, 'b>> {
        let names = &self.looks_at.fields;
        let values = names.iter().filter_map(|name| {
            let values = request.fields?.get_all(name).iter();
            Some(values.fold((0, 0), |(n, bytes), it| (n + 1, bytes + it.len())))
        });
        let (count, bytes) =
            values.fold((names.len(), 0), |(n, bytes), it| (n + it.0, bytes + it.1));
        if !self.looks_at_texts(count, bytes) {
            return None;
        }
        let fields = names.iter().filter_map(|name| {
            let values = request.fields?.get_all(name).iter();
            let values: Vec<_> = values
                .map(|value| String::from_utf8_lossy(value.as_bytes()))
                .collect();
            let separator = if *name == header::COOKIE { "; " } else { ", " };
            (!values.is_empty()).then(|| (name.as_str(), values.join(separator).into()))
        });
        Some(map(fields))
    }

    /// Each with its one value.
    fn parameters<'b>(&'b self, request: &'b Request<'_>) -> Option<CowVal<'b, 'b>> {
        let entries = || {
            let names = self.looks_at.parameters.iter();
            names.filter_map(|name| Some((name.as_str(), request.query?.value(name)?)))
        };
        let bytes = entries().map(|(_, value)| value.len()).sum();
        let few = self.looks_at_texts(self.looks_at.parameters.len(), bytes);
        few.then(|| map(entries().map(|(name, value)| (name, value.into()))))
    }

    /// Each with its one value.
    fn arguments<'b>(&self, tool: Option<&'b Tool>) -> Option<CowVal<'b, 'b>>
    where
        Self: 'b,
    {
        let entries = || {
            let found = tool.map_or(&[][..], |tool| &tool.values).iter();
            let looked_at = found.filter(|it| self.looks_at.arguments.contains(&it.pointer));
            looked_at.filter_map(|it| Some((it.pointer.as_str(), it.values.first()?.as_str())))
        };
        let bytes = entries().map(|(_, value)| value.len()).sum();
        let few = self.looks_at_texts(self.looks_at.arguments.len(), bytes);
        let entries = || {
            let entries = entries();
            entries.map(|(pointer, value)| {
                let kind = self.looks_at.types.get(pointer);
                (CelMapKey::from(pointer), argument(value, kind.copied()))
            })
        };
        few.then(|| CowVal::owned(CelMap::from(entries().collect::<HashMap<_, _>>())))
    }

    /// Of what is no call, and of what a call does not say: nothing, 0, false.
    fn call<'b>(&self, llm: Option<&'b Llm>, variable: &str) -> Option<CowVal<'b, 'b>> {
        let name = variable.strip_prefix("llm.").unwrap_or_default();
        if llm.is_some_and(Llm::is_fetched) && !known::OF_FETCHED.contains(&name) {
            return None;
        }
        let of = |part: fn(&'b Llm) -> &'b str| self.text(llm.map_or("", part));
        match variable {
            "llm.provider" => of(|llm| &llm.provider),
            "llm.operation" => of(|llm| operation(llm.operation)),
            "llm.model" => of(|llm| llm.model.as_deref().unwrap_or_default()),
            "llm.stream" => {
                let streams = llm.is_some_and(|llm| llm.stream);
                Some(CowVal::owned(CelBool::from(streams)))
            }
            "llm.max_output_tokens" => {
                let most = llm.and_then(|llm| llm.max_output_tokens).unwrap_or(0);
                Some(number(i64::try_from(most).unwrap_or(i64::MAX)))
            }
            _ => {
                let tools = llm.map_or(&[][..], |llm| &llm.tools);
                let bytes = tools.iter().map(String::len).sum();
                if !self.looks_at_texts(tools.len(), bytes) {
                    return None;
                }
                let tools = tools
                    .iter()
                    .map(|it| -> Box<dyn Val + 'b> { Box::new(CelString::from(it.as_str())) });
                Some(CowVal::owned(CelList::from(tools.collect::<Vec<_>>())))
            }
        }
    }

    /// In UTC; Monday is 1 (ISO 8601).
    fn clock(&self, variable: &str) -> CowVal<'static, 'static> {
        let now = self.facts.circumstances.time.to_zoned(TimeZone::UTC);
        number(i64::from(match variable {
            "time.hour" => now.hour(),
            "time.minute" => now.minute(),
            _ => now.weekday().to_monday_one_offset(),
        }))
    }

    fn switch(&self, variable: &str) -> Option<CowVal<'static, 'static>> {
        let name = variable.strip_prefix("switches.")?;
        let (_, declared) = self.looks_at.switches.iter().find(|(it, _)| it == name)?;
        let set = self.facts.circumstances.switches.is_on(name);
        Some(CowVal::owned(CelBool::from(set.unwrap_or(*declared))))
    }
}

/// A value of this type, which it was seen to be of: see [`super::When::is_clear`]. What is none stays a text, with which no
/// number is compared.
fn argument<'b>(value: &'b str, kind: Option<ArgumentType>) -> Box<dyn Val + 'b> {
    let typed: Option<Box<dyn Val + 'b>> = match kind {
        Some(ArgumentType::Integer) => {
            let number = value.parse::<i64>();
            number.ok().map(|it| Box::new(CelInt::from(it)) as _)
        }
        Some(ArgumentType::Number) => {
            let number = value.parse::<f64>();
            number.ok().map(|it| Box::new(CelDouble::from(it)) as _)
        }
        Some(ArgumentType::Boolean) => {
            let truth = value.parse::<bool>();
            truth.ok().map(|it| Box::new(CelBool::from(it)) as _)
        }
        Some(ArgumentType::String) | None => None,
    };
    typed.unwrap_or_else(|| Box::new(CelString::from(value)))
}

fn number(number: i64) -> CowVal<'static, 'static> {
    CowVal::owned(CelInt::from(number))
}

fn map<'b>(entries: impl Iterator<Item = (&'b str, CelString<'b>)>) -> CowVal<'b, 'b> {
    let entries = entries.map(|(name, value)| -> (CelMapKey<'b>, Box<dyn Val + 'b>) {
        (CelMapKey::from(name), Box::new(value))
    });
    CowVal::owned(CelMap::from(entries.collect::<HashMap<_, _>>()))
}
